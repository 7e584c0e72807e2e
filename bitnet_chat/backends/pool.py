"""Several backends of one model, for more conversations than one; who comes when all are busy waits in line.

A backend that holds the beginning of a conversation in its memory answers the next turn of it at once; any other would
have to read it all again. So each is lent, where there is a choice, to the conversation that it knows.

A seat goes from hand to hand: who gives one back hands it to the first in line, so that nobody can slip in between.
People come before batch work, and where a person has to wait, batch work that can begin again is asked to make way.
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
"""Leases whose length tells how long the next ones may take."""
_RETRY = (1.0, 120.0)
"""Seconds: the least and the most that somebody is sent away for."""
_numbers = itertools.count(1)


def number() -> int:
    """The next number in line. The same ones for all pools, so that one keeps its worth when a pool is made anew."""
    return next(_numbers)


@dataclass(slots=True, eq=False)
class Slot:
    """A backend, and what it has lived through."""

    backend: Backend
    memory: Conversation = field(default_factory=Conversation)
    """Empty where it is not known: after a failure, for example."""
    sampling: Sampling = field(default_factory=Sampling)
    """How its last reply was drawn. An engine that is to draw otherwise begins anew."""
    used: int = 0
    """When it was used last, in leases. 0: never."""
    restarts: int = 0
    """Those of its engine that were accounted for."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits, or has a seat."""

    conversation: Conversation
    sampling: Sampling
    urgent: bool
    number: int
    make_way: Callable[[], bool] | None
    slot: asyncio.Future[Slot]
    asked: bool = False
    """It makes way."""

    @property
    def place(self) -> tuple[bool, int]:
        return not self.urgent, self.number


class Pool:
    """``source.parallel`` seats, each made when it is first needed. All methods belong to the event loop."""

    def __init__(self, source: BackendFactory, *, queue: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        """``queue``: how many may wait."""
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
        """Resident bytes of all processes, those that are kept ready among them; 0: nothing is known."""
        statuses = [slot.backend.status() for slot in self._slots]
        sizes = [(status.memory or 0) + (status.spare_memory or 0) for status in statuses]
        return max(sizes, default=0) if self.source.shared else sum(sizes)

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        """What a request that would have to wait here is refused for when its turn comes, as far as that can be said
        without an engine: there is nothing to wait for, then. None where there is a seat for it."""
        if self._closed or not self._slots:
            return None
        if not self._waiting and (self._free or len(self._slots) < self.source.parallel):
            return None
        return await refusal_of(self._slots[0].backend, conversation, options)

    def start(self) -> None:
        """Loads the first one in the background."""
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
        """A seat for one reply. Who leases sets ``memory`` to what the conversation has become; unknown else.

        ``urgent``: a person waits; batch work comes after. ``make_way`` is called, once at most, when a person waits
        for a seat: True if this lease ends soon for it. ``turn``: the :func:`number` in line, where it was drawn
        before; ``again``: for a lease that made way, which is not sent away.

        Raises BusyError when too many wait already and when the pool is closed, and what ``source.backend`` raises.
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
        """Ends all backends, those that are lent too; who waits hears Busy."""
        self._closed = True
        for wish in self._waiting:
            if not wish.slot.done():
                wish.slot.set_exception(self._ended())
        self._waiting.clear()
        results = await asyncio.gather(*(slot.backend.close() for slot in self._slots), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                raise error

    # The line

    async def _seat_for(self, wish: _Waiter, *, returning: bool) -> Slot:
        if self._closed:
            raise self._ended()
        if not self._waiting and (slot := self._pick(wish)) is not None:
            return slot
        if len(self._waiting) >= self._queue and not returning:
            refused = self._full()
            if not wish.urgent or not self._waiting or self._waiting[-1].urgent:
                raise refused
            self._settle(self._waiting.pop(), refused)  # no person goes away for batch work that waits
        insort(self._waiting, wish, key=lambda each: each.place)
        if wish.urgent:
            self._ask_to_make_way()
        try:
            return await wish.slot
        except asyncio.CancelledError:
            if wish in self._waiting:
                self._waiting.remove(wish)
            elif wish.slot.done() and not wish.slot.cancelled() and wish.slot.exception() is None:
                self._give_back(wish.slot.result())  # it was handed over, and nobody is there to take it
            raise

    def _give_back(self, slot: Slot) -> None:
        self._free.append(slot)
        while self._waiting and not self._closed:
            first = self._waiting[0]
            try:
                if not first.slot.done():  # cancelled, and has not yet come round to saying so
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
        """As many as people wait for, those first that have lost least."""
        needed = sum(wish.urgent for wish in self._waiting) - sum(wish.asked for wish in self._leased)
        for wish in reversed(self._leased):
            if needed <= 0:
                return
            if wish.make_way is not None and not wish.asked and wish.make_way():
                wish.asked = True
                needed -= 1

    def _full(self) -> BusyError:
        mean = sum(self._lengths) / len(self._lengths) if self._lengths else 5.0
        # Half of the line: then there is room again, and not only for the fastest.
        wait = mean * max(1.0, self._queue / 2) / self.source.parallel
        return BusyError(
            f"{len(self._waiting)} requests wait for {self.source.name} already",
            retry_after=min(max(_RETRY[0], wait), _RETRY[1]),
            remedy="try again later, or start the server with more --parallel",
        )

    def _ended(self) -> BusyError:
        return BusyError(f"{self.source.name} is being unloaded", retry_after=_RETRY[0], remedy="try again")

    # Seats

    def _pick(self, wish: _Waiter) -> Slot | None:
        """The best seat there is for it, no longer free; None where there is none. Raises what ``source.backend``
        raises, if not even one could be made."""
        now = max((slot.used for slot in self._slots), default=0)

        def fit(slot: Slot) -> tuple[int, float]:
            return _fit(slot, wish.conversation, wish.sampling, now)

        best = max(self._free, key=fit, default=None)
        if best is None or fit(best) < _FRESH:
            if len(self._slots) < self.source.parallel:
                try:
                    return self._make()
                except BitnetChatError:
                    if not self._slots:  # else those that there are will have to do
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
"""The fit of a seat that was never used. Anything that is worse gives way to a new seat, where there may be one."""


def _fit(slot: Slot, conversation: Conversation, sampling: Sampling, now: int) -> tuple[int, float]:
    """How well a seat suits, the best highest: one that knows the conversation so far, and the more of it the better;
    one that was never used; one whose memory is another branch of this conversation, and so of no use to any other;
    then the one whose loss costs least. ``now``: the last lease of all."""
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
    """What it would cost, as far as one can guess, that a seat forgets: the characters to read again, more the more
    often the conversation has been gone on with, and less the longer that is ago."""
    characters = sum(len(message.content) for message in slot.memory.messages)
    turns = sum(message.role == "user" for message in slot.memory.messages)
    return characters * turns**2 / (now - slot.used + 1)


def _same(one: Message, other: Message) -> bool:
    """Whether an engine reads the same. Why a reply ended, and what was thought before it, it is not told."""
    return (one.role, one.content, one.tool_calls) == (other.role, other.content, other.tool_calls)


# Where backends come from, for one who needs several of the same model side by side.


@dataclass(frozen=True, slots=True)
class BackendFactory:
    """Backends of one model. Each answers one reply at a time, and each has to be closed by who asked for it.

    What they share, a server process for example, starts with the first of them and ends with the last.
    """

    name: str
    """Of the model, as far as it is known before anything is loaded: ``BackendStatus.model`` says more later."""
    parallel: int
    """So many backends answer at the same time without one waiting for another. More of them may be made."""
    make: Callable[[], Backend]
    path: Path | None = None
    """The file of the model; None where it lies on another computer."""
    context: int = 0
    """Tokens of the window that was asked for; 0: what the model was trained for, at most 8192."""
    shared: bool = False
    """Whether one process answers for all of them: each tells of the memory and the restarts of that one."""
    chat_template: str = ""
    """What was asked for in place of the model's own: a name, a file, or a text."""
    origin: str = ""
    """Where the file came from, ``hf:user/repo/file``; empty where that is not known."""

    def backend(self) -> Backend:
        """One more. Starts nothing. Raises EngineNotFoundError, ModelError or UsageError for what is seen to be
        missing.
        """
        return self.make()
