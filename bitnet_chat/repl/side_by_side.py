"""Several texts that grow at the same time, in columns. Pure: texts and the size of the window become terminal output.

A row is final once it is final in every column. It is then written for good: the terminal scrolls it, and it is never
drawn again. The rows below it are live: they are drawn after the cursor, which stays at the start of the first of them,
and only their changed cells are drawn again. Live rows never fill the window: a column that is far ahead of another one
shows its last rows.

After a resize, everything after the cursor is erased, and the text that is not final is wrapped anew; this is correct
however the terminal treats the live rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bitnet_chat.repl.screen import ERASE_BELOW
from bitnet_chat.text.cell_width import clip, clip_styled
from bitnet_chat.text.wrap import Row, RowWrapper

MIN_CELLS = 36
"""Width of a column below which replies are shown one after another."""
_BELOW = 2
"""Rows of the window that live rows never use."""
_DOWN = "\x1bD"
"""Moves the cursor one row down; in the last row it scrolls."""


def cells_of(columns: int, count: int) -> int:
    """Return the width of each of ``count`` columns in a window of ``columns`` cells, whose last cell stays empty."""
    return (columns - 1 - 3 * (count - 1)) // count


class _Column:
    def __init__(self, cells: int) -> None:
        self.rows: deque[Row] = deque()
        """Rows that are final in this column and not yet in all of them."""
        self.ended = False
        self.status = ""
        self._wrapper = RowWrapper(cells)

    def feed(self, text: str) -> None:
        self.rows += self._wrapper.feed(text)

    def end(self) -> None:
        if not self.ended and self._wrapper.row.source:
            self.feed("\n")
        while self.rows and not self.rows[-1].text:
            self.rows.pop()
        self.ended, self.status = True, ""

    def take(self) -> str:
        """Remove the first row. Returns its text; empty without one."""
        return self.rows.popleft().text if self.rows else ""

    def resize(self, cells: int) -> None:
        """Wrap the text of the rows that are not final anew."""
        rows = [*self.rows, self._wrapper.row]
        self._wrapper = RowWrapper(cells, rows[0].look)
        self.rows = deque(self._wrapper.feed("".join(row.source for row in rows)))

    def live(self, most: int, cells: int) -> list[str]:
        """The last ``most`` of the rows that are not final, with a mark for the others."""
        rows = [row.text for row in self.rows]
        if self._wrapper.row.source:
            rows.append(self._wrapper.row.text)
        if self.status:
            rows.append(clip_styled(self.status, cells))
        hidden = len(rows) - most + 1
        if hidden <= 1:
            return rows
        return [clip(f"… {hidden} rows above", cells), *rows[hidden:]] if most > 1 else rows[-1:]


class SideBySide:
    """Columns of text in a window. Call :meth:`draw` after changes, and write its result at once."""

    def __init__(self, count: int, size: tuple[int, int], *, unicode: bool = True) -> None:
        """``size``: columns and rows of the window. ``unicode``: whether a line of ``│`` can separate the columns."""
        self._size = size
        self._mark = "│" if unicode else "|"
        self._columns = [_Column(self._cells(count)) for _ in range(count)]
        self._drawn: list[list[str]] = []
        """The cells of the live rows on the screen."""

    def _cells(self, count: int) -> int:
        return max(2, cells_of(self._size[0], count))

    def feed(self, number: int, text: str) -> None:
        """Add sanitized text, which may contain SGR sequences, to a column."""
        self._columns[number].feed(text)

    def status(self, number: int, text: str) -> None:
        """Show a temporary line below the text of a column; empty: none."""
        if not self._columns[number].ended:
            self._columns[number].status = text

    def end(self, number: int) -> None:
        """End a column: all its rows are final."""
        self._columns[number].end()

    def redraw(self) -> str:
        """Return the output after which all live rows are drawn anew, at the position of the cursor."""
        self._drawn = []
        return f"\r{ERASE_BELOW}"

    def draw(self, size: tuple[int, int]) -> str:
        """Return the output that shows the present state in a window of this size."""
        out = []
        if size != self._size:
            resized, self._size = size[0] != self._size[0], size
            out.append(self.redraw() if self._drawn else "")
            if resized:
                for column in self._columns:
                    column.resize(self._cells(len(self._columns)))
        for _ in range(self._final()):
            out.append(self._changed(0, [column.take() for column in self._columns]))
            out.append("\r\n")
            self._drawn = self._drawn[1:]
        out.append(self._draw_live())
        return "".join(out)

    def _final(self) -> int:
        """The number of rows that are final in every column."""
        running = [len(column.rows) for column in self._columns if not column.ended]
        return min(running) if running else max(len(column.rows) for column in self._columns)

    def _draw_live(self) -> str:
        cells = self._cells(len(self._columns))
        most = max(1, self._size[1] - _BELOW)
        lines = [column.live(most, cells) for column in self._columns]
        height = max(map(len, lines))
        out = []
        if height > max(1, len(self._drawn)):
            out.append(f"{_DOWN * (height - 1)}\x1b[{height - 1}A")
        if height < len(self._drawn):
            out.append(f"\x1b7\x1b[{height}B\x1b[J\x1b8" if height else ERASE_BELOW)
            del self._drawn[height:]
        for row in range(height):
            out.append(self._changed(row, [line[row] if row < len(line) else "" for line in lines]))
        return "".join(out)

    def _changed(self, row: int, cells: Sequence[str]) -> str:
        """Draw the changed cells of live row ``row``, and move the cursor back."""
        is_new = row >= len(self._drawn)
        before = [""] * len(cells) if is_new else self._drawn[row]
        out = []
        for number, (old, new) in enumerate(zip(before, cells, strict=True)):
            start = number * (self._cells(len(cells)) + 3)
            if is_new and number:
                out.append(f"\x1b[{start - 1}G{self._mark}")
            if new != old:
                out.append(self._cell(start, old, new))
                if not (old.isascii() and new.isascii()):
                    out[-1] = self._within(out[-1], start, is_last=number == len(cells) - 1)
        if is_new:
            self._drawn.append(list(cells))
        else:
            self._drawn[row] = list(cells)
        if not out:
            return ""
        # Restored and not moved up: in a window that has become lower, the cursor stops above the row.
        return f"\x1b7\x1b[{row}B{''.join(out)}\x1b8" if row else f"{''.join(out)}\r"

    def _within(self, drawn: str, start: int, *, is_last: bool) -> str:
        """Keep a terminal that draws a character wider than :mod:`bitnet_chat.text.cell_width` has it from writing over
        the line between the columns, and from going on in the next row."""
        if is_last:
            return f"\x1b[?7l{drawn}\x1b[?7h"
        return f"{drawn}\x1b[{start + self._cells(len(self._columns)) + 1}G {self._mark} "

    def _cell(self, start: int, old: str, new: str) -> str:
        """Draw one cell. Text that only grows is not drawn again."""
        if new.startswith(old) and old.isascii() and old.isprintable():
            return f"\x1b[{start + len(old) + 1}G{new[len(old) :]}"
        erased = f"\x1b[{self._cells(len(self._columns))}X" if old else ""
        return f"\x1b[{start + 1}G{erased}{new}"
