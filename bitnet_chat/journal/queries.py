"""Queries on an open journal, and the deletion of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.journal.codec import contains_all, decode_text, snippet
from bitnet_chat.journal.columns import LATEST, Columns, number
from bitnet_chat.journal.database import rows_as_dicts, transaction
from bitnet_chat.journal.records import JournalEntry, ReplyState, SearchHit
from bitnet_chat.journal.search import drop, find, forget, is_broken
from bitnet_chat.journal.unfinished_replies import settle
from bitnet_chat.journal.votes import MOST_REPLIES, Vote, VotedReply
from bitnet_chat.util.process_identity import is_alive

if TYPE_CHECKING:
    from sqlite3 import Connection


def hits(connection: Connection, words: Sequence[str]) -> list[SearchHit]:
    """Find the conversations that contain all of ``words``, most recently used first."""
    import sqlite3

    with suppress(sqlite3.OperationalError):  # a read-only file
        settle(connection)
    found: dict[int, list[int]] = {}
    for conversation, row in find(connection, words):
        found.setdefault(conversation, []).append(row)
    result, holds = [], contains_all(words)
    for entry in entries(connection):
        rows = found.get(entry.id, [])
        if rows:
            content = connection.execute("SELECT content FROM messages WHERE id = ?", rows[:1]).fetchone()[0]
            result.append(SearchHit(entry, snippet(decode_text(content), words), len(rows)))
        elif holds(entry.title):
            result.append(SearchHit(entry, "", 0))
    return result


def remove(connection: Connection, ids: Sequence[int]) -> bool:
    """Delete conversations, see :meth:`bitnet_chat.journal.JournalStore.remove`."""
    import sqlite3

    known = {id for (id,) in connection.execute("SELECT id FROM conversations")}
    unknown = [id for id in ids if id not in known]
    if unknown:
        raise unknown_ids(unknown)
    try:
        _delete(connection, ids)
    except sqlite3.DatabaseError as error:
        if not is_broken(error):
            raise
        drop(connection)
        _delete(connection, ids)
    # secure_delete has overwritten the pages; truncating the log removes its copies of them.
    connection.execute("PRAGMA busy_timeout = 300")
    return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]


def _delete(connection: Connection, ids: Sequence[int]) -> None:
    with transaction(connection):
        forget(connection, ids)
        connection.executemany("DELETE FROM conversations WHERE id = ?", [(id,) for id in ids])


def unknown_ids(ids: Sequence[int]) -> UsageError:
    """Make the error for unknown conversation ids."""
    names = ", ".join(map(str, ids))
    what = f"conversation {names} does not exist" if len(ids) == 1 else f"conversations {names} do not exist"
    return UsageError(what, remedy="bitnet-chat history list shows the conversations")


_ENTRY = (
    "SELECT c.id, c.title, c.created, c.updated, c.turns, c.model, h.role, h.finish, h.writer,"
    " h.writer IS NOT NULL AND h.content = ''"
    " AND NOT EXISTS (SELECT 1 FROM chunks WHERE message = h.id AND NOT thinking) AS empty"
    " FROM conversations c LEFT JOIN messages h ON h.id = c.head WHERE "
)


def entries(connection: Connection, limit: int | None = None) -> list[JournalEntry]:
    """List at most ``limit`` conversations, most recently used first; those with an invalid time come last."""
    maximum = -1 if limit is None else limit
    has_time = "c.updated BETWEEN 0 AND ?"
    rows = connection.execute(f"{_ENTRY} {has_time} ORDER BY c.updated DESC, c.id DESC LIMIT ?", (LATEST, maximum))
    found = [_entry(each) for each in rows_as_dicts(rows)]
    if limit is None or len(found) < limit:
        rest = maximum - len(found) if limit is not None else -1
        rows = connection.execute(f"{_ENTRY} ({has_time}) IS NOT TRUE ORDER BY c.id DESC LIMIT ?", (LATEST, rest))
        found += [_entry(each) for each in rows_as_dicts(rows)]
    return found


def _entry(row: Mapping[str, object]) -> JournalEntry:
    values = Columns(row)
    text, seconds = values.text, values.seconds
    id = number(row["id"]) or 0
    title, created, updated, turns, model = (
        text("title"), seconds("created"), seconds("updated"), values.count("turns"), text("model"),
    )  # fmt: skip
    role, finish, writer = decode_text(row["role"]), decode_text(row["finish"]), decode_text(row["writer"])
    state = ReplyState.WHOLE
    if row["writer"] is not None and is_alive(writer):
        state = ReplyState.ANSWERING
    elif role in ("user", "tool") or row["empty"]:
        state = ReplyState.UNANSWERED
    elif row["writer"] is not None or finish == FinishReason.CUT_OFF.value:
        state = ReplyState.CUT_OFF
    damage = "; ".join(values.damage)
    return JournalEntry(id, title, created, updated, turns, model, state, damage)


def votes(connection: Connection, conversation: int | None = None) -> list[Vote]:
    """List all votes, or those of one conversation, oldest first."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'votes'").fetchone():
        return []  # a file of an earlier release that cannot be written
    rows = connection.execute(
        "SELECT * FROM votes WHERE ? IS NULL OR conversation = ? ORDER BY id", (conversation, conversation)
    )
    return [_vote(connection, each) for each in rows_as_dicts(rows)]


def _vote(connection: Connection, row: Mapping[str, object]) -> Vote:
    values = Columns(row)
    created, rows, chosen = values.seconds("created"), values.rows("replies", MOST_REPLIES), values.row("chosen")
    replies = list[VotedReply]()
    for each in rows:
        found = connection.execute("SELECT model, engine FROM messages WHERE id = ?", (each,)).fetchone()
        if found is None:
            values.damage.append(f"message {each} does not exist")
        replies.append(VotedReply(each, *map(decode_text, found or ())))
    if row["chosen"] is not None and chosen not in rows:
        values.damage.append("the chosen reply is not one of its replies")
        replies = []  # not counted
    blind = values.count("blind") > 0
    id, conversation = number(row["id"]) or 0, number(row["conversation"]) or 0
    return Vote(id, conversation, created, blind, tuple(replies), chosen, "; ".join(values.damage))
