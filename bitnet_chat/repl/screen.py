"""Terminal output with whole words at the edge, and a few temporary lines below it.

Written text is final. The lines below it (a spinner, figures, an incomplete table) are drawn after the cursor, which
then returns to its place; before anything else is written, all after the cursor is erased. So it does not matter how a
terminal treats those lines when its window changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bitnet_chat.text.cell_width import clip_styled
from bitnet_chat.text.wrap import OFF, WordWrapper, wrapped

Size = Callable[[], tuple[int, int]]
"""Columns and rows of the window, now."""

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_ERASE_BEHIND = "\x1b[J"
ERASE_BELOW = f"{_SAVE}\x1b[B{_ERASE_BEHIND}{_RESTORE}\x1b[K"
"""From the start of a row: with the other sequence, in the first row, tmux moves the rows into its history."""
_DOWN, _NEXT_ROW = "\x1bD", "\r\x1b[B"
"""The first scrolls if the cursor is in the last row; both stop at the last row."""


class Output(Protocol):
    """The destination of text, without buffering. All text is sanitized."""

    def words(self, text: str) -> None:
        """Write text of a reply."""

    def remarks(self, text: str) -> None:
        """Write all other text."""


class WrappedScreen:
    """``words`` of a reply, ``remark`` on the same line, ``lines`` of the program, and temporary lines ``below``."""

    def __init__(self, sink: Output, size: Size | None, *, draws: bool) -> None:
        """``size``: None without a terminal. ``draws``: the terminal can erase."""
        self._sink = sink
        self._size = size
        self._draws = draws and size is not None
        self._wrapper = WordWrapper(self._columns if self._draws else None)
        self._below: tuple[str, ...] = ()

    def _columns(self) -> int:
        return self._size()[0] if self._size is not None else 0

    @property
    def fresh(self) -> bool:
        """Whether the cursor is at the start of a line."""
        return self._wrapper.fresh

    def begin(self, before: str = "") -> None:
        """Begin another text, as a continuation of ``before``."""
        self.clear()
        self._wrapper.begin(before)

    def words(self, text: str) -> None:
        self._write(self._sink.words, text)

    def remark(self, text: str) -> None:
        self._write(self._sink.remarks, text)

    def lines(self, text: str) -> None:
        """Write whole lines. The cursor is at the start of one."""
        self.clear()
        self._sink.remarks(wrapped(text, self._columns()) if self._size is not None else text)

    def below(self, *lines: str) -> None:
        """Show these lines until the next ones are shown or text begins another row; any other output erases them."""
        if not self._draws or lines == self._below or not (self._wrapper.settled or not lines):
            return
        erased = self._erased if self._below else ""
        self._below = lines
        self._sink.remarks(erased + self._drawn())

    def clear(self) -> None:
        self.below()

    def _write(self, write: Callable[[str], None], text: str) -> None:
        if not text:
            return
        within, erased = not self.fresh and self._wrapper.stays(text), self._erased
        shown = self._wrapper.feed(text)
        if self._below and not (within and "\n" not in shown):
            if not self._wrapper.settled:
                self._below = ()
            shown = f"{erased}{shown}{self._drawn()}"
        write(shown)

    @property
    def _erased(self) -> str:
        return ERASE_BELOW if self.fresh else _ERASE_BEHIND

    def _drawn(self) -> str:
        """Draw them and return. The row of the cursor is the first of them if it is empty."""
        if not self._below or self._size is None:
            return ""
        columns, rows = self._size()
        lines = [clip_styled(line, columns - 1) for line in self._below[-max(1, rows // 2) :]]
        fresh = self.fresh
        down = len(lines) - 1 if fresh else len(lines)
        look = self._wrapper.look
        room = f"{_DOWN * down}\x1b[{down}A" if down else ""
        first = "" if fresh else _NEXT_ROW
        return f"{room}{_SAVE}{OFF if look else ''}{first}{_NEXT_ROW.join(lines)}{_RESTORE}{look}"
