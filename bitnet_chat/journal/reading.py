"""What a journal tells out of an open file, and how conversations leave it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from bitnet_chat.conversation import Message
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.journal.entry import Entry, Hit, Record, State, Stored
from bitnet_chat.journal.file import transaction
from bitnet_chat.journal.recovery import joined_chunks, settle
from bitnet_chat.journal.search import drop, find, forget, is_broken
from bitnet_chat.journal.text import given, holder, snippet
from bitnet_chat.journal.toolwork import unpacked
from bitnet_chat.journal.writers import is_alive

if TYPE_CHECKING:
    from sqlite3 import Connection


def hits(connection: Connection, words: Sequence[str]) -> list[Hit]:
    """The conversations that hold all of ``words``, the one that was used last first."""
    import sqlite3

    with suppress(sqlite3.OperationalError):  # a file that can be read only
        settle(connection)
    found: dict[int, list[int]] = {}
    for conversation, row in find(connection, words):
        found.setdefault(conversation, []).append(row)
    result, holds = [], holder(words)
    for entry in entries(connection):
        rows = found.get(entry.id, [])
        if rows:
            content = connection.execute("SELECT content FROM messages WHERE id = ?", rows[:1]).fetchone()[0]
            result.append(Hit(entry, snippet(given(content), words), len(rows)))
        elif holds(entry.title):
            result.append(Hit(entry, "", 0))
    return result


def remove(connection: Connection, ids: Sequence[int]) -> bool:
    """See :meth:`bitnet_chat.journal.Journal.remove`."""
    import sqlite3

    known = {id for (id,) in connection.execute("SELECT id FROM conversations")}
    unknown = [id for id in ids if id not in known]
    if unknown:
        raise missing(unknown)
    try:
        _delete(connection, ids)
    except sqlite3.DatabaseError as error:
        if not is_broken(error):
            raise
        drop(connection)
        _delete(connection, ids)
    # Pages were overwritten (secure_delete); what the log still has of them goes with it.
    connection.execute("PRAGMA busy_timeout = 300")
    return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]


def _delete(connection: Connection, ids: Sequence[int]) -> None:
    with transaction(connection):
        forget(connection, ids)
        connection.executemany("DELETE FROM conversations WHERE id = ?", [(id,) for id in ids])


def missing(ids: Sequence[int]) -> UsageError:
    names = ", ".join(map(str, ids))
    what = f"there is no conversation {names}" if len(ids) == 1 else f"there are no conversations {names}"
    return UsageError(what, remedy="bitnet-chat history list shows those that there are")


def entries(connection: Connection, limit: int | None = None) -> list[Entry]:
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
    if role in ("user", "tool") or empty:
        return State.UNANSWERED
    return State.CUT_OFF if writer is not None or finish == FinishReason.CUT_OFF.value else State.WHOLE


_LINE = """WITH RECURSIVE line (id, depth) AS (
    SELECT head, 0 FROM conversations WHERE id = ? AND head IS NOT NULL
    UNION ALL
    SELECT m.parent, depth + 1 FROM messages m JOIN line ON m.id = line.id WHERE m.parent < m.id
)
SELECT m.id, m.role, m.content, m.thinking, m.finish, m.created, m.model, m.engine, m.options, m.stats, m.writer,
    m.tools
FROM line JOIN messages m ON m.id = line.id ORDER BY line.depth DESC"""


def stored(connection: Connection, id: int) -> Stored | None:
    connection.execute("BEGIN")  # one moment of the file, though another program writes
    found = connection.execute(
        "SELECT title, created, updated, model, engine, options, forked_from, head FROM conversations WHERE id = ?",
        (id,),
    ).fetchone()
    rows = connection.execute(_LINE, (id,)).fetchall() if found else []
    if not found:
        return None
    records: list[Record] = []
    writing = False
    for row, role, content, thinking, finish, made, model, engine, options, stats, writer, tools in rows:
        text, thoughts, reason = given(content), given(thinking), _reason(finish)
        writing = writer is not None and is_alive(writer)
        if writer is not None:
            text, thoughts = joined_chunks(connection, row, text, thoughts)
            reason = FinishReason.CUT_OFF
            if not text:
                continue
        message = Message(role, text, reason, thoughts, *unpacked(tools))
        records.append(Record(row, message, made, given(model), given(engine), _object(options), _object(stats)))
    records, passed_over = _passed_over(records)
    unanswered, pending = "", None
    state = State.WHOLE
    if records and records[-1].message.role == "user":
        pending = records.pop()
        unanswered, state = pending.message.content, State.UNANSWERED
    elif records and records[-1].message.role == "tool":
        state = State.UNANSWERED
    elif records and records[-1].message.finish is FinishReason.CUT_OFF:
        state = State.CUT_OFF
    if writing:
        state = State.ANSWERING
    title, created, updated, model, engine, options, forked_from, head = found
    return Stored(
        id, given(title), created, updated, given(model), given(engine), _object(options), forked_from, state,
        tuple(records), unanswered, pending, tuple(passed_over), head,
    )  # fmt: skip


def _passed_over(line: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The line in which user and model take turns, and the messages of the user that another one followed."""
    records: list[Record] = []
    passed: list[Record] = []
    for record, following in zip_longest(line, line[1:]):
        both = following is not None and record.message.role == following.message.role == "user"
        (passed if both else records).append(record)
    return records, passed


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
