"""Several replies to one conversation: at the same time from one prefill where the backend can, else in sequence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, runtime_checkable

from bitnet_chat.backend import MOST_VARIANTS, Backend, ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, VariantEvent
from bitnet_chat.util.merge_generators import merged

__all__ = ["MOST", "JointReplies", "VariantEvent", "VariantsBackend", "check_count", "options_of", "variants_of"]

MOST = MOST_VARIANTS
"""Maximum number of variants of one request."""


@runtime_checkable
class VariantsBackend(Protocol):
    """A backend that may generate several replies from one prefill."""

    def joint(self, conversation: Conversation, options: ReplyOptions, count: int) -> JointReplies | None:
        """Return the source of several replies, to which each of them then gets ``options.joined``. None: not with this
        conversation and these options."""


def variants_of(
    backend: Backend, conversation: Conversation, options: ReplyOptions, count: int
) -> AsyncGenerator[VariantEvent]:
    """The events of ``count`` replies. Those of each variant are the events of a reply: they end with one Completed or
    Failed. Closing the generator, and ``backend.interrupt``, stop all of them.

    With a seed in ``options``, the seed of each variant is its own, see :func:`options_of`. The time limit is that of
    all together. Raises UsageError for a count below 1 or above :data:`MOST`.
    """
    check_count(count)
    if count > 1 and isinstance(backend, VariantsBackend):
        joint = backend.joint(conversation, options, count)
        if joint is not None:
            return _together(backend, joint, conversation, options, count)
    return _in_sequence(backend.reply, conversation, options, count, lambda: interrupts_of(backend))


def check_count(count: int) -> None:
    """Raise UsageError for a number of replies that is not possible."""
    if not 1 <= count <= MOST:
        raise UsageError(f"the number of variants must be from 1 to {MOST}, not {count}")


def options_of(options: ReplyOptions, variant: int) -> ReplyOptions:
    """The options of one variant: its seed is that of the request plus its number."""
    return options.for_variant(variant)


def interrupts_of(backend: Backend) -> int:
    """The number of interrupts of a backend, if it counts them."""
    return getattr(backend, "interrupts", 0)


_Reply = Callable[[Conversation, ReplyOptions], AsyncGenerator[Event]]


async def _in_sequence(
    reply: _Reply, conversation: Conversation, options: ReplyOptions, count: int, interrupts: Callable[[], int]
) -> AsyncGenerator[VariantEvent]:
    """No variant begins after an interrupt, after the time limit, or after a request that failed as a whole: the next
    would fail in the same way."""
    began, before, clock = asyncio.get_running_loop().time(), interrupts(), asyncio.get_running_loop().time
    rest: Completed | Failed | None = None
    for variant in range(count):
        left = None if options.timeout is None else options.timeout - (clock() - began)
        if rest is None and interrupts() != before:
            rest = Completed(FinishReason.INTERRUPTED, "")
        if rest is None and variant and left is not None and left <= 0:
            rest = Completed(FinishReason.TIMEOUT, "")
        if rest is not None:
            yield VariantEvent(variant, rest)
            continue
        asked = replace(options_of(options, variant), timeout=left)
        async with aclosing(reply(conversation, asked)) as events:
            async for event in events:
                if isinstance(event, Completed) and event.reason in (FinishReason.INTERRUPTED, FinishReason.TIMEOUT):
                    rest = Completed(event.reason, "")
                elif isinstance(event, Failed) and not event.text:
                    rest = event
                yield VariantEvent(variant, event)


async def _together(
    backend: Backend, joint: JointReplies, conversation: Conversation, options: ReplyOptions, count: int
) -> AsyncGenerator[VariantEvent]:
    """Each variant is a reply of ``backend`` with its own filters; only their source is common."""

    async def one(number: int) -> AsyncGenerator[Event]:
        member = joint.members[number]
        try:
            async with aclosing(backend.reply(conversation, replace(options_of(options, number), joined=member))) as it:
                async for event in it:
                    yield event
        finally:
            member.leave()

    try:
        async with aclosing(merged([one(number) for number in range(count)])) as events:
            async for number, event in events:
                yield VariantEvent(number, event)
    finally:
        await joint.close()


class JointReplies:
    """The common source of several replies. It begins when all of them have asked for their events, or have ended
    without. All methods belong to the event loop."""

    def __init__(
        self,
        together: Callable[[Conversation, ReplyOptions, int], AsyncGenerator[VariantEvent]],
        reply: _Reply,
        stop_one: Callable[[int], None],
        interrupt: Callable[[], None],
        count: int,
    ) -> None:
        """``together``: several replies of an engine. ``stop_one``: stops one of them. ``reply``: a single reply of the
        engine, for requests that differ, or are repeated. ``interrupt``: stops it."""
        self._generate, self._reply, self._stop_one, self._interrupt = together, reply, stop_one, interrupt
        self.members = tuple(_Member(self, number) for number in range(count))
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._stopped: set[int] = set()
        self._alone: int | None = None
        """The number of the reply that the engine generates alone now."""

    def begin_if_complete(self) -> None:
        """Begin once no further reply can join."""
        if self._task is None and all(each.has_joined or each.has_left for each in self.members):
            self._task = asyncio.ensure_future(self._run([each for each in self.members if not each.has_left]))

    async def alone(self, number: int, conversation: Conversation, options: ReplyOptions) -> AsyncGenerator[Event]:
        """A further request within one reply, after those of the others."""
        if self._task is not None:
            await asyncio.wait([self._task])
        async with self._turn:
            self._alone = number
            try:
                async with aclosing(self._reply(conversation, options)) as events:
                    async for event in events:
                        yield event
            finally:
                self._alone = None

    def stop(self, number: int) -> None:
        """Stop one reply."""
        self._stopped.add(number)
        if self._alone == number:
            self._interrupt()
        else:
            self._stop_one(number)

    def left(self) -> None:
        """Note that a reply has ended or is no longer read."""
        if self._task is None:
            self.begin_if_complete()
        elif all(each.has_left for each in self.members):
            self._task.cancel()

    async def close(self) -> None:
        """Stop the replies."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, members: list[_Member]) -> None:
        async with self._turn:
            try:
                await self._distribute(members)
            except Exception as error:
                for each in members:
                    each.put(error)

    async def _distribute(self, members: list[_Member]) -> None:
        if not members:
            return
        (conversation, options), *others = (each.asked for each in members)
        is_same = len(members) == len(self.members) and all(
            other == (conversation, options_of(options, number)) for number, other in enumerate(others, 1)
        )
        last = conversation.last
        if is_same and last is not None and last.role != "assistant":  # a required call begins the reply
            async with aclosing(self._generate(conversation, options, len(members))) as events:
                async for each in events:
                    self.members[each.variant].put(each.event)
            return
        is_interrupted = False
        for member in members:
            if is_interrupted or member.number in self._stopped:
                member.put(Completed(FinishReason.INTERRUPTED, ""))
                continue
            self._alone = member.number
            async with aclosing(self._reply(*member.asked)) as replies:
                async for event in replies:
                    member.put(event)
                    if isinstance(event, Completed) and event.reason is FinishReason.INTERRUPTED:
                        is_interrupted = member.number not in self._stopped
        self._alone = None


class _Member:
    """See :class:`bitnet_chat.backend.JoinedReply`."""

    def __init__(self, joint: JointReplies, number: int) -> None:
        self._joint, self.number = joint, number
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.asked: tuple[Conversation, ReplyOptions] = Conversation(), ReplyOptions()
        self.has_joined = self.has_left = False

    async def events(self, conversation: Conversation, options: ReplyOptions) -> AsyncGenerator[Event]:
        if self.has_joined:
            async with aclosing(self._joint.alone(self.number, conversation, options)) as events:
                async for event in events:
                    yield event
            return
        self.asked, self.has_joined = (conversation, options), True
        self._joint.begin_if_complete()
        is_over = False
        try:
            while not is_over:
                item = await self._events.get()
                if isinstance(item, Exception):
                    raise item
                is_over = isinstance(item, Completed | Failed)
                yield item
        finally:
            if not is_over:
                self._joint.stop(self.number)

    def put(self, item: Event | Exception) -> None:
        """Add an event of the source."""
        self._events.put_nowait(item)

    def stop(self) -> None:
        self._joint.stop(self.number)

    def leave(self) -> None:
        """Note that nothing more is asked."""
        if not self.has_left:
            self.has_left = True
            self._joint.left()
