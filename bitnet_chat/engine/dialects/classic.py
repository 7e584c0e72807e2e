"""The classic dialect: BitNet before July 2026, llama-completion, llama-cli before December 2025.

Its history is ours: the rendered conversation goes in as the initial prompt, and what stands around each user message
is given once, as ``--in-prefix`` and ``--in-suffix``. It has no commands, and reads a typed message as plain text.
"""

from __future__ import annotations

import re
from dataclasses import replace

from bitnet_chat.backends import Sampling
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.dialects import EngineOptions, Launch, common_flags
from bitnet_chat.prompt.template import ChatTemplate, Opening, as_text
from bitnet_chat.prompt.tokens import Counter, TokenCount
from bitnet_chat.prompt.verbatim import encode_lines
from bitnet_chat.stream.classic import ClassicFramer
from bitnet_chat.stream.framer import Framer
from bitnet_chat.stream.seam import without_loose_end
from bitnet_chat.stream.thinking import Tags, ThinkingFramer, leaves_open

# "5: debug", which older builds call 1: the only level that tells every token. Measured: no difference in speed (5,000
# tokens/s with or without).
_VERBOSITY, _VERBOSITY_BEFORE = "5", "1"


class ClassicTalk:
    """See :class:`bitnet_chat.engine.dialects.Talk`."""

    closes_interrupted = False
    no_message: bytes | None = None  # an empty line makes it go on with its own reply
    max_tokens: int | None = None
    keeps_thoughts = True
    go_on_message = ""

    def __init__(
        self,
        binary: EngineBinary,
        options: EngineOptions,
        template: ChatTemplate,
        control_tokens: frozenset[str],
        thinking: Tags | None = None,
    ) -> None:
        self._binary, self._options = binary, options
        self._template, self._marks = template, template.marks()
        self._control_tokens = control_tokens
        self._thinking = thinking
        self._opens_thoughts = thinking is not None and leaves_open(self._marks.in_suffix, thinking)
        longest_first = sorted(filter(None, control_tokens), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        self.shifts = not binary.has("--no-context-shift")
        self.context_size = options.context_size

    def launch(self, history: Conversation, *, unfinished: bool = False, sampling: Sampling | None = None) -> Launch:
        binary, marks = self._binary, self._marks
        options = replace(self._options, sampling=sampling or self._options.sampling)
        history, changed = as_text(history, self._control_tokens)
        if unfinished:
            opening, loose_end = self._within_reply(history)
        else:
            opening, loose_end = self._template.opening(history, marks), ""
        argv = [str(binary.path), *common_flags(binary, options)]
        argv += ["--interactive", "--interactive-first", "--no-display-prompt"]
        argv += ["--in-prefix", marks.in_prefix, "--in-suffix", marks.in_suffix]
        # A limit here would be one budget for the whole life of the process, the user's own tokens included.
        argv += ["--n-predict", "-1"]
        for flag in ("-no-cnv", "--no-context-shift"):  # a context that is full must say so, not forget in silence
            if binary.has(flag):
                argv.append(flag)
        if binary.has("--log-verbosity"):
            argv += ["--log-verbosity", _VERBOSITY if binary.colour_takes_value else _VERBOSITY_BEFORE]
        prompt = opening.prompt
        if not prompt and not self._template.adds_bos:
            prompt = "\n"  # this engine refuses an empty prompt unless it can put a BOS there
        notes: tuple[str, ...] = ()
        if changed:
            tokens = f"{changed} special token{'s' * (changed > 1)}"
            notes = (f"{tokens} in the history kept as text by an invisible joiner",)
        return Launch(
            argv=(*argv, *options.extra),
            framer=self._framer(),
            # --file takes away one newline at the end.
            prompt=prompt + "\n" * prompt.endswith("\n"),
            prompt_flag="--file",
            lead=opening.lead,
            notes=notes,
            loose_end=loose_end,
        )

    def _framer(self) -> Framer:
        marks = self._marks
        framer = ClassicFramer(marks.in_prefix, marks.in_suffix, ordered=self._binary.colour_takes_value)
        if self._thinking is None:
            return framer
        return ThinkingFramer(framer, self._thinking, is_open=self._opens_thoughts)

    def _within_reply(self, history: Conversation) -> tuple[Opening, str]:
        """A prompt that ends in the middle of the last reply, with what stood around the question when it was asked."""
        *earlier, question, reply = history.messages
        opening = self._template.opening(Conversation(tuple(earlier)), self._marks)
        said, loose_end = without_loose_end(reply.content)
        turn = opening.lead + question.content + self._marks.in_suffix
        if self._thinking is not None and self._opens_thoughts:
            turn += f"\n{self._thinking[1]}\n\n"  # thoughts that are not told again, before the answer
        turn += said
        return Opening(opening.prompt + self._marks.in_prefix + turn), loose_end

    def message(self, text: str, framer: Framer) -> bytes:
        return encode_lines(text)

    def note_of(self, text: str) -> str:
        return ""

    def clearing(self) -> bytes | None:
        return None

    def cost_of_history(self, history: Conversation, count: Counter) -> TokenCount:
        opening = self._template.opening(as_text(history, self._control_tokens)[0], self._marks)
        begin = TokenCount(1 if self._template.adds_bos else 0)
        return begin + self._cost(opening.prompt, count) + self._cost(opening.lead, count)

    def cost_of_message(self, text: str, count: Counter) -> TokenCount:
        # Typed text is read with special tokens off, the marks around it with them on.
        return self._cost(self._marks.in_prefix, count) + count(text) + self._cost(self._marks.in_suffix, count)

    def _cost(self, text: str, count: Counter) -> TokenCount:
        total = TokenCount(0)
        pieces = self._special.split(text) if self._special else [text]
        for index, piece in enumerate(pieces):
            total += TokenCount(1) if index % 2 else count(piece) if piece else TokenCount(0)
        return total
