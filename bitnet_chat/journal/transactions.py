"""The transactions of the journal. They block on the disk, so only :mod:`bitnet_chat.journal.writer_thread` calls them.

The state in memory changes only after a commit, so a failed method can be called again. Methods raise sqlite3.Error;
sqlite3.IntegrityError means that another program has removed the conversation.

Messages of other programs are never hidden: if another program has continued the conversation, its head is left alone,
and later messages of this program go to a copy, as made by /fork.
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
from bitnet_chat.journal.branch import Line, common_prefix, has_user_message, is_in_file, key, last_row
from bitnet_chat.journal.codec import encode_text, encode_tool_calls
from bitnet_chat.journal.columns import number
from bitnet_chat.journal.database import transaction
from bitnet_chat.journal.records import ReplyState, StoredConversation, title_of
from bitnet_chat.journal.unfinished_replies import Piece, join_pieces
from bitnet_chat.util.process_identity import this_process

if TYPE_CHECKING:
    from sqlite3 import Connection

    from bitnet_chat.conversation import Message


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MessageRows:
    """Row numbers of a conversation."""

    line: tuple[int, ...] = ()
    """Rows of the messages up to the last one, in order."""
    reply: int | None = None
    """Row of the running reply, which is not in ``line``; the first one of several; None without one."""
    before: int | None = None
    """Parent of the last message of ``line``, which may be a user message without a reply that is not in ``line``; None
    if the last message is the first."""
    replies: tuple[int | None, ...] = ()
    """Rows of the replies that were begun together last, running or ended; None: an empty reply, which is not kept."""


@dataclass(frozen=True, slots=True)
class ReplyOrigin:
    """Model, engine and options of a reply."""

    model: str = ""
    engine: str = ""
    options: str = "{}"
    """A JSON object."""


@dataclass(slots=True)
class _OpenReply:
    """A reply that is being written, or has ended before others that were begun with it."""

    row: int
    origin: ReplyOrigin
    start: Message
    """The reply that it continues; a message without text for a new reply."""
    before: Line
    """The branch before it, including the reply that it continues."""
    pieces: list[Piece] = field(default_factory=list)
    end: _ReplyEnd | None = None
    """None: it is being written."""


@dataclass(frozen=True, slots=True)
class _ReplyEnd:
    """The end of a reply. ``row``: None: it is not in the file. ``is_part``: whether it can be part of the branch."""

    message: Message
    row: int | None
    stats: str
    is_part: bool


class ConversationStore:
    """Writes the changes of one conversation at a time."""

    def __init__(self, connection: Connection, now: Callable[[], float] = time.time) -> None:
        """Start without a conversation. ``now`` returns seconds since the epoch."""
        self._connection = connection
        self._now = now
        self._writer = ""
        self._named = ""
        self._line: Line = ()
        self._replies: list[_OpenReply] = []
        """The replies that were begun together; empty after the end of the last one."""
        self._begun: tuple[int | None, ...] = ()
        self._removed = False
        self._unanswered: int | None = None  # an unanswered user message after the end of the line
        self._next_parent: tuple[int | None] | None = None  # parent of the next message, if set by follow()
        self._seen: set[int] = set()  # rows read or written here; another head is that of another program
        self.id: int | None = None
        self.notes: list[str] = []
        """Messages for the user. The caller shows them and clears the list."""

    @property
    def rows(self) -> MessageRows:
        """The row numbers of the conversation, as far as they are known here."""
        before = self._parent_of(self._line[-1][1]) if self._line else None
        running = next((reply.row for reply in self._replies if reply.end is None), None)
        return MessageRows(tuple(row for _, row in self._line), running, before, self._begun)

    def create(self, conversation: Conversation, title: str, model: str) -> None:
        """Create the conversation before its first message. ``model``: name of the model of its replies."""
        self.start_new()
        self._named = title
        with transaction(self._connection):
            id, line, _ = self._write_branch(None, (), conversation.messages)
            self._connection.execute("UPDATE conversations SET model = ? WHERE id = ?", (encode_text(model), id))
        self._set_state(id, line)

    def sync(self, conversation: Conversation) -> None:
        """Make ``conversation`` the current branch.

        Messages in common with the previous branch keep their rows; the others stay in the file as another branch. The
        conversation is created with the first user message.
        """
        if self._removed or (self.id is None and all(message.role != "user" for message in conversation.messages)):
            return
        if tuple(map(key, conversation.messages)) == tuple(key(message) for message, _ in self._line):
            return
        id, line, head = self._write_or_fork(lambda: self._write_branch(self.id, self._line, conversation.messages))
        self._set_state(id, line, head)

    def begin_reply(self, conversation: Conversation, *origins: ReplyOrigin) -> None:
        """Begin replies to ``conversation``, or continuations of the reply at its end: one for each origin.

        A repeated request before the first text keeps the rows of the replies.
        """
        if self._restart_replies(conversation, origins):
            return
        self._end_open_replies()
        if self._removed:
            return
        goes_on = conversation.last is not None and conversation.last.role == "assistant"
        self._identify_writer()  # takes some milliseconds, so it is done before the lock is taken

        def begin() -> tuple[int, Line, list[_OpenReply]]:
            id, line, _ = self._write_branch(self.id, self._line, conversation.messages)
            base = line[:-1] if goes_on else line
            start = line[-1][0] if goes_on else Message("assistant", "")
            rows = [self._insert(id, last_row(base), start, each, writer=self._writer) for each in origins]
            self._set_head(id, rows[0], base, origins[0])
            return id, base, [_OpenReply(row, each, start, line) for row, each in zip(rows, origins, strict=True)]

        id, base, self._replies = self._write_or_fork(begin)
        self._set_state(id, base)
        self._begun = tuple(reply.row for reply in self._replies)
        self._seen |= {row for _, row in self._replies[0].before} | {reply.row for reply in self._replies}

    def add(self, *pieces: Sequence[Piece]) -> None:
        """Append text to the open replies: one argument for each, in the order of :meth:`begin_reply`."""
        added = [(reply, each) for reply, each in zip(self._replies, pieces, strict=False) if each and not reply.end]
        if not added:
            return
        import sqlite3

        try:
            with transaction(self._connection):
                for reply, each in added:
                    self._add(reply.row, each)
        except sqlite3.IntegrityError:
            # The row of a reply is missing: another program takes this one for ended. end_reply() makes a new row.
            if not self._connection.execute("SELECT 1 FROM conversations WHERE id = ?", (self.id,)).fetchone():
                raise
        for reply, each in added:
            reply.pieces += each

    def end_reply(
        self,
        reason: FinishReason,
        stats: Mapping[str, object],
        text: str | None = None,
        thinking: str | None = None,
        calls: tuple[ToolCall, ...] = (),
        options: str | None = None,
        number: int = 0,
    ) -> None:
        """End reply ``number``.

        ``text`` and ``thinking``: the whole new text; None: what was added by :meth:`add`. ``options`` replaces those
        of :meth:`begin_reply` if given.

        An empty reply is kept in the branch only if the model ended it by itself. After the end of the last reply, the
        first one that was kept is part of the branch.
        """
        reply = self._replies[number] if number < len(self._replies) else None
        if reply is None or reply.end is not None or self.id is None:
            return
        reply.origin = replace(reply.origin, options=options or reply.origin.options)
        text = join_pieces(reply.pieces, False) if text is None else text
        thinking = join_pieces(reply.pieces, True) if thinking is None else thinking
        start, row = reply.start, None
        message = Message("assistant", start.content + text, reason, start.thinking + thinking, calls)
        copied: tuple[int, Line, int | None] | None = None
        with transaction(self._connection):
            if text or thinking or not reason.exit_code:
                row = self._close(self.id, reply, message, json.dumps(dict(stats)))
            else:
                self._connection.execute("DELETE FROM messages WHERE id = ?", (reply.row,))
            end = _ReplyEnd(message, row, json.dumps(dict(stats)), bool(text) or not reason.exit_code)
            ends = [(each, end if each is reply else each.end) for each in self._replies]
            line, end_row, origin = self._branch_after(ends)
            is_last = all(each is not None for _, each in ends)
            head = self._unseen_head()
            if head is None:
                self._set_head(self.id, end_row, line, origin)
            elif is_last and last_row(line) not in rows_to(self._connection, head):
                # Another program has continued the conversation, but not after this reply.
                copied = self._copy(self.id, line, None)
        reply.end = end
        self._begun = (*self._begun[:number], row, *self._begun[number + 1 :])
        self._seen |= {row for _, row in line} | ({row} if row is not None else set())
        if is_last:
            self._line, self._replies = line, []
        if copied is not None:
            self._continue_in_copy(*copied)

    def vote(self, replies: Sequence[int], chosen: int | None, blind: bool) -> None:
        """Add a vote between replies of the conversation. ``replies``: their rows, in the order in which they were
        shown; ``chosen``: one of them, None: none was better; ``blind``: whether their models were hidden.
        """
        if self._removed or self.id is None:
            return
        known = "SELECT count(*) FROM messages WHERE id = ? AND conversation = ? AND role = 'assistant'"
        with transaction(self._connection):
            if not all(self._connection.execute(known, (row, self.id)).fetchone()[0] for row in replies):
                self.notes.append(f"the choice is not kept: its replies are not in conversation {self.id}")
                return
            self._connection.execute(
                "INSERT INTO votes (conversation, created, blind, replies, chosen) VALUES (?, ?, ?, ?, ?)",
                (self.id, self._now(), int(blind), json.dumps(list(replies)), chosen),
            )

    def rename(self, title: str) -> None:
        """Change the title. A title given before the conversation exists is used when it is created."""
        if self.id is not None:
            with transaction(self._connection):
                self._connection.execute(
                    "UPDATE conversations SET title = ? WHERE id = ?", (encode_text(title), self.id)
                )
        self._named = title

    def fork(self, title: str = "") -> None:
        """Continue in a new conversation that begins as a copy of the current branch."""
        if self.id is None:
            return
        self._end_open_replies()
        with transaction(self._connection):
            id, line, _ = self._copy(self.id, self._line, None, title or None)
        self._set_state(id, line)
        self._named = title or self._named

    def start_new(self) -> None:
        """Start another conversation with the next message."""
        self._end_open_replies()
        self.id, self._line, self._replies, self._named, self._removed = None, (), [], "", False
        self._begun = ()
        self._unanswered, self._next_parent, self._seen = None, None, set()

    def resume(self, stored: StoredConversation) -> None:
        """Continue a conversation from the state in which it was read."""
        self.start_new()
        self.id, self._named = stored.id, stored.title if stored.is_named else ""
        self._line = tuple((record.message, record.row) for record in stored.records)
        self._seen = _rows_of(stored)

    def set_head(self, stored: StoredConversation) -> None:
        """Make the branch in ``stored`` the current one. No effect if that is another conversation.

        If another program has continued the conversation, its head is left alone; the next message goes to a copy of
        the new branch.
        """
        self._end_open_replies()
        if self.id != stored.id:
            return
        self._seen |= _rows_of(stored)
        line = tuple((record.message, record.row) for record in stored.records)
        shown = tuple((record.message, record.row) for record in stored.shown)
        origin = ReplyOrigin(stored.model, stored.engine, json.dumps(dict(stored.options)))
        with transaction(self._connection):
            if self._unseen_head() is None:
                self._update_title(stored.id, self._line, [message for message, _ in shown])
                self._set_head(stored.id, stored.head, shown, origin)
        self._line, self._unanswered, self._next_parent = line, None, None

    def follow(self, row: int | None) -> None:
        """Set the parent row of the next message. Applies if only that message is new; None: it is the first."""
        self._next_parent = (row,)

    def lose(self) -> None:
        """Record that the conversation was removed: nothing is saved until the next conversation starts."""
        self.id, self._replies, self._begun, self._line, self._removed = None, [], (), (), True
        self._unanswered, self._next_parent, self._seen = None, None, set()

    def go_on(self, connection: Connection, *, same_file: bool) -> None:
        """Continue on another connection.

        ``same_file``: the file is that of the previous connection, but another program may have overwritten it. If the
        conversation is not in the file as it is known here, it is written again.
        """
        if self.id is None or (same_file and is_in_file(connection, self.id, self._line)):
            self._connection = connection
        else:
            self.move(connection)

    def move(self, connection: Connection) -> None:
        """Write all that is known of the conversation to another file, including open replies, and continue there."""
        replies = self._replies
        rows = list[int | None]()
        id: int | None = None
        line: Line = ()
        before = line
        old, self._connection = self._connection, connection
        try:
            if self.id is not None:
                with transaction(connection):
                    whole = replies[0].before if replies else self._line
                    id, line, _ = self._write_branch(None, (), [message for message, _ in whole])
                    if replies:
                        before, line = line, line[: len(self._line)]
                        rows = [self._write_reply(id, last_row(line), each) for each in replies]
                        first = next(number for number, each in enumerate(replies) if each.end is None)
                        self._set_head(id, rows[first], line, replies[first].origin)
        except BaseException:
            self._connection = old
            raise
        self._seen = {row for _, row in before}
        if id is not None:
            self._set_state(id, line)
        for reply, row in zip(replies, rows, strict=True):
            reply.before = before
            if reply.end is not None:
                reply.end = replace(reply.end, row=row)
            elif row is not None:
                reply.row = row
            self._seen |= {row} if row is not None else set()
        self._begun = tuple(rows)

    def _write_reply(self, id: int, parent: int | None, reply: _OpenReply) -> int | None:
        """Write an open reply, or one that has ended before others. Returns its row; None: it is not kept."""
        if reply.end is not None:
            end = reply.end
            return None if end.row is None else self._insert(id, parent, end.message, reply.origin, stats=end.stats)
        row = self._insert(id, parent, reply.start, reply.origin, writer=self._writer)
        self._add(row, reply.pieces)
        return row

    def _branch_after(
        self, ends: Sequence[tuple[_OpenReply, _ReplyEnd | None]]
    ) -> tuple[Line, int | None, ReplyOrigin]:
        """The branch with the first of these replies that is open or can be part of it. Returns its messages without
        an open reply, the row of its end, and the origin of the reply."""
        for reply, end in ends:
            if end is None:
                return self._line, reply.row, reply.origin
            if end.is_part and end.row is not None:
                return (*self._line, (end.message, end.row)), end.row, reply.origin
        reply = ends[0][0]
        return reply.before, last_row(reply.before), reply.origin

    def _set_state(self, id: int, line: Line, head: int | None = None) -> None:
        """Record the committed state. ``head``: an unanswered message after the end of the line, or that end."""
        self._seen = (self._seen if id == self.id else set()) | {row for _, row in line}
        if head is not None:
            self._seen.add(head)
        self.id, self._line, self._unanswered, self._next_parent = id, line, head, None

    def _write_or_fork(self, write: Callable[[], T]) -> T:
        """Run ``write``, which moves the head, in a transaction; in a copy if another program has moved the head."""
        with transaction(self._connection):
            if self._unseen_head() is None:
                return write()
        assert self.id is not None
        with transaction(self._connection):
            copied = self._copy(self.id, self._line, self._unanswered)
        self._continue_in_copy(*copied)
        with transaction(self._connection):
            return write()

    def _unseen_head(self) -> int | None:
        """The head of the conversation if it was neither read nor written here, else None."""
        found = self._connection.execute("SELECT head FROM conversations WHERE id = ?", (self.id,)).fetchone()
        head = None if found is None else number(found[0])
        return None if head in self._seen else head

    def _copy(
        self, id: int, line: Line, unanswered: int | None, title: str | None = None
    ) -> tuple[int, Line, int | None]:
        """Copy the conversation up to ``unanswered``, or to the end of the line if that is None.

        Returns id, line and ``unanswered`` of the copy.
        """
        known = {row: message for message, row in line}
        if title is None and not self._named and not has_user_message(line):
            title = ""  # to be derived from the first message of the copy
        id, rows = copy(self._connection, id, unanswered or last_row(line), known, title, self._now())
        line, unanswered = tuple((message, rows[row]) for message, row in line), rows.get(unanswered or 0)
        self._set_head(id, unanswered or last_row(line), line)
        return id, line, unanswered

    def _continue_in_copy(self, id: int, line: Line, unanswered: int | None) -> None:
        """Continue in this copy, because another program has continued the conversation."""
        self.notes.append(
            f"another program has continued conversation {self.id}: from here on this one is kept as {id}"
            f" (bitnet-chat history show {self.id} shows the other)"
        )
        self._begun = ()
        self._set_state(id, line, unanswered)

    def _write_branch(self, id: int | None, line: Line, messages: Sequence[Message]) -> tuple[int, Line, int | None]:
        """Write ``messages`` as the branch. Returns id, line and head: the end of the line, or an unanswered message
        after it."""
        if id is None:
            id = self._make(messages)
        else:
            self._update_title(id, line, messages)
        common = common_prefix(line, messages)
        if self._next_parent is not None and common == len(messages) - 1:
            (head,) = self._next_parent
        elif common < len(line):  # a replacement gets the parent of the message that it replaces
            head = self._parent_of(line[common][1])
        else:
            head = self._unanswered or last_row(line)
        line = line[:common]
        for message in messages[common:]:
            head = self._insert(id, head, message, ReplyOrigin())
            line = (*line, (message, head))
        self._set_head(id, head, line)
        return id, line, head

    def _update_title(self, id: int, line: Line, messages: Sequence[Message]) -> None:
        """Let a derived title follow the message that it was derived from."""
        if self._named:
            return
        before = title_of(Conversation(tuple(message for message, _ in line)))
        titles = encode_text(title_of(Conversation(tuple(messages)))), id, encode_text(before)
        if titles[0] != titles[2]:
            self._connection.execute("UPDATE conversations SET title = ? WHERE id = ? AND title = ?", titles)

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
        """Write the complete reply and return its row."""
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
        # Another program has taken this one for ended and marked the row as cut off, which stays as another branch.
        return self._insert(id, last_row(self._line), message, reply.origin, stats=stats)

    def _add(self, row: int, pieces: Sequence[Piece]) -> None:
        for thinking, run in groupby(pieces, key=lambda piece: piece[0]):
            text = encode_text("".join(text for _, text in run))
            self._connection.execute(
                "INSERT INTO chunks (message, thinking, text) VALUES (?, ?, ?)", (row, int(thinking), text)
            )

    def _parent_of(self, row: int) -> int | None:
        found = self._connection.execute("SELECT parent FROM messages WHERE id = ?", (row,)).fetchone()
        return None if found is None else number(found[0])

    def _set_head(self, id: int, head: int | None, line: Line, origin: ReplyOrigin | None = None) -> None:
        """Set the head of conversation ``id`` and the values derived from the branch."""
        turns = sum(message.role == "user" for message, _ in line)
        self._connection.execute(
            "UPDATE conversations SET head = ?, turns = ?, updated = ? WHERE id = ?", (head, turns, self._now(), id)
        )
        if origin is not None:
            self._connection.execute(
                "UPDATE conversations SET model = ?, engine = ?, options = ? WHERE id = ?",
                (encode_text(origin.model), encode_text(origin.engine), origin.options, id),
            )

    def _restart_replies(self, conversation: Conversation, origins: Sequence[ReplyOrigin]) -> bool:
        """Update the open replies if they have no text yet and answer the same conversation. Returns whether they
        do."""
        replies = self._replies
        if len(replies) != len(origins) or self.id is None or any(each.pieces or each.end for each in replies):
            return False
        if tuple(map(key, conversation.messages)) != tuple(key(message) for message, _ in replies[0].before):
            return False
        # The name that the user requested is more useful than that of the backend.
        named = [
            replace(new, model=reply.origin.model or new.model) for reply, new in zip(replies, origins, strict=True)
        ]
        with transaction(self._connection):
            if self._unseen_head() is not None:
                return False
            for reply, origin in zip(replies, named, strict=True):
                cursor = self._connection.execute(
                    "UPDATE messages SET model = ?, engine = ?, options = ? WHERE id = ? AND writer IS NOT NULL",
                    (encode_text(origin.model), encode_text(origin.engine), origin.options, reply.row),
                )
                if not cursor.rowcount:
                    return False
            self._set_head(self.id, replies[0].row, self._line, named[0])
        for reply, origin in zip(replies, named, strict=True):
            reply.origin = origin
        return True

    def _end_open_replies(self) -> None:
        """End replies that the front end has not ended."""
        for each in range(len(self._replies)):
            self.end_reply(FinishReason.INTERRUPTED, {}, number=each)

    def _identify_writer(self) -> None:
        self._writer = self._writer or this_process()


def _rows_of(stored: StoredConversation) -> set[int]:
    """The rows that were read. The reply that another program is writing at present was not."""
    rows = {record.row for record in (*stored.records, *stored.shown)}
    answered = stored.pending is not None and stored.pending not in stored.records
    if stored.head is not None and not (answered and stored.state is ReplyState.ANSWERING):
        rows.add(stored.head)
    return rows


# Copies of conversations: for /fork, and for a conversation that another program has continued.

_CHAIN = """WITH RECURSIVE line (id) AS (
    SELECT id FROM messages WHERE id = ?
    UNION ALL
    SELECT m.parent FROM messages m JOIN line ON m.id = line.id WHERE m.parent < m.id
)
SELECT m.id, m.writer IS NOT NULL FROM line JOIN messages m ON m.id = line.id ORDER BY m.id"""

_COPIED_COLUMNS = "role, tools, created, model, engine, options, stats"


def rows_to(connection: Connection, end: int | None) -> list[int]:
    """Return the rows from the first message to ``end``."""
    return [row for row, _ in connection.execute(_CHAIN, (end,))]


def copy(
    connection: Connection, id: int, end: int | None, line: Mapping[int, Message], title: str | None, now: float
) -> tuple[int, dict[int, int]]:
    """Copy a conversation up to row ``end``, unanswered messages included.

    ``line``: the messages known to the caller, by row; used for replies that another program is still writing.
    ``title``: None keeps that of the original. Returns the id of the copy, and the new row of each copied row. The copy
    has no head yet. Raises sqlite3.IntegrityError if the conversation does not exist.
    """
    cursor = connection.execute(
        "INSERT INTO conversations (title, created, updated, model, engine, options, forked_from)"
        " SELECT coalesce(?, title), ?, ?, model, engine, options, id FROM conversations WHERE id = ?",
        (None if title is None else encode_text(title), now, now, id),
    )
    if not cursor.rowcount:
        import sqlite3

        raise sqlite3.IntegrityError("the conversation does not exist")
    number = int(cursor.lastrowid or 0)
    copies: dict[int, int] = {}
    parent: int | None = None
    for row, writing in connection.execute(_CHAIN, (end,)).fetchall():
        if writing and row not in line:  # a reply that had no text when this line was read
            continue
        parent = copies[row] = _copy(connection, row, number, parent, line[row] if writing else None)
    return number, copies


def _copy(connection: Connection, row: int, id: int, parent: int | None, read: Message | None) -> int:
    """Copy one row. ``read``: the text of a running reply as known to the caller; None: the text in the file."""
    text, values = "content, thinking, finish", []
    if read is not None:
        text, values = (
            "?, ?, ?",
            [encode_text(read.content), encode_text(read.thinking), read.finish and read.finish.value],
        )
    cursor = connection.execute(
        f"INSERT INTO messages (conversation, parent, {_COPIED_COLUMNS}, content, thinking, finish)"
        f" SELECT ?, ?, {_COPIED_COLUMNS}, {text} FROM messages WHERE id = ?",
        (id, parent, *values, row),
    )
    return int(cursor.lastrowid or 0)
