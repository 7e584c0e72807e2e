"""Which conversation of the journal a command line goes on with."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bitnet_chat.errors import UsageError

if TYPE_CHECKING:
    from bitnet_chat.journal import Journal, Stored

_REMEDY = "bitnet-chat history list shows those that there are"


def wanted(flags: argparse.Namespace, journal: Journal) -> Stored | None:
    """What ``--continue`` or ``--resume ID`` name; None where neither was given.

    Raises UsageError for a conversation that there is not, and for ``--resume`` without ID: only a prompt can ask.
    """
    last, other = hasattr(flags, "resume_last"), getattr(flags, "resume", None)
    if last and other is not None:
        raise UsageError("--continue does not go with --resume: it is the last conversation or another one")
    if last:
        stored = journal.latest()
        if stored is None:
            raise UsageError("there is no conversation to go on with", remedy="ask without --continue")
        return stored
    if other is None:
        return None
    if not other:
        raise UsageError("--resume needs the number of a conversation here", remedy=_REMEDY)
    if not (other.isascii() and other.isdigit() and len(other) < 19):
        raise UsageError(f"--resume wants the number of a conversation, not {other!r}", remedy=_REMEDY)
    return journal.load(int(other))
