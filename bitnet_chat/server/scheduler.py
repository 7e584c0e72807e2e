"""The scheduler of replies: selects the model and the backend, starts a reply, and counts it in the metrics."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.pipeline import ReplyPipeline, pipeline_of, run
from bitnet_chat.backends.pool import Slot, number
from bitnet_chat.backends.variants import VariantEvent, variants_of
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend, SingleCallBackend, refuses_tools
from bitnet_chat.backends.wrappers.recording import record_variants, recorded
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, EngineDiedError, FinishReason, ShuttingDownError
from bitnet_chat.events import Completed, Failed
from bitnet_chat.journal import JournalRecorder
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.metrics import Metrics, ReplyMetrics
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.server.reply_cache import CachedBackend, CacheEntry, ReplyCache
from bitnet_chat.util.threads import run_beside_loop

log = logging.getLogger("bitnet_chat.server")

_YIELDS = 3
"""Maximum number of times that a low-priority reply yields; after that it runs to its end."""
_PATIENCE = 8.0
"""Seconds for replies to end after a stop. A guarded backend abandons an unresponsive engine after six."""


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """A request for a reply. ``recorder``: the journal recorder of the reply, or None."""

    conversation: Conversation
    options: ReplyOptions = field(default_factory=ReplyOptions)
    model: str = ""
    recorder: JournalRecorder | None = None
    tools_optional: bool = False
    """Whether a model without support for tools may answer without them."""
    one_call: bool = False
    """Whether the reply may contain at most one tool call."""
    urgent: bool = True
    """Interactive priority. A low-priority reply that is not recorded, and of which no reader has received text, yields
    to an interactive one and is generated again after it.
    """


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """Defaults of a request. None: no limit."""

    system: str = ""
    """The system prompt of a conversation that has none. A recorded conversation keeps its own."""
    max_tokens: int | None = None
    timeout: float | None = None
    """Seconds."""

    def applied(self, request: ReplyRequest) -> ReplyRequest:
        options, conversation = request.options, request.conversation
        if options.max_tokens is None and self.max_tokens is not None:
            options = replace(options, max_tokens=self.max_tokens)
        if options.timeout is None and self.timeout is not None:
            options = replace(options, timeout=self.timeout)
        options = replace(options, alone=True)  # backends are shared by all clients
        if self.system and not conversation.system and request.recorder is None:
            conversation = conversation.with_system(self.system)
        return replace(request, options=options, conversation=conversation)


class ReplyScheduler:
    """All methods belong to the event loop."""

    def __init__(
        self,
        model_manager: ModelManager,
        *,
        cache: ReplyCache | None = None,
        defaults: RequestDefaults | None = None,
        log_prompts: bool = False,
    ) -> None:
        """``cache``: of deterministic replies, or None. ``log_prompts``: log prompts and replies."""
        self.model_manager = model_manager
        self.defaults = defaults or RequestDefaults()
        self._cache = cache
        self._tasks: dict[asyncio.Task[None], tuple[ReplyBroadcast, ...]] = {}
        self.metrics = Metrics(model_manager, lambda: self.running)
        self.ending = asyncio.Event()
        """Set when the server begins to shut down: idle streams should end, too."""
        self.has_answered = False
        """Whether any reply was completed: a model could be loaded."""
        self._log_prompts = log_prompts

    @property
    def running(self) -> int:
        """Number of waiting and running replies."""
        return sum(map(len, self._tasks.values()))

    def start(self) -> None:
        self.model_manager.start()

    def begin(self, request: ReplyRequest, *, on_end: Callable[[ReplyBroadcast], None] | None = None) -> ReplyBroadcast:
        """Start a reply. ``on_end``: called at its end.

        Raises UnknownModelError, and ShuttingDownError during shutdown. For any other error, such as a full queue, the
        broadcast ends with Failed.
        """
        request, model = self._accepted(request)
        generation, metrics = self._new(model)
        self._start(self._run(request, generation, metrics), request, {generation: metrics}, on_end)
        return generation

    def begin_variants(
        self, request: ReplyRequest, count: int, *, on_end: Callable[[ReplyBroadcast], None] | None = None
    ) -> tuple[ReplyBroadcast, ...]:
        """Start ``count`` replies to the same conversation, on one backend. A stop of one of them stops all. They are
        neither cached nor preempted. ``on_end``: called for each of them, once all have ended. Raises the errors of
        :meth:`begin`.
        """
        request, model = self._accepted(request)
        replies = dict(self._new(model) for _ in range(count))
        self._start(self._run_variants(request, replies), request, replies, on_end)
        return tuple(replies)

    def _accepted(self, request: ReplyRequest) -> tuple[ReplyRequest, str]:
        """The request with the defaults, and the name of its model. Raises the errors of :meth:`begin`."""
        if self.ending.is_set():
            raise ShuttingDownError(
                "the server is shutting down", retry_after=10.0, remedy="try again after its restart"
            )
        request = self.defaults.applied(request)
        return request, self.model_manager.choose(request.model, request.conversation)

    def _new(self, model: str) -> tuple[ReplyBroadcast, ReplyMetrics]:
        return ReplyBroadcast(secrets.token_hex(12), model), self.metrics.reply(model)

    def _start(
        self,
        work: Coroutine[object, object, None],
        request: ReplyRequest,
        replies: Mapping[ReplyBroadcast, ReplyMetrics],
        on_end: Callable[[ReplyBroadcast], None] | None,
    ) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = tuple(replies)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.pop(task, None)
            for generation, reply_metrics in replies.items():
                self._end(request, generation, reply_metrics)
                if on_end is not None:
                    on_end(generation)

        task.add_done_callback(over)

    def _end(self, request: ReplyRequest, generation: ReplyBroadcast, reply_metrics: ReplyMetrics) -> None:
        if generation.end is None:  # it was stopped before it began
            generation.put(Completed(FinishReason.INTERRUPTED, generation.text))
        if generation.end is not None:
            if generation.cached:
                self.metrics.count_replay(generation.model)
            else:
                reply_metrics.on_end(generation.end)
            self.has_answered = self.has_answered or bool(generation.end.text)
        if self._log_prompts:
            _log(request, generation)

    async def close(self, grace: float = 0.0) -> None:
        """Refuse new replies, give running ones ``grace`` seconds, then stop them with their text so far. A
        cancellation of this call stops them at once.
        """
        self.ending.set()
        try:
            if self._tasks and grace:
                await asyncio.wait(self._tasks, timeout=grace)
        finally:
            for generation in chain.from_iterable(list(self._tasks.values())):
                generation.stop()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_PATIENCE)
            for task in list(self._tasks):  # those that do not react to the stop
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=1.0)
            await self.model_manager.close()

    # One reply

    async def _run(self, request: ReplyRequest, generation: ReplyBroadcast, reply_metrics: ReplyMetrics) -> None:
        task = asyncio.current_task()
        assert task is not None
        turn = number()
        with _ending(generation):
            entry = await self._cache_entry(request, generation.model)
            if entry is not None and entry.replay is not None:
                generation.cached = True
                await _replay(entry.replay, request, generation)
                return
            if not generation.on_stop(task.cancel):
                raise asyncio.CancelledError
            if (refusal := await self._refusal(request, generation.model)) is not None:
                raise refusal
            async with self.model_manager.held(generation.model) as pool:
                for tries in range(_YIELDS + 1):
                    if not generation.on_stop(task.cancel):
                        raise asyncio.CancelledError
                    may_yield = tries < _YIELDS and not request.urgent and request.recorder is None
                    preemption = _Preemption(generation) if may_yield else None
                    async with pool.lease(
                        request.conversation,
                        request.options.sampling,
                        urgent=request.urgent,
                        make_way=preemption.preempt if preemption else None,
                        turn=turn,
                        again=tries > 0,
                    ) as slot:
                        reply_metrics.on_assigned()
                        await self._generate(slot, request, generation, reply_metrics, preemption, entry)
                    if preemption is None or not preemption.is_made:
                        return
                    generation.reset()
                    self.metrics.count_yield(generation.model)

    async def _run_variants(self, request: ReplyRequest, replies: Mapping[ReplyBroadcast, ReplyMetrics]) -> None:
        task = asyncio.current_task()
        assert task is not None
        turn, (first, *_) = number(), replies
        with _ending(*replies):
            _let_stop(replies, task.cancel)
            if (refusal := await self._refusal(request, first.model)) is not None:
                raise refusal
            async with (
                self.model_manager.held(first.model) as pool,
                pool.lease(request.conversation, request.options.sampling, urgent=request.urgent, turn=turn) as slot,
            ):
                for reply_metrics in replies.values():
                    reply_metrics.on_assigned()
                await self._generate_variants(slot, request, replies)

    async def _cache_entry(self, request: ReplyRequest, model: str) -> CacheEntry | None:
        """Return the entry of the reply in the cache; None without a cache or for a reply that is not repeatable."""
        if self._cache is None:
            return None
        key = await run_beside_loop(request.conversation, self._cache.key, model, request.conversation, request.options)
        return self._cache.entry(key)

    async def _refusal(self, request: ReplyRequest, model: str) -> BitnetChatError | None:
        """Return the error of a request that can be refused without a backend, or None."""
        pool, options = self.model_manager.pools[model], request.options
        refusal = await pool.refusal(request.conversation, options)
        if refusal is not None and options.tools and request.tools_optional and refuses_tools(refusal):
            options = replace(options, tools=(), tool_choice="auto")
            refusal = await pool.refusal(request.conversation, options)
        return refusal

    async def _generate(
        self,
        slot: Slot,
        request: ReplyRequest,
        generation: ReplyBroadcast,
        reply_metrics: ReplyMetrics,
        preemption: _Preemption | None,
        entry: CacheEntry | None,
    ) -> None:
        backend = _with_tool_policy(slot.backend, request)
        if preemption is not None:
            preemption.backend = backend
        if not generation.on_stop(backend.interrupt):
            raise asyncio.CancelledError
        try:
            async with aclosing(run(lambda: _pipeline(backend, request, entry))) as events:
                async for event in events:
                    if preemption is not None and preemption.is_made:
                        continue  # the remaining events belong to the discarded reply
                    reply_metrics.on_event(event)
                    generation.put(event)
        finally:
            self.metrics.count_restarts(generation.model, slot)
        if isinstance(generation.end, Completed):
            slot.memory = _context_after(request.conversation, generation)

    async def _generate_variants(
        self, slot: Slot, request: ReplyRequest, replies: Mapping[ReplyBroadcast, ReplyMetrics]
    ) -> None:
        backend, generations = _with_tool_policy(slot.backend, request), tuple(replies)
        _let_stop(replies, backend.interrupt)
        try:
            async with aclosing(_variants(backend, request, len(replies))) as events:
                async for each in events:
                    generation = generations[each.variant]
                    replies[generation].on_event(each.event)
                    generation.put(each.event)
                    is_stopping = any(reply.is_stopping for reply in replies)
                    if is_stopping and not any(reply.is_running for reply in replies):
                        break  # the next one has not begun
        finally:
            self.metrics.count_restarts(generations[0].model, slot)
        for generation in generations:
            if generation.end is None:
                generation.put(Completed(FinishReason.INTERRUPTED, generation.text))
        slot.memory = request.conversation


def _let_stop(generations: Iterable[ReplyBroadcast], stop: Callable[[], object]) -> None:
    """Let the first stop of any reply call ``stop``. Raises CancelledError if one is stopped already."""
    stops = iter((stop,))
    for generation in generations:
        if not generation.on_stop(lambda: next(stops, bool)()):
            raise asyncio.CancelledError


@contextmanager
def _ending(*generations: ReplyBroadcast) -> Iterator[None]:
    """End the replies that have no end after the block, whatever happens in it."""
    end: Callable[[str], Completed | Failed]
    end = partial(Failed, EngineDiedError("the reply stream ended unexpectedly"))
    try:
        yield
    except asyncio.CancelledError:  # stopped while it waited
        end = partial(Completed, FinishReason.INTERRUPTED)
    except BitnetChatError as error:
        end = partial(Failed, error)
    except Exception:
        log.exception("a reply broke")
        end = partial(Failed, EngineDiedError("internal server error; see the log of the server"))
    finally:
        for generation in generations:
            generation.put(end(generation.text))


def _with_tool_policy(backend: Backend, request: ReplyRequest) -> Backend:
    if request.options.tools and request.tools_optional:
        backend = OptionalToolsBackend(backend)
    return SingleCallBackend(backend) if request.options.tools and request.one_call else backend


class _Preemption:
    """Lets a low-priority reply yield to an interactive one."""

    def __init__(self, generation: ReplyBroadcast) -> None:
        self._generation = generation
        self.backend: Backend | None = None
        """Its backend, once assigned."""
        self.is_made = False

    def preempt(self) -> bool:
        """Interrupt the reply. Return False if it cannot yield: it has ended, or a reader has received a part of it."""
        if self._generation.seen or self._generation.end is not None or self._generation.is_stopping:
            return False
        if self.backend is None:
            return False
        self.is_made = True
        self.backend.interrupt()
        return True


async def _replay(replay: CachedBackend, request: ReplyRequest, generation: ReplyBroadcast) -> None:
    if not generation.on_stop(replay.interrupt):
        raise asyncio.CancelledError
    async with aclosing(run(lambda: _pipeline(replay, request, None))) as events:
        async for event in events:
            generation.put(event)


def _pipeline(backend: Backend, request: ReplyRequest, entry: CacheEntry | None) -> ReplyPipeline:
    """Return the filters of a reply. ``entry``: the entry of the cache that stores it, or None."""
    if request.recorder is None:
        pipeline = pipeline_of(backend, request.conversation, request.options)
    else:
        pipeline = recorded(backend, request.recorder, request.conversation, request.options)
    return pipeline if entry is None else pipeline.then(entry.filter(backend.status()))


def _variants(backend: Backend, request: ReplyRequest, count: int) -> AsyncGenerator[VariantEvent]:
    if request.recorder is None:
        return variants_of(backend, request.conversation, request.options, count)
    return record_variants(backend, request.recorder, request.conversation, request.options, count)


def _context_after(conversation: Conversation, generation: ReplyBroadcast) -> Conversation:
    """Return the conversation that is in the context of the backend after a reply."""
    last = conversation.last
    if last is not None and last.role == "assistant":  # the reply continued it
        before = Conversation(conversation.messages[:-1])
        return before.with_assistant(last.content + generation.text, tool_calls=generation.calls)
    if not generation.text and not generation.calls:
        return conversation
    return conversation.with_assistant(generation.text, tool_calls=generation.calls)


def _log(request: ReplyRequest, generation: ReplyBroadcast) -> None:
    asked = request.conversation.last
    log.info("%s asked: %s", generation.id, asked.content if asked is not None else "")
    log.info("%s replied: %s", generation.id, generation.text)
