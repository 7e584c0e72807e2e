"""Reading of a conversation: one branch, from its first message to its head, or the tree of all messages.

Messages form a tree (see :mod:`bitnet_chat.journal.schema`). A branch is read by following the parents of its end.
Rows that are damaged or out of place are reported and skipped, so that the rest of the conversation stays usable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, cast, get_args

from bitnet_chat.conversation import Conversation, Message, Role, ToolCall
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.journal.codec import decode_text, decode_tool_calls, encode_tool_calls
from bitnet_chat.journal.columns import Columns, number
from bitnet_chat.journal.database import rows_as_dicts
from bitnet_chat.journal.records import MessageRecord, ReplyState, StoredConversation
from bitnet_chat.journal.tree import Links, MessageTree, TreeNode
from bitnet_chat.journal.unfinished_replies import joined_chunks
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
    siblings: dict[int, tuple[int, ...]] = field(default_factory=dict)
    writing: bool = False
    """Whether a running program is still writing the last reply."""


def stored(connection: Connection, id: int, end: int | None = None) -> StoredConversation | None:
    """Read conversation ``id`` with its current branch, or with the branch that ends at row ``end``.

    Returns None if the conversation does not exist. Raises UsageError if it does not have the row ``end``.
    """
    connection.execute("BEGIN")  # a consistent snapshot while other programs write
    rows = rows_as_dicts(connection.execute("SELECT * FROM conversations WHERE id = ?", (id,)))
    if not rows:
        return None
    values = Columns(rows[0])
    turns, head = values.count("turns"), values.row("head")
    links = _links(connection, id)
    if end is not None and end not in links.all:
        raise UsageError(f"message {end} does not exist in conversation {id}", remedy="history show --tree lists them")
    is_empty = end is None and rows[0]["head"] is None and not turns  # all messages were undone
    line = _Branch() if is_empty else _read(connection, id, links, head if end is None else end)
    title, model, engine, options = (
        values.text("title"), values.text("model"), values.text("engine"), values.facts("options"),
    )  # fmt: skip
    created, updated, forked_from = values.seconds("created"), values.seconds("updated"), values.row("forked_from")
    records, pending, state = line.records, None, ReplyState.WHOLE
    replies = [record for record in records if record.message.role == "assistant"]
    if end is not None and replies:
        model, engine, options = replies[-1].model, replies[-1].engine, dict(replies[-1].options)
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
        tuple(line.passed_over), number(rows[0]["head"]) if end is None else end, tuple(line.misplaced), damage,
        line.siblings,
    )  # fmt: skip


def tree(connection: Connection, id: int) -> MessageTree | None:
    """Read all messages of conversation ``id``. Returns None if it does not exist."""
    from bitnet_chat.journal.queries import votes

    connection.execute("BEGIN")
    found = connection.execute("SELECT head, turns FROM conversations WHERE id = ?", (id,)).fetchone()
    if found is None:
        return None
    links, nodes, misplaced, damage = _links(connection, id), dict[int, TreeNode](), set[int](), list[str]()
    head = number(found[0])
    if head not in links.all and (found[0] is not None or found[1]):
        damage.append(f"conversation {id}: {_NO_HEAD}")
        head = max(links.all, default=None)
    nearest = dict[int, MessageRecord | None]()  # the last message in place before each message, itself included
    for values in rows_as_dicts(connection.execute("SELECT * FROM messages WHERE conversation = ? ORDER BY id", (id,))):
        record, problems = _parse_row(connection, values)
        row = int(values["id"])
        if row in links.broken:
            problems.insert(0, _NO_PARENT)
        if record is not None and row in links.messages:
            parent = links.messages[row]
            before = None if parent is None else nearest[parent]
            if _is_valid_after(record.message, _tail(before, nodes, nearest)):
                nearest[row] = record
            else:
                nearest[row] = before
                misplaced.add(row)
                problems.append(_misplaced(record))
            nodes[row] = TreeNode(record, parent)
        damage += [f"conversation {id}, message {row}: {each}" for each in problems]
    while head is not None and head not in nodes:  # a reply without text
        head = links.all.get(head)
    found_votes = votes(connection, id)
    damage += [f"conversation {id}, vote {vote.id}: {vote.damage}" for vote in found_votes if vote.damage]
    return MessageTree(id, nodes, head, frozenset(misplaced), tuple(damage), tuple(found_votes))


def _tail(
    last: MessageRecord | None, nodes: Mapping[int, TreeNode], nearest: Mapping[int, MessageRecord | None]
) -> list[MessageRecord]:
    """The end of a branch: tool results and the reply before them, or one other message."""
    tail = list[MessageRecord]()
    while last is not None:
        tail.append(last)
        parent = nodes[last.row].parent
        last = nearest[parent] if last.message.role == "tool" and parent is not None else None
    return tail[::-1]


# The plus excludes the index of the conversation: that of running replies has a few rows. Columns after the content are
# slow to read in all rows of a long conversation.
_WITHOUT_TEXT = """SELECT id FROM messages WHERE writer IS NOT NULL AND +conversation = ? AND content = ''
AND NOT EXISTS (SELECT 1 FROM chunks WHERE message = messages.id AND NOT chunks.thinking)"""


def _links(connection: Connection, id: int) -> Links:
    """Read the parents of all rows of a conversation. A running reply without text is not a message yet."""
    without_text = {row for (row,) in connection.execute(_WITHOUT_TEXT, (id,))}
    rows, messages = dict[int, tuple[object, str]](), set[int]()
    found = connection.execute("SELECT id, parent, role FROM messages WHERE conversation = ? ORDER BY id", (id,))
    for row, parent, name in found:
        role = decode_text(name)
        rows[row] = parent, role
        if row not in without_text and role in _ROLES:
            messages.add(row)
    return Links.of(rows, messages)


def _read(connection: Connection, id: int, links: Links, head: int | None) -> _Branch:
    """Read the branch that ends at row ``head``."""
    line = _Branch()
    if head is None or head not in links.all:
        line.damage.append(f"conversation {id}: {_NO_HEAD}")
        head = max(links.all, default=None)
    rows = links.path(head)
    line.damage += [f"conversation {id}: message {row}: {_NO_PARENT}" for row in reversed(rows) if row in links.broken]
    records: list[MessageRecord] = []
    for row in rows:
        [values] = rows_as_dicts(connection.execute("SELECT * FROM messages WHERE id = ?", (row,)))
        record, damage = _parse_row(connection, values)
        line.writing = values["writer"] is not None and is_alive(decode_text(values["writer"]))
        line.damage += [f"conversation {id}, message {row}: {each}" for each in damage]
        if record is not None:
            records.append(record)
            beside = links.children.get(links.messages.get(row), ())
            if len(beside) > 1:
                line.siblings[row] = beside
    for record in records:
        if not _is_valid_after(record.message, line.records):
            line.damage.append(f"conversation {id}, message {record.row}: {_misplaced(record)}")
            line.misplaced.append(record)
        else:
            line.records.append(record)
    records, line.records = line.records, []
    for record, following in zip_longest(records, records[1:]):
        both = following is not None and record.message.role == following.message.role == "user"
        (line.passed_over if both else line.records).append(record)
    return line


_NO_HEAD = "its last message cannot be found"
_NO_PARENT = "its parent cannot be found"


def _misplaced(record: MessageRecord) -> str:
    return f"the role {record.message.role!r} cannot stand there"


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
