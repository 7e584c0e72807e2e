"""A journal in memory: its conversations exist while the program runs, and are not written to disk.

The same tables and the same code as in a file, with one database in memory. It has one connection, which is locked
during each use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat.journal import schema
from bitnet_chat.journal.journal import DatabaseJournal
from bitnet_chat.journal.transactions import ConversationStore
from bitnet_chat.journal.writer_thread import WriterJob, WriterThread

if TYPE_CHECKING:
    from sqlite3 import Connection


class MemoryJournal(DatabaseJournal):
    """See :class:`JournalStore`. It may be used from any thread."""

    name = ":memory:"

    def __init__(self) -> None:
        import sqlite3

        super().__init__()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        # By default SQLite writes large intermediate results, such as the rows of a sort, to a file.
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute("PRAGMA foreign_keys = ON")
        schema.migrate(self._connection)
        self._lock = threading.RLock()

    def writer(
        self,
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float],
        on_done: Callable[[WriterJob, ConversationStore], None],
    ) -> WriterThread:
        return _MemoryWriter(self.held, complain, on_end, clock, on_done)

    @contextmanager
    def held(self) -> Iterator[Connection]:
        """The connection, locked for the block."""
        with self._lock:
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:  # a reader's snapshot
                    self._connection.rollback()

    @contextmanager
    def _opened(self, *, to_write: bool = False) -> Iterator[Connection | None]:
        with self.held() as connection:
            yield connection


class _MemoryWriter(WriterThread):
    """The thread of a recorder, with a shared connection."""

    def __init__(
        self,
        held: Callable[[], AbstractContextManager[Connection]],
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float],
        on_done: Callable[[WriterJob, ConversationStore], None],
    ) -> None:
        self._held = held
        super().__init__(Path(":memory:"), complain, on_end, clock, on_done)

    def _do(self, job: WriterJob) -> None:
        with self._held() as connection:
            self._store = self._store or ConversationStore(connection)
            super()._do(job)

    def _open(self) -> ConversationStore:
        assert self._store is not None
        return self._store

    def _mark(self, mark: Callable[[Path], None]) -> None:
        pass
