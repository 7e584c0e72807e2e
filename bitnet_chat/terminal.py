"""Capabilities of a terminal, for all code that draws, colours, wraps or copies.

A stream is a terminal if ``isatty`` is true. Its capabilities follow from ``TERM``: if that is missing, ``dumb`` or
``unknown``, only lines of plain text are written, as git and ncurses do. A Windows console has no ``TERM`` and all
capabilities. Uses only the standard library, since the scripts in ``bin/`` need it before anything is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TextIO

_PLAIN = ("", "dumb", "unknown")
_SIZE = 80, 24
_WINDOWS = sys.platform == "win32"


def is_capable(term: str | None, *, windows: bool = _WINDOWS) -> bool:
    """Whether a terminal with this ``TERM`` can move the cursor, erase and show styles. None: ``TERM`` is not set."""
    return (windows and not term) or (term or "").strip().lower() not in _PLAIN


def draws(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that can move its cursor."""
    return stream.isatty() and is_capable(os.environ.get("TERM"))


def shows_colours(stream: TextIO) -> bool:
    """Whether ``stream`` is such a terminal, and ``NO_COLOR`` is not set."""
    return draws(stream) and not os.environ.get("NO_COLOR")


def size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows of the terminal; 80 and 24 if unknown."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # io.UnsupportedOperation is a subclass of both
        columns, rows = 0, 0
    return columns or _SIZE[0], rows or _SIZE[1]


def wraps_anew(variables: Mapping[str, str]) -> bool:
    """Whether the terminal with these environment variables rewraps its rows when its window gets narrower.

    Most terminals do; the others are known by name.
    """
    if "TMUX" in variables:
        return True
    term = variables.get("TERM", "")
    return not ("XTERM_VERSION" in variables or "STY" in variables or term.startswith(("linux", "screen", "st-", "vt")))
