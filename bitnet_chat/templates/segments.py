"""A rendered prompt in the segments that a classic engine tokenizes separately. Pure.

Such an engine reads an initial prompt once, and for each message ``--in-prefix``, the typed text and ``--in-suffix``.
It tokenizes each of these separately, the typed text without special tokens. The tokens equal those of the whole text
only if each boundary is next to a special token, since a tokenizer does not merge text across one. So the prefix ends
at the last special token before the message, the suffix begins at the first one after it, and the remaining text of the
template is typed together with the message.

Text of a message that spells a special token is guarded before rendering, so that it stays text and is not taken for a
boundary.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import ModelError
from bitnet_chat.filters.continuation import split_overlap
from bitnet_chat.filters.thinking import Tags, leaves_open
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.templates.special_tokens import WORD_JOINER, SpecialTokens
from bitnet_chat.text.utf8 import encode

_GUARD = "\ufdd0"
"""A noncharacter that is inserted after the first character of such a text. Doubled where a message contains it."""
_GUARD_PATTERN = re.compile(f"{_GUARD}({_GUARD}?)")
PLACEHOLDER = "\ue0004\ue000"
"""Replaces a message that is not known yet."""
_CACHE_SIZE = 6
"""Number of cached prompts. A turn needs several, some repeatedly."""
_NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class InitialPrompt:
    """The arguments with which an engine is started for a history."""

    prompt: str
    """The initial prompt, guarded and without the BOS token that the engine adds."""
    in_prefix: str
    in_suffix: str
    is_open: bool = True
    """Whether a message can be typed after it."""


class PromptSegments:
    """Prompts of one chat template for a vocabulary with the special tokens ``control_tokens``."""

    def __init__(
        self, template: ChatTemplate, control_tokens: Iterable[str], *, strips_after_special: bool = False
    ) -> None:
        """Determine the segments of the template. Raises ModelError for a template that drops or changes messages.

        ``strips_after_special``: see :attr:`bitnet_chat.models.gguf.ModelHeader.strips_after_special`.
        """
        self.template = template
        self.marks = template.marks()
        longest_first = sorted(filter(None, control_tokens), key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        stripping = [token for token in longest_first if token not in _NOT_STRIPPING]
        self._space = (
            re.compile(f"({'|'.join(map(re.escape, stripping))})[ \t\n\v\f\r]+")
            if stripping and strips_after_special
            else None
        )
        self._guard = SpecialTokens(longest_first, _GUARD)
        in_prefix = self._strip_after_special(self.marks.end + self.marks.in_prefix).removeprefix(self.marks.end)
        self._in_prefix = in_prefix[: self._end_of_last_special(in_prefix)]
        in_suffix = self._strip_after_special(self.marks.in_suffix)
        first = self.special.search(in_suffix) if self.special else None
        self._in_suffix = in_suffix[first.start() :] if first else ""
        self.around = in_prefix[len(self._in_prefix) :], in_suffix[: len(in_suffix) - len(self._in_suffix)]
        """Text to type before and after each message but the first, for which it may differ."""
        self._cache: tuple[tuple[Mapping[str, object], Conversation, str | ModelError], ...] = ()

    def use(self, arguments: Mapping[str, object]) -> None:
        """Set the template arguments."""
        if self.template.arguments != arguments:
            self.template.arguments = dict(arguments)

    def guarded(self, text: str) -> str:
        """Guard special tokens in ``text``; see :func:`unguarded` and :func:`joined`."""
        return self._guard.as_text(text.replace(_GUARD, _GUARD * 2))[0]

    def render(self, conversation: Conversation) -> str:
        """Render the prompt for a reply to ``conversation``, guarded. Raises ModelError if the template refuses it."""
        arguments = self.template.arguments
        found = next((result for *key, result in self._cache if key == [arguments, conversation]), None)
        if found is None:
            try:
                found = self._render(conversation)
            except ModelError as error:  # cached too, since it may have taken the whole time limit of a template
                found = error
            self._cache = ((arguments, conversation, found), *self._cache[: _CACHE_SIZE - 1])
        if isinstance(found, ModelError):
            raise found
        return found

    def render_ahead(self, history: Conversation, text: str) -> None:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.render_ahead`."""
        ahead = [Conversation().with_system(history.system), history]
        ahead = [each.with_user(PLACEHOLDER) for each in ahead]
        if text:
            ahead.append(history.with_user(text))
        elif history.turns:
            ahead.append(Conversation(history.messages[:-1]))
        for each in ahead:
            with contextlib.suppress(ModelError):
                self.render(each)

    def _render(self, conversation: Conversation) -> str:
        messages = tuple(replace(each, content=self.guarded(each.content)) for each in conversation.messages)
        guarded = Conversation(messages)
        try:
            text = self.template.render(guarded, reply_follows=True)
        except ModelError:
            if not guarded.system or not guarded.turns:
                raise
            # Some templates refuse a system message. It is then put before the first user message.
            first, *others = guarded.turns
            led = replace(first, content=f"{guarded.system}\n\n{first.content}")
            text = self.template.render(Conversation((led, *others)), reply_follows=True)
        return self._strip_after_special(self.template.without_bos(text))

    def _strip_after_special(self, text: str) -> str:
        return self._space.sub(r"\1", text) if self._space is not None else text

    def opening(self, history: Conversation) -> InitialPrompt:
        """Return the arguments for an engine that has evaluated ``history`` and waits for the next message."""
        before = self.before_message(history)
        end = self._end_of_last_special(before)
        for start in self._starts(self._in_prefix):
            in_prefix = self._in_prefix[start:]
            prompt = before[: end - len(in_prefix)]
            if before[:end].endswith(in_prefix) and self._is_boundary(prompt, in_prefix):
                return InitialPrompt(prompt, in_prefix, self._in_suffix)
        # An engine that does not add a BOS token refuses an empty prompt. No message can continue the prompt "\n", so
        # the first message starts another engine.
        return InitialPrompt("\n", "", self._in_suffix, is_open=False)

    def behind_reply(self, prompt: str) -> InitialPrompt:
        """Return the arguments for an engine that replies to ``prompt`` (guarded) and then waits for the next
        message."""
        return InitialPrompt(prompt, self._in_prefix, self._in_suffix)

    def within_reply(self, history: Conversation, closing: str = "") -> tuple[str, str]:
        """Return a guarded prompt that ends within the last reply of ``history``, and the overlap, which is not in it.

        See :mod:`bitnet_chat.filters.continuation`. ``closing``: the end of the thinking that the template opens.
        """
        *earlier, reply = history.messages
        sent, overlap = split_overlap(reply.content)
        return self.render(Conversation(tuple(earlier))) + closing + self.guarded(sent), overlap

    def before_message(self, history: Conversation) -> str:
        """Return the text before the next message, guarded. Raises ModelError if the template drops the message."""
        before, found, _ = self.render(history.with_user(PLACEHOLDER)).rpartition(PLACEHOLDER)
        if not found:
            raise ModelError(
                f"the chat template {self.template.name} leaves out the last message",
                remedy="select another with --chat-template NAME",
            )
        return before

    def typed(self, context: str, in_prefix: str, prompt: str) -> str | None:
        """Return the text to type so that an engine that has evaluated ``context`` has then evaluated ``prompt`` (both
        guarded).

        None if that is impossible.
        """
        start, in_suffix = context + in_prefix, self._in_suffix
        if not (prompt.startswith(start) and prompt.endswith(in_suffix)) or len(prompt) < len(start) + len(in_suffix):
            return None
        text = prompt[len(start) : len(prompt) - len(in_suffix)]
        if self.special is not None and self.special.search(text):
            return None
        text = unguarded(text)
        # Builds before 2026 treat a message of one byte as empty.
        return text if len(encode(text)) > 1 else None

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.cost_of_history`."""
        before = self.before_message(history)
        # The text before a message is counted with the message.
        for glue in (self.marks.in_prefix, self.marks.in_prefix.lstrip()):
            if before.endswith(glue):
                before = before.removesuffix(glue)
                break
        return TokenCount(1 if self.template.adds_bos else 0) + self._cost(before, count)

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.cost_of_message`."""
        return self._cost(self.marks.in_prefix, count) + count(text) + self._cost(self.marks.in_suffix, count)

    def _cost(self, text: str, count: Counter) -> TokenCount:
        total = TokenCount(len(self.special.findall(text)) if self.special else 0)
        for piece in self.special.split(text) if self.special else (text,):
            total += count(piece) if piece else TokenCount(0)
        return total

    def _end_of_last_special(self, text: str) -> int:
        end = 0
        for match in self.special.finditer(text) if self.special else ():
            end = match.end()
        return end

    def _starts(self, text: str) -> list[int]:
        """Positions in a prefix at which it may begin: the whole prefix, each special token in it, or its end."""
        tokens = self.special.finditer(text) if self.special else ()
        return [0, *(match.start() for match in tokens if match.start()), *([len(text)] if text else [])]

    def _is_boundary(self, prompt: str, in_prefix: str) -> bool:
        if not prompt:
            return self.template.adds_bos
        return not in_prefix or self._is_beside_special(prompt, in_prefix)

    def _is_beside_special(self, left: str, right: str) -> bool:
        if self.special is None:
            return False
        return self.special.match(right) is not None or self._end_of_last_special(left) == len(left)


class TemplateThinking:
    """How a chat template marks thinking. ``tags``: the marks; None for a model without thinking."""

    def __init__(self, segments: PromptSegments, tags: Tags | None) -> None:
        self.tags = tags
        self._segments = segments
        self.is_open = self._leaves_open(segments.marks.in_suffix)
        """Whether the prompt ends with the opening tag, so that the reply begins with thinking."""

    @property
    def closing(self) -> str:
        """The text that closes the thinking opened by the prompt, to be put before an answer; empty otherwise."""
        return f"\n{self.tags[1]}\n\n" if self.tags is not None and self.is_open else ""

    def use(self, arguments: Mapping[str, object]) -> str:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.use`."""
        template = self._segments.template
        if arguments != template.arguments:
            self._segments.use(arguments)
            self.is_open = self._leaves_open(template.marks().in_suffix)
        if self.tags is None and not any(arguments.values()):
            return ""  # the request disables thinking for a model without thinking
        return template.without_effect(arguments)

    def _leaves_open(self, in_suffix: str) -> bool:
        return self.tags is not None and leaves_open(in_suffix, self.tags)


def unguarded(text: str) -> str:
    """Remove guards: the inverse of :meth:`PromptSegments.guarded`."""
    return _GUARD_PATTERN.sub(r"\1", text)


def joined(text: str) -> tuple[str, int]:
    """Replace guards by word joiners, for an engine that reads special tokens in text; return the text and the number
    of them.

    A word joiner keeps a special token text from being tokenized as one, see
    :mod:`bitnet_chat.templates.special_tokens`.
    """
    places = 0

    def character(match: re.Match[str]) -> str:
        nonlocal places
        places += not match[1]
        return match[1] or WORD_JOINER

    return _GUARD_PATTERN.sub(character, text), places
