"""Styles of text and their escape sequences, with few of the eight colours that all terminals have.

A style is a set of bits: a bold word in a heading is ``HEADING | BOLD``. Green, magenta and cyan are readable on dark
and on light backgrounds; yellow, white and blue are not, and black and the bright colours not on all terminals.
"""

from __future__ import annotations

PLAIN = 0
BOLD, DIM, ITALIC, UNDERLINE, STRIKE = 1, 2, 4, 8, 16
RED, GREEN, MAGENTA, CYAN = 32, 64, 128, 256
_COLOURS = RED | GREEN | MAGENTA | CYAN

MARK = DIM
HEADING = BOLD | MAGENTA
BULLET = MAGENTA
DONE = GREEN
QUOTE = ITALIC
CODE = CYAN
LINK = UNDERLINE

KEYWORD = MAGENTA
STRING = GREEN
COMMENT = DIM
VALUE = CYAN
"""Numbers, constants, types, built-in names."""
DEFINED = BOLD
"""A name at its definition."""

_SGR = {BOLD: 1, DIM: 2, ITALIC: 3, UNDERLINE: 4, STRIKE: 9, RED: 31, GREEN: 32, MAGENTA: 35, CYAN: 36}
OFF = "\x1b[0m"


def over(base: int, look: int) -> int:
    """Combine a style with the one around it: a colour replaces that of ``base``."""
    return base & ~_COLOURS | look if look & _COLOURS else base | look


class Palette:
    """Escape sequences of styles. Without colours only bold, dim, italic, underline and strikethrough are used."""

    def __init__(self, colour: bool = True) -> None:
        self._mask = ~0 if colour else ~_COLOURS
        self._cache: dict[int, str] = {}

    def codes(self, look: int) -> str:
        """Return the SGR parameters of a style: ``1;35``; empty for plain text."""
        if look not in self._cache:
            bits = look & self._mask
            self._cache[look] = ";".join(str(code) for bit, code in _SGR.items() if bits & bit)
        return self._cache[look]
