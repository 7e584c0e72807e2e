"""Replies side by side on a terminal: a display for each column, and the drawing of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bitnet_chat.repl.side_by_side import SideBySide, cells_of

if TYPE_CHECKING:
    from bitnet_chat.repl.display import ReplyDisplay
    from bitnet_chat.repl.screen import Output, Size

FRAME = 0.03
"""Minimum seconds between two drawings: tokens that arrive in this time are drawn together."""
PAUSE = 1.0
"""Seconds without a drawing after which all is drawn again: the spinner draws more often, unless the program was
suspended."""


class ReplyColumns:
    """Columns of replies. ``displays`` has the display of each; :meth:`close` ends the drawing."""

    def __init__(
        self,
        sink: Output,
        size: Size,
        heads: Sequence[str],
        display: Callable[[Output, Callable[[], int]], ReplyDisplay],
        *,
        unicode: bool,
    ) -> None:
        """``heads``: the first line of each column, may be styled. ``display``: makes the display of a column on an
        output, with a function that returns the cells of the column. The cursor is at the start of a line."""
        self._sink, self._size = sink, size
        self._side = SideBySide(len(heads), size(), unicode=unicode)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._next = self._loop.time()
        """Earliest time of the next drawing."""

        def cells() -> int:
            return cells_of(size()[0], len(heads))

        self.displays = [display(_ColumnOutput(self, number), cells) for number in range(len(heads))]
        for number, head in enumerate(heads):
            self.add(number, f"{head}\n")

    def add(self, number: int, text: str) -> None:
        """Add sanitized text to a column."""
        self._side.feed(number, text)
        self._draw_soon()

    def status(self, number: int, text: str) -> None:
        """Show a temporary line below the text of a column; empty: none."""
        self._side.status(number, text)
        self._draw_soon()

    def end(self, number: int) -> None:
        """End a column."""
        self._side.end(number)
        self._draw_soon()

    def close(self) -> None:
        """End all columns, and draw them for the last time. The cursor is then at the start of a line."""
        for number in range(len(self.displays)):
            self._side.end(number)
        self._draw()

    def _draw_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_at(max(self._next, self._loop.time()), self._draw)

    def _draw(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        # After a suspension the cursor may be elsewhere.
        text = self._side.redraw() if now - self._next > PAUSE else ""
        text += self._side.draw(self._size())
        if text:
            self._sink.words(text)
        self._next = now + FRAME


class _ColumnOutput:
    """The :class:`bitnet_chat.repl.screen.Output` of one column."""

    def __init__(self, columns: ReplyColumns, number: int) -> None:
        self._columns, self._number = columns, number

    def words(self, text: str) -> None:
        self._columns.add(self._number, text)

    remarks = words
