"""A copy of a conversation, in which one goes on: what /fork makes, and what a writer makes that was overtaken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bitnet_chat.journal.text import kept

if TYPE_CHECKING:
    from sqlite3 import Connection

    from bitnet_chat.conversation import Message

_CHAIN = """WITH RECURSIVE line (id) AS (
    SELECT id FROM messages WHERE id = ?
    UNION ALL
    SELECT m.parent FROM messages m JOIN line ON m.id = line.id WHERE m.parent < m.id
)
SELECT m.id, m.writer IS NOT NULL FROM line JOIN messages m ON m.id = line.id ORDER BY m.id"""

_SAME = "role, tools, created, model, engine, options, stats"


def rows_to(connection: Connection, end: int | None) -> list[int]:
    """The rows from the first message to this one."""
    return [row for row, _ in connection.execute(_CHAIN, (end,))]


def copy(
    connection: Connection, id: int, end: int | None, line: Mapping[int, Message], title: str | None, now: float
) -> tuple[int, dict[int, int]]:
    """The number of the copy, and its rows by those that they were made from: all up to ``end``, the messages that got
    no reply with them. ``line``: the messages as they are known, for replies that another program is still writing.
    None for ``title``: that of the original.

    The copy has no head yet. Raises sqlite3.IntegrityError where the conversation is gone.
    """
    cursor = connection.execute(
        "INSERT INTO conversations (title, created, updated, model, engine, options, forked_from)"
        " SELECT coalesce(?, title), ?, ?, model, engine, options, id FROM conversations WHERE id = ?",
        (None if title is None else kept(title), now, now, id),
    )
    if not cursor.rowcount:
        import sqlite3

        raise sqlite3.IntegrityError("the conversation is gone")
    number = int(cursor.lastrowid or 0)
    copies: dict[int, int] = {}
    parent: int | None = None
    for row, writing in connection.execute(_CHAIN, (end,)).fetchall():
        if writing and row not in line:  # a reply in which nothing had been said when this line was read
            continue
        parent = copies[row] = _copied(connection, row, number, parent, line[row] if writing else None)
    return number, copies


def _copied(connection: Connection, row: int, id: int, parent: int | None, read: Message | None) -> int:
    """``read``: the message as far as it had come; None: as it is in the file."""
    text, values = "content, thinking, finish", []
    if read is not None:
        text, values = "?, ?, ?", [kept(read.content), kept(read.thinking), read.finish and read.finish.value]
    cursor = connection.execute(
        f"INSERT INTO messages (conversation, parent, {_SAME}, content, thinking, finish)"
        f" SELECT ?, ?, {_SAME}, {text} FROM messages WHERE id = ?",
        (id, parent, *values, row),
    )
    return int(cursor.lastrowid or 0)
