"""Tables: rows of a source become lines of equal columns. Pure, for whole rows only."""

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
_LATEST = 30
"""Rows of an incomplete table that are shown."""
_NARROWEST = 8
"""Cells that a column keeps when its table is too wide."""

Side = Literal["left", "right", "centre"]


@dataclass(slots=True)
class TableCell:
    """The words of a cell with their styles. A cell is an output of :class:`InlineParser`."""

    spans: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, base: int = PLAIN) -> TableCell:
        cell = cls()
        inline = InlineParser(cell)
        inline.begin(base)
        inline.feed(text)
        inline.end()
        return cell

    def put(self, text: str, look: int = PLAIN) -> None:
        self.spans.append((text, look))

    show = put

    @property
    def width(self) -> int:
        return width("".join(text for text, _ in self.spans))

    def wrapped(self, columns: int) -> list[TableCell]:
        """Lines of at most ``columns`` cells, cut at blanks where there are any."""
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
        """The blanks before each word, and the word, one cluster after the other."""
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
    """The text between the bars of a row; the first bar is at its start, the last may be missing."""
    inner = row.replace("\t", " ").strip().removeprefix("|")
    parts = [part.strip() for part in _BAR.split(inner)]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def sides(row: str, count: int) -> list[Side] | None:
    """The alignments of ``count`` columns, where ``row`` is the line below a header; None where it is not."""
    marks = cells(row)
    if len(marks) != count or not all(_RULE.fullmatch(mark) for mark in marks):
        return None
    return [
        "left" if not mark.endswith(":") else "centre" if mark.startswith(":") and len(mark) > 1 else "right"
        for mark in marks
    ]


class Layout:
    """Widths of columns, and the lines of rows in them."""

    def __init__(self, indent: str, sides: Sequence[Side], widths: Sequence[int]) -> None:
        self._indent, self._sides, self._widths = indent, sides, widths

    @classmethod
    def of(cls, indent: str, sides: Sequence[Side], rows: Sequence[Sequence[TableCell]], columns: int) -> Layout | None:
        """For rows of one length. None if ``columns`` cells are too few to separate them."""
        natural = [max(3, *(row[number].width for row in rows)) for number in range(len(sides))]
        room = columns - width(indent) - 3 * len(natural) - 1
        if sum(min(each, _NARROWEST) for each in natural) > room:
            return None
        # The widest columns give what is missing: the highest limit under which all of them fit.
        limit = max(natural)
        if sum(natural) > room:
            low, high = _NARROWEST, limit
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if sum(min(each, middle) for each in natural) <= room else (low, middle - 1)
            limit = low
        return cls(indent, sides, [min(each, limit) for each in natural])

    def rule(self, painter: AnsiBuffer) -> None:
        """The line below the header."""
        painter.put(self._indent)
        for side, size in zip(self._sides, self._widths, strict=True):
            left, right = ":" if side == "centre" else "-", "-" if side == "left" else ":"
            painter.put(f"|{left}{'-' * size}{right}", MARK)
        painter.put("|", MARK)
        painter.newline()

    def row(self, painter: AnsiBuffer, row: Sequence[TableCell]) -> None:
        """The lines of one row."""
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
    """An incomplete table: ``header`` and ``rule``, then rows until they are too many to wait for the last."""

    def __init__(self, header: str, rule: str) -> None:
        """Raises ValueError if the two lines are not the beginning of a table."""
        self._indent = header[: len(header) - len(header.lstrip())]
        names = cells(header)
        found = sides(rule, len(names))
        if found is None:
            raise ValueError("no table")
        self._sides = found
        self._source = [header, rule]
        self._layout: Layout | None = None
        self.written = False
        """A part of it is written, and the widths are final."""
        self.rows = 0
        """Rows below the header."""

    def add(self, row: str) -> None:
        self._source.append(row)
        self.rows += 1

    def latest(self) -> Table:
        """A table of the header and the last unwritten rows; this one is unchanged."""
        if self.written:
            return self
        header, rule, *rows = self._source
        table = Table(header, rule)
        for row in rows[-_LATEST:]:
            table.add(row)
        return table

    def write(self, painter: AnsiBuffer, columns: int) -> None:
        """Write all new rows since the last call, in columns that the first call has fixed."""
        if not self.written:
            self._settle(columns)
        count = len(self._sides)
        for number, source in enumerate(self._source):
            heads = not self.written
            if self._layout is None:
                for text, look in TableCell.of(source, BOLD if heads and number == 0 else PLAIN).spans:
                    painter.put(text, look)
                painter.newline()
            elif heads and number == 1:
                self._layout.rule(painter)
            else:
                self._layout.row(painter, _row(source, count, BOLD if heads and number == 0 else PLAIN))
        self._source.clear()
        self.written = True

    def _settle(self, columns: int) -> None:
        header, _, *rows = self._source
        count = max(len(self._sides), *(len(cells(row)) for row in rows)) if rows else len(self._sides)
        self._sides += ["left"] * (count - len(self._sides))
        laid = [_row(header, count, BOLD), *(_row(row, count) for row in rows)]
        self._layout = Layout.of(self._indent, self._sides, laid, columns)


def _row(source: str, count: int, base: int = PLAIN) -> list[TableCell]:
    """``count`` cells; more than that stay together in the last."""
    texts = cells(source)
    texts = [*texts[: count - 1], " | ".join(texts[count - 1 :])] if len(texts) > count else texts
    return [TableCell.of(text, base) for text in texts + [""] * (count - len(texts))]
