"""The classic dialect: BitNet before July 2026, llama-completion, llama-cli before December 2025.

Its history is ours. The rendered conversation goes in as the initial prompt, and what stands around each user message
is given once, as ``--in-prefix`` and ``--in-suffix``, as far as :mod:`bitnet_chat.templates.segments` says. It has no
commands, and reads a typed message as plain text. An empty line makes it go on with what its context ends with.

At each message the whole prompt is rendered anew. A child whose context is not the beginning of it (the template leaves
out thoughts, trims a reply, has another prefix for the first message; an interrupted reply has no end token) is
replaced, so that the tokens that it evaluates are always those of the chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitnet_chat.backends import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import encode_lines
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.dialects import GO_ON, EngineOptions, Input, Launch, common_flags, left_out
from bitnet_chat.filters.thinking import Tags, ThinkingFramer
from bitnet_chat.frames import Framer
from bitnet_chat.stream.classic import ClassicFramer
from bitnet_chat.stream.classic_log import LoggedClassicFramer
from bitnet_chat.templates.segments import PLACEHOLDER, Opening, PromptSegments, joined
from bitnet_chat.templates.special_tokens import note
from bitnet_chat.templates.thinking import TemplateThinking
from bitnet_chat.text.utf8 import encode


class ClassicTalk:
    """See :class:`bitnet_chat.engine.dialects.Talk`."""

    closes_interrupted = False
    hears_while_reading = False
    no_message: bytes | None = None  # an empty line makes it go on with its own reply
    go_on_message = ""
    max_tokens: int | None = None
    carries_all = False

    def __init__(
        self, binary: EngineBinary, options: EngineOptions, segments: PromptSegments, thinking: Tags | None = None
    ) -> None:
        self._binary, self._options, self._segments = binary, options, segments
        self._marks = segments.marks
        self._thinking = TemplateThinking(segments, thinking)
        self.context_size = options.context_size
        # A reply that ends with another token than the template has makes a context that no prompt begins with.
        end, eos = self._marks.end, segments.template.eos
        is_special = segments.special is not None and segments.special.fullmatch(end)
        self._end = end if is_special else eos or "\0"

    def use(self, arguments: Mapping[str, object]) -> str:
        return self._thinking.use(arguments)

    def launch(
        self,
        history: Conversation,
        *,
        message: str = "",
        unfinished: bool = False,
        sampling: Sampling | None = None,
    ) -> Launch:
        binary = self._binary
        options = replace(self._options, sampling=(sampling or Sampling()).over(self._options.sampling))
        loose_end = ""
        if message:
            opening = self._segments.behind_reply(self._segments.render(history.with_user(message)))
        elif unfinished:
            prompt, loose_end = self._segments.within_reply(history, self._thinking.closing)
            opening = self._segments.behind_reply(prompt)
        else:
            opening = self._segments.opening(history)
        argv = [str(binary.path), *common_flags(binary, options)]
        option = binary.option
        argv += [*option("--interactive"), *option("--interactive-first"), *option("--display-prompt", "off")]
        argv += [*option("--in-prefix", opening.in_prefix), *option("--in-suffix", opening.in_suffix)]
        argv += option("--conversation", "off")
        # A limit here would be one budget for the whole life of the process, the user's own tokens included.
        argv += option("--n-predict", binary.endless)
        argv += option("--context-shift", "off")  # a context that is full must say so, not forget in silence
        # The level that tells every token. Measured: no difference in speed (5,000 tokens/s with or without).
        if verbosity := binary.verbosity():
            argv += option("--log-verbosity", verbosity)
        prompt, changed = joined(opening.prompt)
        notes = tuple(filter(None, (note(changed, "history"), left_out(binary, options))))
        prompt = _valid(prompt)
        return Launch(
            argv=(*argv, *options.extra),
            framer=self._framer(opening),
            # --file takes away one newline at the end.
            prompt=prompt + "\n" * prompt.endswith("\n"),
            prompt_flag=binary.options.spelling("--file"),
            context=opening.prompt,
            in_prefix=opening.in_prefix,
            around=self._segments.around,
            answers=bool(message) or unfinished,
            notes=notes,
            loose_end=loose_end,
        )

    def _framer(self, opening: Opening) -> Framer:
        ordered = self._binary.traits.ordered
        framer: Framer
        if self._binary.verbosity():
            ordered = ordered and bool(opening.in_prefix)
            framer = LoggedClassicFramer(opening.in_prefix, opening.in_suffix, ordered=ordered)
        else:
            framer = ClassicFramer(opening.in_prefix, opening.in_suffix, ordered=ordered)
        if self._thinking.tags is None:
            return framer
        return ThinkingFramer(framer, self._thinking.tags, is_open=self._thinking.is_open)

    def input(
        self, launch: Launch, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> Input | None:
        if isinstance(launch.framer, ThinkingFramer):
            launch.framer.is_open = self._thinking.is_open
        if not text:
            # What is not in the context is made again first, unless more of the reply has been made since.
            loose_end = launch.loose_end if context == launch.context else ""
            return Input(GO_ON, context, goes_on=True, loose_end=loose_end)
        prompt = self._segments.render(history.with_user(text))
        if launch.answers and context == prompt:
            return Input(GO_ON, prompt)
        typed = self._segments.typed(context, launch.in_prefix, prompt)
        return Input(encode_lines(_valid(typed)), prompt) if typed is not None else None

    def render_ahead(self, history: Conversation, text: str) -> None:
        self._segments.render_ahead(history, text)

    def preparation(self, history: Conversation) -> Input | None:
        return None

    def is_prepared(self, launch: Launch, context: str, history: Conversation) -> bool:
        if self.input(launch, context, history, PLACEHOLDER) is not None:
            return True
        return not self._segments.opening(history).is_open

    def context_after(self, context: str, reply: str, *, natural: bool) -> str:
        return context + self._segments.guarded(reply) + self._end * natural

    def note_of(self, text: str) -> str:
        return ""

    def clearing(self) -> bytes | None:
        return None

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        return self._segments.cost_of_history(history, count)

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        return self._segments.cost_of_message(text, count)


def _valid(text: str) -> str:
    """``text`` with U+FFFD for bytes that are not UTF-8: BitNet 2024 aborts at them, newer builds read that."""
    return encode(text).decode("utf-8", "replace")
