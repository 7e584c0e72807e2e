"""Full-text search over the messages of a journal.

The index is brought up to date by whoever searches: writing a reply stays cheap, and a file that was used by a build
of SQLite without FTS5 needs no repair. Where there is no index, or it finds nothing, every message is read: that
finds parts of words as well.

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
    """Takes all messages of these conversations out of the index, inside a transaction of the caller's. Raises what
    :func:`is_broken` knows where the index is no good."""
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

    # A constraint of its own tables fails where it does not hold what is taken out of it.
    codes = (sqlite3.SQLITE_CORRUPT_VTAB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_CONSTRAINT_VTAB)
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    return error.sqlite_errorcode in codes or "words" in str(error)  # a table of that name that is none of ours


def drop(connection: Connection) -> None:
    """Without the index: the texts are whole, and the next search makes another one."""
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
        # The index knows letters and digits only; what else was asked for is looked up in the text.
        holds = holder([word for word in words if has_signs(word)])
        return [(conversation, id) for conversation, id, content in found if holds(decode_text(content))]
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise
        if is_broken(error):
            drop(connection)
        return []  # no FTS5, a file that cannot be written, another program that does not let go


def index(connection: Connection) -> None:
    """Takes in what is new. Raises sqlite3.OperationalError where there is no FTS5, or the file cannot be written."""
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
