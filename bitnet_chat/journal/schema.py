"""The tables of the journal, and the migrations from earlier versions.

Messages form a tree: each row names its parent, and a conversation names its head, the last message of its current
branch. /undo, /edit and /regen leave the earlier messages as another branch. A complete message never changes.

While a reply is written, its row has a ``writer`` (see :mod:`bitnet_chat.util.process_identity`), ``content`` is the
text it started with (empty, or the reply that it continues), and new text is in ``chunks``. Several replies with the
same parent may be written at the same time.
"""

from __future__ import annotations

from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite3 import Connection

APPLICATION = 0x62436A31
"""``PRAGMA application_id`` of a journal: "bCj1"."""

_VERSION_1 = (
    """CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        model TEXT NOT NULL DEFAULT '',
        engine TEXT NOT NULL DEFAULT '',
        options TEXT NOT NULL DEFAULT '{}',
        forked_from INTEGER,
        head INTEGER,
        turns INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX conversations_by_time ON conversations (updated)",
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        parent INTEGER,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        thinking TEXT NOT NULL DEFAULT '',
        finish TEXT,
        created REAL NOT NULL,
        model TEXT NOT NULL DEFAULT '',
        engine TEXT NOT NULL DEFAULT '',
        options TEXT NOT NULL DEFAULT '{}',
        stats TEXT NOT NULL DEFAULT '{}',
        writer TEXT
    )""",
    "CREATE INDEX messages_of_conversation ON messages (conversation)",
    "CREATE INDEX messages_being_written ON messages (writer) WHERE writer IS NOT NULL",
    """CREATE TABLE chunks (
        id INTEGER PRIMARY KEY,
        message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        thinking INTEGER NOT NULL,
        text TEXT NOT NULL
    )""",
    "CREATE INDEX chunks_of_message ON chunks (message)",
    f"PRAGMA application_id = {APPLICATION}",
)

# Search. The first search creates the index, so that builds of SQLite without FTS5 can do everything else.
_VERSION_2 = (
    "ALTER TABLE messages ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX messages_to_index ON messages (id) WHERE indexed = 0 AND writer IS NULL",
)

# Tool calls and results of a message as JSON (see ``encode_tool_calls`` in ``journal/codec.py``); empty for most.
_VERSION_3 = ("ALTER TABLE messages ADD COLUMN tools TEXT NOT NULL DEFAULT ''",)

# Votes between replies to the same message: ``replies`` is a JSON list of their rows, ``chosen`` the preferred one
# (NULL: none was better). Models are columns of the replies.
_VERSION_4 = (
    """CREATE TABLE votes (
        id INTEGER PRIMARY KEY,
        conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        created REAL NOT NULL,
        blind INTEGER NOT NULL,
        replies TEXT NOT NULL,
        chosen INTEGER
    )""",
    "CREATE INDEX votes_of_conversation ON votes (conversation)",
)

MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""Statements for each step: entry N migrates a file from version N to N + 1. Released entries must not change."""

VERSION = len(MIGRATIONS)
"""``PRAGMA user_version`` of a file of this release."""
_MAX_PLAUSIBLE = VERSION + 100
"""A version above this is garbage, not that of a later release."""
_Layout = frozenset[tuple[str, str, str, int]]


def version(connection: Connection) -> int:
    """Read ``PRAGMA user_version``."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: Connection, target: int = VERSION) -> None:
    """Migrate the file to version ``target`` in one transaction. Another program may do the same at the same time."""
    if version(connection) >= target:
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for number in range(version(connection), target):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")


def is_newer(found: int) -> bool:
    """Whether version ``found`` is that of a later release."""
    return VERSION < found <= _MAX_PLAUSIBLE


def fits(connection: Connection) -> bool:
    """Whether the tables are those of the version of the file, without triggers and views, which would execute code of
    others."""
    found = version(connection)
    others = connection.execute("SELECT 1 FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()
    return (
        0 <= found <= VERSION
        and others is None
        and _layout(connection) == _expected(found)
        and (found == 0 or _has_free_ids(connection))
    )


def _has_free_ids(connection: Connection) -> bool:
    """Whether rows can be added. SQLite reports a full disk if the largest row number is in use."""
    taken = (
        "SELECT seq FROM sqlite_sequence UNION ALL SELECT max(id) FROM conversations"
        " UNION ALL SELECT max(id) FROM messages UNION ALL SELECT max(id) FROM chunks"
    )
    return all(row is None or (isinstance(row, int) and row < 1 << 62) for (row,) in connection.execute(taken))


def _layout(connection: Connection) -> _Layout:
    """Table, name, type and primary-key position of each column."""
    columns = connection.execute(
        "SELECT t.name, c.name, c.type, c.pk FROM sqlite_master t, pragma_table_info(t.name) c"
        " WHERE t.type = 'table' AND t.name IN ('conversations', 'messages', 'chunks', 'votes')"
    )
    return frozenset(columns.fetchall())


@cache
def _expected(found: int) -> _Layout:
    """The layout of a new file of version ``found``."""
    import sqlite3

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, found)
        return _layout(connection)
