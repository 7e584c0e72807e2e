"""The classic dialect: BitNet before July 2026, llama-completion, llama-cli before December 2025.

This program keeps the history. :class:`ClassicProtocol` starts the engine with the rendered conversation as the initial
prompt, and with the text around each message, as far as it is constant, as ``--in-prefix`` and ``--in-suffix``
(:mod:`bitnet_chat.templates.segments`). The console has no commands; a typed message is plain text. After an empty line
it generates a continuation of its context.

The whole prompt is rendered again for each message. If the context of a process is not its beginning (the template
omits thoughts, trims a reply, or has another prefix for the first message; an interrupted reply has no end token), the
process is replaced, so that the evaluated tokens are always those of the chat template.

:class:`ClassicFramer` finds the replies in the output of the console. As measured with llama-completion 0.5.0 and with
the BitNet release of October 2024, with ``--simple-io``, colours on and ``--no-display-prompt``, the output is:

- start: the in-prefix, then the user-input colour (BitNet 2024: sometimes in the other order);
- after a message: the colour reset, an echo of the in-suffix, then the reply; after an empty line the same without the
  echo;
- natural end: a newline, the in-prefix, the user-input colour;
- interrupted: the same without the newline;
- full context: two newlines, then the process exits with status 0;
- interrupted when the reply has just ended: a part or all of the natural end, then ``_FAREWELL`` and exit status 130.

The console writes the user-input colour, but a model can generate the same bytes. Builds that flush their log before
they change the colour (``ordered``) always write it immediately after the in-prefix: only both together end a turn.
Older builds may write it before the in-prefix, and even before the last tokens: there, a turn ends with the first
in-prefix at or after the colour.

:class:`LoggedClassicFramer` also uses the log, because the output alone is ambiguous: older builds (BitNet 2024,
llama.cpp from September 2024 to 2025) can write the colour before the last tokens; with a template without text before
a message (BitNet 2B4T) the end is only the colour; and a model can generate both the in-prefix and the colour, after
which the rest of the reply would be lost. The log has ``found an EOG token`` when the model has ended its reply, and
``waiting for user input`` before each prompt. The thread that prints the reply writes these lines, after the whole
reply and before the in-prefix. A turn has therefore ended when the line was logged, the colour has arrived, and the
text ends with the in-prefix. A message that contains such a line is logged too, but before its tokens are evaluated,
which is logged as ``n_past = …``.

An ``ordered`` build can also be used without a log, which flags of the user can switch off: the log is used from the
first such line on. Output and log are two streams, so the line for a prompt may be read after the message to that
prompt was written: lines are counted, and a late one does not end the next reply.
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
from bitnet_chat.engine_output import (
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
"""Maximum number of characters kept while the first prompt has not appeared."""
_FAREWELL = "\nInterrupted by user\n"
_OVERFLOW_NOISE = ERROR + RESET
"""Colours around the message "input too long", which itself is in the log."""


class ClassicState(Enum):
    """What the framer expects: the first prompt, no output, the echo after a message, or a reply."""

    LOADING = auto()
    IDLE = auto()
    ECHO = auto()
    REPLY = auto()


class ClassicFramer:
    """Parses the output of a classic engine process, without its log. See :class:`bitnet_chat.engine_output.Framer`.

    ``in_prefix``, ``in_suffix``: the texts of the flags. ``ordered``: see the module.
    """

    def __init__(self, in_prefix: str, in_suffix: str, *, ordered: bool) -> None:
        self._in_prefix = in_prefix
        self._in_suffix = in_suffix
        self._echo = RESET + in_suffix
        self._ordered = ordered
        self._end = in_prefix + USER_INPUT
        # "\n\n" ends a reply only if the process ends then. The \0, which never matches, makes it a proper prefix of an
        # ending, so that it is held back.
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
        self._parts: list[str] = []

    @property
    def kind(self) -> str:
        """Name of this framer in recordings."""
        return "ordered" if self._ordered else "unordered"

    @property
    def reply(self) -> str:
        """The text of the current reply so far."""
        return "".join(self._parts)

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
        # After an empty line the engine replies to the message in its prompt, without the echo of the in-suffix.
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
        self._parts = []

    def commanded(self, data: bytes = b"") -> None:
        self._state = ClassicState.LOADING  # this console has no commands; the next prompt ends any other input
        self._held = ""

    def interrupted(self) -> None:
        self._interrupted = True
        farewells = [
            newline + prefix + reset + last_words
            for newline in ("", "\n")
            for prefix in dict.fromkeys(("", self._in_prefix))
            for reset in ("", RESET)
            for last_words in ("", _FAREWELL[:1], _FAREWELL)  # the process may end before its log thread writes them
            if prefix or last_words == _FAREWELL
        ]
        self._farewells = sorted(farewells, key=len, reverse=True)

    def settle(self) -> list[Frame]:
        # The build was taken for an ordered one, but is not: its colour came earlier and became text of the reply.
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
        self._add_text(text, frames)
        return frames

    def _add_text(self, text: str, frames: list[Frame]) -> None:
        if text:
            self._parts.append(text)
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
            while text.startswith(_OVERFLOW_NOISE):  # repeated for each context window that the message would fill
                text = text.removeprefix(_OVERFLOW_NOISE)
            if _OVERFLOW_NOISE.startswith(text):
                self._held = text
                return
            self._first = False
        self._show_until_end(text, frames)

    def _show_until_end(self, text: str, frames: list[Frame]) -> None:
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
        if self._farewells:  # with a \0, as above: they end a reply only if the process ends then
            endings = [*endings, *(farewell + "\0" for farewell in self._farewells)]
        cut = len(text) - held_length(text, endings)
        self._add_text(text[:cut], frames)
        self._held = text[cut:]

    def _finish(self, body: str, rest: str, frames: list[Frame]) -> None:
        natural = body.endswith("\n") and not self._interrupted
        if natural:
            body = body[:-1]
        self._add_text(body, frames)
        frames.append(TurnEnd(natural))
        self._held = ""
        self._state = ClassicState.IDLE
        self._idle(rest, frames)


class ClassicProtocol:
    """The classic dialect: see the module, and :class:`bitnet_chat.engine.protocols.EngineProtocol` for the methods.

    ``thinking``: the tags of the model around thoughts; None if it has none.
    """

    closes_interrupted = False
    hears_while_reading = False
    no_message: bytes | None = None  # after an empty line it continues its own reply
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
        # The end token as in the template: with another one, the context would not be the beginning of the next prompt.
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
        # A limit would apply to all tokens during the life of the process, including those of the messages.
        argv += option("--n-predict", binary.endless)
        argv += option("--context-shift", "off")  # the engine must report a full context, and not drop its beginning
        # This level logs every token. Measured: the speed is the same (5,000 tokens/s with and without).
        if verbosity := binary.verbosity():
            argv += option("--log-verbosity", verbosity)
        prompt, changed = joined(opening.prompt)
        notes = tuple(filter(None, (note(changed, "history"), left_out(binary, options))))
        prompt = _valid(prompt)
        return LaunchCommand(
            argv=(*argv, *options.extra),
            framer=self._framer(opening),
            # The engine removes one newline at the end of --file.
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
            # The engine first generates the overlap again, unless the reply has already been continued.
            overlap = launch.overlap if context == launch.context else ""
            return EncodedMessage(GO_ON, context, goes_on=True, overlap=overlap)
        prompt = self._segments.render(history.with_user(text))
        if launch.answers and context == prompt:
            return EncodedMessage(GO_ON, prompt)
        typed = self._segments.typed(context, launch.in_prefix, prompt)
        return EncodedMessage(encode_lines(_valid(typed)), prompt) if typed is not None else None

    def variants(
        self, launch: LaunchCommand, history: Conversation, text: str, options: ReplyOptions, count: int
    ) -> EncodedMessage | None:
        return None

    def render_ahead(self, history: Conversation, text: str) -> None:
        self._segments.render_ahead(history, text)

    def preparation(self, history: Conversation) -> EncodedMessage | None:
        return None

    def cache_flags(self, file: str) -> list[str]:
        return self._binary.option("--prompt-cache", file)

    def save(self, file: str) -> bytes | None:
        return None

    def restore(self, file: str) -> bytes | None:
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
    """Return ``text`` with U+FFFD for bytes that are not UTF-8. BitNet 2024 aborts at such bytes, and newer builds read
    them as U+FFFD.
    """
    return encode(text).decode("utf-8", "replace")


_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
"""Surrogates that represent bytes which are not UTF-8."""
_LATE = 4096
"""Number of characters after a colour, without a logged end, from which the colour counts as text of the model."""


class LoggedClassicFramer(ClassicFramer):
    """Parses the output of a classic engine process together with its log, whose lines are passed to :meth:`logged`.
    See the module.
    """

    def __init__(self, in_prefix: str, in_suffix: str, *, ordered: bool = False) -> None:
        super().__init__(in_prefix, in_suffix, ordered=ordered)
        self._uses_log = not ordered
        self._waits = False
        self._has_ended = False
        self._logged = self._read = 0
        """Number of prompts in the log minus the number of messages sent: lines as they were logged, and lines up to
        which the output was read. If it is positive, the engine is waiting for input.
        """
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
            self._uses_log = True
            self._logged += 1
            return True
        return False

    def waiting(self) -> list[Frame]:
        self._read += 1
        if self._read <= 0:
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
            self._show_until_end(held, frames)
        else:
            self._held = held
        return frames

    def settle(self) -> list[Frame]:
        # For an engine whose log was switched off in a way that this program does not notice.
        frames: list[Frame] = []
        if self._state is ClassicState.REPLY and (body := self._body(self._held)) is not None:
            self._finish(body, "", frames)
        return frames or super().settle()

    def eof(self, *, clean: bool) -> list[Frame]:
        if self._state is ClassicState.REPLY and self._uses_log:
            self._held = _without_last(self._held, USER_INPUT)
        return super().eof(clean=clean)

    def _expect(self, echo: str) -> None:
        super()._expect(echo)
        self._waits = self._has_ended = False
        self._logged -= 1
        self._read -= 1

    def _await_prompt(self, text: str, frames: list[Frame]) -> None:
        if self._ordered:
            super()._await_prompt(text, frames)
        elif self._waits and self._body(text) is not None:
            self._state, self._held = ClassicState.IDLE, ""
            frames.append(Ready())
        else:
            self._held = text[-START_LIMIT:]

    def _show_until_end(self, text: str, frames: list[Frame]) -> None:
        if not self._uses_log:
            super()._show_until_end(text, frames)
        elif self._waits:
            body, found, rest = text.rpartition(self._end) if self._ordered else (self._body(text), True, "")
            if body is None or not found:
                self._held = text
                return
            natural = self._has_ended
            self._add_text(body.removesuffix("\n") if natural else body, frames)
            frames.append(TurnEnd(natural))
            self._held, self._state = "", ClassicState.IDLE
            self._idle(rest, frames)
        else:
            self._show_until_colour(text, frames)

    def _show_until_colour(self, text: str, frames: list[Frame]) -> None:
        colour = text.find(USER_INPUT)
        if colour >= 0 and len(text) - colour > _LATE:
            self._add_text(text[: colour + len(USER_INPUT)], frames)
            text = text[colour + len(USER_INPUT) :]
            colour = text.find(USER_INPUT)
        if colour < 0:
            self._show(text, self._endings, frames)
            return
        # The colour may be between the bytes of a character.
        before = text[:colour].rstrip(_BYTES)
        cut = len(before) - held_length(before, self._before_colour)
        self._add_text(text[:cut], frames)
        self._held = text[cut:]

    def _body(self, text: str) -> str | None:
        """Return ``text`` without the colour and the in-prefix at its end; None if they have not arrived."""
        if USER_INPUT not in text:
            return None
        text = rejoined(_without_last(text, USER_INPUT))
        return text.removesuffix(self._in_prefix) if text.endswith(self._in_prefix) else None


def _without_last(text: str, part: str) -> str:
    before, _, after = text.rpartition(part)
    return before + after
