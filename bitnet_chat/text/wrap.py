"""Word wrap at the edge of a terminal. Pure: text in any parts becomes text with additional line breaks.

Each character is written at once, so the current word may reach the edge when its beginning is on the screen already:
then that beginning is erased and written again on the next row. Nothing else is ever written twice, and only the row of
the cursor is needed for it.

- A break replaces the blanks before a word. Copied text has a newline there.
- A word that is longer than a row, such as a URL, is left to the terminal, which wraps it: it is copied in one piece.
So are the lines of a fenced block of code.
- Chinese, Japanese, emoji, Thai and similar scripts break between any two characters, except before a closing mark and
after an opening one. Korean has blanks between its words.
- The last cell of a row stays empty: terminals differ in the position of a cursor after it.
- Terminals disagree on the width of emoji of several code points. If they may, a row ends early, and a word with one is
not moved.
- After a change of the window in the middle of a line the column of the cursor is unknown: the next blank ends the row.

The only escape sequences in the text are SGR of this program (``text/sanitize.py`` passes none of a model).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bitnet_chat.text.cell_width import width

__all__ = ["OFF", "WordWrapper", "wrapped"]

_PIECE = re.compile(r"\x1b\[[0-9;]*m|\n|[ \t]+|[^ \t\n\x1b]+|\x1b")
OFF = "\x1b[0m"
_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}(?=[^`]*$)|~{3,})")
_HEAD = 120
"""Characters at the start of a line that may be a fence."""
_BEFORE_FENCE = " \t>-*+.)0123456789`~"
_TAB = 8
# Where a row may end without a blank: around what is wide, and in scripts that have no blanks between words.
_NO_BLANKS = (("\u0e00", "\u0eff"), ("\u0f00", "\u109f"), ("\u1780", "\u17ff"))
_KOREAN = (("\u1100", "\u11ff"), ("\u3130", "\u318f"), ("\uac00", "\ud7ff"))
_OPENING = frozenset("([{（［｛「『【〈《〔〖〘‘“¥￥＄￡£€$#＃@＠")
_CLOSING = frozenset(
    ")]}!,.:;?%'\"、。，．：；！？）］｝」』】〉》〕〗〙’”…‥ー゛゜々〻・％‰℃°"
    "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
)


def wrapped(text: str, columns: int) -> str:
    """Whole lines, broken to fit ``columns`` cells. Rows that continue a line have its indent; after the name of a
    command (``/help  this list``) that of its description.
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
    """``feed`` the next text and write the result at once."""

    def __init__(self, columns: Callable[[], int] | None, *, code: bool = True, indent: int = 0) -> None:
        """``columns``: gives the width of the terminal; None without one, and nothing is broken. ``code``: fenced
        blocks of it are left alone. ``indent``: free cells at the start of a continuing row.
        """
        self._columns = columns
        self._width = columns() if columns is not None else 0
        self._reads_code, self._indent = code, indent
        self._look = ""
        """The SGR sequence in force."""
        self._fence = ""
        """The fence that has opened the current code."""
        self._out: list[str] = []
        self._begin_line()

    def _begin_line(self) -> None:
        self._head: str | None = "" if self._reads_code else None
        """The start of the line, while it may be a fence."""
        self._lost = False
        """The column of the cursor is not known."""
        self._begin_row()

    def _begin_row(self) -> None:
        self._column = self._slack = 0
        """Cells before the cursor; additional cells on which terminals disagree."""
        self._loose = False
        """The terminal has wrapped this row."""
        self._occupied = False
        """There is a word before the unit."""
        self._unit: list[str] = []
        """Text that must stay together: the input since the last place for a break, without blanks."""
        self._begin_unit(0)

    def _begin_unit(self, gap: int) -> None:
        self._unit.clear()
        self._unit_look = self._look
        self._unit_cells = self._unit_slack = 0
        self._gap = gap
        """Cells of blanks before the unit."""
        self._firm = True
        """All terminals agree on the width of the unit."""
        self._tail = ""
        """The last character, of one or more code points."""
        self._from, self._from_look = len(self._out), self._look
        """The beginning of gap and unit in the output, and the style in force there."""

    @property
    def fresh(self) -> bool:
        """The cursor is at the start of a line."""
        return not (self._column or self._unit_cells or self._lost or self._loose)

    @property
    def look(self) -> str:
        return self._look

    def stays(self, text: str) -> bool:
        """Whether ``text`` leaves the row of the cursor with a newline only, and not where the terminal wraps it."""
        within = self._column + 2 * len(text) < self._width or not (self._fence or self._loose)
        return within and not self._lost

    @property
    def settled(self) -> bool:
        """Whether the cursor is known to be within its row and not after its last cell."""
        return not (self._lost or self._slack or self._unit_slack) and self._column < self._width

    def begin(self, before: str = "") -> None:
        """Begin another text at the start of a line, as a continuation of ``before``, which is not written."""
        self._fence, self._look = "", ""
        self._begin_line()
        if before:
            self.feed(before)
            within = not self.fresh
            self._begin_line()
            if within:
                self._head = None

    def feed(self, text: str) -> str:
        if self._columns is not None:
            columns = self._columns()
            if columns != self._width:
                self._resized(columns)
        self._out.clear()
        self._sent = self._column
        """Cells of the row that are on the screen."""
        self._from, self._from_look = 0, self._look
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
                    self._leave_alone(piece)
                elif first in " \t":
                    self._blanks(piece)
                elif (piece.isascii() or max(piece) < "\u0300") and (self._tail < "\u0300"):
                    self._place(piece, len(piece))
                    self._tail = piece[-1]
                else:
                    self._clusters(piece)
        return "".join(self._out)

    def _resized(self, columns: int) -> None:
        # Whether a terminal wraps anew what is too long by now, or cuts it, is its own affair.
        if self._column >= min(columns, self._width) or self._loose or (self._fence and self._column):
            self._lost = True
        self._width = columns

    @property
    def _limit(self) -> int:
        return max(self._width - 1, 1)

    def _newline(self) -> None:
        if self._head is not None:
            self._judge(self._head)
        self._out.append("\n")
        self._sent = 0
        self._begin_line()

    def _style(self, sequence: str) -> None:
        self._out.append(sequence)
        self._unit.append(sequence)
        self._look = "" if sequence == OFF else sequence

    # Blanks and words

    def _blanks(self, text: str) -> None:
        self._tail = ""
        if self._unit_cells or not self._gap:
            self._occupied = self._occupied or self._unit_cells > 0
            self._begin_unit(0)
        if self._lost:
            self._lost = self._loose = False
            self._column, self._slack, self._sent = self._limit, 0, 0
        for char in text:
            cells = 1 if char == " " else _TAB - self._column % _TAB
            if self._column + cells > self._limit - self._slack:
                self._column = max(self._column, self._limit)  # the break that comes replaces it
                return
            self._out.append(char)
            self._column += cells
            self._gap += cells

    def _place(self, text: str, cells: int, slack: int = 0) -> None:
        """``text`` belongs to the unit."""
        if not self._lost and self._column + cells > self._limit - self._slack - slack:
            if self._occupied:
                self._break()
            if cells and self._column + cells > self._limit:
                self._loose = True
        self._out.append(text)
        if self._occupied or not self._loose:  # else it stays where it is, however long it gets
            self._unit.append(text)
        self._unit_cells += cells
        self._unit_slack += slack
        self._slack += slack
        self._column += cells
        if self._loose and self._column > self._width:
            self._column = (self._column - 1) % self._width + 1 if text.isascii() else cells
            self._sent = 0

    def _break(self) -> None:
        """The unit begins a row."""
        shown = self._sent - (self._column - self._unit_cells)
        """Cells of the unit that are on the screen already."""
        if shown > 0 and not self._firm:
            self._end_row(self._look)
            return
        unit, look, held = self._unit[:], self._unit_look, (self._unit_cells, self._unit_slack, self._firm, self._tail)
        if shown > 0:
            self._out[:] = [f"\x1b[{shown + self._gap}D\x1b[K"]
        else:
            del self._out[self._from :]
        self._end_row(self._from_look, look)
        self._out += unit
        self._unit += unit
        self._unit_look = look
        self._unit_cells, self._unit_slack, self._firm, self._tail = held
        self._column += self._unit_cells
        self._slack = self._unit_slack

    def _end_row(self, look: str, then: str | None = None) -> None:
        """Reset the style, so that a row does not inherit one. ``look``: the one in force; ``then``: the one of the
        next row.
        """
        then = look if then is None else then
        self._out.append(f"{OFF if look else ''}\n{' ' * self._indent}{then}")
        self._sent = 0
        self._begin_row()
        self._column = self._indent

    def _clusters(self, text: str) -> None:
        """A word with wide characters, of several code points, or without blanks between words."""
        from wcwidth import iter_graphemes

        tail = self._tail
        for cluster in iter_graphemes(tail + text):
            cells = width(cluster)
            if tail:  # what was placed already; it may have grown
                grown = cluster[len(tail) :]
                if grown:
                    more = _more(cluster, cells) - _more(tail, width(tail))
                    self._place(grown, max(0, cells - width(tail)), max(0, more))
                    self._doubt(cluster, cells)
                    self._tail = cluster
                tail = ""
                continue
            if self._tail and _may_break(self._tail, cluster):
                self._occupied = True
                self._begin_unit(0)
            self._place(cluster, cells, _more(cluster, cells))
            self._doubt(cluster, cells)
            self._tail = cluster

    def _doubt(self, cluster: str, cells: int) -> None:
        if len(cluster) > 1 and (_more(cluster, cells) or "\ufe0f" in cluster or "\ufe0e" in cluster):
            self._firm = False

    # Code

    def _leave_alone(self, text: str) -> None:
        self._out.append(text)
        self._unit_cells = 0
        for number, part in enumerate(text.split("\t")):
            if number:
                self._column += _TAB - self._column % _TAB
            self._column += width(part)
        if self._width and self._column > self._width:
            self._column = (self._column - 1) % self._width + 1
            self._loose = True

    def _read_head(self, piece: str) -> None:
        assert self._head is not None
        if not self._head.strip(" \t") and piece.strip(" \t")[:1] not in _BEFORE_FENCE:
            self._head = None
        elif len(self._head) < _HEAD:
            self._head += piece

    def _judge(self, line: str) -> None:
        """Whether the line that ends here opens or closes a block of code."""
        if self._fence:
            marks = line.strip(" \t>")
            if len(marks) >= len(self._fence) and marks == self._fence[0] * len(marks):
                self._fence = ""
        elif (fence := _FENCE.match(line)) is not None:
            self._fence = fence[1]


def _more(cluster: str, cells: int) -> int:
    """Cells beyond ``cells`` that a terminal uses which does not support characters of several code points."""
    return 0 if len(cluster) == 1 else max(0, sum(map(width, cluster)) - cells)


def _may_break(before: str, after: str) -> bool:
    if before[-1] in _OPENING or after[0] in _CLOSING:
        return False
    return before == "—" or _is_free(before) or _is_free(after)


def _is_free(cluster: str) -> bool:
    first = cluster[0]
    if first < "\u0e00":
        return False
    if any(low <= first <= high for low, high in _NO_BLANKS):
        return True
    return width(cluster) > 1 and not any(low <= first <= high for low, high in _KOREAN)
