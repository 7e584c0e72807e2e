"""Markdown while it streams: text of a model becomes the same text with styles, append-only.

Nothing that the model wrote is taken away or altered: marks such as ``**``, ``#`` and backticks stay, dim, around the
text that they style. So what is copied from the screen is what was written, and a mark that turns out to be none has
cost nothing. The escape sequences apart, what comes out is what went in. Only tables are laid out anew, once they are
complete; until then their rows can be asked for, to be shown for the time being.

A character comes out as soon as it is clear how it looks. What can still become two things is held, a few characters
at most (a run of ``*``, the ``-`` at the start of a line, a word of code that may be a keyword), until the next
character, or until ``pause`` says that there is none for now.

The text must be safe for a terminal already (``stream/sanitize.py``): every escape sequence that comes out is ours.
Pure; the time for a character does not depend on how much came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

__all__ = ["MarkdownRenderer", "Mode", "PlainRenderer", "prose"]

Mode = Literal["auto", "on", "off"]


class MarkdownRenderer(Protocol):
    """Text on its way to a terminal. Everything that a method gives is to be written at once."""

    def feed(self, text: str) -> str:
        """The next characters of a reply."""

    def pause(self) -> str:
        """Nothing more has come for a while: what was held only to be judged by its successor, but no table."""

    def flush(self) -> str:
        """Something else is to be written now: all that was held, and plain writing. The reply goes on after it."""

    def finish(self) -> str:
        """The reply has ended: all that was held, and plain writing. The next one begins anew."""

    @property
    def holding(self) -> str:
        """What is being held back for longer, for people: ``table, 12 rows``; empty when there is nothing."""

    @property
    def held(self) -> Sequence[str]:
        """Its lines, the latest at least, as they would be written now."""


class PlainRenderer:
    """Text as it is."""

    holding = ""
    held = ()

    def feed(self, text: str) -> str:
        return text

    def pause(self) -> str:
        return ""

    flush = finish = pause


class _Styled:
    """Markdown, loaded at the first word: a prompt need not wait for it."""

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
    """What writes the replies under ``--markdown MODE``.

    ``terminal``: the text goes to one. ``colour``: that shows colours, and they are wanted; ``on`` styles without it
    too, in bold, italic and dim alone. ``columns``: its width now, for tables.
    """
    if not terminal or mode == "off" or (mode == "auto" and not colour):
        return PlainRenderer()
    return _Styled(colour, columns)
