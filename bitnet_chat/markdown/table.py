"""Layout of tables: rows of Markdown become lines with aligned columns. Pure; processes whole rows only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bitnet_chat.markdown.inline import InlineParser
from bitnet_chat.markdown.painter import AnsiBuffer
from bitnet_chat.markdown.style import BOLD, MARK, PLAIN
from bitnet_chat.text.cell_width import width

_BAR = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r":?-+:?")
_PREVIEW_ROWS = 30
"""Number of rows of an incomplete table that are shown."""
_MIN_WIDTH = 8
"""Minimum width of a column in cells, if the table is too wide."""

Side = Literal["left", "right", "centre"]
"""Alignment of a column."""


@dataclass(slots=True)
class TableCell:
    """The text of a table cell with its styles. Implements :class:`StyledOutput`."""

    spans: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, base: int = PLAIN) -> TableCell:
        """Parse the inline Markdown of a cell."""
        cell = cls()
        inline = InlineParser(cell)
        inline.begin(base)
        inline.feed(text)
        inline.end()
        return cell

    def put(self, text: str, look: int = PLAIN) -> None:
        """Append text in the style ``look``."""
        self.spans.append((text, look))

    show = put

    @property
    def width(self) -> int:
        """Width in terminal cells."""
        return width("".join(text for text, _ in self.spans))

    def wrapped(self, columns: int) -> list[TableCell]:
        """Split into lines of at most ``columns`` terminal cells, at blanks if possible."""
        if self.width <= columns:
            return [self]
        lines, line, used = [], TableCell(), 0
        for blanks, word in self._words():
            if used and used + len(blanks) + sum(map(width, (cluster for cluster, _ in word))) > columns:
                lines.append(line)
                line, used = TableCell(), 0
            elif used:
                line.spans += blanks
                used += len(blanks)
            for cluster, look in word:
                size = width(cluster)
                if used and used + size > columns:
                    lines.append(line)
                    line, used = TableCell(), 0
                line.put(cluster, look)
                used += size
        return [*lines, line]

    def _words(self) -> Iterator[tuple[list[tuple[str, int]], list[tuple[str, int]]]]:
        """Yield the blanks before each word and the word, as grapheme clusters with styles."""
        blanks: list[tuple[str, int]] = []
        word: list[tuple[str, int]] = []
        for text, look in self.spans:
            for cluster in _clusters(text):
                if cluster != " ":
                    word.append((cluster, look))
                    continue
                if word:
                    yield blanks, word
                    blanks, word = [], []
                blanks.append((cluster, look))
        yield blanks, word


def _clusters(text: str) -> Sequence[str]:
    if text.isascii():
        return text
    from wcwidth import iter_graphemes

    return list(iter_graphemes(text))


def cells(row: str) -> list[str]:
    """Split a row at its bars. The first bar is at the start of the row, the last one may be missing."""
    inner = row.replace("\t", " ").strip().removeprefix("|")
    parts = [part.strip() for part in _BAR.split(inner)]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def sides(row: str, count: int) -> list[Side] | None:
    """Parse the line below a header as alignments of ``count`` columns; None if it is not such a line."""
    marks = cells(row)
    if len(marks) != count or not all(_RULE.fullmatch(mark) for mark in marks):
        return None
    return [
        "left" if not mark.endswith(":") else "centre" if mark.startswith(":") and len(mark) > 1 else "right"
        for mark in marks
    ]


class Layout:
    """Widths and alignments of the columns."""

    def __init__(self, indent: str, sides: Sequence[Side], widths: Sequence[int]) -> None:
        self._indent, self._sides, self._widths = indent, sides, widths

    @classmethod
    def of(cls, indent: str, sides: Sequence[Side], rows: Sequence[Sequence[TableCell]], columns: int) -> Layout | None:
        """Compute the widths for rows of equal length; None if ``columns`` terminal cells are not enough."""
        natural = [max(3, *(row[number].width for row in rows)) for number in range(len(sides))]
        room = columns - width(indent) - 3 * len(natural) - 1
        if sum(min(each, _MIN_WIDTH) for each in natural) > room:
            return None
        # Reduce the widest columns: find the highest limit of a column width with which the table fits.
        limit = max(natural)
        if sum(natural) > room:
            low, high = _MIN_WIDTH, limit
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if sum(min(each, middle) for each in natural) <= room else (low, middle - 1)
            limit = low
        return cls(indent, sides, [min(each, limit) for each in natural])

    def rule(self, painter: AnsiBuffer) -> None:
        """Write the line below the header."""
        painter.put(self._indent)
        for side, size in zip(self._sides, self._widths, strict=True):
            left, right = ":" if side == "centre" else "-", "-" if side == "left" else ":"
            painter.put(f"|{left}{'-' * size}{right}", MARK)
        painter.put("|", MARK)
        painter.newline()

    def row(self, painter: AnsiBuffer, row: Sequence[TableCell]) -> None:
        """Write the lines of one row."""
        parts = [cell.wrapped(size) for cell, size in zip(row, self._widths, strict=True)]
        for number in range(max(map(len, parts))):
            painter.put(self._indent)
            for part, side, size in zip(parts, self._sides, self._widths, strict=True):
                cell = part[number] if number < len(part) else TableCell()
                space = size - cell.width
                left = {"left": 0, "right": space, "centre": space // 2}[side]
                painter.put("|", MARK)
                painter.put(" " * (left + 1))
                for text, look in cell.spans:
                    painter.put(text, look)
                painter.put(" " * (space - left + 1))
            painter.put("|", MARK)
            painter.newline()


class Table:
    """A table that may be incomplete: header and rule, then rows, of which the first call of :meth:`write` fixes the
    widths."""

    def __init__(self, header: str, rule: str) -> None:
        """Start with the first two lines. Raises ValueError if they are not the beginning of a table."""
        self._indent = header[: len(header) - len(header.lstrip())]
        names = cells(header)
        found = sides(rule, len(names))
        if found is None:
            raise ValueError("not a table")
        self._sides = found
        self._source = [header, rule]
        self._layout: Layout | None = None
        self.written = False
        """Whether a part of it was written, so that the widths are final."""
        self.rows = 0
        """Number of rows below the header."""

    def add(self, row: str) -> None:
        """Add a row."""
        self._source.append(row)
        self.rows += 1

    def latest(self) -> Table:
        """Return a table with the header and the last unwritten rows; this one stays unchanged."""
        if self.written:
            return self
        header, rule, *rows = self._source
        table = Table(header, rule)
        for row in rows[-_PREVIEW_ROWS:]:
            table.add(row)
        return table

    def write(self, painter: AnsiBuffer, columns: int) -> None:
        """Write the rows that were added since the last call."""
        if not self.written:
            self._compute_layout(columns)
        count = len(self._sides)
        for number, source in enumerate(self._source):
            is_first = not self.written
            if self._layout is None:
                for text, look in TableCell.of(source, BOLD if is_first and number == 0 else PLAIN).spans:
                    painter.put(text, look)
                painter.newline()
            elif is_first and number == 1:
                self._layout.rule(painter)
            else:
                self._layout.row(painter, _row(source, count, BOLD if is_first and number == 0 else PLAIN))
        self._source.clear()
        self.written = True

    def _compute_layout(self, columns: int) -> None:
        header, _, *rows = self._source
        count = max(len(self._sides), *(len(cells(row)) for row in rows)) if rows else len(self._sides)
        self._sides += ["left"] * (count - len(self._sides))
        parsed = [_row(header, count, BOLD), *(_row(row, count) for row in rows)]
        self._layout = Layout.of(self._indent, self._sides, parsed, columns)


def _row(source: str, count: int, base: int = PLAIN) -> list[TableCell]:
    """Parse a row into ``count`` cells; further cells are joined to the last one."""
    texts = cells(source)
    texts = [*texts[: count - 1], " | ".join(texts[count - 1 :])] if len(texts) > count else texts
    return [TableCell.of(text, base) for text in texts + [""] * (count - len(texts))]
