"""The transactions of the journal. They block on the disk: :mod:`bitnet_chat.journal.writer_thread` calls them.

The store's state in memory changes only after a commit: a method that failed may be called again. Raises sqlite3.Error;
IntegrityError means that the conversation was removed by another program.

Messages of other programs are never hidden: where another program has continued the conversation, its head stays where
it is, and later messages of this program are kept in a copy, as made by /fork.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal.branch import Line, common_to, end_of, holds, is_asked, key
from bitnet_chat.journal.codec import encode_text, encode_tool_calls
from bitnet_chat.journal.columns import number
from bitnet_chat.journal.database import transaction
from bitnet_chat.journal.records import ReplyState, StoredConversation, title_of
from bitnet_chat.journal.recovery import Piece, joined
from bitnet_chat.util.process_identity import this_process

if TYPE_CHECKING:
    from sqlite3 import Connection

    from bitnet_chat.conversation import Message


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MessageRows:
    """Row numbers of a conversation. ``line``: of the messages up to the last one, in order. ``reply``: of the running
    reply to it, which is not in the line; None without one. ``before``: of the message before the last one, which may
    be a user message without a reply, outside of the line; None where the last one is the first."""

    line: tuple[int, ...] = ()
    reply: int | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class ReplyOrigin:
    """Model, engine and options of a reply."""

    model: str = ""
    engine: str = ""
    options: str = "{}"
    """JSON."""


@dataclass(slots=True)
class _OpenReply:
    """The running reply."""

    row: int
    origin: ReplyOrigin
    start: Message
    """The text that it continues; empty for a new reply."""
    before: Line
    """The line before it, with the reply that it continues."""
    said: list[Piece] = field(default_factory=list)


class ConversationStore:
    """Writes the changes of one conversation at a time."""

    def __init__(self, connection: Connection, now: Callable[[], float] = time.time) -> None:
        """``now``: seconds since the epoch."""
        self._connection = connection
        self._now = now
        self._writer = ""
        self._named = ""
        self._line: Line = ()
        self._reply: _OpenReply | None = None
        self._lost = False
        self._behind: int | None = None  # a message behind the end of the line that got no reply
        self._place: tuple[int | None] | None = None  # what the next message is to follow, where that was told
        self._seen: set[int] = set()  # rows that were read or written here: a head among them may be left
        self.id: int | None = None
        self.notes: list[str] = []
        """Lines for the user. The caller shows them and clears the list."""

    @property
    def rows(self) -> MessageRows:
        """The rows of the conversation in the file, as far as known."""
        before = self._parent(self._line[-1][1]) if self._line else None
        return MessageRows(
            tuple(row for _, row in self._line), None if self._reply is None else self._reply.row, before
        )

    def create(self, conversation: Conversation, title: str, model: str) -> None:
        """Create the conversation now, before its first message. ``model``: the model of its replies."""
        self.anew()
        self._named = title
        with transaction(self._connection):
            id, line, _ = self._synced(None, (), conversation.messages)
            self._connection.execute("UPDATE conversations SET model = ? WHERE id = ?", (encode_text(model), id))
        self._is_at(id, line)

    def sync(self, conversation: Conversation) -> None:
        """The present line becomes ``conversation``. What it has in common with the one before stays where it is, what
        it leaves behind becomes another branch. A conversation is made when there is a message of the user."""
        if self._lost or (self.id is None and all(message.role != "user" for message in conversation.messages)):
            return
        if tuple(map(key, conversation.messages)) == tuple(key(message) for message, _ in self._line):
            return
        id, line, head = self._undisturbed(lambda: self._synced(self.id, self._line, conversation.messages))
        self._is_at(id, line, head)

    def begin_reply(self, conversation: Conversation, origin: ReplyOrigin) -> None:
        """A reply to ``conversation`` begins, or goes on with the one at its end. Where it is asked for again before
        its first word it keeps its row."""
        if self._begins_again(conversation, origin):
            return
        self._leave_reply()
        if self._lost:
            return
        goes_on = conversation.last is not None and conversation.last.role == "assistant"
        self._who_writes()  # takes some milliseconds, in which no lock should be held

        def begin() -> tuple[int, Line, _OpenReply]:
            id, line, _ = self._synced(self.id, self._line, conversation.messages)
            base = line[:-1] if goes_on else line
            start = line[-1][0] if goes_on else Message("assistant", "")
            row = self._insert(id, end_of(base), start, origin, writer=self._writer)
            self._point(id, row, base, origin)
            return id, base, _OpenReply(row, origin, start, line)

        id, base, self._reply = self._undisturbed(begin)
        self._is_at(id, base)
        self._seen |= {row for _, row in self._reply.before} | {self._reply.row}

    def add(self, pieces: Sequence[Piece]) -> None:
        """Add the next pieces of the reply."""
        if self._reply is None or not pieces:
            return
        import sqlite3

        try:
            with transaction(self._connection):
                self._add(self._reply.row, pieces)
        except sqlite3.IntegrityError:
            # Without its row: another program took this one for ended. The end of the reply then makes a new row.
            if not self._connection.execute("SELECT 1 FROM conversations WHERE id = ?", (self.id,)).fetchone():
                raise
        self._reply.said += pieces

    def end_reply(
        self,
        reason: FinishReason,
        stats: Mapping[str, object],
        text: str | None = None,
        thinking: str | None = None,
        calls: tuple[ToolCall, ...] = (),
        options: str | None = None,
    ) -> None:
        """End the reply. ``text``: all new text of it, as is ``thinking``; None: the text that was added.
        ``calls``: its tool calls. ``options``: those of the reply, where more of them is known now.

        An empty reply is not kept in the line, unless the model ended it by itself.
        """
        reply = self._reply
        if reply is None or self.id is None:
            return
        reply.origin = replace(reply.origin, options=options or reply.origin.options)
        text = joined(reply.said, False) if text is None else text
        thinking = joined(reply.said, True) if thinking is None else thinking
        start, line = reply.start, reply.before
        message = Message("assistant", start.content + text, reason, start.thinking + thinking, calls)
        away: tuple[int, Line, int | None] | None = None
        with transaction(self._connection):
            if text or thinking or not reason.exit_code:
                row = self._close(self.id, reply, message, json.dumps(dict(stats)))
                if text or not reason.exit_code:
                    line = (*self._line, (message, row))
            else:
                self._connection.execute("DELETE FROM messages WHERE id = ?", (reply.row,))
            head = self._unseen_head()
            if head is None:
                self._point(self.id, end_of(line), line, reply.origin)
            elif end_of(line) not in rows_to(self._connection, head):  # else: the other one goes on behind this reply
                away = self._copied(self.id, line, None)
        self._line, self._reply = line, None
        self._seen |= {row for _, row in line}
        if away is not None:
            self._is_away(*away)

    def rename(self, title: str) -> None:
        """Change the title; it is remembered for a conversation that does not exist yet."""
        if self.id is not None:
            with transaction(self._connection):
                self._connection.execute(
                    "UPDATE conversations SET title = ? WHERE id = ?", (encode_text(title), self.id)
                )
        self._named = title

    def fork(self, title: str = "") -> None:
        """Continue in another conversation, which begins as a copy of the present line."""
        if self.id is None:
            return
        self._leave_reply()
        with transaction(self._connection):
            id, line, _ = self._copied(self.id, self._line, None, title or None)
        self._is_at(id, line)
        self._named = title or self._named

    def anew(self) -> None:
        """Begin another conversation with the next message."""
        self._leave_reply()
        self.id, self._line, self._reply, self._named, self._lost = None, (), None, "", False
        self._behind, self._place, self._seen = None, None, set()

    def resume(self, stored: StoredConversation) -> None:
        """Continue a conversation in the state in which it was read."""
        self.anew()
        self.id, self._named = stored.id, stored.title if stored.is_named else ""
        self._line = tuple((record.message, record.row) for record in stored.records)
        self._seen = {record.row for record in (*stored.records, *stored.shown)}
        # A message that another program is just answering is none of ours, and what it gets has not been read.
        answered = stored.pending is not None and stored.pending not in stored.records
        if stored.head is not None and not (answered and stored.state is ReplyState.ANSWERING):
            self._seen.add(stored.head)

    def follow(self, row: int | None) -> None:
        """Set the row that the next message follows, where only that message is new."""
        self._place = (row,)

    def lose(self) -> None:
        """Note that the conversation was removed: no message is kept until the next one begins."""
        self.id, self._reply, self._line, self._lost = None, None, (), True
        self._behind, self._place, self._seen = None, None, set()

    def go_on(self, connection: Connection, *, same_file: bool) -> None:
        """With this connection. ``same_file``: to the file of the one before, which another program may have written
        over: what is not in it as it is known here is written into it anew."""
        if self.id is None or (same_file and holds(connection, self.id, self._line)):
            self._connection = connection
        else:
            self.move(connection)

    def move(self, connection: Connection) -> None:
        """To another file: all that is known of the conversation is written there, an open reply included."""
        reply, row = self._reply, 0
        id: int | None = None
        line: Line = ()
        before = line
        old, self._connection = self._connection, connection
        try:
            if self.id is not None:
                with transaction(connection):
                    whole = reply.before if reply is not None else self._line
                    id, line, _ = self._synced(None, (), [message for message, _ in whole])
                    if reply is not None:
                        before, line = line, line[: len(self._line)]
                        row = self._insert(id, end_of(line), reply.start, reply.origin, writer=self._writer)
                        self._point(id, row, line, reply.origin)
                        self._add(row, reply.said)
        except BaseException:
            self._connection = old
            raise
        self._seen = {row for _, row in before}
        if id is not None:
            self._is_at(id, line)
        if reply is not None:
            reply.row, reply.before = row, before
            self._seen.add(row)

    def _is_at(self, id: int, line: Line, head: int | None = None) -> None:
        """What is written now. ``head``: a message behind the end of the line, or that end."""
        self._seen = (self._seen if id == self.id else set()) | {row for _, row in line}
        if head is not None:
            self._seen.add(head)
        self.id, self._line, self._behind, self._place = id, line, head, None

    def _undisturbed(self, write: Callable[[], T]) -> T:
        """What ``write`` gives, which moves the head: in a copy, where another program has moved it."""
        with transaction(self._connection):
            if self._unseen_head() is None:
                return write()
        assert self.id is not None
        with transaction(self._connection):
            away = self._copied(self.id, self._line, self._behind)
        self._is_away(*away)
        with transaction(self._connection):
            return write()

    def _unseen_head(self) -> int | None:
        """The head, where it is a message of which nothing is known here."""
        found = self._connection.execute("SELECT head FROM conversations WHERE id = ?", (self.id,)).fetchone()
        head = None if found is None else number(found[0])
        return None if head in self._seen else head

    def _copied(
        self, id: int, line: Line, behind: int | None, title: str | None = None
    ) -> tuple[int, Line, int | None]:
        """A copy of the conversation up to the end of the line or what is behind that."""
        known = {row: message for message, row in line}
        if title is None and not self._named and not is_asked(line):
            title = ""  # that of its first message, which is yet to come
        id, rows = copy(self._connection, id, behind or end_of(line), known, title, self._now())
        line, behind = tuple((message, rows[row]) for message, row in line), rows.get(behind or 0)
        self._point(id, behind or end_of(line), line)
        return id, line, behind

    def _is_away(self, id: int, line: Line, behind: int | None) -> None:
        """From now on in this copy, since another program has gone on with the conversation."""
        self.notes.append(
            f"another program has gone on with conversation {self.id}: from here on this one is kept as {id}"
            f" (bitnet-chat history show {self.id} shows the other)"
        )
        self._is_at(id, line, behind)

    def _synced(self, id: int | None, line: Line, messages: Sequence[Message]) -> tuple[int, Line, int | None]:
        """The number of the conversation, its line, and its head: the end of the line, or behind that a message that
        got no reply."""
        if id is None:
            id = self._make(messages)
        elif not self._named:  # a title that was not given follows the message that it was made of
            before = title_of(Conversation(tuple(message for message, _ in line)))
            titles = encode_text(title_of(Conversation(tuple(messages)))), id, encode_text(before)
            if titles[0] != titles[2]:
                self._connection.execute("UPDATE conversations SET title = ? WHERE id = ? AND title = ?", titles)
        common = common_to(line, messages)
        if self._place is not None and common == len(messages) - 1:
            (head,) = self._place
        elif common < len(line):  # what takes the place of a message stands where that stood
            head = self._parent(line[common][1])
        else:
            head = self._behind or end_of(line)
        line = line[:common]
        for message in messages[common:]:
            head = self._insert(id, head, message, ReplyOrigin())
            line = (*line, (message, head))
        self._point(id, head, line)
        return id, line, head

    def _make(self, messages: Sequence[Message]) -> int:
        now = self._now()
        title = self._named or title_of(Conversation(tuple(messages)))
        cursor = self._connection.execute(
            "INSERT INTO conversations (title, created, updated) VALUES (?, ?, ?)", (encode_text(title), now, now)
        )
        return int(cursor.lastrowid or 0)

    def _insert(
        self,
        id: int,
        parent: int | None,
        message: Message,
        origin: ReplyOrigin,
        writer: str | None = None,
        stats: str = "{}",
    ) -> int:
        values = {
            "conversation": id,
            "parent": parent,
            "role": message.role,
            "content": encode_text(message.content),
            "thinking": encode_text(message.thinking),
            "tools": encode_tool_calls(message),
            "finish": message.finish.value if message.finish is not None and writer is None else None,
            "created": self._now(),
            "model": encode_text(origin.model),
            "engine": encode_text(origin.engine),
            "options": origin.options,
            "stats": stats,
            "writer": writer,
        }
        marks = ", ".join(f":{name}" for name in values)
        cursor = self._connection.execute(f"INSERT INTO messages ({', '.join(values)}) VALUES ({marks})", values)
        return int(cursor.lastrowid or 0)

    def _close(self, id: int, reply: _OpenReply, message: Message, stats: str) -> int:
        """The row of the whole reply."""
        assert message.finish is not None
        cursor = self._connection.execute(
            "UPDATE messages SET content = ?, thinking = ?, tools = ?, finish = ?, stats = ?, options = ?,"
            " writer = NULL WHERE id = ? AND writer IS NOT NULL",
            (
                encode_text(message.content),
                encode_text(message.thinking),
                encode_tool_calls(message),
                message.finish.value,
                stats,
                reply.origin.options,
                reply.row,
            ),
        )
        self._connection.execute("DELETE FROM chunks WHERE message = ?", (reply.row,))
        if cursor.rowcount:
            return reply.row
        # Another program took this one for ended and marked the row as cut off: it stays as another branch.
        return self._insert(id, end_of(self._line), message, reply.origin, stats=stats)

    def _add(self, row: int, pieces: Sequence[Piece]) -> None:
        for thinking, run in groupby(pieces, key=lambda piece: piece[0]):
            text = encode_text("".join(text for _, text in run))
            self._connection.execute(
                "INSERT INTO chunks (message, thinking, text) VALUES (?, ?, ?)", (row, int(thinking), text)
            )

    def _parent(self, row: int) -> int | None:
        found = self._connection.execute("SELECT parent FROM messages WHERE id = ?", (row,)).fetchone()
        return None if found is None else number(found[0])

    def _point(self, id: int, head: int | None, line: Line, origin: ReplyOrigin | None = None) -> None:
        turns = sum(message.role == "user" for message, _ in line)
        self._connection.execute(
            "UPDATE conversations SET head = ?, turns = ?, updated = ? WHERE id = ?", (head, turns, self._now(), id)
        )
        if origin is not None:
            self._connection.execute(
                "UPDATE conversations SET model = ?, engine = ?, options = ? WHERE id = ?",
                (encode_text(origin.model), encode_text(origin.engine), origin.options, id),
            )

    def _begins_again(self, conversation: Conversation, origin: ReplyOrigin) -> bool:
        reply = self._reply
        if reply is None or reply.said or self.id is None:
            return False
        if tuple(map(key, conversation.messages)) != tuple(key(message) for message, _ in reply.before):
            return False
        # The requested name is more useful than the backend's own.
        origin = replace(origin, model=reply.origin.model or origin.model)
        with transaction(self._connection):
            if self._unseen_head() is not None:
                return False
            cursor = self._connection.execute(
                "UPDATE messages SET model = ?, engine = ?, options = ? WHERE id = ? AND writer IS NOT NULL",
                (encode_text(origin.model), encode_text(origin.engine), origin.options, reply.row),
            )
            if not cursor.rowcount:
                return False
            self._point(self.id, reply.row, self._line, origin)
        reply.origin = origin
        return True

    def _leave_reply(self) -> None:
        """End a reply that the front end did not end."""
        if self._reply is not None:
            self.end_reply(FinishReason.INTERRUPTED, {})

    def _who_writes(self) -> None:
        self._writer = self._writer or this_process()


# A copy of a conversation, in which one goes on: what /fork makes, and what a writer makes that was overtaken.

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
        (None if title is None else encode_text(title), now, now, id),
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
        text, values = (
            "?, ?, ?",
            [encode_text(read.content), encode_text(read.thinking), read.finish and read.finish.value],
        )
    cursor = connection.execute(
        f"INSERT INTO messages (conversation, parent, {_SAME}, content, thinking, finish)"
        f" SELECT ?, ?, {_SAME}, {text} FROM messages WHERE id = ?",
        (id, parent, *values, row),
    )
    return int(cursor.lastrowid or 0)
