"""The journal: every conversation in one SQLite file, written while it happens.

It is the truth about a conversation; what an engine remembers is a copy. Front ends write through a
:class:`Recorder`, which never waits and never raises, and read through a :class:`Journal`. Nothing here knows a front
end or an engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_chat.journal.journal import Journal
    from bitnet_chat.journal.recorder import Recorder
    from bitnet_chat.journal.records import Entry, Hit, Record, State, Stored

__all__ = ["Entry", "Hit", "Journal", "Record", "Recorder", "State", "Stored"]

_HOMES = dict.fromkeys(("Entry", "Hit", "Record", "State", "Stored"), "records")
_HOMES |= {"Journal": "journal", "Recorder": "recorder"}


def __getattr__(name: str) -> Any:
    """Each is imported when it is asked for: a prompt comes before most of them."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
