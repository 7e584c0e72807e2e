"""Stores of conversations: the interface for front ends, and the journal in a file."""

from __future__ import annotations

import builtins
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bitnet_chat import paths
from bitnet_chat.errors import JournalError, UsageError

if TYPE_CHECKING:
    from sqlite3 import Connection

    from bitnet_chat.journal.recorder import JournalRecorder
    from bitnet_chat.journal.records import JournalEntry, SearchHit, StoredConversation
    from bitnet_chat.journal.transactions import ConversationStore
    from bitnet_chat.journal.writer_thread import WriterJob, WriterThread


class JournalStore(Protocol):
    """Conversations that are kept: in a file (:class:`Journal`), for as long as the program runs
    (:class:`~bitnet_chat.journal.memory.MemoryJournal`), or by a running server
    (:class:`~bitnet_chat.backends.attached_server.journal.ServerJournal`).

    Every method raises JournalError, or another BitnetChatError, where the conversations cannot be reached.
    """

    def list(self, limit: int | None = None) -> list[JournalEntry]:
        """List the conversations, the most recently used one first."""

    def latest(self) -> StoredConversation | None:
        """The most recently used conversation; None for an empty journal."""
        entries = self.list(1)
        return self.load(entries[0].id) if entries else None

    def load(self, id: int) -> StoredConversation:
        """A conversation with its present line. Raises UsageError for an unknown id."""

    def search(self, words: str) -> builtins.list[SearchHit]:
        """Find the conversations with all of ``words`` in one message or in the title, the most recently used one
        first. Words are plain, without operators."""

    def remove(self, ids: Sequence[int]) -> bool:
        """Remove conversations for good. False: another program has the file open, and traces stay in its log until it
        has ended. Raises UsageError, and removes none of them, where one of the ids is unknown."""

    def recorder(self, complain: Callable[[str], None]) -> JournalRecorder:
        """Make a recorder, which writes; see there."""

    def unsaved_since(self) -> float | None:
        """Time of the last failure to write, in seconds since the epoch; None: all was kept."""
        return None

    def read_only_reason(self) -> str:
        """The reason for which the journal cannot be written at present; empty where it can."""
        return ""


class DatabaseJournal(JournalStore):
    """The common base of the journals in a file and in memory: one database."""

    # The modules for the file are imported late: the REPL's prompt does not need them.

    name: str
    """Name of the file in messages."""

    def __init__(self) -> None:
        self.made_with: Mapping[str, object] = {}
        """Settings of this program that are kept with each reply."""

    def list(self, limit: int | None = None) -> list[JournalEntry]:
        from bitnet_chat.journal import queries

        with self._opened() as connection:
            return [] if connection is None else queries.entries(connection, limit)

    def load(self, id: int) -> StoredConversation:
        from bitnet_chat.journal import branch, queries

        with self._opened() as connection:
            stored = None if connection is None else branch.stored(connection, id)
        if stored is None:
            raise queries.missing([id])
        return stored

    def search(self, words: str) -> builtins.list[SearchHit]:
        from bitnet_chat.journal import queries

        terms = words.split()
        if not terms:
            raise UsageError("the search has no words", remedy="give one word or more")
        with self._opened() as connection:
            return [] if connection is None else queries.hits(connection, terms)

    def remove(self, ids: Sequence[int]) -> bool:
        from bitnet_chat.journal import queries

        with self._opened(to_write=True) as connection:
            if connection is None:
                raise queries.missing(ids)
            return queries.remove(connection, ids)

    def recorder(self, complain: Callable[[str], None]) -> JournalRecorder:
        from bitnet_chat.journal.recorder import JournalRecorder

        return JournalRecorder(self, complain)

    @abstractmethod
    def writer(
        self,
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float],
        on_done: Callable[[WriterJob, ConversationStore], None],
    ) -> WriterThread:
        """The thread of a recorder."""

    @abstractmethod
    def _opened(self, *, to_write: bool = False) -> AbstractContextManager[Connection | None]:
        """A connection for the block; None where the file does not exist."""


class Journal(DatabaseJournal):
    """The conversations in one file. A file that is not there holds none.

    Every method raises JournalError where the file cannot be used: one that is damaged is set aside first, one of
    a later release is left unchanged. Each call opens and closes the file, and may be made in any thread.
    """

    def __init__(self, path: Path | None = None) -> None:
        """None: ``journal.db`` in the data directory. Nothing is opened yet."""
        super().__init__()
        self.path = path if path is not None else paths.data_dir() / "journal.db"
        self.name = str(self.path)

    def check(self) -> str:
        """Check the whole file, and return the damage, or an empty text. Takes seconds for a gigabyte."""
        with self._opened() as connection:
            if connection is None:
                return ""
            result = connection.execute("PRAGMA quick_check(3)").fetchall()
        text = "; ".join(str(line) for (line,) in result)
        return "" if text == "ok" else text

    def writer(
        self,
        complain: Callable[[str], None],
        on_end: Callable[[], None],
        clock: Callable[[], float],
        on_done: Callable[[WriterJob, ConversationStore], None],
    ) -> WriterThread:
        from bitnet_chat.journal.writer_thread import WriterThread

        return WriterThread(self.path, complain, on_end, clock, on_done)

    def unsaved_since(self) -> float | None:
        from bitnet_chat.journal import unsaved_marker

        return unsaved_marker.since(self.path)

    def read_only_reason(self) -> str:
        places = (self.path, self.path.parent)
        if self.path.is_file() and not all(os.access(each, os.W_OK) for each in places):
            return f"{self.path} cannot be written"
        return ""

    @contextmanager
    def _opened(self, *, to_write: bool = False) -> Iterator[Connection | None]:
        import sqlite3

        from bitnet_chat.journal.database import identity_of, is_damage, problem
        from bitnet_chat.journal.salvage import open_file, set_aside

        identity = None
        try:
            if not self.path.exists():
                yield None
                return
            identity = identity_of(self.path)
            try:
                connection, note = open_file(self.path)
            except (sqlite3.OperationalError, OSError):  # a full disk, a backup on one that is read-only
                if to_write or not self.path.is_file():
                    raise
                connection, note = self._open_as_it_is(), ""
            with closing(connection):
                if note:
                    raise JournalError(note)
                yield connection if _has_tables(connection) else None
        except (sqlite3.Error, OSError) as error:
            if is_damage(error) and (note := set_aside(self.path, identity)):
                raise JournalError(note) from None
            raise JournalError(f"the journal cannot be used: {problem(error, self.path)}") from None

    def _open_as_it_is(self) -> Connection:
        """A read-only connection, for a file that cannot be written."""
        from bitnet_chat.journal.database import open_to_read, require_ours

        connection = open_to_read(self.path)
        try:
            require_ours(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection


def _has_tables(connection: Connection) -> bool:
    """False for a file without tables, made on a full disk."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
