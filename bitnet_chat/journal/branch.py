"""Reading of the current branch of a conversation, from its first message to its head.

Messages form a tree (see :mod:`bitnet_chat.journal.schema`). A branch is read by following the parents of the head.
Rows that are damaged or out of place are reported and skipped, so that the rest of the conversation stays usable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, cast, get_args

from bitnet_chat.conversation import Conversation, Message, Role, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal.codec import decode_text, decode_tool_calls, encode_tool_calls
from bitnet_chat.journal.columns import Columns, number
from bitnet_chat.journal.database import rows_as_dicts
from bitnet_chat.journal.records import MessageRecord, ReplyState, StoredConversation
from bitnet_chat.journal.recovery import joined_chunks
from bitnet_chat.util.process_identity import is_alive

if TYPE_CHECKING:
    from sqlite3 import Connection


_ROLES: tuple[str, ...] = get_args(Role)


@dataclass(slots=True)
class _Branch:
    """The branch, as far as it has been read."""

    records: list[MessageRecord] = field(default_factory=list)
    passed_over: list[MessageRecord] = field(default_factory=list)
    misplaced: list[MessageRecord] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    writing: bool = False
    """Whether a running program is still writing the last reply."""


def stored(connection: Connection, id: int) -> StoredConversation | None:
    """Read conversation ``id`` with its current branch. Returns None if it does not exist."""
    connection.execute("BEGIN")  # a consistent snapshot while other programs write
    rows = rows_as_dicts(connection.execute("SELECT * FROM conversations WHERE id = ?", (id,)))
    if not rows:
        return None
    values = Columns(rows[0])
    turns = values.count("turns")
    line = _read(connection, id, values.row("head"), is_empty=rows[0]["head"] is None and not turns)
    title, model, engine, options = (
        values.text("title"), values.text("model"), values.text("engine"), values.facts("options"),
    )  # fmt: skip
    created, updated, forked_from = values.seconds("created"), values.seconds("updated"), values.row("forked_from")
    records, pending, state = line.records, None, ReplyState.WHOLE
    if records and records[-1].message.role == "user":
        pending = records.pop()
        state = ReplyState.UNANSWERED
    elif records and records[-1].message.role == "tool":
        state = ReplyState.UNANSWERED
    elif records and records[-1].message.finish is FinishReason.CUT_OFF:
        state = ReplyState.CUT_OFF
    if line.writing:
        state = ReplyState.ANSWERING
    damage = (*(f"conversation {id}: {each}" for each in values.damage), *line.damage)
    return StoredConversation(
        id, title, created, updated, model, engine, options, forked_from, state,
        tuple(records), "" if pending is None else pending.message.content, pending,
        tuple(line.passed_over), number(rows[0]["head"]), tuple(line.misplaced), damage,
    )  # fmt: skip


def _read(connection: Connection, id: int, head: int | None, *, is_empty: bool) -> _Branch:
    """Read the branch that ends at row ``head``. ``is_empty``: all messages were undone."""
    line = _Branch()
    if is_empty:  # all messages were undone
        return line
    found = connection.execute("SELECT id, parent, role FROM messages WHERE conversation = ? ORDER BY id", (id,))
    rows, damage = _walk_to_root({row: (parent, decode_text(role)) for row, parent, role in found}, head)
    line.damage += [f"conversation {id}: {each}" for each in damage]
    records: list[MessageRecord] = []
    for row in rows:
        [values] = rows_as_dicts(connection.execute("SELECT * FROM messages WHERE id = ?", (row,)))
        record, damage = _parse_row(connection, values)
        line.writing = values["writer"] is not None and is_alive(decode_text(values["writer"]))
        line.damage += [f"conversation {id}, message {row}: {each}" for each in damage]
        if record is not None:
            records.append(record)
    for record in records:
        if not _is_valid_after(record.message, line.records):
            why = f"the role {record.message.role!r} cannot stand there"
            line.damage.append(f"conversation {id}, message {record.row}: {why}")
            line.misplaced.append(record)
        else:
            line.records.append(record)
    records, line.records = line.records, []
    for record, following in zip_longest(records, records[1:]):
        both = following is not None and record.message.role == following.message.role == "user"
        (line.passed_over if both else line.records).append(record)
    return line


def _walk_to_root(parents: Mapping[int, tuple[object, str]], head: int | None) -> tuple[list[int], list[str]]:
    """Return the rows from the first message to ``head``, and a line for each broken link.

    ``parents`` gives parent and role of each row. At a broken link the walk continues with the preceding row.
    """
    known = sorted(parents)
    rows: list[int] = []
    damage: list[str] = []
    at = head
    if at is None or at not in parents:
        damage.append("its last message cannot be found")
        at = known[-1] if known else None
    while at is not None:
        rows.append(at)
        parent, role = parents[at]
        before = number(parent)
        if parent is None and role not in ("assistant", "tool"):
            break
        if before is None or before >= at or before not in parents:
            damage.append(f"message {at}: its parent cannot be found")
            before = max((row for row in known if row < at), default=None)
        at = before
    return rows[::-1], damage


def _parse_row(connection: Connection, row: Mapping[str, object]) -> tuple[MessageRecord | None, list[str]]:
    """Return the message of a row and the damage found in it.

    The message is None for a running reply without text, and for a row without a valid role.
    """
    values = Columns(row)
    role, text, thoughts = values.text("role"), values.text("content"), values.text("thinking")
    reason, writer = _parse_finish(values.optional("finish")), values.optional("writer")
    id = number(row["id"]) or 0
    if writer is not None:
        text, thoughts = joined_chunks(connection, id, text, thoughts)
        reason = FinishReason.CUT_OFF
        if not text:
            return None, values.damage
    if role not in _ROLES:
        values.damage.append(f"its role is {role[:20]!r}" if role else "it has no role")
        return None, values.damage
    work, is_readable = decode_tool_calls(values.text("tools"))
    if not is_readable:
        values.damage.append("its tool calls cannot be read")
    record = MessageRecord(
        id, Message(cast(Role, role), text, reason, thoughts, *work), values.seconds("created"),
        values.text("model"), values.text("engine"), values.facts("options"), values.facts("stats"),
    )  # fmt: skip
    return record, values.damage


def _is_valid_after(message: Message, records: Sequence[MessageRecord]) -> bool:
    """Whether ``message`` may follow ``records`` in a prompt."""
    match message.role:
        case "system":
            return not records
        case "assistant":
            return not records or records[-1].message.role != "assistant"
        case "tool":
            return any(call.id == message.call_id for call in _open_calls(records))
        case _:
            return True


def _open_calls(records: Sequence[MessageRecord]) -> tuple[ToolCall, ...]:
    """The tool calls of the last reply that have no result yet. Only the last reply and its tool results are
    examined."""
    start = len(records)
    while start and records[start - 1].message.role == "tool":
        start -= 1
    return Conversation(tuple(record.message for record in records[max(0, start - 1) :])).open_calls


def _parse_finish(name: str | None) -> FinishReason | None:
    try:
        return None if name is None else FinishReason(name)
    except ValueError:  # written by a later release
        return FinishReason.INTERRUPTED


# Comparison of the branch that a writer holds with a new conversation, and with the file.

Line = tuple[tuple[Message, int], ...]
"""The messages of a branch, each with its row number."""


def key(message: Message) -> tuple[str, str, str]:
    """The identity of a message for comparisons. It excludes finish reason and thinking, which differ between front
    ends."""
    return message.role, message.content, encode_tool_calls(message)


def common_prefix(line: Line, messages: Sequence[Message]) -> int:
    """Count the leading messages of ``line`` that equal those of ``messages``."""
    count = 0
    for (mine, _), message in zip(line, messages, strict=False):
        if key(mine) != key(message):
            break
        count += 1
    return count


def has_user_message(line: Line) -> bool:
    """Whether the branch contains a user message."""
    return any(message.role == "user" for message, _ in line)


def last_row(line: Line) -> int | None:
    """The row of the last message; None for an empty branch."""
    return line[-1][1] if line else None


def is_in_file(connection: Connection, id: int, line: Line) -> bool:
    """Whether the file contains this branch of conversation ``id``.

    Also True if another program has removed the conversation: a higher id was assigned in this file, so it is not a
    file that never had it.
    """
    if not connection.execute("SELECT 1 FROM conversations WHERE id = ?", (id,)).fetchone():
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'conversations'").fetchone()
        return last is not None and (number(last[0]) or 0) >= id
    for message, row in line:
        found = connection.execute("SELECT conversation, role, content FROM messages WHERE id = ?", (row,)).fetchone()
        if found is None or (found[0], decode_text(found[1]), decode_text(found[2])) != (
            id,
            message.role,
            message.content,
        ):
            return False
    return True
