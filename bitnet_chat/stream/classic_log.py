"""The classic console of a build whose log tells when it waits for input.

The console alone does not tell the end of a turn for certain: builds that do not flush what they printed before they
change colour (BitNet 2024, llama.cpp from September 2024 to 2025) can write the user-input colour before the last
tokens; with a template that has nothing in front of a message (BitNet 2B4T) the colour is all there is; and a model can
write both, in-prefix and colour. What stands behind such a forged prompt would be lost.

The log has ``found an EOG token`` where a model has ended its reply and ``waiting for user input`` before each prompt,
written by the thread that prints the reply, after all of the reply and before the in-prefix. So a turn has ended when
that line was logged, the colour has come and the text ends with the in-prefix. A message that holds such a line is
logged too, but before its tokens are evaluated, which is logged as ``n_past = …``.

An ``ordered`` build (see :mod:`bitnet_chat.stream.classic`) is understood without a log as well, for flags of a user's
own can switch it off: the log counts there from the first such line on. As its prompt is understood without the log,
and log and console are two streams, the line of a prompt may be read when that prompt has been answered already: each
line belongs to one prompt, and a late one ends nothing.
"""

from __future__ import annotations

from bitnet_chat.frames import USER_INPUT, Frame, Ready, TurnEnd, held_length
from bitnet_chat.stream.classic import START_LIMIT, ClassicFramer, ClassicState
from bitnet_chat.text.utf8 import rejoined

_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
_LATE = 4096
"""Characters behind a colour without a sign of the end: it was the model's own."""


class LoggedClassicFramer(ClassicFramer):
    """Frames of one classic engine process whose log is fed to :meth:`logged`."""

    def __init__(self, in_prefix: str, in_suffix: str, *, ordered: bool = False) -> None:
        super().__init__(in_prefix, in_suffix, ordered=ordered)
        self._is_told = not ordered
        self._waits = False
        self._has_ended = False
        self._ahead = 0
        """Lines of the log for prompts, less the prompts that were answered: above 0 an engine waits now."""
        self._endings = [newline + part + USER_INPUT for newline in ("", "\n") for part in {in_prefix, ""}] + ["\n\n\0"]
        self._before_colour = [f"\n{in_prefix}\0", *([f"{in_prefix}\0"] if in_prefix else [])]

    @property
    def kind(self) -> str:
        return "logged, ordered" if self._ordered else "logged"

    def logged(self, line: str) -> bool:
        if line.startswith("n_past = "):
            self._waits = self._has_ended = False
        elif line == "found an EOG token":
            self._has_ended = self._ahead >= 0
        elif line == "waiting for user input":
            self._is_told = True
            self._ahead += 1
            return self._ahead > 0
        return False

    def waiting(self) -> list[Frame]:
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
        # A log that was switched off behind our back.
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
