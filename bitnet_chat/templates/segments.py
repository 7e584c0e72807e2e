"""A rendered prompt in the parts that a classic engine tokenizes separately. Pure.

Such an engine reads an initial prompt once, and for each message ``--in-prefix``, the typed text and ``--in-suffix``.
It tokenizes each of the four separately, the typed text with special tokens off. The tokens equal those of the whole
text tokenized at once only if each seam is beside a special token, since a tokenizer never joins text across one. So
the prefix ends at the last special token before the message, the suffix begins at the first one after it, and the text
of the template between them and the message is typed with the message.

Text of a message that spells a special token is guarded while it is rendered: it stays text, and makes no seam.
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
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.templates.special_tokens import WORD_JOINER, SpecialTokens
from bitnet_chat.text.utf8 import encode

_GUARD = "\ufdd0"
"""A noncharacter after the first character of a guarded text. In the text of a message it is doubled."""
_GUARDS = re.compile(f"{_GUARD}({_GUARD}?)")
PLACEHOLDER = "\ue0004\ue000"
"""Represents a message that is not known yet."""
_REMEMBERED = 6
"""Rendered conversations in the cache: a turn uses several, some of them repeatedly."""
_NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class InitialPrompt:
    """The start of an engine for a history: ``prompt``, its initial prompt, guarded and without the BOS token that the
    engine adds; ``in_prefix`` and ``in_suffix``, its flags. ``is_open``: a message can be typed to it.
    """

    prompt: str
    in_prefix: str
    in_suffix: str
    is_open: bool = True


class PromptSegments:
    """Prompts of one chat template for a vocabulary with the special tokens ``control_tokens``.

    Raises ModelError for a template that leaves out or changes messages.
    """

    def __init__(
        self, template: ChatTemplate, control_tokens: Iterable[str], *, strips_after_special: bool = False
    ) -> None:
        """``strips_after_special``: see :attr:`bitnet_chat.models.gguf.ModelHeader.strips_after_special`."""
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
        self._guarding = SpecialTokens(longest_first, _GUARD)
        in_prefix = self._stripped(self.marks.end + self.marks.in_prefix).removeprefix(self.marks.end)
        self._in_prefix = in_prefix[: self._end_of_last_special(in_prefix)]
        in_suffix = self._stripped(self.marks.in_suffix)
        first = self.special.search(in_suffix) if self.special else None
        self._in_suffix = in_suffix[first.start() :] if first else ""
        self.around = in_prefix[len(self._in_prefix) :], in_suffix[: len(in_suffix) - len(self._in_suffix)]
        """Typed text before and after a message, except for the first one, which may have more."""
        self._rendered: tuple[tuple[Mapping[str, object], Conversation, str | ModelError], ...] = ()

    def use(self, arguments: Mapping[str, object]) -> None:
        """Set the arguments of the template."""
        if self.template.arguments != arguments:
            self.template.arguments = dict(arguments)

    def guarded(self, text: str) -> str:
        """``text`` without special tokens; see :func:`unguarded` and :func:`joined`."""
        return self._guarding.as_text(text.replace(_GUARD, _GUARD * 2))[0]

    def render(self, conversation: Conversation) -> str:
        """The prompt for a reply to ``conversation``, guarded. Raises ModelError if the template refuses it."""
        arguments = self.template.arguments
        found = next((result for *key, result in self._rendered if key == [arguments, conversation]), None)
        if found is None:
            try:
                found = self._render(conversation)
            except ModelError as error:  # which may have taken all the time that a template has
                found = error
            self._rendered = ((arguments, conversation, found), *self._rendered[: _REMEMBERED - 1])
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
            # Some templates refuse a system message: it then leads the first user message.
            first, *others = guarded.turns
            led = replace(first, content=f"{guarded.system}\n\n{first.content}")
            text = self.template.render(Conversation((led, *others)), reply_follows=True)
        return self._stripped(self.template.without_bos(text))

    def _stripped(self, text: str) -> str:
        return self._space.sub(r"\1", text) if self._space is not None else text

    def opening(self, history: Conversation) -> InitialPrompt:
        """The start of an engine with ``history`` that waits for the next message."""
        before = self.before_message(history)
        end = self._end_of_last_special(before)
        for start in self._starts(self._in_prefix):
            in_prefix = self._in_prefix[start:]
            prompt = before[: end - len(in_prefix)]
            if before[:end].endswith(in_prefix) and self._is_seam(prompt, in_prefix):
                return InitialPrompt(prompt, in_prefix, self._in_suffix)
        # An engine that adds no BOS token refuses an empty prompt. A message does not continue this one: it gets an
        # engine that is started with it.
        return InitialPrompt("\n", "", self._in_suffix, is_open=False)

    def behind_reply(self, prompt: str) -> InitialPrompt:
        """The start of an engine that replies to ``prompt``, guarded, and then waits for the next message."""
        return InitialPrompt(prompt, self._in_prefix, self._in_suffix)

    def within_reply(self, history: Conversation, closing: str = "") -> tuple[str, str]:
        """A prompt, guarded, that ends within the last reply of ``history``, and the rest of that reply; see
        :mod:`bitnet_chat.filters.continuation`. ``closing``: the end of thoughts that the prompt begins, which are
        left out.
        """
        *earlier, reply = history.messages
        said, overlap = split_overlap(reply.content)
        return self.render(Conversation(tuple(earlier))) + closing + self.guarded(said), overlap

    def before_message(self, history: Conversation) -> str:
        """The text before the next message, guarded."""
        before, found, _ = self.render(history.with_user(PLACEHOLDER)).rpartition(PLACEHOLDER)
        if not found:
            raise ModelError(
                f"the chat template {self.template.name} leaves out the last message",
                remedy="select another with --chat-template NAME",
            )
        return before

    def typed(self, context: str, in_prefix: str, prompt: str) -> str | None:
        """The text to type to an engine that has evaluated ``context``, guarded, so that it then has evaluated
        ``prompt``; None if no text achieves that.
        """
        start, in_suffix = context + in_prefix, self._in_suffix
        if not (prompt.startswith(start) and prompt.endswith(in_suffix)) or len(prompt) < len(start) + len(in_suffix):
            return None
        text = prompt[len(start) : len(prompt) - len(in_suffix)]
        if self.special is not None and self.special.search(text):
            return None
        text = unguarded(text)
        # Builds before 2026 take a message of one byte for an empty one.
        return text if len(encode(text)) > 1 else None

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        """See :meth:`bitnet_chat.engine.protocols.EngineProtocol.cost_of_history`."""
        before = self.before_message(history)
        # What stands in front of a message is a part of the message's cost.
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
        """Possible beginnings of a prefix: that between two turns, each special token in it, or none."""
        tokens = self.special.finditer(text) if self.special else ()
        return [0, *(match.start() for match in tokens if match.start()), *([len(text)] if text else [])]

    def _is_seam(self, prompt: str, in_prefix: str) -> bool:
        if not prompt:
            return self.template.adds_bos
        return not in_prefix or self._is_beside_special(prompt, in_prefix)

    def _is_beside_special(self, left: str, right: str) -> bool:
        if self.special is None:
            return False
        return self.special.match(right) is not None or self._end_of_last_special(left) == len(left)


def unguarded(text: str) -> str:
    """The inverse of :meth:`PromptSegments.guarded`."""
    return _GUARDS.sub(r"\1", text)


def joined(text: str) -> tuple[str, int]:
    """The same for an engine that reads it with special tokens on, and the number of changed places.

    A word joiner keeps the spelling of a special token text; see :mod:`bitnet_chat.templates.special_tokens`.
    """
    places = 0

    def character(match: re.Match[str]) -> str:
        nonlocal places
        places += not match[1]
        return match[1] or WORD_JOINER

    return _GUARDS.sub(character, text), places
