"""The display of replies as append-only text: written text is never drawn again.

The exceptions are the current word at the edge of the window (``text/wrap.py``) and the temporary lines below the text
(:mod:`bitnet_chat.repl.screen`). A terminal can therefore be resized or scrolled at any time without duplicated text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Completed, Stats
from bitnet_chat.markdown import MarkdownRenderer, PlainRenderer
from bitnet_chat.repl.screen import Output, Size, WrappedScreen
from bitnet_chat.repl.side_by_side import MIN_CELLS, cells_of
from bitnet_chat.repl.status_bar import SEPARATOR, rate, seconds, tokens
from bitnet_chat.text.cell_width import clip
from bitnet_chat.text.sanitize import Sanitizer, one_line, visible

if TYPE_CHECKING:
    from bitnet_chat.journal import StoredConversation
    from bitnet_chat.repl.columns import ReplyColumns


@dataclass(frozen=True, slots=True)
class Theme:
    """Escape sequences of styles; all empty without colours."""

    dim: str = ""
    error: str = ""
    off: str = ""

    @classmethod
    def of(cls, colour: bool) -> Theme:
        """Return the theme with or without colours."""
        return cls(dim="\x1b[2m", error="\x1b[31m", off="\x1b[0m") if colour else cls()


CALL_SHOWN = 2000
"""Maximum number of characters of the arguments of a tool call that are shown."""
_DOTS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BARS = "|/-\\"


class ReplyDisplay:
    """Writes replies, notices, errors and the output of commands to an :class:`bitnet_chat.repl.screen.Output`."""

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
        column_prose: Callable[[Callable[[], int]], MarkdownRenderer] | None = None,
    ) -> None:
        """Create a display. ``size``: of the window; None without a terminal. ``spinner``: whether the terminal can
        erase, so that temporary lines can be drawn. ``unicode``: whether characters other than ASCII can be shown.
        ``prose``: styles the text of replies; None leaves it unchanged. ``column_prose``: makes such a renderer for a
        column, from a function that returns its cells.
        """
        self._sink, self._size, self._draws = sink, size, spinner
        self._colour, self._unicode, self._column_prose = colour, unicode, column_prose
        self._screen = WrappedScreen(sink, size, draws=spinner)
        self._theme = Theme.of(colour)
        self._frames = _DOTS if unicode else _BARS
        self._frame = 0
        self._renderer = prose or PlainRenderer()
        self._sanitizer = Sanitizer()
        self.thinking = thinking
        """How following thoughts are displayed; may be assigned."""
        self.variant = ""
        """The position of the next reply or its message among the variants, such as ``< 2/2 >``; may be assigned."""
        self.figures = True
        """Whether the end of a reply is followed by a line with its figures; may be assigned."""
        self._waiting = True
        """Whether the reply has no visible text yet."""
        self._in_thoughts = False
        """Whether the last text written is a thought."""

    def begin(self, before: str = "") -> None:
        """Begin a reply. ``before``: the text that it continues, which is on the screen and affects its Markdown."""
        self._finish()
        self._waiting = True
        before = visible(before)
        self._screen.begin(before)
        if before:
            self._renderer.feed(before)
            self._renderer.flush()

    def columns(self, titles: Sequence[str]) -> ReplyColumns | None:
        """Begin several replies side by side, below their sanitized titles. None if the columns would be too narrow, or
        the terminal cannot draw.
        """
        if self._size is None or not self._draws or cells_of(self._size()[0], len(titles)) < MIN_CELLS:
            return None
        from bitnet_chat.repl.columns import ReplyColumns

        def display(sink: Output, cells: Callable[[], int]) -> ReplyDisplay:
            renderer = None if self._column_prose is None else self._column_prose(cells)
            shown = ReplyDisplay(
                sink, colour=self._colour, spinner=False, unicode=self._unicode, prose=renderer, thinking=self.thinking
            )
            shown.figures = self.figures
            return shown

        self._finish()
        heads = [f"{self._theme.dim}{title}{self._theme.off}" for title in titles]
        return ReplyColumns(self._sink, self._size, heads, display, unicode=self._unicode)

    def frame(self, elapsed: float, what: str = "", figures: str = "") -> str:
        """Return the next frame of the spinner, see :meth:`spin`; empty if nothing is to show."""
        if self._waiting or self._renderer.held:
            text = SEPARATOR.join(part for part in (f"{elapsed:.1f} s{f' {what}' if what else ''}", figures) if part)
        else:
            text = figures
        if not text:
            return ""
        picture = self._frames[self._frame % len(self._frames)]
        self._frame += 1
        return f"{self._theme.dim} {picture} {text}{self._theme.off}"

    def spin(self, elapsed: float, what: str = "", figures: str = "") -> None:
        """Draw the next frame of the spinner below the text. ``elapsed``: seconds, shown before the first text.
        ``what``: the current activity. ``figures``: token count and rate so far. An incomplete table, which is held
        back, is shown above the spinner.
        """
        held = self._renderer.held
        frame = self.frame(elapsed, self._renderer.holding or what, figures)
        if frame:
            self._screen.below(*held, frame)
        else:
            self._screen.clear()

    def words(self, text: str) -> None:
        """Write the next characters of the reply, as received from the model."""
        self._leave_thinking()
        replaces = self._waiting or self._renderer.holding
        self._waiting = False
        shown = self._renderer.feed(self._sanitizer.feed(text))
        if shown and replaces:
            self._screen.clear()
        self._screen.words(shown)

    def pause(self) -> None:
        """Write text that is held back because its Markdown is incomplete, after a pause of the input."""
        if not self._in_thoughts:
            self._screen.words(self._renderer.pause())

    def thoughts(self, text: str, *, whole: bool = False) -> None:
        """Write the next characters of thoughts, if they are shown. ``whole``: ``text`` is all of them, and is shown in
        any case.
        """
        if self.thinking == "show" or whole:
            self._think(text)
        if whole:
            self._settle()
            self._screen.lines("\n")

    def thought(self, time: float, count: int) -> None:
        """Write the line that represents folded thoughts, after ``time`` seconds and about ``count`` tokens."""
        if self.thinking == "fold":
            self.notice(f"thought for {seconds(time)}, {tokens(count, exact=False)}{SEPARATOR}/thinking shows it")

    def notice(self, text: str) -> None:
        """Write one dim line."""
        self._settle()
        self._screen.lines(f"{self._dimmed(one_line(text))}\n")

    def call(self, call: ToolCall) -> None:
        """Write a tool call, with at most CALL_SHOWN characters of its arguments."""
        more = len(call.arguments) - CALL_SHOWN
        left_out = f"… ({more:,} more characters)" if more > 0 else ""
        self.notice(f"calls {call.name} {call.arguments[:CALL_SHOWN]}{left_out}")

    def rest(self) -> None:
        """Move the cursor to the start of a line, before other text is written."""
        self._settle()

    def lines(self, *texts: str) -> None:
        """Write the sanitized output of a command, and an empty line."""
        self._finish()
        self._screen.lines("".join(f"{text}\n" for text in (*texts, "")))

    def error(self, error: BitnetChatError) -> None:
        """End the reply, and write an error and an empty line."""
        self._finish()
        text = visible(str(error)).replace("\n", f"{self._theme.off}\n{self._theme.error}")
        self._screen.lines(f"{self._theme.error}{text}{self._theme.off}\n\n")

    def completed(self, event: Completed) -> None:
        """End the reply: mark it if it was stopped or is empty, and write a dim line with its figures, and an empty
        line.
        """
        self._leave_thinking()
        self._screen.words(self._renderer.feed(self._sanitizer.flush()) + self._renderer.finish())
        if event.reason is FinishReason.INTERRUPTED:
            self._mark("[stopped]")
        elif not event.text and event.reason is not FinishReason.TOOL_CALLS:
            self._mark("[empty reply]")
        self._finish()
        variant = f"{SEPARATOR}{self.variant}" if self.variant and event.text else ""
        if not self.figures:
            return
        self._screen.lines(f"{self._dimmed(summary(event.stats, event.reason) + variant)}\n\n")

    def _dimmed(self, text: str) -> str:
        return f"{self._theme.dim}{text}{self._theme.off}"

    def _mark(self, text: str) -> None:
        self._screen.remark(f"{'' if self._screen.fresh else ' '}{self._dimmed(text)}")

    def _think(self, text: str) -> None:
        if not self._in_thoughts:
            self._settle()
            self._screen.words(self._theme.dim)
            self._in_thoughts = True
            self._waiting = False
        # Styles are reset at the end of each line, so that no other text inherits them if the thoughts end here.
        self._screen.words(self._sanitizer.feed(text).replace("\n", f"{self._theme.off}\n{self._theme.dim}"))

    def _leave_thinking(self) -> None:
        if self._in_thoughts:
            self._screen.words(self._sanitizer.flush())
            self._in_thoughts = False
            self._screen.words(self._theme.off)
            self._end_line()

    def _finish(self) -> None:
        """End the reply, complete or not, and move to the start of a line."""
        self._settle()
        self._screen.words(self._renderer.finish())
        self._end_line()
        self._waiting = True

    def _settle(self) -> None:
        """Write all text that is held back, reset styles, and move to the start of a line."""
        self._leave_thinking()
        self._screen.words(self._renderer.feed(self._sanitizer.flush()) + self._renderer.flush())
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
    """Return the figures of a reply, such as ``42 tokens · 18.3 tok/s · first token after 0.35 s · stop``. ``~`` marks
    an estimated count.
    """
    parts = [tokens(stats.tokens, stats.exact)]
    if stats.tokens_per_second is not None:
        parts.append(rate(stats.tokens_per_second))
    if stats.time_to_first_token is not None:
        parts.append(f"first token after {seconds(stats.time_to_first_token)}")
    parts.append(_REASONS.get(reason, reason.value.replace("_", " ")))
    return SEPARATOR.join(parts)


LINES = 6
"""Maximum number of lines of a message that are shown when a conversation is resumed."""

_CUT = {
    FinishReason.CUT_OFF: "the program ended before this reply did",
    FinishReason.INTERRUPTED: "this reply was stopped",
}


def show(display: ReplyDisplay, stored: StoredConversation, *, is_branch: bool = False) -> None:
    """Show the state of a resumed conversation: its title, the last message and the reply. ``is_branch``: it is
    another branch of the open conversation.
    """
    from bitnet_chat.attachments import typed
    from bitnet_chat.journal.records import ReplyState

    turns, variant = stored.conversation.turns, str(stored.turn_position)
    count = f"{len(turns)} message{'' if len(turns) == 1 else 's'}{SEPARATOR * bool(variant)}{variant}"
    title = f"“{stored.title}” (number {stored.id}, {count})"
    display.notice(f"Another branch ({count})." if is_branch else f"Continuing {title}.")
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
    """Return the lines of a sent message as they appear on the prompt, at most LINES and an ellipsis."""
    from bitnet_chat.attachments import typed

    lines = visible(typed(message)).split("\n")
    shown = [f"> {lines[0]}", *(f"  {line}" for line in lines[1:LINES])]
    return [*shown, "  …"] if len(lines) > LINES else shown
