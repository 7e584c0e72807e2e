"""Makes the picture of the README: a real session on a real engine, drawn as SVG.

Needs the packages of the test extra: ``.venv/bin/python docs/screenshot.py docs/screenshot.svg``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from xml.sax.saxutils import escape

import pexpect
import pyte

COLUMNS, ROWS = 84, 21
CELL_WIDTH, CELL_HEIGHT = 9, 19
PALETTE = {
    "default": "#d8dee9",
    "black": "#3b4252",
    "red": "#bf616a",
    "green": "#a3be8c",
    "brown": "#ebcb8b",
    "blue": "#81a1c1",
    "magenta": "#b48ead",
    "cyan": "#88c0d0",
    "white": "#e5e9f0",
    "brightblack": "#7b88a1",
}
BUTTONS = ((22, "red"), (42, "brown"), (62, "green"))
QUESTIONS = ("Hello! How do I stop a reply?", "and how do I use another model?", "tell me a joke", "你好")


class DimScreen(pyte.Screen):
    """pyte knows no faint text (SGR 2); here it is a grey of its own."""

    def select_graphic_rendition(self, *attributes: int, **more: bool) -> None:
        super().select_graphic_rendition(*(90 if each == 2 else each for each in attributes), **more)


def session() -> pyte.Screen:
    """The screen after a short conversation."""
    screen = DimScreen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "bitnet_chat", "--temp", "0"],
        dimensions=(ROWS, COLUMNS),
        encoding="utf-8",
        timeout=30,
    )
    screen.write_process_input = child.send  # type: ignore[method-assign]  # prompt_toolkit asks where its cursor is

    def until(done) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + 30
        while not done() and time.monotonic() < deadline:
            try:
                stream.feed(child.read_nonblocking(4096, timeout=0.2))
            except pexpect.TIMEOUT:
                continue

    def settled() -> bool:
        line = screen.display[screen.cursor.y]
        return line.startswith(">") and not line[2:].strip()

    until(settled)
    for question in QUESTIONS:
        before = sum("tok/s" in line for line in screen.display)
        child.send(question + "\r")
        until(lambda: sum("tok/s" in line for line in screen.display) > before and settled())  # noqa: B023
    end = time.monotonic() + 1.5
    until(lambda: time.monotonic() > end)
    child.close(force=True)
    return screen


def draw(screen: pyte.Screen) -> str:
    """The screen as SVG: one text element for each run of cells that look alike."""
    width, height = COLUMNS * CELL_WIDTH + 32, ROWS * CELL_HEIGHT + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="15">',
        f'<rect width="{width}" height="{height}" rx="10" fill="#2e3440"/>',
        *(f'<circle cx="{x}" cy="20" r="6" fill="{PALETTE[name]}"/>' for x, name in BUTTONS),
    ]
    for y in range(ROWS):
        x = 0
        while x < COLUMNS:
            cell = screen.buffer[y][x]
            look = (cell.fg, cell.bg, cell.bold, cell.reverse)
            end, text = x, ""
            while end < COLUMNS:
                other = screen.buffer[y][end]
                if (other.fg, other.bg, other.bold, other.reverse) != look:
                    break
                text += other.data
                end += 1
            left, top = 16 + x * CELL_WIDTH, 40 + y * CELL_HEIGHT
            front, back = PALETTE.get(cell.fg, f"#{cell.fg}"), PALETTE.get(cell.bg, f"#{cell.bg}")
            if cell.bg == "default":
                back = "#2e3440"
            if cell.reverse:
                front, back = back, front
            if back != "#2e3440":
                size = f'width="{(end - x) * CELL_WIDTH}" height="{CELL_HEIGHT}"'
                parts.append(f'<rect x="{left}" y="{top}" {size} fill="{back}"/>')
            if text.strip():
                weight = ' font-weight="bold"' if cell.bold else ""
                length = (end - x) * CELL_WIDTH
                parts.append(
                    f'<text x="{left}" y="{top + 14}" fill="{front}"{weight} xml:space="preserve"'
                    f' textLength="{length}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
                )
            x = end
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(session()), "utf-8")
