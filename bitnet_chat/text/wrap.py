"""Word wrap at the edge of a terminal. Pure: text in any pieces becomes text with additional line breaks.

Characters are written at once, so a word may reach the edge when its beginning is already on the screen. That beginning
is then erased and written again in the next row. Nothing else is written twice, and only the row of the cursor is
needed for it.

- A break replaces the blanks before a word. In copied text it is a newline.
- A word that is longer than a row, such as a URL, is wrapped by the terminal, so that it is copied in one piece. The
  same applies to the lines of fenced code blocks.
- Chinese, Japanese, emoji, Thai and similar scripts can break between any two characters, except before a closing and
  after an opening mark. Korean has blanks between words.
- The last cell of a row stays empty, because terminals differ in the position of the cursor after it.
- Terminals disagree on the width of emoji of several code points. A row ends early if it contains such an emoji, and a
  word with one is not moved.
- If the window is resized within a line, the column of the cursor is unknown, and the next blank ends the row.

The only escape sequences in the text are SGR sequences of this program (``text/sanitize.py`` removes all others).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bitnet_chat.text.cell_width import width

__all__ = ["OFF", "Row", "RowWrapper", "WordWrapper", "wrapped"]

_PIECE = re.compile(r"\x1b\[[0-9;]*m|\n|[ \t]+|[^ \t\n\x1b]+|\x1b")
OFF = "\x1b[0m"
_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}(?=[^`]*$)|~{3,})")
_HEAD = 120
"""Number of characters at the start of a line that are checked for a fence."""
_BEFORE_FENCE = " \t>-*+.)0123456789`~"
_TAB = 8
# A row may end without a blank next to wide characters, and in scripts that have no blanks between words.
_UNSPACED = (("\u0e00", "\u0eff"), ("\u0f00", "\u109f"), ("\u1780", "\u17ff"))
_KOREAN = (("\u1100", "\u11ff"), ("\u3130", "\u318f"), ("\uac00", "\ud7ff"))
_OPENING = frozenset("([{（［｛「『【〈《〔〖〘‘“¥￥＄￡£€$#＃@＠")
_CLOSING = frozenset(
    ")]}!,.:;?%'\"、。，．：；！？）］｝」』】〉》〕〗〙’”…‥ー゛゜々〻・％‰℃°"
    "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
)


def wrapped(text: str, columns: int) -> str:
    """Wrap whole lines to ``columns`` cells.

    Continuation rows get the indent of their line, or that of the description after a command name (``/help  this
    list``).
    """
    out = []
    for line in text.split("\n"):
        wrapper = WordWrapper(lambda: columns, code=False, indent=_indent(line, columns))
        out.append(wrapper.feed(line))
    return "\n".join(out)


_COMMAND = re.compile(r"/\S.*?  +(?=\S)")
_BLANKS = re.compile(r"(?:\x1b\[[0-9;]*m)*((?: |> |\| )*)")


def _indent(line: str, columns: int) -> int:
    command = _COMMAND.match(line)
    if command is not None:
        return command.end() if command.end() <= 0.6 * columns else 4
    blanks = _BLANKS.match(line)
    size = len(blanks[1]) if blanks is not None else 0
    return size if size <= columns // 2 else 0


class WordWrapper:
    """Wraps a text in pieces: write the result of :meth:`feed` at once."""

    def __init__(self, columns: Callable[[], int] | None, *, code: bool = True, indent: int = 0) -> None:
        """Start at the beginning of a line.

        ``columns``: returns the width of the terminal in cells, at least 1; None without a terminal: nothing is
        wrapped. ``code``: leave fenced code blocks alone. ``indent``: empty cells at the start of continuation rows.
        """
        self._columns = columns
        self._width = columns() if columns is not None else 0
        self._reads_code, self._indent = code, indent
        self._sgr = ""
        """The current SGR sequence."""
        self._fence = ""
        """The opening fence of the current code block; empty outside."""
        self._out: list[str] = []
        self._begin_line()

    def _begin_line(self) -> None:
        self._head: str | None = "" if self._reads_code else None
        """The start of the line as long as it may be a fence."""
        self._column_unknown = False
        """Whether the column of the cursor is unknown."""
        self._begin_row()

    def _begin_row(self) -> None:
        self._column = self._slack = 0
        """Cells before the cursor; ``_slack``: additional cells that some terminals use for them."""
        self._overflowed = False
        """Whether the terminal has wrapped this row."""
        self._has_word = False
        """Whether the row has a word before the unit."""
        self._unit: list[str] = []
        """Text that must stay together: the input after the last possible break, without blanks."""
        self._begin_unit()

    def _begin_unit(self) -> None:
        self._unit.clear()
        self._unit_sgr = self._sgr
        self._unit_cells = self._unit_slack = 0
        self._gap = 0
        """Cells of blanks before the unit."""
        self._width_certain = True
        """Whether all terminals agree on the width of the unit."""
        self._tail = ""
        """The last grapheme cluster."""
        self._start, self._start_sgr = len(self._out), self._sgr
        """Index in the output at which gap and unit begin; ``_start_sgr``: the SGR sequence at this point."""

    @property
    def fresh(self) -> bool:
        """Whether the cursor is at the start of a line."""
        return not (self._column or self._unit_cells or self._column_unknown or self._overflowed)

    @property
    def look(self) -> str:
        """The current SGR sequence; empty without one."""
        return self._sgr

    def stays(self, text: str) -> bool:
        """Whether the terminal will not wrap ``text``: it leaves the row of the cursor only by a newline."""
        within = self._column + 2 * len(text) < self._width or not (self._fence or self._overflowed)
        return within and not self._column_unknown

    @property
    def settled(self) -> bool:
        """Whether the cursor is known to be in its row and not after the last cell."""
        return not (self._column_unknown or self._slack or self._unit_slack) and self._column < self._width

    def begin(self, before: str = "") -> None:
        """Start another text at the start of a line, as a continuation of ``before``, which is not written."""
        self._fence, self._sgr = "", ""
        self._begin_line()
        if before:
            self.feed(before)
            within = not self.fresh
            self._begin_line()
            if within:
                self._head = None

    def feed(self, text: str) -> str:
        """Return ``text`` with line breaks, ready to be written."""
        if self._columns is not None:
            columns = self._columns()
            if columns != self._width:
                self._resized(columns)
        self._out.clear()
        self._sent = self._column
        """Cells of the row that are on the screen."""
        self._start, self._start_sgr = 0, self._sgr
        for match in _PIECE.finditer(text):
            piece = match[0]
            first = piece[0]
            if first == "\n":
                self._newline()
            elif first == "\x1b":
                self._style(piece)
            else:
                if self._head is not None:
                    self._read_head(piece)
                if self._columns is None:
                    self._out.append(piece)
                    self._column = 1
                elif self._fence:
                    self._copy_code(piece)
                elif first in " \t":
                    self._blanks(piece)
                elif (piece.isascii() or max(piece) < "\u0300") and (self._tail < "\u0300"):
                    self._place(piece, len(piece))
                    self._tail = piece[-1]
                else:
                    self._clusters(piece)
        return "".join(self._out)

    def _resized(self, columns: int) -> None:
        # Some terminals rewrap a row that is now too long, others clip it.
        if self._column >= min(columns, self._width) or self._overflowed or (self._fence and self._column):
            self._column_unknown = True
        self._width = columns

    @property
    def _limit(self) -> int:
        return max(self._width - 1, 1)

    def _newline(self) -> None:
        if self._head is not None:
            self._check_fence(self._head)
        self._out.append("\n")
        self._sent = 0
        self._begin_line()

    def _style(self, sequence: str) -> None:
        self._out.append(sequence)
        self._unit.append(sequence)
        self._sgr = "" if sequence == OFF else sequence

    # Blanks and words

    def _blanks(self, text: str) -> None:
        self._tail = ""
        if self._unit_cells or not self._gap:
            self._has_word = self._has_word or self._unit_cells > 0
            self._begin_unit()
        if self._column_unknown:
            self._column_unknown = self._overflowed = False
            self._column, self._slack, self._sent = self._limit, 0, 0
        for char in text:
            cells = 1 if char == " " else _TAB - self._column % _TAB
            if self._column + cells > self._limit - self._slack:
                self._column = max(self._column, self._limit)  # a break will replace the blank
                return
            self._out.append(char)
            self._column += cells
            self._gap += cells

    def _place(self, text: str, cells: int, slack: int = 0) -> None:
        """Add ``text`` to the unit."""
        if not self._column_unknown and self._column + cells > self._limit - self._slack - slack:
            if self._has_word:
                self._break()
            if cells and self._column + cells > self._limit:
                self._overflowed = True
        self._out.append(text)
        if self._has_word:  # only a word behind another one is moved
            self._unit.append(text)
        self._unit_cells += cells
        self._unit_slack += slack
        self._slack += slack
        self._column += cells
        if self._overflowed and self._column > self._width:
            # A wide character that does not fit is moved whole by the terminal.
            self._column = (self._column - 1) % self._width + 1 if cells == len(text) else cells
            self._sent = 0

    def _break(self) -> None:
        """Move the unit to the start of a new row."""
        shown = self._sent - (self._column - self._unit_cells)  # cells of the unit that are already on the screen
        if shown > 0 and not self._width_certain:
            self._end_row(self._sgr)
            return
        unit, look, held = (
            self._unit[:],
            self._unit_sgr,
            (self._unit_cells, self._unit_slack, self._width_certain, self._tail),
        )
        if shown > 0:
            self._out[:] = [f"\x1b[{shown + self._gap}D\x1b[K"]
        else:
            del self._out[self._start :]
        self._end_row(self._start_sgr, look)
        self._out += unit
        self._unit += unit
        self._unit_sgr = look
        self._unit_cells, self._unit_slack, self._width_certain, self._tail = held
        self._column += self._unit_cells
        self._slack = self._unit_slack

    def _end_row(self, look: str, then: str | None = None) -> None:
        """End the row with the style reset, so that the next row does not inherit it.

        ``look``: the current style; ``then``: the style of the next row, by default the same.
        """
        then = look if then is None else then
        self._out.append(f"{OFF if look else ''}\n{' ' * self._indent}{then}")
        self._sent = 0
        self._begin_row()
        self._column = self._indent

    def _clusters(self, text: str) -> None:
        """Place a word with wide characters, with grapheme clusters, or of a script without blanks."""
        from wcwidth import iter_graphemes

        tail = self._tail
        for cluster in iter_graphemes(tail + text):
            cells = width(cluster)
            if tail:  # the first cluster is already placed, but may have become longer
                grown = cluster[len(tail) :]
                if grown:
                    more = _extra_cells(cluster, cells) - _extra_cells(tail, width(tail))
                    self._place(grown, max(0, cells - width(tail)), max(0, more))
                    self._check_certainty(cluster, cells)
                    self._tail = cluster
                tail = ""
                continue
            if self._tail and _may_break(self._tail, cluster):
                self._has_word = True
                self._begin_unit()
            self._place(cluster, cells, _extra_cells(cluster, cells))
            self._check_certainty(cluster, cells)
            self._tail = cluster

    def _check_certainty(self, cluster: str, cells: int) -> None:
        if len(cluster) > 1 and (_extra_cells(cluster, cells) or "\ufe0f" in cluster or "\ufe0e" in cluster):
            self._width_certain = False

    # Code

    def _copy_code(self, text: str) -> None:
        self._out.append(text)
        for number, part in enumerate(text.split("\t")):
            if number:
                self._column += _TAB - self._column % _TAB
            self._column += width(part)
        if self._column > self._width:
            self._column = (self._column - 1) % self._width + 1
            self._overflowed = True

    def _read_head(self, piece: str) -> None:
        assert self._head is not None
        if not self._head.strip(" \t") and piece.strip(" \t")[:1] not in _BEFORE_FENCE:
            self._head = None
        elif len(self._head) < _HEAD:
            self._head += piece

    def _check_fence(self, line: str) -> None:
        """Open or close a code block if ``line``, which is complete, is a fence."""
        if self._fence:
            marks = line.strip(" \t>")
            if len(marks) >= len(self._fence) and marks == self._fence[0] * len(marks):
                self._fence = ""
        elif (fence := _FENCE.match(line)) is not None:
            self._fence = fence[1]


def _extra_cells(cluster: str, cells: int) -> int:
    """Additional cells used by terminals that do not support grapheme clusters of several code points."""
    return 0 if len(cluster) == 1 else max(0, sum(map(width, cluster)) - cells)


def _may_break(before: str, after: str) -> bool:
    if before[-1] in _OPENING or after[0] in _CLOSING:
        return False
    return before == "—" or _is_free(before) or _is_free(after)


def _is_free(cluster: str) -> bool:
    first = cluster[0]
    if first < "\u0e00":
        return False
    if any(low <= first <= high for low, high in _UNSPACED):
        return True
    return width(cluster) > 1 and not any(low <= first <= high for low, high in _KOREAN)


# Rows of a column: nothing may leave it, so a word that is longer than a row is split.


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a column. ``text``: with its style, which ends with it. ``source``: the text that became this row, with
    the blanks and the newline at its end. ``look``: the SGR sequence before it; empty without one."""

    text: str
    source: str
    look: str = ""


@dataclass(frozen=True, slots=True)
class _Item:
    """A grapheme cluster, a blank or an SGR sequence. ``shown``: as it is written."""

    source: str
    cells: int
    shown: str

    @property
    def is_style(self) -> bool:
        return self.source[0] == "\x1b"

    @property
    def is_blank(self) -> bool:
        return self.source in ("\t", " ")


class RowWrapper:
    """Wraps a text in pieces to rows of a column. Breaks are those of :class:`WordWrapper`, without exceptions for long
    words and code."""

    def __init__(self, columns: int, look: str = "") -> None:
        """``columns``: width in cells, at least 2. ``look``: the SGR sequence before the text; empty without one."""
        self._limit = max(2, columns)
        self._items: list[_Item] = []
        self._used = 0
        self._look = look
        """The style at the start of the row."""
        self._gap: list[str] = []
        """Blanks after the last cell, and styles after them; the next word begins a row."""

    @property
    def row(self) -> Row:
        """The current row, which may still change."""
        return Row(_shown(self._items, self._look), self._source(self._items), self._look)

    def feed(self, text: str) -> list[Row]:
        """Add text. Returns the rows that are final."""
        rows = list[Row]()
        last = self._items[-1] if self._items and not self._gap else None
        if last and text and not (last.is_style or last.is_blank or (last.source.isascii() and text[0].isascii())):
            self._used -= self._items.pop().cells  # the cluster may become longer
            text = last.source + text
        for match in _PIECE.finditer(text):
            piece = match[0]
            if piece == "\n":
                rows.append(self._end_row(len(self._items), "\n"))
            elif piece[0] == "\x1b" and self._gap:
                self._gap.append(piece)
            elif piece[0] == "\x1b":
                self._items.append(_Item(piece, 0, piece if len(piece) > 1 else ""))
            elif piece[0] in " \t":
                self._blanks(piece)
            else:
                for cluster in _clusters_of(piece):
                    rows += self._place(cluster)
        return rows

    def _blanks(self, text: str) -> None:
        for char in text:
            cells = 1 if char == " " else _TAB - self._used % _TAB
            if self._gap or self._used + cells > self._limit:
                self._gap.append(char)
            else:
                self._items.append(_Item(char, cells, " " * cells))
                self._used += cells

    def _place(self, cluster: str) -> list[Row]:
        rows = list[Row]()
        if self._gap:
            rows.append(self._end_row(len(self._items)))
        cells = width(cluster)
        cells += _extra_cells(cluster, cells)
        while self._used + cells > self._limit and self._used:
            rows.append(self._end_row(self._break_before(cluster)))
        self._items.append(_Item(cluster, cells, cluster))
        self._used += cells
        return rows

    def _break_before(self, cluster: str) -> int:
        """The number of items that stay in the row if ``cluster`` does not fit: up to the last possible break, else
        all of them."""
        after = cluster
        for place in range(len(self._items), 0, -1):
            before = self._items[place - 1]
            if before.is_style:
                continue
            if before.is_blank or _may_break(before.source, after):
                begins = any(not (item.is_blank or item.is_style) for item in self._items[:place])
                return place if begins else len(self._items)
            after = before.source
        return len(self._items)

    def _end_row(self, count: int, newline: str = "") -> Row:
        """End the row after ``count`` items; the others begin the next one."""
        items, self._items = self._items[:count], self._items[count:]
        row = Row(_shown(items, self._look), self._source(items) + newline, self._look)
        for text in (*(item.source for item in items), *self._gap):
            if text[0] == "\x1b" and len(text) > 1:
                self._look = "" if text == OFF else text
        self._used = sum(item.cells for item in self._items)
        self._gap.clear()
        return row

    def _source(self, items: list[_Item]) -> str:
        return "".join((*(item.source for item in items), *self._gap))


def _clusters_of(text: str) -> Iterable[str]:
    if text.isascii():
        return text
    from wcwidth import iter_graphemes

    return iter_graphemes(text)


def _shown(items: list[_Item], look: str) -> str:
    end = len(items)
    while end and (items[end - 1].is_blank or items[end - 1].is_style):
        end -= 1
    text = look + "".join(item.shown for item in items[:end]) if end else ""
    return f"{text}{OFF}" if "\x1b" in text and not text.endswith(OFF) else text
