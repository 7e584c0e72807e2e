"""Reading and removing. Each call opens the file and closes it again, so that it may be made in any thread."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_chat import paths
from bitnet_chat.conversation import Message
from bitnet_chat.errors import BitnetChatError, FinishReason, UsageError
from bitnet_chat.journal.entry import Entry, Hit, Record, State, Stored
from bitnet_chat.journal.file import identity_of, is_damage, open_file, problem, set_aside, transaction
from bitnet_chat.journal.scribe import joined_chunks, settle
from bitnet_chat.journal.search import drop, find, forget, is_broken
from bitnet_chat.journal.text import given, holds, snippet
from bitnet_chat.journal.writers import is_alive

if TYPE_CHECKING:
    from sqlite3 import Connection


class Journal:
    """The conversations in one file. A file that is not there holds none.

    Every method raises BitnetChatError where the file cannot be used: one that is damaged is set aside first, one of
    a later release is left alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        """None: ``journal.db`` in the data directory. Nothing is opened yet."""
        self.path = path if path is not None else paths.data_dir() / "journal.db"

    def list(self, limit: int | None = None) -> list[Entry]:
        """The conversations, the one that was used last first."""
        with self._reading() as connection:
            return [] if connection is None else _entries(connection, limit)

    def latest(self) -> Stored | None:
        """The conversation that was used last; None where there is none."""
        entries = self.list(1)
        return self.load(entries[0].id) if entries else None

    def load(self, id: int) -> Stored:
        """A conversation with its present line. Raises UsageError for a number that none has."""
        with self._reading() as connection:
            stored = None if connection is None else _stored(connection, id)
        if stored is None:
            raise _missing([id])
        return stored

    def search(self, words: str) -> builtins.list[Hit]:
        """The conversations in which all of ``words`` stand in one message or in the title, the one that was used
        last first. Words are plain: nothing in them is an operator."""
        import sqlite3

        terms = words.split()
        if not terms:
            raise UsageError("there is nothing to search for", remedy="give one word or more")
        with self._reading() as connection:
            if connection is None:
                return []
            with suppress(sqlite3.OperationalError):  # a file that can be read only
                settle(connection)
            found: dict[int, list[int]] = {}
            for conversation, row in find(connection, terms):
                found.setdefault(conversation, []).append(row)
            hits = []
            for entry in _entries(connection, None):
                rows = found.get(entry.id, [])
                if rows:
                    content = connection.execute("SELECT content FROM messages WHERE id = ?", rows[:1]).fetchone()[0]
                    hits.append(Hit(entry, snippet(given(content), terms), len(rows)))
                elif holds(entry.title, terms):
                    hits.append(Hit(entry, "", 0))
            return hits

    def remove(self, ids: Sequence[int]) -> bool:
        """Removes conversations for good: from the file, its index and its log. False: another program has the file
        open, and traces stay in the log until it has ended. Raises UsageError, and removes nothing, where one of the
        numbers is none."""
        import sqlite3

        with self._reading() as connection:
            if connection is None:
                raise _missing(ids)
            known = {id for (id,) in connection.execute("SELECT id FROM conversations")}
            missing = [id for id in ids if id not in known]
            if missing:
                raise _missing(missing)
            try:
                _remove(connection, ids)
            except sqlite3.DatabaseError as error:
                if not is_broken(error):
                    raise
                drop(connection)
                _remove(connection, ids)
            # Pages were overwritten (secure_delete); what the log still has of them goes with it.
            connection.execute("PRAGMA busy_timeout = 300")
            return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    def check(self) -> str:
        """Reads the whole file; what is wrong with it, or empty. Seconds for a gigabyte."""
        with self._reading() as connection:
            if connection is None:
                return ""
            result = connection.execute("PRAGMA quick_check(3)").fetchall()
        text = "; ".join(str(line) for (line,) in result)
        return "" if text == "ok" else text

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """A connection for the block; None where there is no file."""
        import sqlite3

        identity = None
        try:
            if not self.path.exists():
                yield None
                return
            identity = identity_of(self.path)
            connection, note = open_file(self.path)
            with closing(connection):
                if note:
                    raise BitnetChatError(note)
                yield connection
        except (sqlite3.Error, OSError) as error:
            if is_damage(error) and (note := set_aside(self.path, identity)):
                raise BitnetChatError(note) from None
            raise BitnetChatError(f"the journal cannot be used: {problem(error, self.path)}") from None


def _remove(connection: Connection, ids: Sequence[int]) -> None:
    with transaction(connection):
        forget(connection, ids)
        connection.executemany("DELETE FROM conversations WHERE id = ?", [(id,) for id in ids])


def _missing(ids: Sequence[int]) -> UsageError:
    names = ", ".join(map(str, ids))
    what = f"there is no conversation {names}" if len(ids) == 1 else f"there are no conversations {names}"
    return UsageError(what, remedy="bitnet-chat history list shows those that there are")


def _entries(connection: Connection, limit: int | None) -> list[Entry]:
    rows = connection.execute(
        "SELECT c.id, c.title, c.created, c.updated, c.turns, c.model, h.role, h.finish, h.writer,"
        " h.writer IS NOT NULL AND h.content = ''"
        " AND NOT EXISTS (SELECT 1 FROM chunks WHERE message = h.id AND NOT thinking)"
        " FROM conversations c LEFT JOIN messages h ON h.id = c.head ORDER BY c.updated DESC, c.id DESC LIMIT ?",
        (-1 if limit is None else limit,),
    )
    return [
        Entry(id, given(title), created, updated, turns, given(model), _state(role, finish, writer, bool(empty)))
        for id, title, created, updated, turns, model, role, finish, writer, empty in rows
    ]


def _state(role: str | None, finish: str | None, writer: str | None, empty: bool) -> State:
    if writer is not None and is_alive(writer):
        return State.ANSWERING
    if role == "user" or empty:
        return State.UNANSWERED
    return State.CUT_OFF if writer is not None or finish == FinishReason.CUT_OFF.value else State.WHOLE


_LINE = """WITH RECURSIVE line (id, depth) AS (
    SELECT head, 0 FROM conversations WHERE id = ? AND head IS NOT NULL
    UNION ALL
    SELECT m.parent, depth + 1 FROM messages m JOIN line ON m.id = line.id WHERE m.parent < m.id
)
SELECT m.id, m.role, m.content, m.thinking, m.finish, m.created, m.model, m.engine, m.options, m.stats, m.writer
FROM line JOIN messages m ON m.id = line.id ORDER BY line.depth DESC"""


def _stored(connection: Connection, id: int) -> Stored | None:
    connection.execute("BEGIN")  # one moment of the file, though another program writes
    found = connection.execute(
        "SELECT title, created, updated, model, engine, options, forked_from FROM conversations WHERE id = ?", (id,)
    ).fetchone()
    rows = connection.execute(_LINE, (id,)).fetchall() if found else []
    if not found:
        return None
    records: list[Record] = []
    writing = False
    for row, role, content, thinking, finish, made, model, engine, options, stats, writer in rows:
        text, thoughts, reason = given(content), given(thinking), _reason(finish)
        writing = writer is not None and is_alive(writer)
        if writer is not None:
            text, thoughts = joined_chunks(connection, row, text, thoughts)
            reason = FinishReason.CUT_OFF
            if not text:
                continue
        message = Message(role, text, reason, thoughts)
        records.append(Record(row, message, made, given(model), given(engine), _object(options), _object(stats)))
    unanswered = ""
    state = State.WHOLE
    if records and records[-1].message.role == "user":
        unanswered, state = records.pop().message.content, State.UNANSWERED
    elif records and records[-1].message.finish is FinishReason.CUT_OFF:
        state = State.CUT_OFF
    if writing:
        state = State.ANSWERING
    title, created, updated, model, engine, options, forked_from = found
    return Stored(
        id, given(title), created, updated, given(model), given(engine), _object(options), forked_from, state,
        tuple(records), unanswered,
    )  # fmt: skip


def _reason(name: str | None) -> FinishReason | None:
    try:
        return None if name is None else FinishReason(name)
    except ValueError:  # one that this release does not know
        return FinishReason.INTERRUPTED


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
