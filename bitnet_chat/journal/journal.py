"""The storage interface for front ends (:class:`JournalStore`), and its implementation in an SQLite file."""

from __future__ import annotations

import builtins
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bitnet_chat import paths
from bitnet_chat.errors import JournalError, JournalSetAsideError, UsageError

if TYPE_CHECKING:
    from sqlite3 import Connection

    from bitnet_chat.journal.recorder import JournalRecorder
    from bitnet_chat.journal.records import JournalEntry, SearchHit, StoredConversation
    from bitnet_chat.journal.transactions import ConversationStore
    from bitnet_chat.journal.tree import MessageTree
    from bitnet_chat.journal.votes import Vote
    from bitnet_chat.journal.writer_thread import WriterJob, WriterThread


class JournalStore(Protocol):
    """A collection of stored conversations.

    Implementations: in a file (:class:`Journal`), in memory for the life of the program
    (:class:`~bitnet_chat.journal.memory.MemoryJournal`), and on a running server
    (:class:`~bitnet_chat.backends.attached_server.journal.ServerJournal`). Every method raises JournalError, or another
    BitnetChatError, if the conversations cannot be accessed.
    """

    def list(self, limit: int | None = None) -> list[JournalEntry]:
        """List at most ``limit`` conversations, most recently used first."""

    def latest(self) -> StoredConversation | None:
        """Load the most recently used conversation. Returns None if the journal is empty."""
        entries = self.list(1)
        return self.load(entries[0].id) if entries else None

    def load(self, id: int, end: int | None = None) -> StoredConversation:
        """Load a conversation with its current branch, or with the branch that ends at the message ``end``. Raises
        UsageError for an unknown id."""

    def tree(self, id: int) -> MessageTree:
        """Load all messages of a conversation. Raises UsageError for an unknown id."""

    def search(self, words: str) -> builtins.list[SearchHit]:
        """Find conversations that have all words of ``words`` in one message or in the title, most recently used first.

        Words are literal; query operators are not supported. Raises UsageError for a search without words.
        """

    def votes(self, conversation: int) -> builtins.list[Vote]:
        """List the votes between replies of a conversation, oldest first."""

    def remove(self, ids: Sequence[int]) -> bool:
        """Delete conversations permanently, with their votes.

        Returns False if another program has the file open: deleted text then remains in the write-ahead log until that
        program ends. Raises UsageError, and deletes nothing, if an id is unknown.
        """

    def recorder(self, complain: Callable[[str], None]) -> JournalRecorder:
        """Return a recorder that writes to this journal. ``complain`` gets a line for each failure."""

    def unsaved_since(self) -> float | None:
        """Time of the last failed write, in seconds since the epoch; None if everything was saved."""
        return None

    def read_only_reason(self) -> str:
        """The reason why the journal cannot be written at present; empty if it can be."""
        return ""


class DatabaseJournal(JournalStore):
    """Common base of the journals in a file and in memory."""

    # Modules that use SQLite are imported in the methods: the prompt of the REPL does not need them.

    name: str
    """Name of the journal in messages."""

    def __init__(self) -> None:
        self.made_with: Mapping[str, object] = {}
        """Settings of the program, saved with each reply."""

    def list(self, limit: int | None = None) -> list[JournalEntry]:
        from bitnet_chat.journal import queries

        with self._open_connection() as connection:
            return [] if connection is None else queries.entries(connection, limit)

    def load(self, id: int, end: int | None = None) -> StoredConversation:
        from bitnet_chat.journal import branch, queries

        with self._open_connection() as connection:
            stored = None if connection is None else branch.stored(connection, id, end)
        if stored is None:
            raise queries.unknown_ids([id])
        return stored

    def tree(self, id: int) -> MessageTree:
        from bitnet_chat.journal import branch, queries

        with self._open_connection() as connection:
            tree = None if connection is None else branch.tree(connection, id)
        if tree is None:
            raise queries.unknown_ids([id])
        return tree

    def search(self, words: str) -> builtins.list[SearchHit]:
        from bitnet_chat.journal import queries

        terms = words.split()
        if not terms:
            raise UsageError("the search has no words", remedy="give one word or more")
        with self._open_connection() as connection:
            return [] if connection is None else queries.hits(connection, terms)

    def votes(self, conversation: int | None = None) -> builtins.list[Vote]:
        """See :meth:`JournalStore.votes`. None: of all conversations."""
        from bitnet_chat.journal import queries

        with self._open_connection() as connection:
            return [] if connection is None else queries.votes(connection, conversation)

    def remove(self, ids: Sequence[int]) -> bool:
        from bitnet_chat.journal import queries

        with self._open_connection(to_write=True) as connection:
            if connection is None:
                raise queries.unknown_ids(ids)
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
        """Start the writer thread of a recorder. The parameters are those of :class:`WriterThread`."""

    @abstractmethod
    def _open_connection(self, *, to_write: bool = False) -> AbstractContextManager[Connection | None]:
        """Open a connection for the block; None if the file does not exist."""


class Journal(DatabaseJournal):
    """The conversations in one file. A missing file counts as an empty journal.

    Every method raises JournalError if the file cannot be used. A damaged file is moved aside first; a file of a later
    release is left unchanged. Each call opens and closes the file, so a journal can be used from any thread.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Set the path; the default is ``journal.db`` in the data directory. Does not open the file."""
        super().__init__()
        self.path = path if path is not None else paths.data_dir() / "journal.db"
        self.name = str(self.path)

    def check(self) -> str:
        """Check the whole file and return a description of the damage, empty if there is none. Takes seconds per
        gigabyte."""
        with self._open_connection() as connection:
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
        from bitnet_chat.journal.database import unsaved_since

        return unsaved_since(self.path)

    def read_only_reason(self) -> str:
        places = (self.path, self.path.parent)
        if self.path.is_file() and not all(os.access(each, os.W_OK) for each in places):
            return f"{self.path} cannot be written"
        return ""

    @contextmanager
    def _open_connection(self, *, to_write: bool = False) -> Iterator[Connection | None]:
        import sqlite3

        from bitnet_chat.journal.damaged_file import open_file, set_aside
        from bitnet_chat.journal.database import describe_error, identity_of, is_damage

        identity = None
        try:
            if not self.path.exists():
                yield None
                return
            identity = identity_of(self.path)
            try:
                connection, note = open_file(self.path)
            except (sqlite3.OperationalError, OSError):  # a full disk, or a backup on read-only media
                if to_write or not self.path.is_file():
                    raise
                connection, note = self._open_read_only(), ""
            with closing(connection):
                if note:
                    raise JournalSetAsideError(note)
                yield connection if _has_tables(connection) else None
        except (sqlite3.Error, OSError) as error:
            if is_damage(error) and (note := set_aside(self.path, identity)):
                raise JournalSetAsideError(note) from None
            raise JournalError(f"the journal cannot be used: {describe_error(error, self.path)}") from None

    def _open_read_only(self) -> Connection:
        """Open a read-only connection to a file that cannot be written."""
        from bitnet_chat.journal.database import open_to_read, require_ours

        connection = open_to_read(self.path)
        try:
            require_ours(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection


def _has_tables(connection: Connection) -> bool:
    """Whether the file has tables. A file that was created on a full disk has none."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
