"""Which conversation of the journal a command line goes on with."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_chat.errors import UsageError

if TYPE_CHECKING:
    from bitnet_chat.journal import Journal, Stored

_REMEDY = "bitnet-chat history list shows those that there are"


def wanted(flags: argparse.Namespace, journal: Journal, say: Callable[[str], None]) -> Stored | None:
    """What ``--continue`` or ``--resume ID`` name; None where neither was given. ``say`` is told where that may be
    another conversation than the user means, and what of it is damaged.

    Raises UsageError for a conversation that there is not, and for ``--resume`` without ID: only a prompt can ask.
    """
    last, other = hasattr(flags, "resume_last"), getattr(flags, "resume", None)
    if last and other is not None:
        raise UsageError("--continue does not go with --resume: it is the last conversation or another one")
    if last:
        stored = journal.latest()
        if stored is None:
            raise UsageError("there is no conversation to go on with", remedy="ask without --continue")
        if why := _not_the_last(journal, stored):
            say(f"{why}: this goes on with conversation {stored.id}, “{stored.title}”, of {_clock(stored.updated)}")
        return _sound(stored, say)
    if other is None:
        return None
    if not other:
        raise UsageError("--resume needs the number of a conversation here", remedy=_REMEDY)
    if not (other.isascii() and other.isdigit() and len(other) < 19):
        raise UsageError(f"--resume wants the number of a conversation, not {other!r}", remedy=_REMEDY)
    return _sound(journal.load(int(other)), say)


def _not_the_last(journal: Journal, stored: Stored) -> str:
    """Why something may have been said after this conversation; empty where that was kept."""
    from bitnet_chat.journal import unsaved_marker

    lost = unsaved_marker.since(journal.path)
    if lost is not None and lost >= stored.updated:
        return f"what was said on {_clock(lost)} was not kept"
    places = (journal.path, journal.path.parent)
    if journal.path.is_file() and not all(os.access(each, os.W_OK) for each in places):
        return f"nothing is kept at present, as {journal.path} cannot be written"
    return ""


def _sound(stored: Stored, say: Callable[[str], None]) -> Stored:
    for line in stored.damage:
        say(f"damaged: {line}")
    return stored


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
