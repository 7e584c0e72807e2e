"""Whether a person waits for an answer, as the ``Priority`` header of RFC 9218 says. Pure."""

from __future__ import annotations

import re

_URGENCY = re.compile(r"(?:^|,)\s*u=([0-7])(?=\s*(?:$|[,;]))")
_BACKGROUND = 6
"""Urgency from which on it is batch work; what says nothing has 3."""


def is_urgent(header: str | None) -> bool:
    """False for ``u=6`` and ``u=7``. What is no such header says nothing."""
    found = _URGENCY.findall(header or "")
    return not found or int(found[-1]) < _BACKGROUND
