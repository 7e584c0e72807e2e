"""The scheduler of replies: selects the model and the backend, starts a reply, and counts it in the metrics."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

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
        self._tasks: dict[asyncio.Task[None], list[ReplyBroadcast]] = {}
        self.metrics = Metrics(model_manager, lambda: self.running)
        self.ending = asyncio.Event()
        """Set when the server begins to shut down: idle streams should end, too."""
        self.has_answered = False
        """Whether any reply was completed: a model could be loaded."""
        self._log_prompts = log_prompts

    @property
    def running(self) -> int:
        """Number of waiting and running replies."""
        return len(self._tasks)

    def start(self) -> None:
        self.model_manager.start()

    def begin(self, request: ReplyRequest, *, on_end: Callable[[ReplyBroadcast], None] | None = None) -> ReplyBroadcast:
        """Start a reply. ``on_end``: called at its end.

        Raises UnknownModelError, and ShuttingDownError during shutdown. For any other error, such as a full queue, the
        broadcast ends with Failed.
        """
        self._refuse_at_end()
        return self._begin(request, 1, on_end)[0]

    def begin_variants(
        self, request: ReplyRequest, count: int, *, on_end: Callable[[ReplyBroadcast], None] | None = None
    ) -> list[ReplyBroadcast]:
        """Start ``count`` replies of one backend, from one prefill if it can; see :meth:`begin`. They do not yield to
        other requests. A stop of one of them stops all. ``on_end``: called for each of them, once all have ended."""
        self._refuse_at_end()
        return self._begin(request, count, on_end)

    def _refuse_at_end(self) -> None:
        if self.ending.is_set():
            raise ShuttingDownError(
                "the server is shutting down", retry_after=10.0, remedy="try again after its restart"
            )

    def _begin(
        self, request: ReplyRequest, count: int, on_end: Callable[[ReplyBroadcast], None] | None = None
    ) -> list[ReplyBroadcast]:
        request = self.defaults.applied(request)
        model = self.model_manager.choose(request.model, request.conversation)
        id = secrets.token_hex(12)
        replies = [_Reply(ReplyBroadcast(id, model), self.metrics.reply(model)) for _ in range(count)]
        task = asyncio.ensure_future(self._run(request, replies))
        self._tasks[task] = [each.generation for each in replies]

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.pop(task, None)
            for each in replies:
                self._over(request, each.generation, each.metrics)
                if on_end is not None:
                    on_end(each.generation)

        task.add_done_callback(over)
        return [each.generation for each in replies]

    def _over(self, request: ReplyRequest, generation: ReplyBroadcast, reply_metrics: ReplyMetrics) -> None:
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
            for generation in [each for replies in self._tasks.values() for each in replies]:
                generation.stop()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_PATIENCE)
            for task in list(self._tasks):  # those that do not react to the stop
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=1.0)
            await self.model_manager.close()

    # One reply

    async def _run(self, request: ReplyRequest, replies: Sequence[_Reply]) -> None:
        generations, turn = [each.generation for each in replies], number()
        try:
            if await self._is_replayed(request, replies):
                return
            await self._lease_and_generate(request, replies, turn)
        except asyncio.CancelledError:  # stopped while it waited
            end: BitnetChatError | None = None
        except BitnetChatError as error:
            end = error
        except Exception:
            log.exception("a reply broke")
            end = EngineDiedError("internal server error; see the log of the server")
        else:
            end = EngineDiedError("the reply stream ended unexpectedly")
        for each in generations:  # those that have not ended
            each.put(Completed(FinishReason.INTERRUPTED, each.text) if end is None else Failed(end, each.text))

    async def _is_replayed(self, request: ReplyRequest, replies: Sequence[_Reply]) -> bool:
        """Whether the cache had all replies. Their entries are set otherwise."""
        if request.recorder is not None and len(replies) > 1:  # they are recorded together
            return False
        for variant, each in enumerate(replies):
            each.entry = await self._cache_entry(request, each.generation.model, variant)
        if any(each.entry is None or each.entry.replay is None for each in replies):
            return False
        for each in replies:
            assert each.entry is not None and each.entry.replay is not None, "as was asked"
            each.generation.cached = True
            await _replay(each.entry.replay, request, each.generation)
        return True

    async def _lease_and_generate(self, request: ReplyRequest, replies: Sequence[_Reply], turn: int) -> None:
        """``turn``: the queue number."""
        task, model = asyncio.current_task(), replies[0].generation.model
        assert task is not None
        _register_stop(replies, task.cancel)
        if (refusal := await self._refusal(request, model)) is not None:
            raise refusal
        async with self.model_manager.held(model) as pool:
            for tries in range(_YIELDS + 1):
                _register_stop(replies, task.cancel)
                may_yield = tries < _YIELDS and not request.urgent and request.recorder is None and len(replies) == 1
                preemption = _Preemption(replies[0].generation) if may_yield else None
                async with pool.lease(
                    request.conversation,
                    request.options.sampling,
                    urgent=request.urgent,
                    make_way=preemption.preempt if preemption else None,
                    turn=turn,
                    again=tries > 0,
                ) as slot:
                    for each in replies:
                        each.metrics.on_assigned()
                    try:
                        if len(replies) == 1:
                            await self._generate(slot, request, replies[0], preemption)
                        else:
                            await self._generate_variants(slot, request, replies)
                    finally:
                        self.metrics.count_restarts(model, slot)
                if preemption is None or not preemption.is_made:
                    return
                replies[0].generation.reset()
                self.metrics.count_yield(model)

    async def _cache_entry(self, request: ReplyRequest, model: str, variant: int) -> CacheEntry | None:
        """Return the entry of the reply in the cache; None without a cache or for a reply that is not repeatable."""
        if self._cache is None:
            return None
        options = request.options.for_variant(variant)
        key = await run_beside_loop(request.conversation, self._cache.key, model, request.conversation, options)
        return self._cache.entry(key)

    async def _refusal(self, request: ReplyRequest, model: str) -> BitnetChatError | None:
        """Return the error of a request that can be refused without a backend, or None."""
        pool, options = self.model_manager.pools[model], request.options
        refusal = await pool.refusal(request.conversation, options)
        if refusal is not None and options.tools and request.tools_optional and refuses_tools(refusal):
            options = replace(options, tools=(), tool_choice="auto")
            refusal = await pool.refusal(request.conversation, options)
        return refusal

    async def _generate(self, slot: Slot, request: ReplyRequest, reply: _Reply, preemption: _Preemption | None) -> None:
        backend, generation = _with_tool_policy(slot.backend, request), reply.generation
        if preemption is not None:
            preemption.backend = backend
        _register_stop([reply], backend.interrupt)
        async with aclosing(run(lambda: _pipeline(backend, request, reply.entry))) as events:
            async for event in events:
                if preemption is not None and preemption.is_made:
                    continue  # the remaining events belong to the discarded reply
                reply.metrics.on_event(event)
                generation.put(event)
        if isinstance(generation.end, Completed):
            slot.memory = _context_after(request.conversation, generation)

    async def _generate_variants(self, slot: Slot, request: ReplyRequest, replies: Sequence[_Reply]) -> None:
        backend = _with_tool_policy(slot.backend, request)
        _register_stop(replies, backend.interrupt)
        status = backend.status()
        stores = [None if each.entry is None else each.entry.filter(status) for each in replies]
        async with aclosing(_variants(backend, request, len(replies))) as events:
            async for each in events:
                if (store := stores[each.variant]) is not None:
                    store.feed(each.event)
                replies[each.variant].metrics.on_event(each.event)
                replies[each.variant].generation.put(each.event)
        slot.memory = request.conversation


@dataclass(slots=True, eq=False)
class _Reply:
    """One reply of a request. ``entry``: its entry in the cache, or None."""

    generation: ReplyBroadcast
    metrics: ReplyMetrics
    entry: CacheEntry | None = None


def _register_stop(replies: Sequence[_Reply], stop: Callable[[], object]) -> None:
    """Raises asyncio.CancelledError if one of them is stopped already."""
    are_wanted = [each.generation.on_stop(stop) for each in replies]
    if not all(are_wanted):
        raise asyncio.CancelledError


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
