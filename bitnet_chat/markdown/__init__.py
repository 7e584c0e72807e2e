"""Streamed Markdown: text of a model becomes the same text with styles, append-only.

Text of the model is never removed or altered: marks such as ``**``, ``#`` and backticks stay, dim, around the text that
they style. So copied text is the text of the model, and a character that turns out not to be a mark has no effect.
Apart from escape sequences, the output is the input. Only tables are laid out anew, once they are complete; until then
their rows are available for temporary display.

A character is written as soon as its style is clear. An ambiguous one is held, a few characters at most (a run of
``*``, the ``-`` at the start of a line, a word of code that may be a keyword), until the next character, or until
``pause``, which means that none follows for now.

The text must be sanitized already (``text/sanitize.py``): every escape sequence in the output is from here. Pure; the
time for a character does not depend on the text before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

__all__ = ["MarkdownRenderer", "Mode", "PlainRenderer", "prose"]

Mode = Literal["auto", "on", "off"]


class MarkdownRenderer(Protocol):
    """Text for a terminal. Write the result of each method at once."""

    def feed(self, text: str) -> str:
        """The output for the next characters of a reply."""

    def pause(self) -> str:
        """The output after a moment without input: text that was held for its successor only, but no table."""

    def flush(self) -> str:
        """The output before other text is written: all held text, and a reset of styles. The reply continues
        after it.
        """

    def finish(self) -> str:
        """The output at the end of the reply: all held text, and a reset of styles. The next reply begins anew."""

    @property
    def holding(self) -> str:
        """A description of text that is held for longer: ``table, 12 rows``; empty without any."""

    @property
    def held(self) -> Sequence[str]:
        """Its lines, the latest at least, as they would be written now."""


class PlainRenderer:
    """Text unchanged."""

    holding = ""
    held = ()

    def feed(self, text: str) -> str:
        return text

    def pause(self) -> str:
        return ""

    flush = finish = pause


class _Styled:
    """Markdown, imported at the first word, so that the prompt appears earlier."""

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
    """The renderer of replies for ``--markdown MODE``.

    ``terminal``: the output is a terminal. ``colour``: colours are available and wanted; ``on`` styles without it too,
    in bold, italic and dim only. ``columns``: gives the current width, for tables.
    """
    if not terminal or mode == "off" or (mode == "auto" and not colour):
        return PlainRenderer()
    return _Styled(colour, columns)
