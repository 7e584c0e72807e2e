"""A line of messages as a writer knows it: what it has in common with another, and with a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitnet_chat.conversation import Message
from bitnet_chat.journal.columns import number
from bitnet_chat.journal.text import given
from bitnet_chat.journal.toolwork import packed

if TYPE_CHECKING:
    from sqlite3 import Connection

Line = tuple[tuple[Message, int], ...]
"""Messages and the numbers of their rows."""


def key(message: Message) -> tuple[str, str, str]:
    """What makes a message the same one: how a reply ended, and what was thought, a front end may tell otherwise."""
    return message.role, message.content, packed(message)


def common_to(line: Line, messages: Sequence[Message]) -> int:
    """So many messages at the beginning are the same."""
    count = 0
    for (mine, _), message in zip(line, messages, strict=False):
        if key(mine) != key(message):
            break
        count += 1
    return count


def is_asked(line: Line) -> bool:
    return any(message.role == "user" for message, _ in line)


def end_of(line: Line) -> int | None:
    return line[-1][1] if line else None


def holds(connection: Connection, id: int, line: Line) -> bool:
    """Whether the file has this line of conversation ``id``, or had it until another program removed it."""
    if not connection.execute("SELECT 1 FROM conversations WHERE id = ?", (id,)).fetchone():
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'conversations'").fetchone()
        return last is not None and (number(last[0]) or 0) >= id
    for message, row in line:
        found = connection.execute("SELECT conversation, role, content FROM messages WHERE id = ?", (row,)).fetchone()
        if found is None or (found[0], given(found[1]), given(found[2])) != (id, message.role, message.content):
            return False
    return True
