"""Events become what a terminal shows, append-only: nothing that was written is ever painted again.

The one exception is the spinner, a line of its own that is erased before anything else is written. So a terminal may
be resized or scrolled at any moment and nothing is duplicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Completed, Stats
from bitnet_chat.markdown import Prose, Verbatim
from bitnet_chat.repl.toolbar import SEPARATOR, rate, seconds, tokens
from bitnet_chat.stream.sanitize import Sanitizer, one_line, visible


class Sink(Protocol):
    """Where text goes, at once. All of it is safe for a terminal by now."""

    def words(self, text: str) -> None:
        """Words of a reply."""

    def remarks(self, text: str) -> None:
        """Everything else."""


@dataclass(frozen=True, slots=True)
class Paint:
    """The escape sequences in use; all empty without colour."""

    dim: str = ""
    error: str = ""
    off: str = ""

    @classmethod
    def of(cls, colour: bool) -> Paint:
        return cls(dim="\x1b[2m", error="\x1b[31m", off="\x1b[0m") if colour else cls()


CALL_SHOWN = 2000
"""Characters of the arguments of a call."""
_ERASE_LINE = "\r\x1b[K"
_DOTS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BARS = "|/-\\"


class Display:
    """Writes replies and remarks to a sink, and knows whether the cursor is at the start of a line."""

    def __init__(
        self,
        sink: Sink,
        *,
        colour: bool,
        spinner: bool,
        unicode: bool = True,
        prose: Prose | None = None,
        thinking: Literal["show", "fold", "hide"] = "show",
    ) -> None:
        """``spinner``: the sink is a terminal that can erase a line. ``unicode``: it can show more than ASCII.
        ``prose``: what styles the words of replies; None leaves them as they are."""
        self._sink = sink
        self._paint = Paint.of(colour)
        self._spinner = spinner
        self._frames = _DOTS if unicode else _BARS
        self._frame = 0
        self._spinning = False
        self._prose = prose or Verbatim()
        self._sanitizer = Sanitizer()
        self.thinking = thinking
        """How thoughts are shown from now on."""
        self._fresh = True
        """The cursor is at the start of a line."""
        self._waiting = True
        """Nothing of the reply is to be seen yet."""
        self._dim = False
        """Thoughts are being written."""

    def begin(self, before: str = "") -> None:
        """A reply comes. ``before``: what it goes on with, which has been shown and is part of what it means."""
        self._finish()
        self._waiting = True
        if before:
            self._prose.feed(visible(before))
            self._prose.flush()

    def spin(self, elapsed: float, what: str = "") -> None:
        """The next picture of the spinner; ``elapsed`` in seconds. Ignored while there are words to read instead."""
        what = self._prose.holding or what
        if not self._spinner or not self._fresh or not (self._waiting or self._prose.holding):
            return
        picture = self._frames[self._frame % len(self._frames)]
        self._frame += 1
        self._spinning = True
        label = f" {what}" if what else ""
        self._sink.remarks(f"{_ERASE_LINE}{self._paint.dim}{picture} {elapsed:.1f} s{label}{self._paint.off}")

    def words(self, text: str) -> None:
        """The next characters of the reply, as they came from the model."""
        self._leave_thinking()
        self._waiting = False
        self._put(self._prose.feed(self._sanitizer.feed(text)))

    def pause(self) -> None:
        """Nothing has come for a moment: what waits for its successor is shown."""
        if not self._dim:
            self._put(self._prose.pause())

    def thoughts(self, text: str, *, whole: bool = False) -> None:
        """The next characters of what the model thinks before it answers; ``whole``: all of them, to be read now."""
        if self.thinking == "show" or whole:
            self._think(text)
        if whole:
            self._settle()
            self._sink.remarks("\n")

    def thought(self, time: float, count: int) -> None:
        """The thinking is over, after so many seconds and about so many tokens."""
        if self.thinking == "fold":
            self.notice(f"thought for {seconds(time)}, {tokens(count, exact=False)}{SEPARATOR}/thinking shows it")

    def notice(self, text: str) -> None:
        """One dim line."""
        self._settle()
        self._sink.remarks(f"{self._paint.dim}{one_line(text)}{self._paint.off}\n")

    def call(self, call: ToolCall) -> None:
        """What the model asks for: enough of it to decide on."""
        more = len(call.arguments) - CALL_SHOWN
        left_out = f"… ({more:,} more characters)" if more > 0 else ""
        self.notice(f"calls {call.name} {call.arguments[:CALL_SHOWN]}{left_out}")

    def rest(self) -> None:
        """To the start of a line: another hand writes next."""
        self._settle()

    def lines(self, *texts: str) -> None:
        """The answer of a command, safe for a terminal already, and an empty line."""
        self._finish()
        self._sink.remarks("".join(f"{text}\n" for text in (*texts, "")))

    def error(self, error: BitnetChatError) -> None:
        self._finish()
        self._sink.remarks(f"{self._paint.error}{visible(str(error))}{self._paint.off}\n\n")

    def completed(self, event: Completed) -> None:
        """Marks a stopped reply, then one dim line with the figures, and an empty one."""
        self._leave_thinking()
        self._put(self._prose.feed(self._sanitizer.flush()) + self._prose.finish())
        if event.reason is FinishReason.INTERRUPTED:
            self._mark("[stopped]")
        elif not event.text and event.reason is not FinishReason.TOOL_CALLS:
            self._mark("[nothing was said]")
        self._finish()
        self._sink.remarks(f"{self._paint.dim}{summary(event.stats, event.reason)}{self._paint.off}\n\n")

    def _mark(self, text: str) -> None:
        self._stop_spinner()
        self._sink.remarks(f"{'' if self._fresh else ' '}{self._paint.dim}{text}{self._paint.off}")
        self._fresh = False

    def _put(self, text: str) -> None:
        if text:
            self._stop_spinner()
            self._sink.words(text)
            self._fresh = text.endswith("\n")

    def _think(self, text: str) -> None:
        if not self._dim:
            self._settle()
            self._stop_spinner()
            self._sink.words(self._paint.dim)
            self._dim = True
            self._waiting = False
        # Plain at the end of each line, so that nothing inherits the look wherever it stops.
        self._put(self._sanitizer.feed(text).replace("\n", f"{self._paint.off}\n{self._paint.dim}"))

    def _leave_thinking(self) -> None:
        if self._dim:
            self._put(self._sanitizer.flush())
            self._dim = False
            self._sink.words(self._paint.off)
            self._end_line()

    def _finish(self) -> None:
        """The reply is over, as far as it came."""
        self._settle()
        self._put(self._prose.finish())
        self._end_line()
        self._waiting = True

    def _settle(self) -> None:
        """To the start of a line, in plain writing, with nothing held."""
        self._leave_thinking()
        self._put(self._prose.feed(self._sanitizer.flush()) + self._prose.flush())
        self._end_line()
        self._stop_spinner()

    def _end_line(self) -> None:
        if not self._fresh:
            self._put("\n")

    def _stop_spinner(self) -> None:
        if self._spinning:
            self._spinning = False
            self._sink.remarks(_ERASE_LINE)


_REASONS = {
    FinishReason.LENGTH: "cut at its limit",
    FinishReason.ROLE_MARKER: "ended before it spoke for you",
    FinishReason.CUT_OFF: "cut off",
    FinishReason.TOOL_CALLS: "calls a tool",
    FinishReason.CONTEXT_OVERFLOW: "the context is full",
    FinishReason.ENGINE_DIED: "the engine died",
    FinishReason.EMPTY: "ended before its first word",
    FinishReason.REPETITION: "stopped for repeating itself",
    FinishReason.STALLED: "stopped, for nothing more came",
    FinishReason.TIMEOUT: "stopped at its time limit",
}


def summary(stats: Stats, reason: FinishReason) -> str:
    """``42 tokens · 18.3 tok/s · first token after 0.35 s · stop``; ``~`` before a count that is not exact."""
    parts = [tokens(stats.tokens, stats.exact)]
    if stats.tokens_per_second is not None:
        parts.append(rate(stats.tokens_per_second))
    if stats.time_to_first_token is not None:
        parts.append(f"first token after {seconds(stats.time_to_first_token)}")
    parts.append(_REASONS.get(reason, reason.value.replace("_", " ")))
    return SEPARATOR.join(parts)
