"""A pool of backends of one model, for concurrent conversations; requests wait in a queue while all are busy.

A backend with the beginning of a conversation in its cache answers the next turn at once; any other has to prefill the
whole prompt. So a request gets the backend with its conversation in the cache, if that one is free.

A released slot is passed directly to the first request in the queue, so that no other request can take it in between.
Urgent requests come before batch work: for a waiting urgent request, a batch lease that can be repeated is released.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bitnet_chat.backend import Backend, ReplyOptions, Sampling, refusal_of
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import BitnetChatError, BusyError

_RECENT = 32
"""Number of past leases in the estimate of waiting times."""
_RETRY = (1.0, 120.0)
"""Seconds: minimum and maximum of ``retry_after``."""
_numbers = itertools.count(1)


def number() -> int:
    """Return the next queue number. All pools share the numbers: one stays valid for another pool."""
    return next(_numbers)


@dataclass(slots=True, eq=False)
class Slot:
    """A backend and its state in the pool."""

    backend: Backend
    memory: Conversation = field(default_factory=Conversation)
    """The conversation in its cache; empty: not known, such as after a failure."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampling of its last reply. An engine restarts for a different one."""
    used: int = 0
    """Number of the lease that used it last. 0: none."""
    restarts: int = 0
    """Number of restarts of its engine that are counted already."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that waits or has a slot."""

    conversation: Conversation
    sampling: Sampling
    urgent: bool
    number: int
    make_way: Callable[[], bool] | None
    slot: asyncio.Future[Slot]
    asked: bool = False
    """Whether the lease is asked to end soon."""

    @property
    def place(self) -> tuple[bool, int]:
        return not self.urgent, self.number


class Pool:
    """A pool of ``source.parallel`` slots, each made when first needed. All methods belong to the event loop."""

    def __init__(self, source: BackendFactory, *, queue: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        """``queue``: maximum number of waiting requests."""
        self.source = source
        self._queue = queue
        self._clock = clock
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._waiting: list[_Waiter] = []
        self._leased: list[_Waiter] = []
        self._leases = itertools.count(1)
        self._lengths: deque[float] = deque(maxlen=_RECENT)
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> int:
        return len(self._slots) - len(self._free)

    @property
    def backends(self) -> list[Backend]:
        return [slot.backend for slot in self._slots]

    @property
    def seats(self) -> list[Slot]:
        return list(self._slots)

    @property
    def memory(self) -> int:
        """Resident bytes of all processes, spare ones included; 0: not known."""
        statuses = [slot.backend.status() for slot in self._slots]
        sizes = [(status.memory or 0) + (status.spare_memory or 0) for status in statuses]
        return max(sizes, default=0) if self.source.shared else sum(sizes)

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        """Return the error with which the backend would refuse a request, as far as that is known without an engine, if
        the request would have to wait. None for a valid request, and if a slot is free."""
        if self._closed or not self._slots:
            return None
        if not self._waiting and (self._free or len(self._slots) < self.source.parallel):
            return None
        return await refusal_of(self._slots[0].backend, conversation, options)

    def start(self) -> None:
        """Load the first backend in the background."""
        if not self._slots and not self._closed:
            self._free.append(self._make())

    @asynccontextmanager
    async def lease(
        self,
        conversation: Conversation,
        sampling: Sampling | None = None,
        *,
        urgent: bool = True,
        make_way: Callable[[], bool] | None = None,
        turn: int | None = None,
        again: bool = False,
    ) -> AsyncIterator[Slot]:
        """Lease a slot for one reply. The caller sets its ``memory`` to the conversation after the reply; otherwise the
        memory is unknown.

        ``urgent``: comes before batch work. ``make_way``: called at most once, when an urgent request waits for a slot;
        returns whether this lease ends soon. ``turn``: a queue :func:`number` from before; None: the next one.
        ``again``: the request has made way before, and is not refused.

        Raises BusyError when the queue is full or the pool is closed, and the errors of ``source.backend``.
        """
        wish = _Waiter(
            conversation,
            sampling or Sampling(),
            urgent,
            number() if turn is None else turn,
            None if urgent else make_way,
            asyncio.get_running_loop().create_future(),
        )
        slot = await self._seat_for(wish, returning=again)
        began = self._clock()
        slot.memory, slot.sampling, slot.used = Conversation(), wish.sampling, next(self._leases)
        self._leased.append(wish)
        try:
            yield slot
        finally:
            self._leased.remove(wish)
            self._lengths.append(self._clock() - began)
            self._give_back(slot)

    async def close(self) -> None:
        """End all backends, leased ones included; waiting requests get BusyError."""
        self._closed = True
        for wish in self._waiting:
            if not wish.slot.done():
                wish.slot.set_exception(self._ended())
        self._waiting.clear()
        results = await asyncio.gather(*(slot.backend.close() for slot in self._slots), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                raise error

    # The queue

    async def _seat_for(self, wish: _Waiter, *, returning: bool) -> Slot:
        if self._closed:
            raise self._ended()
        if not self._waiting and (slot := self._pick(wish)) is not None:
            return slot
        if len(self._waiting) >= self._queue and not returning:
            refused = self._full()
            if not wish.urgent or not self._waiting or self._waiting[-1].urgent:
                raise refused
            self._settle(self._waiting.pop(), refused)  # an urgent request is not refused because of waiting batch work
        insort(self._waiting, wish, key=lambda each: each.place)
        if wish.urgent:
            self._ask_to_make_way()
        try:
            return await wish.slot
        except asyncio.CancelledError:
            if wish in self._waiting:
                self._waiting.remove(wish)
            elif wish.slot.done() and not wish.slot.cancelled() and wish.slot.exception() is None:
                self._give_back(wish.slot.result())  # cancelled after the slot was assigned
            raise

    def _give_back(self, slot: Slot) -> None:
        self._free.append(slot)
        while self._waiting and not self._closed:
            first = self._waiting[0]
            try:
                if not first.slot.done():  # cancelled, and not yet removed from the queue
                    found = self._pick(first)
                    if found is None:
                        return
                    first.slot.set_result(found)
            except BitnetChatError as error:
                first.slot.set_exception(error)
            self._waiting.pop(0)

    @staticmethod
    def _settle(wish: _Waiter, error: BitnetChatError) -> None:
        if not wish.slot.done():
            wish.slot.set_exception(error)

    def _ask_to_make_way(self) -> None:
        """Ask as many leases to end as urgent requests wait, the newest ones first: they lose least."""
        needed = sum(wish.urgent for wish in self._waiting) - sum(wish.asked for wish in self._leased)
        for wish in reversed(self._leased):
            if needed <= 0:
                return
            if wish.make_way is not None and not wish.asked and wish.make_way():
                wish.asked = True
                needed -= 1

    def _full(self) -> BusyError:
        mean = sum(self._lengths) / len(self._lengths) if self._lengths else 5.0
        # Half of the queue: then it has room for several clients.
        wait = mean * max(1.0, self._queue / 2) / self.source.parallel
        return BusyError(
            f"{len(self._waiting)} requests wait for {self.source.name} already",
            retry_after=min(max(_RETRY[0], wait), _RETRY[1]),
            remedy="try again later, or start the server with more --parallel",
        )

    def _ended(self) -> BusyError:
        return BusyError(f"{self.source.name} is being unloaded", retry_after=_RETRY[0], remedy="try again")

    # Slots

    def _pick(self, wish: _Waiter) -> Slot | None:
        """Take the best free slot for the request; None: all are busy. Raises the errors of ``source.backend`` if the
        pool has no slot at all."""
        now = max((slot.used for slot in self._slots), default=0)

        def fit(slot: Slot) -> tuple[int, float]:
            return _fit(slot, wish.conversation, wish.sampling, now)

        best = max(self._free, key=fit, default=None)
        if best is None or fit(best) < _FRESH:
            if len(self._slots) < self.source.parallel:
                try:
                    return self._make()
                except BitnetChatError:
                    if not self._slots:  # otherwise the existing slots are used
                        raise
            if best is None:
                return None
        self._free.remove(best)
        return best

    def _make(self) -> Slot:
        slot = Slot(self.source.backend())
        self._slots.append(slot)
        slot.backend.start()
        return slot


_FRESH = (2, 0.0)
"""The fit of an unused slot. In place of a slot with a worse fit a new one is made, if the limit allows it."""


def _fit(slot: Slot, conversation: Conversation, sampling: Sampling, now: int) -> tuple[int, float]:
    """The fit of a slot, the best highest: a slot with the conversation in its cache, the more of it the better; an
    unused slot; a slot with another branch of this conversation; then slots with a low cost of their loss. ``now``: the
    number of the last lease."""
    if not slot.used:
        return _FRESH
    known, asked = slot.memory.messages, conversation.messages
    same = sum(1 for _ in itertools.takewhile(lambda pair: _same(*pair), zip(known, asked, strict=False)))
    if known and same == len(known) and sampling == slot.sampling:
        return 3, same
    if any(message.role == "user" for message in known[:same]):
        return 1, -slot.used
    return 0, -_loss(slot, now)


def _loss(slot: Slot, now: int) -> float:
    """The estimated cost of losing the cache of a slot: the characters to prefill again, more for a conversation with
    many turns, less for one that was used long ago."""
    characters = sum(len(message.content) for message in slot.memory.messages)
    turns = sum(message.role == "user" for message in slot.memory.messages)
    return characters * turns**2 / (now - slot.used + 1)


def _same(one: Message, other: Message) -> bool:
    """Whether the prompt is the same. Finish reasons and thinking are not part of it."""
    return (one.role, one.content, one.tool_calls) == (other.role, other.content, other.tool_calls)


# The source of the backends of one model.


@dataclass(frozen=True, slots=True)
class BackendFactory:
    """Makes backends of one model. Each makes one reply at a time; the caller closes each.

    Shared resources, such as a server process, start with the first backend and end with the last.
    """

    name: str
    """The name of the model as known before loading; ``BackendStatus.model`` has the final one."""
    parallel: int
    """Number of backends that reply concurrently without waiting for each other. More may be made."""
    make: Callable[[], Backend]
    path: Path | None = None
    """The file of the model; None: it is on another computer."""
    context: int = 0
    """Requested tokens of the context window; 0: those of the training of the model, at most 8192."""
    shared: bool = False
    """Whether all backends share one process: each then reports the memory and the restarts of that process."""
    chat_template: str = ""
    """The chat template in place of the model's own: a name, a file, or a text."""
    origin: str = ""
    """The source of the file, ``hf:user/repo/file``; empty: not known."""

    def backend(self) -> Backend:
        """Make one more backend; starts nothing. Raises EngineNotFoundError, ModelError or UsageError for missing
        parts."""
        return self.make()
