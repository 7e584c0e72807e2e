"""Events become what a terminal shows, append-only: nothing that was written is ever painted again.

The exceptions are the word under way at the edge of the window (``stream/wrap.py``) and the lines below the text, which
are erased before anything else is written (:mod:`bitnet_chat.repl.screen`). So a terminal may be resized or scrolled at
any moment and nothing is duplicated.
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
"""Characters of the arguments of a call."""
_DOTS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BARS = "|/-\\"


class ReplyDisplay:
    """Writes replies and remarks to a sink, and knows whether the cursor is at the start of a line."""

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
        """``size``: of the window that the text goes to; None where it goes to none. ``spinner``: that can erase what
        it shows. ``unicode``: it can show more than ASCII. ``prose``: what styles the words of replies; None leaves
        them as they are."""
        self._screen = WrappedScreen(sink, size, draws=spinner)
        self._paint = Theme.of(colour)
        self._frames = _DOTS if unicode else _BARS
        self._frame = 0
        self._prose = prose or PlainRenderer()
        self._sanitizer = Sanitizer()
        self.thinking = thinking
        """How thoughts are shown from now on."""
        self._waiting = True
        """Nothing of the reply is to be seen yet."""
        self._dim = False
        """Thoughts are being written."""

    def begin(self, before: str = "") -> None:
        """A reply comes. ``before``: what it goes on with, which has been shown and is part of what it means."""
        self._finish()
        self._waiting = True
        before = visible(before)
        self._screen.begin(before)
        if before:
            self._prose.feed(before)
            self._prose.flush()

    def spin(self, elapsed: float, what: str = "", figures: str = "") -> None:
        """The next picture of the spinner below the text, with the time while there is nothing to read (``elapsed`` in
        seconds), else with the ``figures`` of the reply so far, and with the lines that are held back."""
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
        """The next characters of the reply, as they came from the model."""
        self._leave_thinking()
        replaces = self._waiting or self._prose.holding
        self._waiting = False
        shown = self._prose.feed(self._sanitizer.feed(text))
        if shown and replaces:
            self._screen.clear()
        self._screen.words(shown)

    def pause(self) -> None:
        """Nothing has come for a moment: what waits for its successor is shown."""
        if not self._dim:
            self._screen.words(self._prose.pause())

    def thoughts(self, text: str, *, whole: bool = False) -> None:
        """The next characters of what the model thinks before it answers; ``whole``: all of them, to be read now."""
        if self.thinking == "show" or whole:
            self._think(text)
        if whole:
            self._settle()
            self._screen.lines("\n")

    def thought(self, time: float, count: int) -> None:
        """The thinking is over, after so many seconds and about so many tokens."""
        if self.thinking == "fold":
            self.notice(f"thought for {seconds(time)}, {tokens(count, exact=False)}{SEPARATOR}/thinking shows it")

    def notice(self, text: str) -> None:
        """One dim line."""
        self._settle()
        self._screen.lines(f"{self._dimmed(one_line(text))}\n")

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
        self._screen.lines("".join(f"{text}\n" for text in (*texts, "")))

    def error(self, error: BitnetChatError) -> None:
        self._finish()
        text = visible(str(error)).replace("\n", f"{self._paint.off}\n{self._paint.error}")
        self._screen.lines(f"{self._paint.error}{text}{self._paint.off}\n\n")

    def completed(self, event: Completed) -> None:
        """Marks a stopped reply, then one dim line with the figures, and an empty one."""
        self._leave_thinking()
        self._screen.words(self._prose.feed(self._sanitizer.flush()) + self._prose.finish())
        if event.reason is FinishReason.INTERRUPTED:
            self._mark("[stopped]")
        elif not event.text and event.reason is not FinishReason.TOOL_CALLS:
            self._mark("[nothing was said]")
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
        """The reply is over, as far as it came."""
        self._settle()
        self._screen.words(self._prose.finish())
        self._end_line()
        self._waiting = True

    def _settle(self) -> None:
        """To the start of a line, in plain writing, with nothing held."""
        self._leave_thinking()
        self._screen.words(self._prose.feed(self._sanitizer.flush()) + self._prose.flush())
        self._end_line()

    def _end_line(self) -> None:
        self._screen.clear()
        if not self._screen.fresh:
            self._screen.words("\n")


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


# Where a resumed conversation stands: its title, the last message and what was said to it.

LINES = 6
"""Of the last message, which may be a whole file."""

_CUT = {
    FinishReason.CUT_OFF: "the program ended before this reply did",
    FinishReason.INTERRUPTED: "this reply was stopped",
}


def show(display: ReplyDisplay, stored: StoredConversation) -> None:
    from bitnet_chat.attachments import typed
    from bitnet_chat.journal.records import ReplyState

    turns = stored.conversation.turns
    count = f"{len(turns)} message{'' if len(turns) == 1 else 's'}"
    display.notice(f"Going on with “{stored.title}” (number {stored.id}, {count}).")
    question = next((each for each in reversed(turns) if each.role == "user"), None)
    if question is not None:
        display.lines(*quoted(question.content))
    last = turns[-1] if turns else None
    answering = stored.state is ReplyState.ANSWERING
    if last is not None and last.role == "assistant":
        display.words(last.content)
        if last.was_cut:
            why = (last.finish and _CUT.get(last.finish)) or "this reply is not whole"
            if answering:
                why = "another program is still writing this reply"
            display.notice(f"[{why}: /continue goes on with it{' from here' if answering else ''}]")
    if stored.conversation.open_calls:
        display.notice("[its calls of tools were not made: /continue lets the model go on]")
    elif last is not None and last.role == "tool":
        display.notice("[the results of its calls got no reply: /continue asks for it]")
    if stored.unanswered:
        why = "Another program is answering the last message" if answering else "The last message got no reply"
        display.notice(f"{why}: {clip(one_line(typed(stored.unanswered)), 60)}")
    display.lines()


def quoted(message: str) -> list[str]:
    """The message as it stood on the prompt, its beginning where it is long."""
    from bitnet_chat.attachments import typed

    lines = visible(typed(message)).split("\n")
    shown = [f"> {lines[0]}", *(f"  {line}" for line in lines[1:LINES])]
    return [*shown, "  …"] if len(lines) > LINES else shown
