"""The write interface of the journal for front ends. Its methods neither wait for the disk nor raise errors of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bitnet_chat.backend import JournalPlace
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Stats
from bitnet_chat.journal.records import ConversationSlot
from bitnet_chat.text.utf8 import rejoined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bitnet_chat.journal.commands import Command
    from bitnet_chat.journal.journal import DatabaseJournal
    from bitnet_chat.journal.records import StoredConversation
    from bitnet_chat.journal.transactions import ConversationStore, MessageRows
    from bitnet_chat.journal.writer_thread import PendingText, WriterJob, WriterThread


PATIENCE = 3.0
"""Seconds for which :meth:`JournalRecorder.close` and :meth:`JournalRecorder.rows` wait for pending writes."""
T = TypeVar("T")
_CLOSE_GRACE = 0.5
"""Further seconds that :meth:`JournalRecorder.close` allows for a write in progress; then the disk counts as
hanging."""


class JournalRecorder:
    """Writes the changes of a conversation, in order, from a separate thread. Its methods must be called on the event
    loop.

    The conversation is created with the first user message; until then neither the thread nor the file is opened. The
    text of a reply is in the file within 200 ms. If another program has changed the conversation since it was read, all
    later messages are saved in a copy, and ``complain`` gets a line about that.
    """

    def __init__(
        self,
        journal: DatabaseJournal | None,
        complain: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        slot: ConversationSlot | None = None,
    ) -> None:
        """Prepare a recorder.

        ``journal``: None saves nothing. ``complain`` gets a line, on the event loop, for each failure. ``slot``
        receives id and title of the current conversation, for other objects to read.
        """
        self._journal = journal
        self._complain = complain
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self._writer: WriterThread | None = None
        self._slot = slot or ConversationSlot()
        self._replies: tuple[ReplyWriter, ...] = ()
        """The replies that were begun together last."""
        self._named = False
        self._cut: dict[str, Mapping[str, object]] = {}
        """Options of the replies that were cut, by their text."""
        self._waiting: list[Conversation] = []
        """The conversations of the replies that were begun and are not in the file yet. A server begins a reply twice:
        when it accepts the message, and when an engine is free."""
        self._has_kept = False
        """Whether a reply was begun in the file."""
        self.unsaved = ""
        """After :meth:`close`: a line about messages that were not saved; empty if all were."""

    @property
    def id(self) -> int | None:
        """Id of the current conversation; None until its first message is in the file."""
        return self._slot.id

    def place(self) -> Callable[[], JournalPlace | None]:
        """The place of the present conversation, also after another one was begun: None until its first message is in
        the file."""
        slot, journal = self._slot, self._journal

        def found() -> JournalPlace | None:
            return JournalPlace(Path(journal.name), slot.id) if journal is not None and slot.id is not None else None

        return found

    @property
    def title(self) -> str:
        """Title of the current conversation; empty before its first message."""
        return self._slot.title

    @title.setter
    def title(self, title: str) -> None:
        self._slot.title = title

    def sync(self, conversation: Conversation) -> None:
        """Make ``conversation`` the current branch. Undone turns stay in the journal as another branch."""
        self._update_title(conversation)
        if self._writer is not None or any(message.role == "user" for message in conversation.messages):
            from bitnet_chat.journal.commands import Sync

            self._put(Sync(conversation))

    def create(self, conversation: Conversation, *, title: str = "", model: str = "") -> None:
        """Create a conversation before its first message. Without ``title``, its first message becomes the title."""
        from bitnet_chat.journal.commands import Create

        self._switch_to(ConversationSlot(title=title))
        self._named, self._cut = bool(title), {}
        self._update_title(conversation)
        self._put(Create(conversation, title, model))

    def begin_reply(
        self,
        conversation: Conversation,
        *,
        model: str = "",
        engine: str = "",
        options: Mapping[str, object] | None = None,
    ) -> None:
        """Begin a reply to ``conversation``, or continue its last message if that is a reply.

        ``options``: the options of this reply, in addition to the settings of the program. Values that are not JSON are
        saved as their ``str``.
        """
        self.begin_replies(conversation, [options or {}], model=model, engine=engine)

    def begin_replies(
        self,
        conversation: Conversation,
        options: Sequence[Mapping[str, object]],
        *,
        model: str = "",
        engine: str = "",
    ) -> tuple[ReplyWriter, ...]:
        """Begin several replies to ``conversation`` at the same time, one for each of ``options``; see
        :meth:`begin_reply`. Each becomes a sibling of the others, and is kept while it is written. Returns the writers
        of the replies.

        After the end of all of them, the first one that was kept is the last message of the conversation;
        :meth:`set_head` makes another one the last message, and :meth:`rows` has their rows.
        """
        self._update_title(conversation)
        pending: PendingText | None = None
        if self._journal is not None:
            from bitnet_chat.journal.commands import BeginReply
            from bitnet_chat.journal.transactions import ReplyOrigin
            from bitnet_chat.journal.writer_thread import PendingText

            origins = tuple(ReplyOrigin(model, engine, self._made_with(each)) for each in options)
            pending = PendingText(len(origins))
            self._waiting.append(conversation)
            self._put(BeginReply(conversation, origins))
        last = conversation.last
        before = last.content if last is not None and last.role == "assistant" else ""
        self._replies = tuple(ReplyWriter(self, number, pending, before, made) for number, made in enumerate(options))
        return self._replies

    def _made_with(self, options: Mapping[str, object]) -> str:
        settings = {} if self._journal is None else dict(self._journal.made_with)
        return json.dumps(settings | dict(options), default=str)

    def text(self, piece: str) -> None:
        """Append text to the reply."""
        if self._replies:
            self._replies[0].text(piece)

    def thinking(self, piece: str) -> None:
        """Append text to the thinking of the reply."""
        if self._replies:
            self._replies[0].thinking(piece)

    def tool_call(self, call: ToolCall) -> None:
        """Add a tool call of the reply. It is written at the end of the reply, and only if the reply ends with tool
        calls."""
        if self._replies:
            self._replies[0].tool_call(call)

    def end_reply(
        self,
        reason: FinishReason,
        stats: Stats | None = None,
        *,
        text: str | None = None,
        thinking: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        """End the reply.

        ``text`` and ``thinking`` replace what was appended by the methods of these names; None keeps that. ``options``
        replaces the options given to :meth:`begin_reply`; None keeps those.

        A stopped or failed reply without text is not part of the conversation; its user message stays the last one
        until the next :meth:`sync`.
        """
        if self._replies:
            self._replies[0].end(reason, stats, text=text, thinking=thinking, options=options)

    def vote(self, replies: Sequence[int], chosen: int | None, *, blind: bool) -> None:
        """Keep the choice between replies of the conversation. ``replies``: their rows, in the order in which they were
        shown; ``chosen``: the preferred one, None: none was better; ``blind``: whether their models were hidden.
        ``complain`` gets a line if one of them is not in the conversation.
        """
        if self._writer is not None:
            from bitnet_chat.journal.commands import CastVote

            self._put(CastVote(tuple(replies), chosen, blind))

    def options_of(self, reply: Message) -> Mapping[str, object]:
        """The options of a reply of this conversation that was cut; empty if they are not known."""
        return self._cut.get(reply.content, {})

    def resume(self, stored: StoredConversation) -> None:
        """Continue a conversation that was read from the journal."""
        from bitnet_chat.journal.commands import ResumeConversation

        self._cut = _options_of_cut(stored)
        self._switch_to(ConversationSlot(stored.id, stored.title))
        self._named = stored.is_named
        self._put(ResumeConversation(stored))

    def set_head(self, stored: StoredConversation) -> None:
        """Make another branch of the conversation the current one. ``stored``: the conversation with that branch."""
        from bitnet_chat.journal.commands import SetHead

        self._end_replies()
        self._cut |= _options_of_cut(stored)
        self._update_title(Conversation(tuple(record.message for record in stored.shown)))
        self._put(SetHead(stored))

    def follow(self, row: int | None) -> None:
        """Set the parent row of the next user message.

        Used for a message after one without a reply, and for a message that replaces another one. None: the message is
        the first. No effect if the message is already in the file.
        """
        from bitnet_chat.journal.commands import Follow

        self._put(Follow(row))

    def start_new(self) -> None:
        """Start another conversation with the next message."""
        self._cut = {}
        self._switch_to(ConversationSlot())
        if self._writer is not None:
            from bitnet_chat.journal.commands import StartNew

            self._put(StartNew())

    def rename(self, title: str) -> None:
        """Change the title, also before the first message."""
        from bitnet_chat.journal.commands import RenameConversation

        self.title, self._named = title, True
        self._put(RenameConversation(title))

    def fork(self, title: str = "") -> None:
        """Continue in a copy of the conversation; the original stays unchanged."""
        from bitnet_chat.journal.commands import ForkConversation

        named = self._named or bool(title)
        self._switch_to(ConversationSlot(title=title or self.title))
        self._named = named
        self._put(ForkConversation(title))

    async def rows(self) -> MessageRows | None:
        """Return the row numbers of the conversation once all changes so far are written.

        None without a journal, and if writing takes more than 3 seconds.
        """
        if self._writer is None:
            return None
        from bitnet_chat.journal.commands import Report

        report = Report(asyncio.get_running_loop().create_future())
        self._put(report)
        try:
            return await asyncio.wait_for(report.rows, PATIENCE)
        except TimeoutError:
            return None

    async def settled(self) -> bool:
        """Wait at most 3 seconds until all changes so far are written. Returns False if they are not."""
        return self._writer is None or await self.rows() is not None

    async def close(self) -> None:
        """Wait until all changes are written, for at most 3.5 seconds including retries.

        ``complain`` gets a line about what was not saved. An open reply ends as interrupted.
        """
        writer = self._writer
        if writer is None or self._closed:
            return
        self._closed = True
        self._end_replies()
        writer.stop(PATIENCE)
        try:
            await asyncio.wait_for(self._ended.wait(), PATIENCE + _CLOSE_GRACE)
        except TimeoutError:
            assert self._journal is not None
            writer.off = True
            why = f"{self._journal.name} does not answer"
        else:
            why = writer.trouble and f"the journal cannot be written: {writer.trouble}"
        self.unsaved = f"{self._describe_unsaved()}: {why}" if why else writer.lost
        if why:
            self._complain(self.unsaved)

    def _describe_unsaved(self) -> str:
        """Describe the messages that are not saved."""
        if self.id is None and not self._has_kept:
            return "this conversation is not kept"
        count = sum(first != second for first, second in pairwise((None, *self._waiting)))
        if not count:
            return "the end of this conversation is not kept"
        if count == 1:
            return "the last message and its reply are not kept"
        return f"the last {count} messages and their replies are not kept"

    def _end_replies(self) -> None:
        for each in self._replies:
            each.end(FinishReason.INTERRUPTED)

    def _append(self, pending: PendingText, thinking: bool, text: str, number: int) -> None:
        if self._writer is not None and pending.append((thinking, text), self._clock(), number):
            from bitnet_chat.journal.commands import AddText

            self._writer.put(AddText(pending))

    def _put(self, command: Command) -> None:
        if self._journal is None:
            return
        if self._writer is None:
            self._loop = asyncio.get_running_loop()
            self._writer = self._journal.writer(
                self._complain_threadsafe, self._end_threadsafe, self._clock, self._on_command_done
            )
        self._writer.put(command, self._slot)

    def _on_command_done(self, job: WriterJob, store: ConversationStore) -> None:
        """Record the result of a command; runs in the writer thread."""
        from bitnet_chat.journal.commands import BeginReply, Report

        job.slot.id = store.id
        if isinstance(job.command, BeginReply):
            self._has_kept = True
            with contextlib.suppress(ValueError):
                self._waiting.remove(job.command.conversation)
        elif isinstance(job.command, Report):
            self._call_on_loop(partial(_resolve, job.command.rows, store.rows))

    def _switch_to(self, slot: ConversationSlot) -> None:
        self._end_replies()
        self._slot, self._named = slot, False

    def _update_title(self, conversation: Conversation) -> None:
        """Derive the title from the first message, unless one was given."""
        if not self._named:
            from bitnet_chat.journal.records import title_of

            self.title = title_of(conversation)

    def _complain_threadsafe(self, text: str) -> None:
        self._call_on_loop(lambda: self._complain(text))

    def _end_threadsafe(self) -> None:
        self._call_on_loop(self._ended.set)

    def _call_on_loop(self, call: Callable[[], None]) -> None:
        """Schedule a call from the writer thread on the event loop, which may have ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call)


def _options_of_cut(stored: StoredConversation) -> dict[str, Mapping[str, object]]:
    return {record.message.content: record.options for record in stored.records if record.message.was_cut}


class ReplyWriter:
    """Writes one of several replies that were begun together. See the methods of :class:`JournalRecorder` with similar
    names."""

    def __init__(
        self,
        recorder: JournalRecorder,
        number: int,
        pending: PendingText | None,
        before: str,
        made_with: Mapping[str, object],
    ) -> None:
        """``pending``: the text of all of the replies; None: nothing is saved. ``before``: the text of the reply that
        this one continues."""
        self._recorder, self._number, self._pending = recorder, number, pending
        self._before, self._made_with = before, made_with
        self._calls: list[ToolCall] = []
        self._has_ended = False

    def text(self, piece: str) -> None:
        """Append text."""
        if self._pending is not None:
            self._recorder._append(self._pending, False, piece, self._number)

    def thinking(self, piece: str) -> None:
        """Append thinking."""
        if self._pending is not None:
            self._recorder._append(self._pending, True, piece, self._number)

    def tool_call(self, call: ToolCall) -> None:
        """Add a tool call."""
        self._calls.append(call)

    def end(
        self,
        reason: FinishReason,
        stats: Stats | None = None,
        *,
        text: str | None = None,
        thinking: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        """End the reply; no effect if it has ended."""
        if self._has_ended:
            return
        self._has_ended = True
        self._made_with = self._made_with if options is None else options
        pending, self._pending = self._pending, None
        new = pending.text(self._number) if text is None and pending is not None else text
        reply = Message("assistant", rejoined(self._before + (new or "")), reason)
        if reply.was_cut and new:
            self._recorder._cut[reply.content] = self._made_with
        if pending is None:
            return
        from bitnet_chat.journal.commands import EndReply

        figures = {} if stats is None else {key: value for key, value in asdict(stats).items() if value is not None}
        calls = tuple(self._calls) if reason is FinishReason.TOOL_CALLS else ()
        made_with = None if options is None else self._recorder._made_with(options)
        self._recorder._put(EndReply(reason, figures, text, thinking, calls, made_with, self._number))


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():  # the waiting task may have ended
        future.set_result(result)
