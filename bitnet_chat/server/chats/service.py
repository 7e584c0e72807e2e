"""Stored chats: read, created, renamed and removed in the journal, with replies from the scheduler.

Each request reads the journal again, since other programs write to it as well. It is read in a thread, and written in
the thread of a recorder, which lives as long as its reply.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, InvalidFieldError, NoSuchChatError, ReplyRunningError, UsageError
from bitnet_chat.journal import JournalRecorder, JournalStore, ReplyState
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.chats.events import ComparedReply, ReplyStart
from bitnet_chat.server.chats.live import (
    ChatChanged,
    LiveChat,
    LiveChatRegistry,
    LiveReply,
    SavedStateChanged,
)
from bitnet_chat.server.chats.requests import (
    MOST_ROWS,
    ChatRequest,
    NewChatRequest,
    VoteRequest,
    asked_of,
    before_asked,
    compared_of,
    line_of,
    lone_conversation,
)
from bitnet_chat.server.chats.saved_states import SavedStates
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler
from bitnet_chat.util.threads import run_beside_loop

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalEntry, MessageTree, SearchHit, StoredConversation
    from bitnet_chat.journal.votes import Vote

log = logging.getLogger("bitnet_chat.server")
P = ParamSpec("P")
T = TypeVar("T")
_LOOK = 1.0
"""Seconds between two looks at the folder of saved states while a client follows a chat."""


class ChatService:
    """The operations of ``/chats`` and ``/replies``. All methods must be called on the event loop."""

    def __init__(self, scheduler: ReplyScheduler, journal: JournalStore, linger: float) -> None:
        """``linger``: seconds that a reply continues without readers."""
        self.scheduler = scheduler
        self.live_chats = LiveChatRegistry()
        self._journal = journal
        self._states = SavedStates(journal)
        self._linger = linger
        self._tasks: set[asyncio.Task[None]] = set()
        self._attending = False

    async def list(self, limit: int) -> Sequence[JournalEntry]:
        return await _done(self._journal.list, limit)

    async def search(self, words: str, limit: int) -> Sequence[SearchHit]:
        return (await _done(self._journal.search, words))[:limit]

    async def saved_states(self) -> frozenset[int]:
        """The ids of the chats that an engine continues without reading them again."""
        return await asyncio.to_thread(self._states.chats)

    async def load(self, id: int) -> StoredConversation:
        """Return a chat. Raises NoSuchChatError, and InvalidFieldError if the journal cannot be used."""
        if not 0 < id <= MOST_ROWS:
            raise NoSuchChatError(id)
        live_chat = self.live_chats.get(id)
        if live_chat is not None and live_chat.live is not None and not live_chat.live.running:
            await live_chat.live.settled.wait()
        try:
            return await _done(self._journal.load, id)
        except InvalidFieldError:
            raise
        except UsageError:
            raise NoSuchChatError(id) from None

    async def branch(self, id: int, message: int) -> StoredConversation:
        """Return a chat with the branch that ends at a message. Raises the errors of :meth:`load`, and
        InvalidFieldError for an unknown message."""
        _check_message(await self.tree(id), message, "message")
        return await _done(self._journal.load, id, message)

    async def votes(self, id: int) -> Sequence[Vote]:
        """Return the votes between replies of a chat, oldest first."""
        return await _done(self._journal.votes, id)

    async def tree(self, id: int) -> MessageTree:
        """Return all messages of a chat. Raises the errors of :meth:`load`."""
        await self.load(id)
        return await _done(self._journal.tree, id)

    async def create(self, chat: NewChatRequest) -> StoredConversation:
        """Store a new chat. Raises UnknownModelError, and InvalidFieldError if the journal cannot be written."""
        if chat.model:
            self.scheduler.model_manager.choose(chat.model)
        recorder = self._journal.recorder(log.warning)
        recorder.create(chat.conversation, title=chat.title, model=chat.model)
        await self._written(recorder)
        assert recorder.id is not None
        return await self.load(recorder.id)

    async def rename(self, id: int, title: str) -> StoredConversation:
        stored = await self.load(id)
        recorder = self._journal.recorder(log.warning)
        recorder.resume(stored)
        recorder.rename(title)
        await self._written(recorder)
        if (live_chat := self.live_chats.get(id)) is not None:
            live_chat.publish(ChatChanged(title))
        return await self.load(id)

    async def set_head(self, id: int, message: int) -> StoredConversation:
        """Make the branch through a message current, down to the newest message below it. No effect if the message is
        in the current branch. Raises NoSuchChatError, ReplyRunningError, and InvalidFieldError for an unknown message.
        """
        with self.live_chats.open(id) as live_chat, live_chat.exclusive():
            stored, tree = await self._at_rest(id)
            _check_message(tree, message, "message")
            if message in tree.current:
                return stored
            recorder = self._journal.recorder(log.warning)
            recorder.resume(stored)
            recorder.set_head(await _done(self._journal.load, id, tree.newest_leaf(message)))
            return await self._switched(live_chat, recorder)

    async def vote(self, id: int, choice: VoteRequest) -> StoredConversation:
        """Store the choice between variants of a reply, and make the branch through the chosen one current. Raises the
        errors of :meth:`set_head`, and InvalidFieldError for messages that are not variants of one reply.
        """
        with self.live_chats.open(id) as live_chat, live_chat.exclusive():
            stored, tree = await self._at_rest(id)
            for row in choice.replies:
                _check_message(tree, row, "replies")
                if tree.nodes[row].record.message.role != "assistant" or row not in tree.siblings(choice.replies[0]):
                    raise InvalidFieldError(f"message {row} is not a variant of the first reply", param="replies")
            recorder, chosen = self._journal.recorder(log.warning), choice.chosen
            recorder.resume(stored)
            recorder.vote(choice.replies, chosen, blind=choice.blind)
            if chosen is not None and chosen not in tree.current:
                recorder.set_head(await _done(self._journal.load, id, tree.newest_leaf(chosen)))
            return await self._switched(live_chat, recorder)

    async def _at_rest(self, id: int) -> tuple[StoredConversation, MessageTree]:
        """A chat in which no program generates a reply. Raises ReplyRunningError otherwise."""
        stored = await self.load(id)
        if stored.state is ReplyState.ANSWERING:  # in another program
            raise ReplyRunningError
        return stored, await _done(self._journal.tree, id)

    async def _switched(self, live_chat: LiveChat, recorder: JournalRecorder) -> StoredConversation:
        """Write the changes of a recorder, and tell followers the current branch."""
        await self._written(recorder)
        stored = await self.load(live_chat.id)
        live_chat.publish(ChatChanged(stored.title, head=stored.head))
        return stored

    async def remove(self, id: int) -> None:
        """Stop the running reply of a chat, if any, and remove the chat. Raises NoSuchChatError."""
        await self.load(id)
        with self.live_chats.open(id) as live_chat:
            await self._quiet(live_chat)
            await asyncio.to_thread(self._states.remove, id)  # first: without its chat a state would belong to nothing
            try:
                await _done(self._journal.remove, [id])
            except InvalidFieldError:
                raise
            except UsageError:
                raise NoSuchChatError(id) from None
            self.live_chats.remove(live_chat)

    async def begin(self, id: int, ask: ChatRequest, *, urgent: bool) -> LiveReply:
        """Begin a reply in a chat. Raises NoSuchChatError, ReplyRunningError, InvalidFieldError for a request that the
        chat does not allow, and the errors of :meth:`ReplyScheduler.begin`.
        """
        with self.live_chats.open(id) as live_chat, live_chat.exclusive():
            stored = await self.load(id)
            line, before = line_of(stored), before_asked(ask, stored)
            # With the message that has no reply: it keeps its row if it is asked again.
            stored = replace(stored, records=line)
            before_it = replace(stored, records=line if stored.pending is None else line[:-1])
            compared = compared_of(ask, stored)
            conversation = await run_beside_loop(stored.conversation, asked_of, ask, before_it)
            model = ask.model or (stored.model if stored.model in self.scheduler.model_manager.names else "")
            recorder = self._journal.recorder(log.warning)
            recorder.resume(stored)
            if ask.content is not None:
                recorder.follow(before)
            ended = asyncio.Event()
            reply_request = ReplyRequest(conversation, ask.options, model, recorder, urgent)
            generations = self.scheduler.begin_variants(reply_request, ask.variants, on_end=lambda _: ended.set())
            recorder.begin_replies(conversation, [{}] * ask.variants, model=generations[0].model)
            live: LiveReply | None = None
            try:
                openings = await self._openings(id, conversation, generations, recorder)
                if compared is not None:
                    openings = [replace(each, compared=ComparedReply(compared, ask.blind)) for each in openings]
                live = LiveReply(openings, generations, self._linger)
                live_chat.begin(live)
                if recorder.title not in ("", stored.title):
                    live_chat.publish(ChatChanged(recorder.title))
            finally:
                if live is None:
                    for generation in generations:
                        generation.stop()
                self._spawn(self._end(ended, recorder, live_chat, live))
            return live

    def begin_alone(self, ask: ChatRequest, *, urgent: bool) -> tuple[ReplyStart, ReplyBroadcast]:
        """Begin a reply to messages without a chat; it is not stored. Raises the errors of :meth:`begin`."""
        conversation = lone_conversation(ask)
        generation = self.scheduler.begin(ReplyRequest(conversation, ask.options, ask.model, None, urgent))
        return ReplyStart(
            generation.id, generation.model, user=_user(conversation), before=_goes_on_with(conversation)
        ), generation

    def attend(self) -> None:
        """Attend to the streams of followers: end idle ones when the server shuts down, and report saved states."""
        if not self._attending:
            self._attending = True
            self._spawn(self._attend())

    async def _attend(self) -> None:
        ending = self.scheduler.ending
        known, stamp = await self.saved_states(), None
        while not ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), _LOOK)
            if not self.live_chats.followed:
                continue
            before = known, stamp
            stamp = await asyncio.to_thread(self._states.stamp)
            if stamp is None or stamp != before[1]:
                known = await self.saved_states()
                for live_chat in self.live_chats.followed:
                    if live_chat.id in known ^ before[0]:
                        live_chat.publish(SavedStateChanged(live_chat.id in known))
        self.live_chats.close()

    def stop(self, id: int) -> bool:
        """Stop the running reply. Return False without one."""
        live_chat = self.live_chats.get(id)
        return live_chat is not None and live_chat.stop()

    async def close(self) -> None:
        """Finish all writes, after the scheduler is closed."""
        self.live_chats.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _openings(
        self, id: int, conversation: Conversation, generations: Sequence[ReplyBroadcast], recorder: JournalRecorder
    ) -> Sequence[ReplyStart]:
        """The facts about each variant."""
        user, parent, count = _user(conversation), None, len(generations)
        replies: Sequence[int | None] = [None] * count
        rows = await recorder.rows()
        if rows is not None and rows.reply is not None:  # else for example a full disk; the recorder tries again
            replies = rows.replies
            parent = rows.line[-1] if rows.line else None
            if user is not None and parent is not None:
                user, parent = (parent, user[1]), rows.before
        first, before = generations[0], _goes_on_with(conversation)
        return [
            ReplyStart(first.id, first.model, id, row, user, parent, before, number, count)
            for number, row in enumerate(replies)
        ]

    async def _end(
        self, ended: asyncio.Event, recorder: JournalRecorder, live_chat: LiveChat, live: LiveReply | None
    ) -> None:
        await ended.wait()
        try:
            await recorder.close()
        finally:
            if live is not None:
                live.settled.set()
                self.live_chats.ended(live_chat, live)

    async def _quiet(self, live_chat: LiveChat) -> None:
        """Wait until the chat has no running reply."""
        live = live_chat.live
        if live is not None:
            live.stop()
            await live.settled.wait()

    async def _written(self, recorder: JournalRecorder) -> None:
        settled = await recorder.settled()
        await recorder.close()
        if not settled or recorder.id is None:
            raise _not_written("written")

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _done(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run an operation on the journal in a thread and return its result.

    Raises its UsageError, and InvalidFieldError (503) for a fault of the file or the disk, with the details in the log.
    """
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except UsageError:
        raise
    except BitnetChatError as error:
        log.warning("%s", error)
        raise _not_written("used") from None


def _check_message(tree: MessageTree, row: int, field: str) -> None:
    """Raise InvalidFieldError if a chat has no such message."""
    if row not in tree.nodes:
        what = f"message {row} does not exist in this chat"
        raise InvalidFieldError(what, param=field, code="message_not_found")


def _not_written(what: str) -> InvalidFieldError:
    return InvalidFieldError(
        f"the journal cannot be {what}; see the log of the server",
        status=503,
        code="journal_not_written",
        remedy="free disk space, and try again",
    )


def _user(conversation: Conversation) -> tuple[int | None, str] | None:
    last = conversation.last
    return (None, last.content) if last is not None and last.role == "user" else None


def _goes_on_with(conversation: Conversation) -> str | None:
    last = conversation.last
    return last.content if last is not None and last.role == "assistant" else None
