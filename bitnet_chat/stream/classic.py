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

from enum import Enum, auto

from bitnet_chat.frames import ERROR, RESET, USER_INPUT, Frame, Ready, ReplyText, Stray, TurnEnd, held_length

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
            frames.append(Stray(text))

    def _skip_echo(self, text: str, frames: list[Frame]) -> None:
        if text.startswith(self._echo):
            text = text[len(self._echo) :]
        elif self._echo.startswith(text):
            self._held = text
            return
        else:
            frames.append(Stray(text))
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
