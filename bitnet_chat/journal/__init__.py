"""The journal: all conversations in one SQLite file, written while they happen.

The journal is the authoritative copy of a conversation; the cache of an engine can be discarded at any time. Front ends
write through a :class:`JournalRecorder`, whose methods do not block and do not raise, and read through a
:class:`JournalStore`. The package depends on neither front ends nor engines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_chat.journal.journal import Journal, JournalStore
    from bitnet_chat.journal.recorder import JournalRecorder
    from bitnet_chat.journal.records import (
        JournalEntry,
        MessageRecord,
        Position,
        ReplyState,
        SearchHit,
        StoredConversation,
    )
    from bitnet_chat.journal.tree import MessageTree

__all__ = [
    "Journal",
    "JournalEntry",
    "JournalRecorder",
    "JournalStore",
    "MessageRecord",
    "MessageTree",
    "Position",
    "ReplyState",
    "SearchHit",
    "StoredConversation",
]

_RECORDS = ("JournalEntry", "MessageRecord", "Position", "ReplyState", "SearchHit", "StoredConversation")
_MODULES = dict.fromkeys(_RECORDS, "records")
_MODULES |= {"Journal": "journal", "JournalStore": "journal", "JournalRecorder": "recorder", "MessageTree": "tree"}


def __getattr__(name: str) -> Any:
    """Import the module of ``name`` at its first use. Importing all of them would delay the prompt of the REPL."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
