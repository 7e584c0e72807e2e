"""Where orders come in: the desk finds who answers, starts the reply, and keeps account of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.pipeline import ReplyPipeline, pipeline_of, run
from bitnet_chat.backends.pool import Slot, number
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend, SingleCallBackend, refuses_tools
from bitnet_chat.backends.wrappers.recording import recorded
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
"""So often one piece of batch work makes way for people; then it is finished, so that it ends at all."""
_PATIENCE = 8.0
"""Seconds that replies which were told to stop have to end. A guarded backend gives up on a deaf one after six."""


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What a client wants. ``recorder``: who writes the reply down, if anybody does."""

    conversation: Conversation
    options: ReplyOptions = field(default_factory=ReplyOptions)
    model: str = ""
    recorder: JournalRecorder | None = None
    tools_optional: bool = False
    """Whether a model that has no place for tools may answer without them."""
    one_call: bool = False
    """Whether the reply may ask for one call of a tool at the most."""
    urgent: bool = True
    """A person waits. Batch work is not urgent: as long as nobody has seen any of its reply, and it is not written
    down, it makes way for people and begins again behind them."""


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """What holds where an order says nothing. None: no limit."""

    system: str = ""
    """For conversations that nobody writes down: what is written down begins as it was begun."""
    max_tokens: int | None = None
    timeout: float | None = None
    """Seconds."""

    def applied(self, order: ReplyRequest) -> ReplyRequest:
        options, conversation = order.options, order.conversation
        if options.max_tokens is None and self.max_tokens is not None:
            options = replace(options, max_tokens=self.max_tokens)
        if options.timeout is None and self.timeout is not None:
            options = replace(options, timeout=self.timeout)
        options = replace(options, alone=True)  # backends are shared by all clients
        if self.system and not conversation.system and order.recorder is None:
            conversation = conversation.with_system(self.system)
        return replace(order, options=options, conversation=conversation)


class ReplyScheduler:
    """All methods belong to the event loop."""

    def __init__(
        self,
        catalogue: ModelManager,
        *,
        cache: ReplyCache | None = None,
        defaults: RequestDefaults | None = None,
        log_prompts: bool = False,
    ) -> None:
        """``cache``: where replies that repeat are found. ``log_prompts``: whether what is said goes into the log."""
        self.catalogue = catalogue
        self.defaults = defaults or RequestDefaults()
        self._cache = cache
        self._tasks: dict[asyncio.Task[None], ReplyBroadcast] = {}
        self.metrics = Metrics(catalogue, lambda: self.running)
        self.ending = asyncio.Event()
        """Set when the server begins to end: streams that wait for something to happen should end, too."""
        self.has_answered = False
        """Whether any reply came to an end of its own: a model could be loaded."""
        self._log_prompts = log_prompts

    @property
    def running(self) -> int:
        """Replies that are waited for or made."""
        return len(self._tasks)

    def start(self) -> None:
        self.catalogue.start()

    def begin(self, order: ReplyRequest, *, on_end: Callable[[ReplyBroadcast], None] | None = None) -> ReplyBroadcast:
        """Starts the reply. Raises UnknownModel, or Ending when the server is ending; other errors, a full queue among
        them, are the Failed that the generation ends with."""
        if self.ending.is_set():
            raise ShuttingDownError("this server is ending", retry_after=10.0, remedy="try again when it is back")
        order = self.defaults.applied(order)
        model = self.catalogue.choose(order.model, order.conversation)
        generation = ReplyBroadcast(secrets.token_hex(12), model)
        account = self.metrics.reply(model)
        task = asyncio.ensure_future(self._make(order, generation, account))
        self._tasks[task] = generation

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.pop(task, None)
            if generation.end is None:  # it was stopped before it began
                generation.put(Completed(FinishReason.INTERRUPTED, generation.text))
            if generation.end is not None:
                if generation.cached:
                    self.metrics.replayed(model)
                else:
                    account.ended(generation.end)
                self.has_answered = self.has_answered or bool(generation.end.text)
            if self._log_prompts:
                _log(order, generation)
            if on_end is not None:
                on_end(generation)

        task.add_done_callback(over)
        return generation

    async def close(self, grace: float = 0.0) -> None:
        """Nothing new begins; what is under way has ``grace`` seconds, and then ends with what it has, as it does at
        once when this is cancelled."""
        self.ending.set()
        try:
            if self._tasks and grace:
                await asyncio.wait(self._tasks, timeout=grace)
        finally:
            for generation in list(self._tasks.values()):
                generation.stop()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_PATIENCE)
            for task in list(self._tasks):  # deaf ones
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=1.0)
            await self.catalogue.close()

    # One reply

    async def _make(self, order: ReplyRequest, generation: ReplyBroadcast, account: ReplyMetrics) -> None:
        task = asyncio.current_task()
        assert task is not None
        turn = number()
        try:
            place = await self._place(order, generation.model)
            if place is not None and place.replay is not None:
                generation.cached = True
                await _give_again(place.replay, order, generation)
                return
            if not generation.stopped_by(task.cancel):
                raise asyncio.CancelledError
            if (refusal := await self._refusal(order, generation.model)) is not None:
                raise refusal
            async with self.catalogue.held(generation.model) as pool:
                for tries in range(_YIELDS + 1):
                    if not generation.stopped_by(task.cancel):
                        raise asyncio.CancelledError
                    may_yield = tries < _YIELDS and not order.urgent and order.recorder is None
                    way = _Preemption(generation) if may_yield else None
                    async with pool.lease(
                        order.conversation,
                        order.options.sampling,
                        urgent=order.urgent,
                        make_way=way.make if way else None,
                        turn=turn,
                        again=tries > 0,
                    ) as seat:
                        account.seated()
                        await self._ask(seat, order, generation, account, way, place)
                    if way is None or not way.made:
                        return
                    generation.again()
                    self.metrics.yielded(generation.model)
        except asyncio.CancelledError:  # stopped while it waited
            generation.put(Completed(FinishReason.INTERRUPTED, generation.text))
        except BitnetChatError as error:
            generation.put(Failed(error, generation.text))
        except Exception:
            log.exception("a reply broke")
            generation.put(
                Failed(EngineDiedError("the server broke off this reply; its log says why"), generation.text)
            )
        finally:
            if generation.end is None:
                generation.put(Failed(EngineDiedError("the reply ended without a word about why"), generation.text))

    async def _place(self, order: ReplyRequest, model: str) -> CacheEntry | None:
        """Of the reply in the cache, where there is one."""
        if self._cache is None:
            return None
        key = await run_beside_loop(order.conversation, self._cache.key, model, order.conversation, order.options)
        return self._cache.place(key)

    async def _refusal(self, order: ReplyRequest, model: str) -> BitnetChatError | None:
        """What the request is refused for without its turn."""
        pool, options = self.catalogue.pools[model], order.options
        refusal = await pool.refusal(order.conversation, options)
        if refusal is not None and options.tools and order.tools_optional and refuses_tools(refusal):
            options = replace(options, tools=(), tool_choice="auto")
            refusal = await pool.refusal(order.conversation, options)
        return refusal

    async def _ask(
        self,
        seat: Slot,
        order: ReplyRequest,
        generation: ReplyBroadcast,
        account: ReplyMetrics,
        way: _Preemption | None,
        place: CacheEntry | None,
    ) -> None:
        backend = _with_tools_as_wished(seat.backend, order)
        if way is not None:
            way.backend = backend
        if not generation.stopped_by(backend.interrupt):
            raise asyncio.CancelledError
        try:
            async with aclosing(run(lambda: _pipeline(backend, order, place))) as events:
                async for event in events:
                    if way is not None and way.made:
                        continue  # what comes now is the end of what nobody will hear
                    account.heard(event)
                    generation.put(event)
        finally:
            self.metrics.restarted(generation.model, seat)
        if isinstance(generation.end, Completed):
            seat.memory = _remembered(order.conversation, generation)


def _with_tools_as_wished(backend: Backend, order: ReplyRequest) -> Backend:
    if order.options.tools and order.tools_optional:
        backend = OptionalToolsBackend(backend)
    return SingleCallBackend(backend) if order.options.tools and order.one_call else backend


class _Preemption:
    """How batch work makes way for a person."""

    def __init__(self, generation: ReplyBroadcast) -> None:
        self._generation = generation
        self.backend: Backend | None = None
        """The one that it has, once it has one."""
        self.made = False

    def make(self) -> bool:
        """Whether it does: not when somebody has seen some of its reply, which cannot be taken back."""
        if self._generation.seen or self._generation.end is not None or self._generation.is_stopping:
            return False
        if self.backend is None:
            return False
        self.made = True
        self.backend.interrupt()
        return True


async def _give_again(replay: CachedBackend, order: ReplyRequest, generation: ReplyBroadcast) -> None:
    if not generation.stopped_by(replay.interrupt):
        raise asyncio.CancelledError
    async with aclosing(run(lambda: _pipeline(replay, order, None))) as events:
        async for event in events:
            generation.put(event)


def _pipeline(backend: Backend, order: ReplyRequest, place: CacheEntry | None) -> ReplyPipeline:
    """``place``: of the cache, where the reply is kept."""
    if order.recorder is None:
        pipeline = pipeline_of(backend, order.conversation, order.options)
    else:
        pipeline = recorded(backend, order.recorder, order.conversation, order.options)
    return pipeline if place is None else pipeline.then(place.filter(backend.status()))


def _remembered(conversation: Conversation, generation: ReplyBroadcast) -> Conversation:
    """What the backend has lived through."""
    last = conversation.last
    if last is not None and last.role == "assistant":  # it was gone on with
        before = Conversation(conversation.messages[:-1])
        return before.with_assistant(last.content + generation.text, tool_calls=generation.calls)
    if not generation.text and not generation.calls:
        return conversation
    return conversation.with_assistant(generation.text, tool_calls=generation.calls)


def _log(order: ReplyRequest, generation: ReplyBroadcast) -> None:
    asked = order.conversation.last
    log.info("%s asked: %s", generation.id, asked.content if asked is not None else "")
    log.info("%s replied: %s", generation.id, generation.text)
