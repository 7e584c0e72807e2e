"""Running replies by chat, and their readers.

A reply belongs to its chat, not to the connection that requested it: without readers it continues for some time, and
after its end it is kept for some time, for clients that reconnect.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_chat.errors import ReplyRunningError
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.chats.events import LastSeen, ReplyStart
from bitnet_chat.server.chats.reply_stream import StreamedReply
from bitnet_chat.server.chats.responses import LiveReplyState, LiveVariant

if TYPE_CHECKING:
    from bitnet_chat.server.web.shared_html import SharedHtml

FIRST = 10.0
"""Minimum seconds for the first reader to connect."""
KEPT = 300.0
"""Seconds that a reply is kept in memory after its end."""
MOST_KEPT = 200
"""Maximum number of ended replies in all chats together; the oldest are removed first."""
_MOST_TOLD = 32
"""Maximum number of events about the chat that are kept for slow followers."""


class LiveReply:
    """One reply of a chat, or several variants of it, from its beginning until it is dropped from memory."""

    def __init__(self, openings: Sequence[ReplyStart], generations: Sequence[ReplyBroadcast], linger: float) -> None:
        """``openings`` and ``generations``: of each variant. ``linger``: seconds that it continues without readers."""
        self.openings = tuple(openings)
        self.generations = tuple(generations)
        self.settled = asyncio.Event()
        """Set when all variants are completely in the journal."""
        self._html: tuple[SharedHtml, ...] = ()
        self._linger = linger
        self._watchers = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(max(linger, FIRST), self.stop)

    @property
    def id(self) -> str:
        return self.openings[0].generation

    @property
    def running(self) -> bool:
        return any(generation.end is None for generation in self.generations)

    def stop(self) -> None:
        for generation in self.generations:
            generation.stop()

    def has_unread(self, places: Sequence[int]) -> bool:
        """Whether a client at these positions has not received the end of each variant."""
        return self.running or any(
            place <= generation.place for place, generation in zip(places, self.generations, strict=True)
        )

    def has_positions(self, places: Sequence[int]) -> bool:
        """Whether these are positions in the variants. The event of the end has a position of its own."""
        return len(places) == len(self.generations) and all(
            place <= generation.place + (generation.end is not None)
            for place, generation in zip(places, self.generations, strict=True)
        )

    def streamed(self, renders: bool) -> list[StreamedReply]:
        """Return the variants for a stream. All readers of HTML share it."""
        if renders and not self._html:
            from bitnet_chat.server.web.shared_html import SharedHtml

            self._html = tuple(SharedHtml(opening.before or "") for opening in self.openings)
        html = self._html if renders else (None,) * len(self.openings)
        return [StreamedReply(*each) for each in zip(self.openings, self.generations, html, strict=True)]

    def join(self) -> None:
        """Add a reader."""
        self._watchers += 1
        self._relax()

    def leave(self) -> None:
        """Remove a reader."""
        self._watchers -= 1
        if not self._watchers and self.running:
            self._timer = self._loop.call_later(self._linger, self.stop)

    def over(self) -> None:
        """Cancel the timer: the reply has ended."""
        self._relax()

    def _relax(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def snapshot(self) -> LiveReplyState:
        """Return the variants so far."""
        variants = [
            LiveVariant(
                opening.message,
                generation.place,
                opening.model,
                (opening.before or "") + generation.text,
                generation.thinking,
                generation.calls,
                generation.created,
                generation.end,
            )
            for opening, generation in zip(self.openings, self.generations, strict=True)
        ]
        return LiveReplyState(self.id, tuple(variants), self.openings[0].compared)


@dataclass(frozen=True, slots=True)
class ChatChanged:
    """A change of the chat as a whole: its title, its removal, or another current branch."""

    title: str = ""
    deleted: bool = False
    head: int | None = None
    """The last message of the branch that is the current one from now on; None: no other branch."""


@dataclass(frozen=True, slots=True)
class SavedStateChanged:
    """A state of the chat was saved, or its last one removed."""

    saved_state: bool


ChatNews = ChatChanged | SavedStateChanged


class LiveChat:
    """A chat with a reply in memory, or with followers."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.live: LiveReply | None = None
        """The last reply, running or ended."""
        self.closed = False
        self.users = 0
        """Number of users of this object."""
        self._is_claimed = False
        self._is_stopped = False
        """Whether a stop has arrived before the reply begins."""
        self._events: deque[tuple[int, LiveReply | ChatNews]] = deque(maxlen=_MOST_TOLD)
        self._number = 0
        self._followers: set[asyncio.Event] = set()

    @property
    def running_reply(self) -> LiveReply | None:
        """The running reply."""
        return self.live if self.live is not None and self.live.running else None

    @property
    def is_followed(self) -> bool:
        """Whether a client receives the events of the chat."""
        return bool(self._followers)

    @property
    def position(self) -> int:
        """The number of the last event published."""
        return self._number

    @property
    def empty(self) -> bool:
        return not self.users and self.live is None and not any(isinstance(told, LiveReply) for _, told in self._events)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude other new replies during the block. Raises ReplyRunningError."""
        if self._is_claimed or self.running_reply is not None:
            raise ReplyRunningError
        self._is_claimed = True
        try:
            yield
        finally:
            self._is_claimed = self._is_stopped = False

    def begin(self, live: LiveReply) -> None:
        self.live = live
        self.publish(live)
        if self._is_stopped:
            live.stop()

    def stop(self) -> bool:
        """Stop the reply that is running or about to begin. Return False without one."""
        if self.running_reply is not None:
            self.running_reply.stop()
            return True
        self._is_stopped = self._is_claimed
        return self._is_claimed

    def publish(self, what: LiveReply | ChatNews) -> None:
        """Publish an event to all followers."""
        self._number += 1
        self._events.append((self._number, what))
        self._wake()

    def close(self) -> None:
        """Close all subscriptions, after the events so far."""
        self.closed = True
        self._wake()

    def forget(self, live: LiveReply) -> None:
        """Drop an ended reply that is too old for a reconnect."""
        self._events = deque((each for each in self._events if each[1] is not live), maxlen=_MOST_TOLD)
        if self.live is live:
            self.live = None

    def find(self, seen: LastSeen | None) -> tuple[LiveReply, tuple[int, ...]] | None:
        """Return the reply of which a client has received a part, and the positions after that part; None if the reply
        is unknown or has no such positions.
        """
        if seen is None:
            return None
        for _, told in self._events:
            if isinstance(told, LiveReply) and told.id == seen.generation:
                return (told, seen.places) if told.has_positions(seen.places) else None
        return None

    async def follow(
        self, seen: LastSeen | None, since: int
    ) -> AsyncGenerator[tuple[LiveReply | ChatNews, tuple[int, ...] | None]]:
        """Yield the running reply, then later replies and changes of the chat, until it is closed. With a reply come
        the positions that the client has seen; None: no event.

        ``seen``: the last event of a client that reconnects; events after it are included. ``since``: the
        :attr:`position` after which events of the chat are included for any other client.
        """
        news = asyncio.Event()
        self._followers.add(news)
        number = since
        try:
            if (known := self.find(seen)) is not None:
                live, places = known
                number = next(each for each, told in self._events if told is live)
                if live.has_unread(places):
                    yield known
            elif (running := self.running_reply) is not None and not any(
                told is running for each, told in self._events if each > since
            ):
                yield running, None
            while True:
                news.clear()
                for each, told in list(self._events):
                    if each > number:
                        number = each
                        yield told, None
                if self.closed:
                    return
                if number >= self._number:
                    await news.wait()
        finally:
            self._followers.discard(news)

    def _wake(self) -> None:
        for news in self._followers:
            news.set()


class LiveChatRegistry:
    """The chats in memory, by id."""

    def __init__(self) -> None:
        self._live_chats: dict[int, LiveChat] = {}
        self._ended: OrderedDict[str, tuple[LiveChat, LiveReply]] = OrderedDict()
        self._closed = False

    def get(self, id: int) -> LiveChat | None:
        return self._live_chats.get(id)

    @property
    def followed(self) -> list[LiveChat]:
        """The chats whose events a client receives."""
        return [live_chat for live_chat in self._live_chats.values() if live_chat.is_followed]

    @contextmanager
    def open(self, id: int) -> Iterator[LiveChat]:
        """Yield the object of a chat, which exists at least during the block."""
        live_chat = self._live_chats.get(id)
        if live_chat is None:
            live_chat = self._live_chats[id] = LiveChat(id)
            live_chat.closed = self._closed
        live_chat.users += 1
        try:
            yield live_chat
        finally:
            live_chat.users -= 1
            self._tidy(live_chat)

    def ended(self, live_chat: LiveChat, live: LiveReply) -> None:
        """Keep a reply that has ended for :data:`KEPT` seconds."""
        live.over()
        self._ended[live.id] = live_chat, live
        asyncio.get_running_loop().call_later(KEPT, self._forget, live.id)
        while len(self._ended) > MOST_KEPT:
            self._forget(next(iter(self._ended)))

    def remove(self, live_chat: LiveChat) -> None:
        """Tell all followers that the chat is removed, and drop it."""
        live_chat.publish(ChatChanged(deleted=True))
        live_chat.close()
        if self._live_chats.get(live_chat.id) is live_chat:
            del self._live_chats[live_chat.id]

    def close(self) -> None:
        """Close all subscriptions."""
        self._closed = True
        for live_chat in self._live_chats.values():
            live_chat.close()

    def _forget(self, generation: str) -> None:
        found = self._ended.pop(generation, None)
        if found is not None:
            live_chat, live = found
            live_chat.forget(live)
            self._tidy(live_chat)

    def _tidy(self, live_chat: LiveChat) -> None:
        if live_chat.empty and self._live_chats.get(live_chat.id) is live_chat:
            del self._live_chats[live_chat.id]
