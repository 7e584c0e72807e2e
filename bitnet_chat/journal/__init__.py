"""The journal: every conversation in one SQLite file, written while it happens.

It is the authoritative copy of a conversation; an engine's cache may be discarded. Front ends write through a
:class:`JournalRecorder`, which never waits and never raises, and read through a :class:`JournalStore`. The package
depends on neither front ends nor engines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_chat.journal.journal import Journal, JournalStore
    from bitnet_chat.journal.recorder import JournalRecorder
    from bitnet_chat.journal.records import JournalEntry, MessageRecord, ReplyState, SearchHit, StoredConversation

__all__ = [
    "Journal",
    "JournalEntry",
    "JournalRecorder",
    "JournalStore",
    "MessageRecord",
    "ReplyState",
    "SearchHit",
    "StoredConversation",
]

_HOMES = dict.fromkeys(("JournalEntry", "SearchHit", "MessageRecord", "ReplyState", "StoredConversation"), "records")
_HOMES |= {"Journal": "journal", "JournalStore": "journal", "JournalRecorder": "recorder"}


def __getattr__(name: str) -> Any:
    """Import each name at its first use: the REPL's prompt needs few of them."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
