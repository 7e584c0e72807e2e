"""Events as text on a terminal, append-only: written text is never painted again.

The exceptions are the current word at the edge of the window (``text/wrap.py``) and the lines below the text, which are
erased before anything else is written (:mod:`bitnet_chat.repl.screen`). So a terminal may be resized or scrolled at any
moment without duplicated text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Completed, Stats
from bitnet_chat.markdown import MarkdownRenderer, PlainRenderer
from bitnet_chat.repl.screen import Output, Size, WrappedScreen
from bitnet_chat.repl.status_bar import SEPARATOR, rate, seconds, tokens
from bitnet_chat.text.cell_width import clip
from bitnet_chat.text.sanitize import Sanitizer, one_line, visible

if TYPE_CHECKING:
    from bitnet_chat.journal import StoredConversation


@dataclass(frozen=True, slots=True)
class Theme:
    """The escape sequences in use; all empty without colour."""

    dim: str = ""
    error: str = ""
    off: str = ""

    @classmethod
    def of(cls, colour: bool) -> Theme:
        return cls(dim="\x1b[2m", error="\x1b[31m", off="\x1b[0m") if colour else cls()


CALL_SHOWN = 2000
"""Maximum number of characters of the arguments of a call."""
_DOTS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BARS = "|/-\\"


class ReplyDisplay:
    """Writes replies and remarks to a sink, and tracks whether the cursor is at the start of a line."""

    def __init__(
        self,
        sink: Output,
        *,
        colour: bool,
        spinner: bool,
        unicode: bool = True,
        prose: MarkdownRenderer | None = None,
        thinking: Literal["show", "fold", "hide"] = "show",
        size: Size | None = None,
    ) -> None:
        """``size``: of the window; None without a terminal. ``spinner``: the terminal can erase it. ``unicode``:
        characters beyond ASCII can be shown. ``prose``: styles the text of replies; None leaves it unchanged.
        """
        self._screen = WrappedScreen(sink, size, draws=spinner)
        self._paint = Theme.of(colour)
        self._frames = _DOTS if unicode else _BARS
        self._frame = 0
        self._prose = prose or PlainRenderer()
        self._sanitizer = Sanitizer()
        self.thinking = thinking
        """The display of later thoughts."""
        self._waiting = True
        """The reply has no visible text yet."""
        self._dim = False
        """Thoughts are being written."""

    def begin(self, before: str = "") -> None:
        """Begin a reply. ``before``: the text that it continues, which is on the screen and part of its Markdown."""
        self._finish()
        self._waiting = True
        before = visible(before)
        self._screen.begin(before)
        if before:
            self._prose.feed(before)
            self._prose.flush()

    def spin(self, elapsed: float, what: str = "", figures: str = "") -> None:
        """Draw the next frame of the spinner below the text, with the ``elapsed`` seconds before the first text, later
        with the ``figures`` of the reply so far, and with the lines that are held back.
        """
        held = self._prose.held
        what = self._prose.holding or what
        if self._waiting or held:
            text = SEPARATOR.join(part for part in (f"{elapsed:.1f} s{f' {what}' if what else ''}", figures) if part)
        elif figures:
            text = figures
        else:
            self._screen.clear()
            return
        picture = self._frames[self._frame % len(self._frames)]
        self._frame += 1
        self._screen.below(*held, f"{self._paint.dim} {picture} {text}{self._paint.off}")

    def words(self, text: str) -> None:
        """Write the next characters of the reply, as received from the model."""
        self._leave_thinking()
        replaces = self._waiting or self._prose.holding
        self._waiting = False
        shown = self._prose.feed(self._sanitizer.feed(text))
        if shown and replaces:
            self._screen.clear()
        self._screen.words(shown)

    def pause(self) -> None:
        """Write text that is held back, after a moment without input."""
        if not self._dim:
            self._screen.words(self._prose.pause())

    def thoughts(self, text: str, *, whole: bool = False) -> None:
        """Write the next characters of the thoughts; ``whole``: all of them, undimmed."""
        if self.thinking == "show" or whole:
            self._think(text)
        if whole:
            self._settle()
            self._screen.lines("\n")

    def thought(self, time: float, count: int) -> None:
        """End the thoughts, after ``time`` seconds and about ``count`` tokens."""
        if self.thinking == "fold":
            self.notice(f"thought for {seconds(time)}, {tokens(count, exact=False)}{SEPARATOR}/thinking shows it")

    def notice(self, text: str) -> None:
        """Write one dim line."""
        self._settle()
        self._screen.lines(f"{self._dimmed(one_line(text))}\n")

    def call(self, call: ToolCall) -> None:
        """Write a tool call, with enough of its arguments for a decision."""
        more = len(call.arguments) - CALL_SHOWN
        left_out = f"… ({more:,} more characters)" if more > 0 else ""
        self.notice(f"calls {call.name} {call.arguments[:CALL_SHOWN]}{left_out}")

    def rest(self) -> None:
        """Move to the start of a line, before other code writes."""
        self._settle()

    def lines(self, *texts: str) -> None:
        """Write the sanitized output of a command, and an empty line."""
        self._finish()
        self._screen.lines("".join(f"{text}\n" for text in (*texts, "")))

    def error(self, error: BitnetChatError) -> None:
        self._finish()
        text = visible(str(error)).replace("\n", f"{self._paint.off}\n{self._paint.error}")
        self._screen.lines(f"{self._paint.error}{text}{self._paint.off}\n\n")

    def completed(self, event: Completed) -> None:
        """Mark a stopped reply, then write one dim line with the figures, and an empty one."""
        self._leave_thinking()
        self._screen.words(self._prose.feed(self._sanitizer.flush()) + self._prose.finish())
        if event.reason is FinishReason.INTERRUPTED:
            self._mark("[stopped]")
        elif not event.text and event.reason is not FinishReason.TOOL_CALLS:
            self._mark("[empty reply]")
        self._finish()
        self._screen.lines(f"{self._dimmed(summary(event.stats, event.reason))}\n\n")

    def _dimmed(self, text: str) -> str:
        return f"{self._paint.dim}{text}{self._paint.off}"

    def _mark(self, text: str) -> None:
        self._screen.remark(f"{'' if self._screen.fresh else ' '}{self._dimmed(text)}")

    def _think(self, text: str) -> None:
        if not self._dim:
            self._settle()
            self._screen.words(self._paint.dim)
            self._dim = True
            self._waiting = False
        # Plain at the end of each line, so that nothing inherits the look wherever it stops.
        self._screen.words(self._sanitizer.feed(text).replace("\n", f"{self._paint.off}\n{self._paint.dim}"))

    def _leave_thinking(self) -> None:
        if self._dim:
            self._screen.words(self._sanitizer.flush())
            self._dim = False
            self._screen.words(self._paint.off)
            self._end_line()

    def _finish(self) -> None:
        """End the reply, complete or not."""
        self._settle()
        self._screen.words(self._prose.finish())
        self._end_line()
        self._waiting = True

    def _settle(self) -> None:
        """Move to the start of a line, with styles reset and nothing held back."""
        self._leave_thinking()
        self._screen.words(self._prose.feed(self._sanitizer.flush()) + self._prose.flush())
        self._end_line()

    def _end_line(self) -> None:
        self._screen.clear()
        if not self._screen.fresh:
            self._screen.words("\n")


_REASONS = {
    FinishReason.LENGTH: "cut at its limit",
    FinishReason.ROLE_MARKER: "stopped at a user turn marker",
    FinishReason.CUT_OFF: "cut off",
    FinishReason.TOOL_CALLS: "calls a tool",
    FinishReason.CONTEXT_OVERFLOW: "the context window is full",
    FinishReason.ENGINE_DIED: "the engine died",
    FinishReason.EMPTY: "empty reply",
    FinishReason.REPETITION: "stopped: it repeated itself",
    FinishReason.STALLED: "stopped: no output",
    FinishReason.TIMEOUT: "stopped at the time limit",
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


# Where a resumed conversation stands: its title, the last message and what was said to it.

LINES = 6
"""Maximum number of lines of the last message, which may be a whole file."""

_CUT = {
    FinishReason.CUT_OFF: "the program ended before this reply did",
    FinishReason.INTERRUPTED: "this reply was stopped",
}


def show(display: ReplyDisplay, stored: StoredConversation) -> None:
    from bitnet_chat.attachments import typed
    from bitnet_chat.journal.records import ReplyState

    turns = stored.conversation.turns
    count = f"{len(turns)} message{'' if len(turns) == 1 else 's'}"
    display.notice(f"Continuing “{stored.title}” (number {stored.id}, {count}).")
    question = next((each for each in reversed(turns) if each.role == "user"), None)
    if question is not None:
        display.lines(*quoted(question.content))
    last = turns[-1] if turns else None
    answering = stored.state is ReplyState.ANSWERING
    if last is not None and last.role == "assistant":
        display.words(last.content)
        if last.was_cut:
            why = (last.finish and _CUT.get(last.finish)) or "this reply is incomplete"
            if answering:
                why = "another program is still writing this reply"
            display.notice(f"[{why}: /continue resumes it{' from here' if answering else ''}]")
    if stored.conversation.open_calls:
        display.notice("[its tool calls were not executed: /continue lets the model continue]")
    elif last is not None and last.role == "tool":
        display.notice("[the results of its tool calls have no reply: /continue requests one]")
    if stored.unanswered:
        why = (
            "Another program is generating a reply to the last message"
            if answering
            else "The last message has no reply"
        )
        display.notice(f"{why}: {clip(one_line(typed(stored.unanswered)), 60)}")
    display.lines()


def quoted(message: str) -> list[str]:
    """The message as on the prompt; of a long one the beginning."""
    from bitnet_chat.attachments import typed

    lines = visible(typed(message)).split("\n")
    shown = [f"> {lines[0]}", *(f"  {line}" for line in lines[1:LINES])]
    return [*shown, "  …"] if len(lines) > LINES else shown
