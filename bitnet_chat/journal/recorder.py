"""The write interface of the journal for front ends, which neither waits for it nor raises its errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Stats
from bitnet_chat.journal.records import ConversationSlot

if TYPE_CHECKING:
    from bitnet_chat.journal.commands import Command
    from bitnet_chat.journal.journal import DatabaseJournal
    from bitnet_chat.journal.records import StoredConversation
    from bitnet_chat.journal.transactions import ConversationStore, MessageRows
    from bitnet_chat.journal.writer_thread import PendingText, WriterJob, WriterThread


PATIENCE = 3.0
"""Seconds for which :meth:`JournalRecorder.close` retries to write waiting commands."""
T = TypeVar("T")
_LAST_TRY = 0.5
"""Seconds for the last of these attempts; after them the disk counts as hanging."""


class JournalRecorder:
    """Writes the changes of a conversation, in order, in a separate thread. All methods belong to the event loop.

    The conversation is made at the first message of the user; the thread starts and the file is opened no earlier. Text
    of a reply is in the file within 200 ms. Where another program has changed the conversation since it was read, all
    later messages are kept in a copy, and ``complain`` gets a line about it.
    """

    def __init__(
        self,
        journal: DatabaseJournal | None,
        complain: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        slot: ConversationSlot | None = None,
    ) -> None:
        """``journal``: None keeps no conversation. ``complain`` gets a line, on the event loop, for each failure.
        ``slot``: holds the present conversation, for other objects to read."""
        self._journal = journal
        self._complain = complain
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self._writer: WriterThread | None = None
        self._slot = slot or ConversationSlot()
        self._pieces: PendingText | None = None
        self._calls: list[ToolCall] = []
        self._named = False
        self._asked = self._answered = 0
        """Number of replies begun, by the recorder and in the file."""
        self.unkept = ""
        """After :meth:`close`: the line about messages that were not kept; empty where all were."""

    @property
    def id(self) -> int | None:
        """Id of the present conversation; None until its first message is in the file."""
        return self._slot.id

    @property
    def title(self) -> str:
        """Title of the present conversation; empty before its first message."""
        return self._slot.title

    @title.setter
    def title(self, title: str) -> None:
        self._slot.title = title

    def sync(self, conversation: Conversation) -> None:
        """Set the present line to this conversation: undone turns stay in the journal as another branch."""
        self._title(conversation)
        if self._writer is not None or any(message.role == "user" for message in conversation.messages):
            from bitnet_chat.journal.commands import Sync

            self._put(Sync(conversation))

    def create(self, conversation: Conversation, *, title: str = "", model: str = "") -> None:
        """Create a conversation now, before its first message. Empty ``title``: that of the first message."""
        from bitnet_chat.journal.commands import Create

        self._leave(ConversationSlot(title=title))
        self._named = bool(title)
        self._title(conversation)
        self._put(Create(conversation, title, model))

    def begin_reply(
        self,
        conversation: Conversation,
        *,
        model: str = "",
        engine: str = "",
        options: Mapping[str, object] | None = None,
    ) -> None:
        """Begin a reply to ``conversation``. Where its last message is a reply, that one is continued.

        ``options``: what this reply is made with, beside the settings of the program: anything that JSON can hold, or
        that has a text.
        """
        self._title(conversation)
        if self._journal is None:
            return
        from bitnet_chat.journal.commands import BeginReply
        from bitnet_chat.journal.transactions import ReplyOrigin
        from bitnet_chat.journal.writer_thread import PendingText

        origin = ReplyOrigin(model, engine, self._made_with(options or {}))
        self._pieces, self._calls = PendingText(), []
        self._asked += 1
        self._put(BeginReply(conversation, origin))

    def _made_with(self, options: Mapping[str, object]) -> str:
        settings = {} if self._journal is None else dict(self._journal.made_with)
        return json.dumps(settings | dict(options), default=str)

    def text(self, piece: str) -> None:
        """Add the next characters of the reply."""
        self._piece(False, piece)

    def thinking(self, piece: str) -> None:
        """Add the next characters of the model's thinking."""
        self._piece(True, piece)

    def tool_call(self, call: ToolCall) -> None:
        """Add a tool call of the reply. It is written at the reply's end, unless that is cut: it is not made then."""
        self._calls.append(call)

    def end_reply(
        self,
        reason: FinishReason,
        stats: Stats | None = None,
        *,
        text: str | None = None,
        thinking: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        """End the reply. ``text``: all new text of it, where that differs from the calls of :meth:`text`.
        ``options``: see :meth:`begin_reply`; None: as given there.

        A stopped or failed reply without text is not kept in the conversation; its message stays the last one until
        the next :meth:`sync`.
        """
        if self._pieces is None:
            return
        from bitnet_chat.journal.commands import EndReply

        self._pieces = None
        figures = {} if stats is None else {key: value for key, value in asdict(stats).items() if value is not None}
        calls = tuple(self._calls) if reason is FinishReason.TOOL_CALLS else ()
        made_with = None if options is None else self._made_with(options)
        self._put(EndReply(reason, figures, text, thinking, calls, made_with))

    def resume(self, stored: StoredConversation) -> None:
        """Continue a conversation that was read from the journal."""
        from bitnet_chat.journal.commands import ResumeConversation

        self._leave(ConversationSlot(stored.id, stored.title))
        self._named = stored.is_named
        self._put(ResumeConversation(stored))

    def follow(self, row: int | None) -> None:
        """Set the row that the next user message follows, unless it is in the file already: a message without a reply,
        or the row before a message that it replaces. None: it is the first."""
        from bitnet_chat.journal.commands import Follow

        self._put(Follow(row))

    def anew(self) -> None:
        """Begin another conversation with the next message."""
        self._leave(ConversationSlot())
        if self._writer is not None:
            from bitnet_chat.journal.commands import StartNew

            self._put(StartNew())

    def rename(self, title: str) -> None:
        """Change the title, also of a conversation that has not begun."""
        from bitnet_chat.journal.commands import RenameConversation

        self.title, self._named = title, True
        self._put(RenameConversation(title))

    def fork(self, title: str = "") -> None:
        """Continue in a copy of the conversation; the present one stays unchanged."""
        from bitnet_chat.journal.commands import ForkConversation

        named = self._named or bool(title)
        self._leave(ConversationSlot(title=title or self.title))
        self._named = named
        self._put(ForkConversation(title))

    async def rows(self) -> MessageRows | None:
        """Return the rows of the conversation in the file, once all changes so far are written. None: no journal, or
        not written within 3 seconds."""
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
        """Wait until all changes so far are written, 3 seconds at most. False: they are not."""
        return self._writer is None or await self.rows() is not None

    async def close(self) -> None:
        """Wait until all is written, with retries for 3 seconds; then ``complain`` gets a line about what is not kept.
        A reply that is still open ends as interrupted."""
        writer = self._writer
        if writer is None or self._closed:
            return
        self._closed = True
        self.end_reply(FinishReason.INTERRUPTED)
        writer.stop(PATIENCE)
        try:
            await asyncio.wait_for(self._ended.wait(), PATIENCE + _LAST_TRY)
        except TimeoutError:
            assert self._journal is not None
            writer.off = True
            why = f"{self._journal.name} does not answer"
        else:
            why = writer.trouble and f"the journal cannot be written: {writer.trouble}"
        self.unkept = f"{self._missing()}: {why}" if why else writer.lost
        if why:
            self._complain(self.unkept)

    def _missing(self) -> str:
        count = self._asked - self._answered
        if not count:
            return "the end of this conversation is not kept"
        if self.id is None and count == self._asked:
            return "this conversation is not kept"
        if count == 1:
            return "the last message and its reply are not kept"
        return f"the last {count} messages and their replies are not kept"

    def _piece(self, thinking: bool, text: str) -> None:
        if (
            self._pieces is not None
            and self._writer is not None
            and self._pieces.append((thinking, text), self._clock())
        ):
            from bitnet_chat.journal.commands import AddText

            self._writer.put(AddText(self._pieces))

    def _put(self, command: Command) -> None:
        if self._journal is None:
            return
        if self._writer is None:
            self._loop = asyncio.get_running_loop()
            self._writer = self._journal.writer(self._complain_there, self._end_there, self._clock, self._done_there)
        self._writer.put(command, self._slot)

    def _done_there(self, job: WriterJob, store: ConversationStore) -> None:
        """Runs in the thread."""
        from bitnet_chat.journal.commands import BeginReply, Report

        job.slot.id = store.id
        if isinstance(job.command, BeginReply):
            self._answered += 1
        elif isinstance(job.command, Report):
            self._there(partial(_resolve, job.command.rows, store.rows))

    def _leave(self, slot: ConversationSlot) -> None:
        self.end_reply(FinishReason.INTERRUPTED)
        self._slot, self._named = slot, False

    def _title(self, conversation: Conversation) -> None:
        """A title that was not given follows the first message."""
        if not self._named:
            from bitnet_chat.journal.records import title_of

            self.title = title_of(conversation)

    def _complain_there(self, text: str) -> None:
        self._there(lambda: self._complain(text))

    def _end_there(self) -> None:
        self._there(self._ended.set)

    def _there(self, call: Callable[[], None]) -> None:
        """Pass a call from the thread to the loop, which may have ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():  # the waiting task may have ended
        future.set_result(result)
