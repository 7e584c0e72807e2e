"""A backend for a running ``bitnet-chat serve``, so that the model is in memory once.

With a journal the replies belong to a chat of the server, which other clients may follow; without one each reply is
independent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bitnet_chat.backend import BackendState, BackendStatus, ReplyOptions, Sampling
from bitnet_chat.backends.attached_server.client import ServerClient, ServerConnection, decode_events, wait
from bitnet_chat.backends.attached_server.messages import (
    LOST,
    ChatEventParser,
    Heard,
    body_of,
    data_of,
    event_of,
    message_in,
)
from bitnet_chat.backends.http.client import whole
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import (
    BitnetChatError,
    BusyError,
    ChatNotFoundError,
    ConnectionLostError,
    EngineDiedError,
    FinishReason,
    ServerUnreachableError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta
from bitnet_chat.text.sse import ServerSentEvent
from bitnet_chat.text.utf8 import well_formed

if TYPE_CHECKING:
    import aiohttp

    from bitnet_chat.backends.attached_server.journal import ChatPosition

WAITS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each attempt to continue a broken stream."""
_REST = 10.0
"""Seconds between two attempts to follow a chat of an unreachable server."""
_STOPS, _AGAIN = 10, 0.2
"""Attempts to stop a reply that the server does not know yet, and the seconds between them."""
_GRACE = 6.0
"""Seconds for the end of a reply after its stop."""


@dataclass(slots=True, eq=False)
class _PendingReply:
    """A running reply."""

    chat: int | None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    expired: bool = False
    generation: str = ""
    message: int | None = None
    before: str = ""
    """The text of the reply that is continued."""
    question: str = ""
    """The user message of the reply; empty: a reply is continued."""
    said: list[str] = field(default_factory=list)
    response: aiohttp.ClientResponse | None = None
    last_id: str = ""
    """The id of the last event received."""
    tries: int = 0
    """Attempts to continue the stream since that event."""

    @property
    def text(self) -> str:
        return "".join(self.said)

    def is_this(self, start: Mapping[str, Any]) -> bool:
        """Whether the reply that begins was requested by this client."""
        user = start.get("user")
        return self.generation in ("", start.get("generation")) and (
            not isinstance(user, dict) or user.get("content") == self.question
        )


class AttachedBackend:
    """See :class:`bitnet_chat.backend.Backend`. Without a chat it makes any number of replies at the same time."""

    def __init__(
        self,
        server: ServerClient,
        facts: Mapping[str, Any],
        place: ChatPosition | None = None,
        *,
        model: str = "",
        sampling: Sampling | None = None,
        urgent: bool = True,
    ) -> None:
        """``facts``: the server's description of itself. ``place``: the chat of the requests; None: without a chat.
        ``model``: one of the server's; empty: the default. ``sampling``: for replies without options.
        ``urgent``: the requests come before batch work."""
        self._server, self._place = server, place
        self._model, self._sampling = model, sampling or Sampling()
        self._urgent = urgent
        self._wire = ServerConnection(server, server.headers | ({} if urgent else {"Priority": "u=7"}))
        self._name = model or str(facts.get("model") or "")
        self._size: int | None = facts.get("context_size")
        self._used: int | None = None
        self._is_exact = True
        self._left_at = float("-inf")
        """Time at which the caller abandoned a reply that the server had not ended."""
        self._leaving: asyncio.Task[None] | None = None
        """The task that stops that reply. The next message waits for it, so as not to be stopped too."""
        self._asked: set[_PendingReply] = set()
        self._known = asyncio.Event() if place is None else place.known
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Does nothing: the server loads the model."""

    def prepare(self, history: Conversation) -> None:
        """Does nothing: the server gets the conversation with the next message."""

    def count(self, text: str) -> TokenCount | None:
        return None

    def status(self) -> BackendStatus:
        state = BackendState.GENERATING if self._asked else BackendState.IDLE
        place = f"serve at {self._server.url}"
        return BackendStatus(self._name, place, state, self._used, self._size, context_exact=self._is_exact)

    def interrupt(self) -> None:
        """Stop this client's reply; without one, the running reply of another client in the chat."""
        for asked in self._asked:
            self._stop(asked)
        if not self._asked and self._place is not None and self._place.id is not None:
            self._spawn(self._stop_in(self._place.id))

    async def close(self) -> None:
        for asked in list(self._asked):
            self._stop(asked)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)
        await self._wire.close()

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        options = options or ReplyOptions()
        last = conversation.last
        asked = _PendingReply(None)
        if last is not None and last.role == "assistant":
            asked.before = last.content
        elif last is not None:
            asked.question = well_formed(last.content)
        self._asked.add(asked)
        self._known.clear()
        timer = None
        if options.timeout is not None:
            timer = asyncio.get_running_loop().call_later(options.timeout, self._expire, asked)
        ended = False
        try:
            last_events = await self._opened(asked, conversation, options)
            while not last_events:
                async with aclosing(decode_events(asked.response)) as stream:
                    async for told in stream:
                        if (event := self._event(asked, told)) is not None:
                            ended = isinstance(event, Completed | Failed)
                            yield self._passed(asked, event)
                        if ended:
                            return
                last_events = await self._after_break(asked)
            for event in last_events:
                ended = isinstance(event, Completed | Failed)
                yield self._passed(asked, event)
        finally:
            if timer is not None:
                timer.cancel()
            self._asked.discard(asked)
            self._known.set()
            if asked.response is not None:
                asked.response.close()
            if not ended and asked.chat is not None:
                self._left_at = asyncio.get_running_loop().time()
                self._leaving = self._spawn(self._stop_in(asked.chat))

    def _passed(self, asked: _PendingReply, event: Event) -> Event:
        if not isinstance(event, Completed):
            return event
        self._used = event.stats.context_used or self._used
        self._size = event.stats.context_size or self._size
        self._is_exact = event.stats.exact
        if asked.expired and event.reason is FinishReason.INTERRUPTED:
            return Completed(FinishReason.TIMEOUT, event.text, event.stats)
        return event

    # Requests

    async def _opened(self, asked: _PendingReply, conversation: Conversation, options: ReplyOptions) -> list[Event]:
        """Open the stream of the reply. Returns the end of a reply without a stream."""
        try:
            if not await self._open(asked, conversation, options):
                return [Completed(FinishReason.INTERRUPTED, "")]
        except BitnetChatError as error:
            return [Failed(error)]
        except ConnectionLostError as error:  # the server may have received a request for a chat
            if asked.chat is None:
                return [Failed(self._server.missing(str(error)))]
        return []

    async def _open(self, asked: _PendingReply, conversation: Conversation, options: ReplyOptions) -> bool:
        """Open the stream of the reply. False: it was stopped before the response."""
        asking = asyncio.ensure_future(self._ask(asked, conversation, options))
        try:
            stop = asyncio.ensure_future(asked.stop.wait())
            await asyncio.wait([asking, stop], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            # The reply of a chat is stopped by a request, and its end arrives in the stream; any other reply ends with
            # its connection.
            if self._place is not None and not asking.done():
                await asyncio.wait([asking], timeout=_GRACE)
            if not asking.done():
                return False
            asked.response = await asking
            return True
        finally:
            asking.cancel()

    async def _ask(
        self, asked: _PendingReply, conversation: Conversation, options: ReplyOptions
    ) -> aiohttp.ClientResponse:
        body = body_of(conversation, options, model=self._model, sampling=self._sampling)
        place = self._place
        if place is None:
            while True:
                try:
                    return await self._wire.post("/replies", body)
                except BusyError as error:
                    if self._urgent:
                        raise
                    await wait(error.retry_after, asked.stop)  # batch work can wait
        if place.changes:  # the server refuses them during a reply
            await asyncio.wait(place.changes)
        if place.id is None:
            await self._make(place)
        asked.chat = place.id
        try:
            return await self._post(asked, body)
        except ChatNotFoundError:  # another client removed it: the conversation goes into a new chat
            await self._make(place)
            asked.chat = place.id
            return await self._wire.post(f"/chats/{place.id}/messages", body)

    async def _post(self, asked: _PendingReply, body: dict[str, object]) -> aiohttp.ClientResponse:
        """Wait until the server has stopped an abandoned reply: the chat is busy until then."""
        if self._leaving is not None and not self._leaving.done():
            await asyncio.wait([self._leaving], timeout=_GRACE)
        while True:
            try:
                return await self._wire.post(f"/chats/{asked.chat}/messages", body)
            except BusyError:
                if asked.stop.is_set() or asyncio.get_running_loop().time() - self._left_at > _GRACE:
                    raise
                await wait(_AGAIN, asked.stop)

    async def _make(self, place: ChatPosition) -> None:
        body: dict[str, object] = {"title": place.title[:200]} if place.title else {}
        response = await self._wire.post("/chats", body | ({"model": self._model} if self._model else {}))
        place.go(int((await whole(response, self._server.url))["id"]))

    def _event(self, asked: _PendingReply, told: ServerSentEvent) -> Event | None:
        """The event of the reply; None: ``told`` does not belong to it."""
        asked.last_id, asked.tries = told.id or asked.last_id, 0
        place, data = self._place, data_of(told)
        if place is not None:
            place.heard = asked.chat, asked.last_id
        if told.event == "start":
            if not asked.is_this(data):
                return Failed(EngineDiedError(LOST, remedy="send the message again"), asked.text)
            if place is not None and not asked.generation:
                place.own.add(str(data.get("generation")))
                place.replies.append(data.get("message"))
                self._known.set()
            asked.generation = str(data.get("generation"))
            asked.message = data.get("message")
            self._name = str(data.get("model") or self._name)
            self._model = self._model or self._name  # a chat has the model of its last reply, which may be another one
            if asked.stop.is_set() and asked.chat is not None:  # the stop came before the beginning
                self._spawn(self._stop_in(asked.chat))
            return Started()
        event = event_of(told.event, data, asked.text)
        if isinstance(event, TextDelta):
            asked.said.append(event.text)
        return event

    # Broken streams

    async def _after_break(self, asked: _PendingReply) -> list[Event]:
        """Continue a broken stream. Returns the last events of a reply that cannot be continued."""
        if asked.stop.is_set() and (asked.chat is None or asked.tries):
            return [Completed(FinishReason.INTERRUPTED, asked.text)]
        return [] if await self._reopen(asked) else await self._rest(asked)

    async def _reopen(self, asked: _PendingReply) -> bool:
        """Open a stream that continues after the last event. False: not possible."""
        while asked.chat is not None and asked.tries < len(WAITS):
            asked.tries += 1
            await wait(WAITS[asked.tries - 1], asked.stop)
            response = await self._again(asked.chat, asked.last_id)
            if response is None:
                continue
            if response.status != 200:  # the server does not have this reply any more
                response.close()
                asked.tries = len(WAITS)
                return False
            asked.response = response
            return True
        return False

    async def _again(self, chat: int, last_id: str) -> aiohttp.ClientResponse | None:
        """The stream after the event ``last_id``; None: the server does not answer."""
        try:
            return await self._wire.send("GET", f"/chats/{chat}/events", None, {"Last-Event-ID": last_id})
        except (ConnectionLostError, ServerUnreachableError):
            return None

    async def _rest(self, asked: _PendingReply) -> list[Event]:
        """The last events of a reply after the loss of its stream, from the chat on the server."""
        events: list[Event] = []
        reason = FinishReason.ENGINE_DIED
        try:
            if asked.chat is not None:
                text, ended = message_in(await self._wire.json("GET", f"/chats/{asked.chat}"), asked.message)
                so_far = asked.before + asked.text
                if text.startswith(so_far) and len(text) > len(so_far):
                    events.append(TextDelta(text[len(so_far) :]))
                    asked.said.append(text[len(so_far) :])
                if ended not in (None, FinishReason.CUT_OFF):
                    return [*events, Completed(ended, asked.text)]
        except (ConnectionLostError, BitnetChatError):
            pass
        if asked.stop.is_set():
            reason = FinishReason.INTERRUPTED
        elif not asked.text:
            return [
                Failed(
                    EngineDiedError(
                        "the connection to the server was lost before the first token", remedy="send the message again"
                    )
                )
            ]
        else:
            events.append(Notice(f"{LOST}; /continue completes it when the server is back"))
        return [*events, Completed(reason, asked.text)]

    # Following

    async def follow(self) -> AsyncIterator[Heard]:
        """Yield the further events of other clients in the present chat, without an end; the replies of this client are
        left out."""
        place = self._place
        if place is None:
            return
        while True:
            place.moved.clear()
            chat = place.id
            if chat is not None:
                async with aclosing(self._follow(place, chat)) as heard:
                    async for each in heard:
                        yield each
            if place.id == chat:
                await place.moved.wait()

    async def _follow(self, place: ChatPosition, chat: int) -> AsyncGenerator[Heard]:
        """The events of one chat, as long as it is the present one and the server has it."""
        # After the last received event, so that none is lost; in a new chat, after the start of its first reply.
        await place.known.wait()
        last_id, tries = place.heard[1] if place.heard[0] == chat else "", 0
        listening = ChatEventParser()
        while place.id == chat:
            response = await self._listen(chat, last_id)
            if response is not None and response.status != 200:
                response.close()
                break  # the server does not have this chat
            if response is not None:
                async with aclosing(decode_events(response, until=place.moved)) as stream:
                    async for told in stream:
                        last_id, tries = told.id or last_id, 0
                        if told.event == "start":
                            await place.known.wait()
                        for heard in listening.heard(told, place.own):
                            yield heard
            if place.id != chat:
                break
            if listening.open and tries >= len(WAITS):
                yield listening.lost()
            await wait(WAITS[tries] if tries < len(WAITS) else _REST, place.moved)
            tries += 1
        if listening.open:
            yield listening.lost()

    async def _listen(self, chat: int, last_id: str) -> aiohttp.ClientResponse | None:
        try:
            return await self._wire.send(
                "GET", f"/chats/{chat}/events?follow=1", None, {"Last-Event-ID": last_id} if last_id else {}
            )
        except (ConnectionLostError, BitnetChatError):
            return None

    # Stopping

    def _stop(self, asked: _PendingReply) -> None:
        if asked.stop.is_set():
            return
        asked.stop.set()
        if asked.chat is not None:
            self._spawn(self._stop_in(asked.chat, asked))
            asyncio.get_running_loop().call_later(_GRACE, self._abandon, asked)
        else:
            self._abandon(asked)

    def _abandon(self, asked: _PendingReply) -> None:
        """Stop following a reply, ended or not."""
        if asked.response is not None and asked in self._asked:
            asked.response.close()

    def _expire(self, asked: _PendingReply) -> None:
        asked.expired = True
        self._stop(asked)

    async def _stop_in(self, chat: int, asked: _PendingReply | None = None) -> None:
        """Stop the reply of ``asked``; repeat the request while the server does not know the reply yet."""
        with contextlib.suppress(ConnectionLostError, BitnetChatError):  # an unreachable server cannot be stopped
            for _ in range(_STOPS):
                answer = await self._wire.json("POST", f"/chats/{chat}/stop", {})
                if answer.get("stopped") or asked is None or asked not in self._asked or asked.generation:
                    return
                await asyncio.sleep(_AGAIN)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
