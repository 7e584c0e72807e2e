"""Full-text search over the messages of a journal.

The index is brought up to date at each search: writing a reply stays cheap, and a file that was used by a build of
SQLite without FTS5 needs no repair. Without an index, or without a hit in it, every message is read, which also finds
parts of words.

The index keeps words, not texts (``content=''``); scripts without blanks are indexed by character, so that any part
of a sentence is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitnet_chat.journal.codec import decode_text, has_signs, holder, query, searchable
from bitnet_chat.journal.database import is_damage, transaction

if TYPE_CHECKING:
    from sqlite3 import Connection

_TABLE = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5"
    " (content, content='', tokenize='unicode61 remove_diacritics 2')"
)
_AT_ONCE = 1000
"""Messages that are indexed in one transaction: other programs can write in between."""


def find(connection: Connection, words: Sequence[str]) -> list[tuple[int, int]]:
    """Numbers of conversation and message where all of ``words`` stand, the newest message first."""
    return _by_index(connection, words) or _by_reading(connection, words)


def forget(connection: Connection, conversations: Sequence[int]) -> None:
    """Remove all messages of these conversations from the index, within the caller's transaction. A damaged index
    raises an error that :func:`is_broken` recognises."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone():
        return
    for id in conversations:
        rows = connection.execute("SELECT id, content FROM messages WHERE conversation = ? AND indexed", (id,))
        connection.executemany(
            "INSERT INTO words (words, rowid, content) VALUES ('delete', ?, ?)",
            [(row, searchable(decode_text(content))) for row, content in rows.fetchall()],
        )
    # Entries that were taken out stay in the file as such until its segments are merged.
    connection.execute("INSERT INTO words (words) VALUES ('optimize')")


def is_broken(error: Exception) -> bool:
    """Whether the index, and nothing but the index, is damaged."""
    import sqlite3

    # A constraint of its tables fails where a removed entry is missing.
    codes = (sqlite3.SQLITE_CORRUPT_VTAB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_CONSTRAINT_VTAB)
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    return error.sqlite_errorcode in codes or "words" in str(error)  # a table of that name from another program


def drop(connection: Connection) -> None:
    """Drop the index: the texts are intact, and the next search makes another one."""
    with transaction(connection):
        connection.execute("DROP TABLE IF EXISTS words")
        connection.execute("UPDATE messages SET indexed = 0")


def _by_index(connection: Connection, words: Sequence[str]) -> list[tuple[int, int]]:
    import sqlite3

    wanted = query(words)
    if not wanted:
        return []
    try:
        index(connection)
        found = connection.execute(
            "SELECT conversation, id, content FROM messages WHERE id IN (SELECT rowid FROM words WHERE words MATCH ?)"
            " ORDER BY id DESC",
            (wanted,),
        )
        # The index has letters and digits only; other characters are compared with the text.
        holds = holder([word for word in words if has_signs(word)])
        return [(conversation, id) for conversation, id, content in found if holds(decode_text(content))]
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise
        if is_broken(error):
            drop(connection)
        return []  # no FTS5, a file that cannot be written, or one locked by another program


def index(connection: Connection) -> None:
    """Index new messages. Raises sqlite3.OperationalError without FTS5, or where the file cannot be written."""
    with transaction(connection):
        connection.execute(_TABLE)
    while True:
        with transaction(connection):
            rows = connection.execute(
                f"SELECT id, content FROM messages WHERE indexed = 0 AND writer IS NULL LIMIT {_AT_ONCE}"
            ).fetchall()
            connection.executemany(
                "INSERT INTO words (rowid, content) VALUES (?, ?)",
                [(row, searchable(decode_text(content))) for row, content in rows],
            )
            connection.executemany("UPDATE messages SET indexed = 1 WHERE id = ?", [(row,) for row, _ in rows])
        if len(rows) < _AT_ONCE:
            return


def _by_reading(connection: Connection, words: Sequence[str]) -> list[tuple[int, int]]:
    rows = connection.execute("SELECT conversation, id, content FROM messages WHERE writer IS NULL ORDER BY id DESC")
    holds = holder(words)
    return [(conversation, id) for conversation, id, content in rows if holds(decode_text(content))]
