"""The path of a reply from its source to a front end: synchronous filters, driven by one asynchronous loop.

A backend around another one adds filters to the pipeline of the inner backend instead of a generator: the number of
coroutines that an event passes does not grow with the number of backends.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bitnet_chat.backend import Backend, BackendStatus, ReplyOptions, refusal_of
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Completed, Event, Failed

if TYPE_CHECKING:
    from bitnet_chat.backends.variants import JointReplies

FIRST_TOKEN = 10
"""Factor of the stall timeout before the first token: the prefill of a long prompt takes time."""


class ReplyFilter:
    """Base of all filters: passes every event on. One instance filters one reply."""

    step: Callable[[], Awaitable[ReplyPipeline | None]] | None = None
    """Work to await after the events of the last ``feed`` are delivered; set by the filter, cleared by the loop. A
    pipeline as its result replaces the source and the filters before this one: the reply continues from another
    source."""

    def feed(self, event: Event) -> Sequence[Event]:
        """The events that replace ``event``."""
        return (event,)

    def flush(self) -> Sequence[Event]:
        """The last events, after the end of the source, or after the grace period of an interrupt."""
        return ()

    def close(self) -> None:
        """Release resources: the source is closed, at the end of the reply or with the generator."""


class ReplyPipeline:
    """``source``: the events of a backend; None: the step of the first filter provides a source."""

    def __init__(self, source: AsyncGenerator[Event] | None) -> None:
        self.source = source
        self.filters: list[ReplyFilter] = []
        self.watch: StallWatch | None = None
        """The time limits of the source."""
        self.is_over = False
        """Whether the source has yielded its Completed or Failed."""
        self.has_step = False
        """Whether a filter has a step to await."""

    def then(self, added: ReplyFilter, watch: StallWatch | None = None) -> ReplyPipeline:
        """Add a filter at the end. Returns this pipeline."""
        self.filters.append(added)
        self.has_step = self.has_step or added.step is not None
        self.watch = watch or self.watch
        return self

    def feed(self, event: Event) -> Sequence[Event]:
        """The events that all filters make of ``event``."""
        self.is_over = isinstance(event, (Completed, Failed))
        return self._pass((event,), self.filters)

    def flush(self) -> Iterator[Event]:
        """The last events of each filter, passed through the filters after it."""
        for number, each in enumerate(self.filters, 1):
            yield from self._pass(each.flush(), self.filters[number:])

    def _pass(self, events: Sequence[Event], filters: Sequence[ReplyFilter]) -> Sequence[Event]:
        for each in filters:
            if len(events) == 1:  # the usual case, twice as fast
                events = each.feed(events[0])
            else:
                events = [passed for event in events for passed in each.feed(event)]
            if each.step is not None:
                self.has_step = True
        return events

    async def run_steps(self) -> None:
        """Await the steps of the filters, including those of a new source."""
        while steps := [(number, each.step) for number, each in enumerate(self.filters) if each.step is not None]:
            (number, step), before = steps[0], None
            self.filters[number].step = None
            if self.watch is None or self.is_over:  # no time limits after the end of the source
                before = await step()
            else:
                with self.watch:
                    before = await step()
            if before is not None:
                await self.close(number)
                self.source, self.filters[:number], self.is_over = before.source, before.filters, False
                self.watch = before.watch or self.watch
        self.has_step = False

    async def close(self, number: int | None = None) -> None:
        """Close the source, and the first ``number`` filters; None: all of them."""
        try:
            if self.source is not None:
                await self.source.aclose()
        finally:
            for each in self.filters[:number]:
                each.close()


async def run(make: Callable[[], ReplyPipeline]) -> AsyncGenerator[Event]:
    """The events of a reply. ``make`` is called at the first ``anext``. Closing the generator stops the reply."""
    pipeline = make()
    try:
        while True:
            if pipeline.has_step:
                await pipeline.run_steps()
            if (source := pipeline.source) is None:
                break
            event: Event | None = None
            if (watch := pipeline.watch) is None:
                event = await anext(source, None)
            elif pipeline.is_over:  # no wait: the source may hang after its last event
                break
            else:
                with watch:
                    event = await anext(source, None)
            if event is None:
                break
            for each in pipeline.feed(event):
                yield each
        for each in pipeline.flush():
            yield each
    finally:
        await pipeline.close()


async def only(event: Event) -> AsyncGenerator[Event]:
    """A source of one event."""
    yield event


@runtime_checkable
class PipelineBackend(Protocol):
    """A backend whose replies are pipelines, to which filters can be added."""

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        """The pipeline of ``reply``. May change the state of the backend: the caller runs it at once."""


def pipeline_of(backend: Backend, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
    """The pipeline of a reply of any backend."""
    if isinstance(backend, PipelineBackend):
        return backend.pipeline(conversation, options)
    return ReplyPipeline(backend.reply(conversation, options))


class BackendWrapper(ABC):
    """Base of the backends around another one, ``inner``. See :class:`bitnet_chat.backend.Backend`."""

    interrupts = 0
    """Number of interrupts."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def joint(self, conversation: Conversation, options: ReplyOptions, count: int) -> JointReplies | None:
        """See :class:`bitnet_chat.backends.variants.VariantsBackend`."""
        ask = getattr(self.inner, "joint", None)
        found: JointReplies | None = ask(conversation, options, count) if ask is not None else None
        return found

    @abstractmethod
    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        """See :class:`PipelineBackend`."""

    def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        return run(lambda: self.pipeline(conversation, options or ReplyOptions()))

    def start(self) -> None:
        self.inner.start()

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        return await refusal_of(self.inner, conversation, options)

    def prepare(self, history: Conversation) -> None:
        self.inner.prepare(history)

    def count(self, text: str) -> TokenCount | None:
        return self.inner.count(text)

    def interrupt(self) -> None:
        self.interrupts += 1
        self.inner.interrupt()

    def status(self) -> BackendStatus:
        return self.inner.status()

    async def close(self) -> None:
        await self.inner.close()


class StallWatch:
    """The time limits of a source: a context manager for each wait for it.

    A source without events for too long is interrupted. If it does not end within ``grace`` seconds, it is abandoned:
    the wait ends without a result.
    """

    def __init__(self, interrupt: Callable[[], None], stall_timeout: float, grace: float) -> None:
        """``interrupt``: stops the source. ``stall_timeout``: seconds; 0: no limit."""
        self._interrupt, self._grace = interrupt, grace
        self.limit = stall_timeout * FIRST_TOKEN
        """Present limit for the time without an event, in seconds; 0: no limit."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._since: float | None = None
        """Start of the wait for an event; None while the caller processes the last one: that time does not count."""
        self._has_token = False
        self._deadline: float | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._has_expired = False
        self.finding: FinishReason | None = None
        """The finish reason, if this program has stopped the reply."""
        self.is_abandoned = False

    def __enter__(self) -> None:
        self._since = self._loop.time()
        self._task = asyncio.current_task()
        if self._deadline is not None:
            self._limit_wait(self._deadline)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._since = None
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if not self._has_expired:
            return False
        # As in asyncio.timeout: a cancellation of the task from elsewhere is passed on.
        self._has_expired = False
        assert self._task is not None
        self.is_abandoned = self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        return self.is_abandoned

    def started(self) -> None:
        """Note that the engine has the message."""
        self._arm(self.limit)

    def has_spoken(self) -> None:
        """Note that a token of the reply has arrived."""
        if not self._has_token:
            self._has_token = True
            self.limit /= FIRST_TOKEN
            self._arm(self.limit)

    def stop(self, reason: FinishReason) -> None:
        """Stop the source; its further events are not part of the reply."""
        self.finding = reason
        self._interrupt()
        self.interrupted()

    def interrupted(self) -> None:
        """Begin the grace period after an interrupt of the source."""
        self.close()
        if self._deadline is None:
            self._deadline = self._loop.time() + self._grace
            if self._since is not None:
                self._limit_wait(self._deadline)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _limit_wait(self, deadline: float) -> None:
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._deadline_timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        assert self._task is not None
        self._has_expired = True
        self._task.cancel()

    def _arm(self, delay: float) -> None:
        self.close()
        if self.limit and self._deadline is None:
            self._due = self._loop.time() + delay
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        """Check the limits, from a timer instead of at each event."""
        now = self._loop.time()
        slept = now - self._due > self.limit / 2  # Ctrl-Z, a busy computer: output of the engine may be unread
        if self._since is None or slept:
            self._arm(self.limit)
        elif now - self._since < self.limit:
            self._arm(self._since + self.limit - now)
        else:
            self.stop(FinishReason.STALLED)
