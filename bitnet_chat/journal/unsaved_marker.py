"""The marker of unsaved messages: an empty file beside the journal while the last messages are not in it.

``-C`` goes on with the last conversation: where that is not the one that the user means, it has to be said. An empty
file finds its place on most disks that are full.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_NAME = ".not-kept"


def mark(journal: Path) -> None:
    """Set the marker: a message could not be kept."""
    with contextlib.suppress(OSError):
        _mark(journal).touch(mode=0o600)


def clear(journal: Path) -> None:
    """Clear the marker: messages are kept again."""
    with contextlib.suppress(OSError):
        _mark(journal).unlink(missing_ok=True)


def since(journal: Path) -> float | None:
    """Time of the unsaved messages, in seconds since the epoch; None where all were kept."""
    try:
        return _mark(journal).stat().st_mtime
    except OSError:
        return None


def _mark(journal: Path) -> Path:
    return journal.with_name(journal.name + _NAME)
