"""Whether colours are wanted, and shown, where text goes."""

from __future__ import annotations

import os
from typing import TextIO


def shown_on(stream: TextIO) -> bool:
    """True for a terminal, unless ``NO_COLOR`` is set or the terminal calls itself dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "").lower() != "dumb"
