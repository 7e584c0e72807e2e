"""Styling of streamed Markdown: text of a model becomes the same text with styles. Append-only.

Text of the model is neither removed nor altered: marks such as ``**``, ``#`` and backticks stay, dim, around the text
that they style. Copied text is therefore the text of the model, and a character that is wrongly taken for a mark does
no harm. Apart from escape sequences, the output equals the input. Only complete tables are laid out again; until then
their rows are available for temporary display.

A character is written as soon as its style is known. An ambiguous one is held back, at most a few characters (a run of
``*``, the ``-`` at the start of a line, a word of code that may be a keyword), until the next character or until
``pause``, which means that none follows for now.

The text must be sanitized (``text/sanitize.py``): all escape sequences in the output are made here. Pure; the time per
character does not depend on the length of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

__all__ = ["MarkdownRenderer", "Mode", "PlainRenderer", "prose"]

Mode = Literal["auto", "on", "off"]
"""Value of ``--markdown``."""


class MarkdownRenderer(Protocol):
    """Converts a reply to text for a terminal. Write the result of each method at once."""

    def feed(self, text: str) -> str:
        """Return the output for the next characters of a reply."""

    def pause(self) -> str:
        """Return the output after a moment without input: all text that was held back, except for a table."""

    def flush(self) -> str:
        """Return the output before other text is written: all text that was held back, and a reset of styles. The reply
        can continue after it."""

    def finish(self) -> str:
        """Return the output at the end of the reply: all text that was held back, and a reset of styles."""

    @property
    def holding(self) -> str:
        """Description of a table that is held back: ``table, 12 rows``; empty without one."""

    @property
    def held(self) -> Sequence[str]:
        """The latest lines of the table, as they would be written now."""


class PlainRenderer:
    """Returns the text unchanged."""

    holding = ""
    held = ()

    def feed(self, text: str) -> str:
        return text

    def pause(self) -> str:
        return ""

    flush = finish = pause


class _Styled:
    """The Markdown renderer. Imported at the first text, so that the prompt appears earlier."""

    def __init__(self, colour: bool, columns: Callable[[], int]) -> None:
        self._colour, self._columns = colour, columns
        self._prose: MarkdownRenderer | None = None

    def feed(self, text: str) -> str:
        if self._prose is None:
            if not text:
                return ""
            from bitnet_chat.markdown.block import BlockParser
            from bitnet_chat.markdown.style import Palette

            self._prose = BlockParser(Palette(self._colour), self._columns)
        return self._prose.feed(text)

    def pause(self) -> str:
        return self._prose.pause() if self._prose is not None else ""

    def flush(self) -> str:
        return self._prose.flush() if self._prose is not None else ""

    def finish(self) -> str:
        return self._prose.finish() if self._prose is not None else ""

    @property
    def holding(self) -> str:
        return self._prose.holding if self._prose is not None else ""

    @property
    def held(self) -> Sequence[str]:
        return self._prose.held if self._prose is not None else ()


def prose(mode: Mode, *, terminal: bool, colour: bool, columns: Callable[[], int]) -> MarkdownRenderer:
    """Return the renderer for ``--markdown MODE``.

    ``terminal``: whether the output is a terminal. ``colour``: whether colours are available and wanted; without them,
    ``on`` still styles with bold, italic and dim. ``columns``: returns the current width of the terminal in cells, for
    tables.
    """
    if not terminal or mode == "off" or (mode == "auto" and not colour):
        return PlainRenderer()
    return _Styled(colour, columns)
