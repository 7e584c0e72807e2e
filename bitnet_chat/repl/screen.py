"""Terminal output that wraps at words, with a few temporary lines below the text.

Written text is final. The temporary lines (a spinner, figures, an incomplete table) are drawn after the cursor, which
then returns to its place; before other text is written, everything after the cursor is erased. The result is therefore
correct however the terminal treats these lines when its window changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bitnet_chat.text.cell_width import clip_styled
from bitnet_chat.text.wrap import OFF, WordWrapper, wrapped

Size = Callable[[], tuple[int, int]]
"""Returns the current columns and rows of the window."""

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_ERASE_BEHIND = "\x1b[J"
ERASE_BELOW = f"{_SAVE}\x1b[B{_ERASE_BEHIND}{_RESTORE}\x1b[K"
"""Erases everything after the cursor, which is at the start of a row. ``_ERASE_BEHIND`` alone would, in the first row
of the window, make tmux move the erased rows into its history.
"""
_DOWN, _NEXT_ROW = "\x1bD", "\r\x1b[B"
"""Move the cursor one row down. In the last row the first scrolls, and the second does not."""


class Output(Protocol):
    """The destination of text, without buffering. The caller has sanitized the text."""

    def words(self, text: str) -> None:
        """Write text of a reply."""

    def remarks(self, text: str) -> None:
        """Write all other text."""


class WrappedScreen:
    """Writes the text of a reply (``words``), marks on the same line (``remark``), whole lines of the program
    (``lines``), and temporary lines (``below``).
    """

    def __init__(self, sink: Output, size: Size | None, *, draws: bool) -> None:
        """Create a screen on ``sink``. ``size``: None without a terminal. ``draws``: whether the terminal can erase."""
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
        """Write text of a reply, wrapped at words."""
        self._write(self._sink.words, text)

    def remark(self, text: str) -> None:
        """Write other text after that of the reply, wrapped at words."""
        self._write(self._sink.remarks, text)

    def lines(self, text: str) -> None:
        """Write whole lines. The cursor must be at the start of a line."""
        self.clear()
        self._sink.remarks(wrapped(text, self._columns()) if self._size is not None else text)

    def below(self, *lines: str) -> None:
        """Show temporary lines in place of the previous ones. They remain while text is added to the same row; other
        output erases them.
        """
        if not self._draws or lines == self._below or not (self._wrapper.settled or not lines):
            return
        erased = self._erased if self._below else ""
        self._below = lines
        self._sink.remarks(erased + self._drawn())

    def clear(self) -> None:
        """Erase the temporary lines."""
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
        """Return the output that draws the temporary lines and moves the cursor back. The first of them is in the row
        of the cursor if that row is empty.
        """
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
