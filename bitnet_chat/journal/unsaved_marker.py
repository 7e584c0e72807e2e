"""An empty file beside the journal, for as long as what was said last is not in it.

``-C`` goes on with the last conversation: where that is not the one that the user means, it has to be said. An empty
file finds its place on most disks that are full.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_NAME = ".not-kept"


def mark(journal: Path) -> None:
    """Something that was said could not be kept."""
    with contextlib.suppress(OSError):
        _mark(journal).touch(mode=0o600)


def clear(journal: Path) -> None:
    """What is said from now on is kept."""
    with contextlib.suppress(OSError):
        _mark(journal).unlink(missing_ok=True)


def since(journal: Path) -> float | None:
    """When it was said, in seconds since the epoch; None where all was kept."""
    try:
        return _mark(journal).stat().st_mtime
    except OSError:
        return None


def _mark(journal: Path) -> Path:
    return journal.with_name(journal.name + _NAME)
