"""The classic console: ``--in-prefix`` ends a reply, ``--in-suffix`` begins one.

As measured on llama-completion 0.5.0 and on the BitNet release of October 2024, with ``--simple-io``, colours on and
``--no-display-prompt``:

- start: in-prefix, then the user-input colour (BitNet 2024: sometimes the other way round);
- after a message: colour reset, the in-suffix echoed, then the reply as it is made; after an empty line the same
  without the echo;
- natural end: a newline, the in-prefix, the user-input colour;
- interrupted: the same without the newline;
- full context: two newlines, then the process exits with 0;
- interrupted when the reply had just ended: some or all of the natural end, then ``_FAREWELL`` and exit with 130.

The user-input colour is written by the console and not by a token printed as text, but a model can emit any byte,
this sequence included. Builds that flush their log before they change colour (``ordered``) always write it straight
after the in-prefix: only the two together end a turn. Older builds may write it before the in-prefix, even before the
last tokens: there a turn ends with the first in-prefix at or after the colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.context.token_count import Counter, TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import encode_lines
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.protocols import GO_ON, EncodedMessage, EngineOptions, LaunchCommand, common_flags, left_out
from bitnet_chat.engine_frames import (
    ERROR,
    RESET,
    USER_INPUT,
    Frame,
    Framer,
    Ready,
    ReplyText,
    TurnEnd,
    UnexpectedOutput,
    held_length,
)
from bitnet_chat.filters.thinking import Tags, ThinkingFramer
from bitnet_chat.templates.segments import PLACEHOLDER, InitialPrompt, PromptSegments, TemplateThinking, joined
from bitnet_chat.templates.special_tokens import note
from bitnet_chat.text.utf8 import encode, rejoined

START_LIMIT = 1 << 16
_FAREWELL = "\nInterrupted by user\n"
_OVERFLOW_NOISE = ERROR + RESET  # around "input too long", whose text goes to the log


class ClassicState(Enum):
    LOADING = auto()
    IDLE = auto()
    ECHO = auto()
    REPLY = auto()


class ClassicFramer:
    """Frames of one classic engine process. ``ordered``: see the module."""

    def __init__(self, in_prefix: str, in_suffix: str, *, ordered: bool) -> None:
        self._in_prefix = in_prefix
        self._in_suffix = in_suffix
        self._echo = RESET + in_suffix
        self._ordered = ordered
        self._end = in_prefix + USER_INPUT
        # "\n\n" ends a reply when the process ends; a \0 behind it makes the whole of it a proper prefix.
        self._endings = ["\n" + self._end, self._end, USER_INPUT, "\n" + USER_INPUT, "\n\n\0"]
        if in_prefix:
            self._late_endings = ["\n" + in_prefix, in_prefix, "\n\n\0"]
        else:
            self._late_endings = ["\n\n\0"]
        self._state = ClassicState.LOADING
        self._held = ""
        self._first = True
        self._colour_seen = False
        self._interrupted = False
        self._farewells: list[str] = []
        self._said: list[str] = []

    @property
    def kind(self) -> str:
        return "ordered" if self._ordered else "unordered"

    @property
    def reply(self) -> str:
        return "".join(self._said)

    def logged(self, line: str) -> bool:
        return False

    def waiting(self) -> list[Frame]:
        return []

    def feed(self, text: str) -> list[Frame]:
        frames: list[Frame] = []
        if not text:
            return frames
        text = self._held + text
        self._held = ""
        if self._state is ClassicState.REPLY:
            self._reply(text, frames)
        elif self._state is ClassicState.ECHO:
            self._skip_echo(text, frames)
        elif self._state is ClassicState.LOADING:
            self._await_prompt(text, frames)
        else:
            self._idle(text, frames)
        return frames

    def sent(self, data: bytes = b"") -> None:
        # An empty line has the message of the prompt answered, and is not echoed.
        self._expect(RESET if data == b"\n" else RESET + self._in_suffix)

    def continued(self, data: bytes = b"") -> None:
        self._expect(RESET)

    def _expect(self, echo: str) -> None:
        self._echo = echo
        self._state = ClassicState.ECHO
        self._held = ""
        self._first = True
        self._colour_seen = False
        self._interrupted = False
        self._farewells = []
        self._said = []

    def commanded(self, data: bytes = b"") -> None:
        self._state = ClassicState.LOADING  # this console has no commands; whatever it was, the next prompt ends it
        self._held = ""

    def interrupted(self) -> None:
        self._interrupted = True
        farewells = [
            newline + prefix + reset + last_words
            for newline in ("", "\n")
            for prefix in dict.fromkeys(("", self._in_prefix))
            for reset in ("", RESET)
            for last_words in ("", _FAREWELL[:1], _FAREWELL)  # it may die before its log thread has written them
            if prefix or last_words == _FAREWELL
        ]
        self._farewells = sorted(farewells, key=len, reverse=True)

    def settle(self) -> list[Frame]:
        # A build taken for an ordered one that is not: its colour came early and was shown as text.
        frames: list[Frame] = []
        if self._state is ClassicState.REPLY and self._colour_seen and self._held.endswith(self._in_prefix):
            self._finish(self._held.removesuffix(self._in_prefix), "", frames)
        return frames

    def eof(self, *, clean: bool) -> list[Frame]:
        held, self._held = self._held, ""
        state, self._state = self._state, ClassicState.LOADING
        if state is not ClassicState.REPLY:
            return []
        text = held.removesuffix("\n\n") if clean else held
        for farewell in self._farewells or ["\n" + self._in_prefix, self._in_prefix]:
            if text.endswith(farewell):
                text = text.removesuffix(farewell)
                break
        frames: list[Frame] = []
        self._say(text, frames)
        return frames

    def _say(self, text: str, frames: list[Frame]) -> None:
        if text:
            self._said.append(text)
            frames.append(ReplyText(text))

    def _await_prompt(self, text: str, frames: list[Frame]) -> None:
        if self._ordered:
            at = text.find(self._end)
            if at >= 0:
                self._state = ClassicState.IDLE
                frames.append(Ready())
                self._idle(text[at + len(self._end) :], frames)
                return
        else:
            colour = text.find(USER_INPUT)
            if colour >= 0:
                visible = text[:colour] + text[colour + len(USER_INPUT) :]
                at = visible.find(self._in_prefix)
                if at >= 0:
                    self._state = ClassicState.IDLE
                    frames.append(Ready())
                    self._idle(visible[at + len(self._in_prefix) :], frames)
                    return
        self._held = text[-START_LIMIT:]

    def _idle(self, text: str, frames: list[Frame]) -> None:
        if text:
            frames.append(UnexpectedOutput(text))

    def _skip_echo(self, text: str, frames: list[Frame]) -> None:
        if text.startswith(self._echo):
            text = text[len(self._echo) :]
        elif self._echo.startswith(text):
            self._held = text
            return
        else:
            frames.append(UnexpectedOutput(text))
            return
        self._state = ClassicState.REPLY
        if text:
            self._reply(text, frames)

    def _reply(self, text: str, frames: list[Frame]) -> None:
        if self._first:
            while text.startswith(_OVERFLOW_NOISE):  # once for each context window that the message would fill
                text = text.removeprefix(_OVERFLOW_NOISE)
            if _OVERFLOW_NOISE.startswith(text):
                self._held = text
                return
            self._first = False
        self._shown_until_end(text, frames)

    def _shown_until_end(self, text: str, frames: list[Frame]) -> None:
        if self._ordered:
            end = text.find(self._end)
            if end >= 0:
                self._finish(text[:end], text[end + len(self._end) :], frames)
                return
            self._colour_seen = self._colour_seen or USER_INPUT in text
            self._show(text, self._endings, frames)
            return
        start = 0
        if not self._colour_seen:
            colour = text.find(USER_INPUT)
            if colour < 0:
                self._show(text, self._endings, frames)
                return
            text = text[:colour] + text[colour + len(USER_INPUT) :]
            self._colour_seen = True
            start = max(0, colour - len(self._in_prefix))
        end = text.find(self._in_prefix, start)
        if end >= 0:
            self._finish(text[:end], text[end + len(self._in_prefix) :], frames)
        else:
            self._show(text, self._late_endings, frames)

    def _show(self, text: str, endings: list[str], frames: list[Frame]) -> None:
        if self._farewells:  # a \0 behind each: it ends a reply only together with the process
            endings = [*endings, *(farewell + "\0" for farewell in self._farewells)]
        cut = len(text) - held_length(text, endings)
        self._say(text[:cut], frames)
        self._held = text[cut:]

    def _finish(self, body: str, rest: str, frames: list[Frame]) -> None:
        natural = body.endswith("\n") and not self._interrupted
        if natural:
            body = body[:-1]
        self._say(body, frames)
        frames.append(TurnEnd(natural))
        self._held = ""
        self._state = ClassicState.IDLE
        self._idle(rest, frames)


# The classic dialect: BitNet before July 2026, llama-completion, llama-cli before December 2025.
# This program keeps its history. The rendered conversation goes in as the initial prompt, and what stands around each
# user message is given once, as ``--in-prefix`` and ``--in-suffix``, as far as :mod:`bitnet_chat.templates.segments`
# says. The console has no commands, and reads a typed message as plain text. An empty line makes it go on with what its
# context ends with.
#
# At each message the whole prompt is rendered anew. A child whose context is not the beginning of it (the template
# leaves out thoughts, trims a reply, has another prefix for the first message; an interrupted reply has no end token)
# is replaced, so that the tokens that it evaluates are always those of the chat template.


class ClassicProtocol:
    """See :class:`bitnet_chat.engine.protocols.EngineProtocol`."""

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
    ) -> LaunchCommand:
        binary = self._binary
        options = replace(self._options, sampling=(sampling or Sampling()).over(self._options.sampling))
        overlap = ""
        if message:
            opening = self._segments.behind_reply(self._segments.render(history.with_user(message)))
        elif unfinished:
            prompt, overlap = self._segments.within_reply(history, self._thinking.closing)
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
        # The level that logs every token. Measured: no difference in speed (5,000 tokens/s with or without).
        if verbosity := binary.verbosity():
            argv += option("--log-verbosity", verbosity)
        prompt, changed = joined(opening.prompt)
        notes = tuple(filter(None, (note(changed, "history"), left_out(binary, options))))
        prompt = _valid(prompt)
        return LaunchCommand(
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
            overlap=overlap,
        )

    def _framer(self, opening: InitialPrompt) -> Framer:
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
        self, launch: LaunchCommand, context: str, history: Conversation, text: str, options: ReplyOptions | None = None
    ) -> EncodedMessage | None:
        if isinstance(launch.framer, ThinkingFramer):
            launch.framer.is_open = self._thinking.is_open
        if not text:
            # What is not in the context is made again first, unless more of the reply has been made since.
            overlap = launch.overlap if context == launch.context else ""
            return EncodedMessage(GO_ON, context, goes_on=True, overlap=overlap)
        prompt = self._segments.render(history.with_user(text))
        if launch.answers and context == prompt:
            return EncodedMessage(GO_ON, prompt)
        typed = self._segments.typed(context, launch.in_prefix, prompt)
        return EncodedMessage(encode_lines(_valid(typed)), prompt) if typed is not None else None

    def render_ahead(self, history: Conversation, text: str) -> None:
        self._segments.render_ahead(history, text)

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        return None

    def is_prepared(self, launch: LaunchCommand, context: str, history: Conversation) -> bool:
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


# The classic console of a build that logs when it waits for input.
# The console alone does not show the end of a turn for certain: builds that do not flush what they printed before they
# change colour (BitNet 2024, llama.cpp from September 2024 to 2025) can write the user-input colour before the last
# tokens; with a template that has nothing in front of a message (BitNet 2B4T) the colour is all there is; and a model
# can write both, in-prefix and colour. What stands behind such a forged prompt would be lost.
#
# The log has ``found an EOG token`` where a model has ended its reply and ``waiting for user input`` before each
# prompt, written by the thread that prints the reply, after all of the reply and before the in-prefix. So a turn has
# ended when that line was logged, the colour has come and the text ends with the in-prefix. A message that holds such
# a line is logged too, but before its tokens are evaluated, which is logged as ``n_past = …``.
#
# An ``ordered`` build (see :mod:`bitnet_chat.engine.protocols.classic`) is understood without a log as well, for
# flags of a user's own can switch it off: the log counts there from the first such line on. As its prompt is
# understood without the log, and log and console are two streams, the line of a prompt may be read when that prompt
# has been answered already: each line belongs to one prompt, and a late one ends nothing.

_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
_LATE = 4096
"""Characters after a colour without another sign of the end: the model wrote the colour."""


class LoggedClassicFramer(ClassicFramer):
    """Frames of one classic engine process whose log is fed to :meth:`logged`."""

    def __init__(self, in_prefix: str, in_suffix: str, *, ordered: bool = False) -> None:
        super().__init__(in_prefix, in_suffix, ordered=ordered)
        self._is_told = not ordered
        self._waits = False
        self._has_ended = False
        self._logged = self._ahead = 0
        """Lines of the log for prompts, as they were logged and as the output before them was read, less the prompts
        that were answered: above 0 the engine waits now."""
        self._endings = [newline + part + USER_INPUT for newline in ("", "\n") for part in {in_prefix, ""}] + ["\n\n\0"]
        self._before_colour = [f"\n{in_prefix}\0", *([f"{in_prefix}\0"] if in_prefix else [])]

    @property
    def kind(self) -> str:
        return "logged, ordered" if self._ordered else "logged"

    def logged(self, line: str) -> bool:
        if line.startswith("n_past = "):
            self._waits = self._has_ended = False
        elif line == "found an EOG token":
            self._has_ended = self._logged >= 0
        elif line == "waiting for user input":
            self._is_told = True
            self._logged += 1
            return True
        return False

    def waiting(self) -> list[Frame]:
        self._ahead += 1
        if self._ahead <= 0:
            return []
        self._waits = True
        return self.feed("") if self._state is not ClassicState.IDLE else []

    def feed(self, text: str) -> list[Frame]:
        if text or not self._waits:
            return super().feed(text)
        frames: list[Frame] = []
        held, self._held = self._held, ""
        if self._state is ClassicState.LOADING:
            self._await_prompt(held, frames)
        elif self._state is ClassicState.REPLY:
            self._shown_until_end(held, frames)
        else:
            self._held = held
        return frames

    def settle(self) -> list[Frame]:
        # The log was switched off by other means.
        frames: list[Frame] = []
        if self._state is ClassicState.REPLY and (body := self._body(self._held)) is not None:
            self._finish(body, "", frames)
        return frames or super().settle()

    def eof(self, *, clean: bool) -> list[Frame]:
        if self._state is ClassicState.REPLY and self._is_told:
            self._held = _without_last(self._held, USER_INPUT)
        return super().eof(clean=clean)

    def _expect(self, echo: str) -> None:
        super()._expect(echo)
        self._waits = self._has_ended = False
        self._logged -= 1
        self._ahead -= 1

    def _await_prompt(self, text: str, frames: list[Frame]) -> None:
        if self._ordered:
            super()._await_prompt(text, frames)
        elif self._waits and self._body(text) is not None:
            self._state, self._held = ClassicState.IDLE, ""
            frames.append(Ready())
        else:
            self._held = text[-START_LIMIT:]

    def _shown_until_end(self, text: str, frames: list[Frame]) -> None:
        if not self._is_told:
            super()._shown_until_end(text, frames)
        elif self._waits:
            body, found, rest = text.rpartition(self._end) if self._ordered else (self._body(text), True, "")
            if body is None or not found:
                self._held = text
                return
            natural = self._has_ended
            self._say(body.removesuffix("\n") if natural else body, frames)
            frames.append(TurnEnd(natural))
            self._held, self._state = "", ClassicState.IDLE
            self._idle(rest, frames)
        else:
            self._shown_until_colour(text, frames)

    def _shown_until_colour(self, text: str, frames: list[Frame]) -> None:
        colour = text.find(USER_INPUT)
        if colour >= 0 and len(text) - colour > _LATE:
            self._say(text[: colour + len(USER_INPUT)], frames)
            text = text[colour + len(USER_INPUT) :]
            colour = text.find(USER_INPUT)
        if colour < 0:
            self._show(text, self._endings, frames)
            return
        # The bytes of a character may stand on both sides of it.
        before = text[:colour].rstrip(_BYTES)
        cut = len(before) - held_length(before, self._before_colour)
        self._say(text[:cut], frames)
        self._held = text[cut:]

    def _body(self, text: str) -> str | None:
        """``text`` without colour and in-prefix; None where they have not come yet."""
        if USER_INPUT not in text:
            return None
        text = rejoined(_without_last(text, USER_INPUT))
        return text.removesuffix(self._in_prefix) if text.endswith(self._in_prefix) else None


def _without_last(text: str, part: str) -> str:
    before, _, after = text.rpartition(part)
    return before + after
