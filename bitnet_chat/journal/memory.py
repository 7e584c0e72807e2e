"""The journal in memory, for conversations that must not be written to disk.

It uses the tables and the code of the journal in a file on one in-memory database. Its single connection is locked
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
    """A :class:`JournalStore` in memory. Can be used from any thread."""

    name = ":memory:"

    def __init__(self) -> None:
        import sqlite3

        super().__init__()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        # By default SQLite writes large intermediate results, such as those of a sort, to a temporary file.
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
        return _MemoryWriter(self.locked, complain, on_end, clock, on_done)

    @contextmanager
    def locked(self) -> Iterator[Connection]:
        """Lock the connection for the block and return it."""
        with self._lock:
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:  # the snapshot of a reader
                    self._connection.rollback()

    @contextmanager
    def _open_connection(self, *, to_write: bool = False) -> Iterator[Connection | None]:
        with self.locked() as connection:
            yield connection


class _MemoryWriter(WriterThread):
    """The writer thread of a recorder, on the shared connection. It neither opens nor checks files."""

    def __init__(
        self,
        locked: Callable[[], AbstractContextManager[Connection]],
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float],
        on_done: Callable[[WriterJob, ConversationStore], None],
    ) -> None:
        self._locked = locked
        super().__init__(Path(":memory:"), complain, on_end, clock, on_done)

    def _do(self, job: WriterJob) -> None:
        with self._locked() as connection:
            self._store = self._store or ConversationStore(connection)
            super()._do(job)

    def _open(self) -> ConversationStore:
        assert self._store is not None
        return self._store

    def _mark(self, mark: Callable[[Path], None]) -> None:
        pass
