"""Which chats an engine continues from a saved state, without reading them again.

All methods block for a few milliseconds at most: they list the folder of states, and open none of its files.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.journal import Journal
from bitnet_chat.prompt_cache.store import StateStore

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalStore

_GRANULARITY = 2.0
"""Seconds after a change of a folder in which a further one may leave its time unchanged, on any file system."""


class SavedStates:
    """The saved states of the chats in a journal. Chats in memory have none."""

    def __init__(self, journal: JournalStore) -> None:
        self._journal = journal.path if isinstance(journal, Journal) else None
        self._store = StateStore(paths.states_dir())

    def chats(self) -> frozenset[int]:
        """The ids of the chats that have a state. Lists the folder once."""
        if self._journal is None:
            return frozenset()
        return frozenset(chat for chat, _ in self._store.heads(self._journal))

    def remove(self, chat: int) -> None:
        """Remove the states of a chat."""
        if self._journal is not None:
            self._store.remove_owner(self._journal, chat)

    def stamp(self) -> int | None:
        """The time of the last change of the folder, in nanoseconds. Without a change since then, :meth:`chats` returns
        the same. None: unknown, or too recent to be relied on."""
        try:
            changed = self._store.folder.stat().st_mtime_ns
        except OSError:
            return None
        return changed if time.time_ns() - changed > 1e9 * _GRANULARITY else None
