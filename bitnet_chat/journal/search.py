"""Full-text search over the messages of a journal.

The index is updated at the start of each search: writing a reply stays cheap, and a file that was used by an SQLite
without FTS5 needs no repair. If the index is missing or has no hit, all messages are read, which also finds parts of
words.

The index stores words, not texts (``content=''``). Scripts without spaces are indexed by character, so that any part of
a sentence is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitnet_chat.journal.codec import contains_all, decode_text, fts_query, has_unindexed, searchable
from bitnet_chat.journal.database import is_damage, transaction

if TYPE_CHECKING:
    from sqlite3 import Connection

_TABLE = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5"
    " (content, content='', tokenize='unicode61 remove_diacritics 2')"
)
_BATCH_SIZE = 1000
"""Messages indexed per transaction; other programs can write between two transactions."""


def find(connection: Connection, words: Sequence[str]) -> list[tuple[int, int]]:
    """Return (conversation, message row) for each message with all of ``words``, newest first."""
    return _find_in_index(connection, words) or _find_by_reading(connection, words)


def forget(connection: Connection, conversations: Sequence[int]) -> None:
    """Remove the messages of these conversations from the index, within the transaction of the caller.

    Raises an error that :func:`is_broken` recognizes if the index is damaged.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone():
        return
    for id in conversations:
        rows = connection.execute("SELECT id, content FROM messages WHERE conversation = ? AND indexed", (id,))
        connection.executemany(
            "INSERT INTO words (words, rowid, content) VALUES ('delete', ?, ?)",
            [(row, searchable(decode_text(content))) for row, content in rows.fetchall()],
        )
    # Deleted entries stay in the file until the segments of the index are merged.
    connection.execute("INSERT INTO words (words) VALUES ('optimize')")


def is_broken(error: Exception) -> bool:
    """Whether the error means damage of the full-text index only."""
    import sqlite3

    # A constraint of the index tables fails if an entry to delete is missing.
    codes = (sqlite3.SQLITE_CORRUPT_VTAB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_CONSTRAINT_VTAB)
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    return error.sqlite_errorcode in codes or "words" in str(error)  # another program has made a table of that name


def drop(connection: Connection) -> None:
    """Delete the index. The texts are not affected; the next search rebuilds it."""
    with transaction(connection):
        connection.execute("DROP TABLE IF EXISTS words")
        connection.execute("UPDATE messages SET indexed = 0")


def _find_in_index(connection: Connection, words: Sequence[str]) -> list[tuple[int, int]]:
    import sqlite3

    wanted = fts_query(words)
    if not wanted:
        return []
    try:
        index(connection)
        found = connection.execute(
            "SELECT conversation, id, content FROM messages WHERE id IN (SELECT rowid FROM words WHERE words MATCH ?)"
            " ORDER BY id DESC",
            (wanted,),
        )
        # The index contains letters and digits only; other characters are compared with the text.
        holds = contains_all([word for word in words if has_unindexed(word)])
        return [(conversation, id) for conversation, id, content in found if holds(decode_text(content))]
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise
        if is_broken(error):
            drop(connection)
        return []  # no FTS5, a read-only file, or one locked by another program


def index(connection: Connection) -> None:
    """Index new messages. Raises sqlite3.OperationalError without FTS5, or if the file cannot be written."""
    with transaction(connection):
        connection.execute(_TABLE)
    while True:
        with transaction(connection):
            rows = connection.execute(
                f"SELECT id, content FROM messages WHERE indexed = 0 AND writer IS NULL LIMIT {_BATCH_SIZE}"
            ).fetchall()
            connection.executemany(
                "INSERT INTO words (rowid, content) VALUES (?, ?)",
                [(row, searchable(decode_text(content))) for row, content in rows],
            )
            connection.executemany("UPDATE messages SET indexed = 1 WHERE id = ?", [(row,) for row, _ in rows])
        if len(rows) < _BATCH_SIZE:
            return


def _find_by_reading(connection: Connection, words: Sequence[str]) -> list[tuple[int, int]]:
    rows = connection.execute("SELECT conversation, id, content FROM messages WHERE writer IS NULL ORDER BY id DESC")
    holds = contains_all(words)
    return [(conversation, id) for conversation, id, content in rows if holds(decode_text(content))]
