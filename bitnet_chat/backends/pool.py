"""Several backends of one model, for more conversations than one; who comes when all are busy waits in line.

A backend that holds the beginning of a conversation in its memory answers the next turn of it at once; any other would
have to read it all again. So each is lent, where there is a choice, to the conversation that it knows.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bitnet_chat.backends import Backend
from bitnet_chat.backends.source import Source
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import Busy


@dataclass(slots=True)
class Seat:
    """A backend, and what it has lived through."""

    backend: Backend
    memory: Conversation = field(default_factory=Conversation)
    used: int = 0
    """When it was used last, in leases."""


class Pool:
    """``source.parallel`` seats, each made when it is first needed."""

    def __init__(self, source: Source, *, queue: int = 64) -> None:
        """``queue``: how many may wait."""
        self.source = source
        self._queue = queue
        self._free: list[Seat] = []
        self._seats: list[Seat] = []
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()
        self._leases = itertools.count(1)
        self._called = 0
        """Who waited and was told to come, and has not taken a seat yet."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> int:
        return len(self._seats) - len(self._free)

    @property
    def backends(self) -> list[Backend]:
        return [seat.backend for seat in self._seats]

    def start(self) -> None:
        """Loads the first one in the background."""
        if not self._seats:
            seat = self._make()
            self._free.append(seat)
            seat.backend.start()

    @asynccontextmanager
    async def lease(self, conversation: Conversation, *, urgent: bool = True) -> AsyncIterator[Seat]:
        """A seat for one reply. Who leases sets ``memory`` to what the conversation has become.

        ``urgent``: a person waits; batch work comes after. Raises Busy when too many wait already.
        """
        await self._turn(urgent)
        seat = self._take(conversation)
        try:
            yield seat
        finally:
            self._free.append(seat)
            self._next()

    async def close(self) -> None:
        for _, _, waiter in self._waiting:
            waiter.cancel()
        for seat in self._seats:
            await seat.backend.close()

    async def _turn(self, urgent: bool) -> None:
        if self._has_room() and not self._waiting:
            return
        if len(self._waiting) >= self._queue:
            raise Busy(
                f"{len(self._waiting)} requests wait for {self.source.name} already",
                retry_after=5.0,
                remedy="try again later, or start the server with more --parallel",
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (0 if urgent else 1, next(self._ticket), future)
        self._waiting.append(entry)
        self._waiting.sort(key=lambda each: each[:2])
        try:
            await future
            self._called -= 1
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif future.done() and not future.cancelled():
                self._called -= 1  # it was told to come, and does not
                self._next()
            raise

    def _has_room(self) -> bool:
        return len(self._free) + self.source.parallel - len(self._seats) > self._called

    def _next(self) -> None:
        if self._waiting and self._has_room():
            _, _, future = self._waiting.pop(0)
            if not future.done():
                self._called += 1
                future.set_result(None)

    def _take(self, conversation: Conversation) -> Seat:
        def known(seat: Seat) -> int:
            """Messages of the conversation that it has in its memory, if it has nothing else there."""
            messages = seat.memory.messages
            return len(messages) if conversation.messages[: len(messages)] == messages else -1

        best = max(self._free, key=lambda seat: (known(seat), -seat.used), default=None)
        if (best is None or known(best) <= 0) and len(self._seats) < self.source.parallel:
            best = self._make()
        else:
            assert best is not None
            self._free.remove(best)
        best.used = next(self._leases)
        return best

    def _make(self) -> Seat:
        seat = Seat(self.source.backend())
        self._seats.append(seat)
        return seat
