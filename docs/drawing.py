"""A screen of pyte as SVG: a window with a dark background, which can be read on light and dark pages.

Adjacent cells with the same style are one text element of exactly their width, which does not depend on the font. A
wide character is a separate element in the middle of its two cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

import pyte
from pyte.screens import Char

COLUMNS = 84
"""Columns of every window, so that all pictures have the same width."""
CELL_WIDTH, CELL_HEIGHT, BASELINE = 9, 20, 15
MARGIN, TITLE_HEIGHT = 18, 44
GROUND, FRAME, LABEL = "#2e3440", "#4c566a", "#a3adc0"
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace"
FAINT = 0.64
"""Share of its colour that faint text has; the rest is the background."""
PALETTE = {
    "default": "#d8dee9",
    "black": "#4c566a",
    "red": "#e07a84",
    "green": "#a3be8c",
    "brown": "#ebcb8b",
    "blue": "#81a1c1",
    "magenta": "#c39bd3",
    "cyan": "#88c0d0",
    "white": "#e5e9f0",
    "brightblack": "#98a3b8",
}
BUTTONS = ((22, "#bf616a"), (42, "#ebcb8b"), (62, "#a3be8c"))

Look = tuple[str, str, bool, bool, bool]
"""Colour of the text and its background, bold, italic, underlined."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A part of a screen, with a title."""

    screen: pyte.Screen
    title: str
    """The command line: the title of the window and the accessible name."""
    first: str = ""
    last: str = ""
    """Beginnings of the first line to draw, and of the first line after it that is not drawn; empty: no limit."""


def draw(picture: Picture) -> str:
    """Return a picture as SVG."""
    screen, title = picture.screen, escape(picture.title)
    rows = _rows(picture)
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, len(rows) * CELL_HEIGHT + TITLE_HEIGHT + MARGIN // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" font-family="{FONTS}" font-size="15">',
        f"<title>{title}</title>",
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10" fill="{GROUND}" stroke="{FRAME}"/>',
        *(f'<circle cx="{x}" cy="21" r="6" fill="{colour}"/>' for x, colour in BUTTONS),
        f'<text x="{width / 2:g}" y="26" fill="{LABEL}" font-size="14" text-anchor="middle">{title}</text>',
    ]
    for top, row in enumerate(rows):
        y = TITLE_HEIGHT + top * CELL_HEIGHT
        if row == screen.cursor.y and not screen.cursor.hidden:
            x = MARGIN + screen.cursor.x * CELL_WIDTH
            parts.append(f'<rect x="{x}" y="{y}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}" fill="{LABEL}"/>')
        parts += _line([screen.buffer[row][x] for x in range(screen.columns)], y)
    return "\n".join([*parts, "</svg>\n"])


def _rows(picture: Picture) -> range:
    lines = [line.rstrip() for line in picture.screen.display]
    shown = [number for number, line in enumerate(lines) if line]
    first = next(number for number in shown if lines[number].startswith(picture.first))
    if not picture.last:
        return range(first, shown[-1] + 1)
    end = next(number for number in shown if number > first and lines[number].startswith(picture.last))
    return range(first, max(number for number in shown if number < end) + 1)


def _line(cells: list[Char], top: int) -> Iterator[str]:
    for (fore, back, bold, italic, underlined), x, text, count in _stretches(cells):
        left, length = MARGIN + x * CELL_WIDTH, count * CELL_WIDTH
        if back != GROUND:
            yield f'<rect x="{left}" y="{top}" width="{length}" height="{CELL_HEIGHT}" fill="{back}"/>'
        if not text.strip():
            continue
        style = ' font-weight="bold"' * bold + ' font-style="italic"' * italic
        style += ' text-decoration="underline"' * underlined
        y = top + BASELINE
        if len(text) == 1 < count:
            place = f'x="{left + length / 2:g}" y="{y}" text-anchor="middle"'
        else:
            place = f'x="{left}" y="{y}" textLength="{length}" lengthAdjust="spacingAndGlyphs" xml:space="preserve"'
        yield f'<text {place} fill="{fore}"{style}>{escape(text)}</text>'


def _stretches(cells: list[Char]) -> Iterator[tuple[Look, int, str, int]]:
    """Yield style, first column, text and number of cells of each element. The cell after a wide character is empty."""
    places = [(x, cell) for x, cell in enumerate(cells) if cell.data]
    wide = {x for x, _ in places if x + 1 < len(cells) and not cells[x + 1].data}
    for (look, alone), group in groupby(places, lambda place: (_look(place[1]), place[0] in wide and place[0] + 1)):
        stretch = list(group)
        text = "".join(cell.data for _, cell in stretch)
        first = stretch[0][0]
        if alone or look[1] != GROUND or look[4]:
            yield look, first, text, 2 if alone else len(stretch)
            continue
        lean = text.strip()
        yield look, first + text.index(lean), lean, len(stretch) - (len(text) - len(lean))


def _look(cell: Char) -> Look:
    fore = PALETTE.get(cell.fg, f"#{cell.fg}")
    back = GROUND if cell.bg == "default" else PALETTE.get(cell.bg, f"#{cell.bg}")
    if cell.reverse:
        fore, back = back, fore
    if cell.blink:  # faint: see terminal.DimScreen
        fore = _mixed(fore, back)
    return fore, back, cell.bold, cell.italics, cell.underscore


def _mixed(fore: str, back: str) -> str:
    pairs = ((int(fore[at : at + 2], 16), int(back[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(FAINT * one + (1 - FAINT) * other):02x}" for one, other in pairs)
