"""The served models and their pools: loaded on demand, unloaded when another model needs the memory.

With a memory limit, loading a model unloads the least recently used ones. A model with a running reply is never
unloaded: the new model waits for the end of the reply, and later requests for the old model wait behind the new one, so
that neither starves. The memory of a model is computed from its file (:mod:`bitnet_chat.models.memory`); a model on
another computer needs no memory here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitnet_chat.backends.pool import BackendFactory, Pool
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, BusyError, ModelError, UnknownModelError, UsageError
from bitnet_chat.models import memory
from bitnet_chat.models.gguf import size_of
from bitnet_chat.models.names import ModelNames, key_of
from bitnet_chat.server.model_router import AUTO, RouteCandidate, route
from bitnet_chat.util.progress import size

if TYPE_CHECKING:
    from bitnet_chat.models.info import ModelInfo


log = logging.getLogger("bitnet_chat.server")

_OFTEN = 5.0
"""Minimum seconds between two requests for the list of models of another server."""


@dataclass(slots=True)
class _ManagedModel:
    name: str
    source: BackendFactory
    pool: Pool
    card: ModelCard | None = None
    """None until the file is read."""
    users: int = 0
    """Number of holders, which keep it from being unloaded."""
    used: int = 0
    """Sequence number of the last hold, over all models."""
    leaving: bool = False
    """Another model waits for its memory: new holders are not admitted."""
    unwanted: bool = False
    """To be unloaded when the last holder leaves."""
    closing: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return bool(self.users or self.closing or self.pool.backends)


class ModelManager:
    """Models by name; the first one is the default. All methods belong to the event loop."""

    def __init__(
        self,
        sources: Mapping[str, BackendFactory],
        *,
        queue: int = 64,
        memory_limit: int = 0,
        more: Callable[[], Awaitable[Mapping[str, BackendFactory]]] | None = None,
    ) -> None:
        """``sources``: at least one. ``queue``: maximum number of requests that wait for a model. ``memory_limit``:
        bytes of all loaded models; 0: no limit. ``more``: returns the current models of another server; it is called
        after a request for the list or for an unknown name.

        Raises UsageError for a reserved name, ModelError for a file that is larger than the limit.
        """
        if any(key_of(name) == AUTO for name in sources):
            raise UsageError(f"a model cannot have the name {AUTO!r}: the name is reserved for the best fit")
        self._models = {
            name: _ManagedModel(name, source, Pool(source, queue=queue)) for name, source in sources.items()
        }
        self._queue, self._limit, self._more = queue, memory_limit, more
        self._looked = time.monotonic()
        self._clock = itertools.count(1)
        self._line = asyncio.Lock()
        """Held while a model is loading."""
        self._waiting = 0
        self._news = asyncio.Event()
        """Set when a model is released."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.created = time.time()
        self._names = self._all_names()
        for model in list(self._models.values()):
            file = model.source.path
            if memory_limit and file is not None and size_of(file) > memory_limit:
                raise _too_large(model.name, size_of(file), memory_limit)

    @property
    def names(self) -> list[str]:
        return list(self._models)

    @property
    def listed(self) -> list[str]:
        """The names that a client can use; with several models also ``auto``."""
        self._look_for_more()
        return [*self._models, AUTO] if len(self._models) > 1 else self.names

    @property
    def pools(self) -> Mapping[str, Pool]:
        """Pools of all models; one that is not loaded has no backends."""
        return {name: model.pool for name, model in self._models.items()}

    @property
    def loaded(self) -> list[str]:
        return [name for name, model in self._models.items() if model.loaded]

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a model, or for memory for it."""
        return self._waiting

    def find(self, name: str) -> str | None:
        """Return the name in :attr:`listed` that ``name`` spells; None without a match."""
        found = self._names.find(name)
        return AUTO if found is None and key_of(name) == AUTO and AUTO in self.listed else found

    def choose(self, name: str, conversation: Conversation | None = None) -> str:
        """Return the name of the model of a reply. Raises UnknownModelError.

        An empty ``name`` is the default model; ``auto`` depends on the content of ``conversation``.
        """
        if not name:
            return self.names[0]
        found = self._names.find(name)
        if found is None and key_of(name) == AUTO:
            candidates = [RouteCandidate(each, self.window(each)) for each in self._models]
            return route(conversation or Conversation(), candidates).name
        if found is None:
            self._look_for_more()
            raise UnknownModelError(f"unknown model {name!r}", remedy=f"available: {', '.join(self.listed)}")
        return found

    def _all_names(self) -> ModelNames:
        return ModelNames((name, each.source.path, each.source.origin) for name, each in self._models.items())

    def _look_for_more(self) -> None:
        if self._more is not None and time.monotonic() - self._looked >= _OFTEN:
            self._looked = time.monotonic()
            self._spawn(self._add_more(self._more))

    async def _add_more(self, more: Callable[[], Awaitable[Mapping[str, BackendFactory]]]) -> None:
        for name, source in (await more()).items():
            if name not in self._models:
                self._models[name] = _ManagedModel(name, source, Pool(source, queue=self._queue))
        self._names = self._all_names()

    async def check(self) -> None:
        """Read all files. Raises ModelError for a model that is larger than the memory limit."""
        for name in list(self._models):
            need = (await self.card(name)).memory
            if need > self._limit > 0:
                raise _too_large(name, need, self._limit)

    def start(self) -> None:
        """Load the default model in the background, and read the headers of all files."""
        first = self._models[self.names[0]]
        if not self._limit:
            first.pool.start()
        self._spawn(self._prepare(first))

    async def _prepare(self, first: _ManagedModel) -> None:
        if self._limit:
            async with self.held(first.name) as pool:
                pool.start()
        for name in list(self._models):
            await self.card(name)

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[Pool]:
        """Yield the pool of a model. The model has memory to be loaded, and is not unloaded during the block.

        Raises ModelError for a model that is larger than the memory limit, and BusyError if the queue is full.
        """
        model = self._models[name]
        await self._admit(model)
        try:
            yield model.pool
        finally:
            model.users -= 1
            if not model.users:
                self._news.set()
                if model.unwanted:
                    self._close(model)

    async def load(self, name: str) -> None:
        """Begin to load a model; returns once it has memory. Raises the errors of :meth:`held`."""
        async with self.held(name) as pool:
            pool.start()

    def unload(self, name: str) -> None:
        """Close the backends of a model in the background, after the replies that hold it. A later request loads it
        again.
        """
        model = self._models[name]
        if model.users:
            model.unwanted = True
        elif model.pool.backends:
            self._close(model)

    async def unloaded(self, name: str) -> None:
        """Wait until the unloading of a model has ended, if it is being unloaded."""
        closing = self._models[name].closing
        if closing is not None:
            await asyncio.shield(closing)

    async def card(self, name: str) -> ModelCard:
        """Return the facts about a model. The first call reads its file, in a thread."""
        model = self._models[name]
        if model.card is None:
            model.card = await asyncio.to_thread(read_card, name, model.source)
        return model.card

    def window(self, name: str) -> int:
        """Return the tokens of the context window of a model; 0 if they are not known yet."""
        model = self._models[name]
        for backend in model.pool.backends:
            if window := backend.status().context_size:
                return window
        return model.card.window if model.card is not None else 0

    async def close(self) -> None:
        for task in list(self._tasks):
            if not any(task is model.closing for model in self._models.values()):
                task.cancel()
        for model in list(self._models.values()):
            if model.closing is not None:
                await model.closing
            await model.pool.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Memory

    async def _admit(self, model: _ManagedModel) -> None:
        """Wait for memory, then add a holder. Requests wait in order: a small model does not overtake a large one."""
        if not model.leaving and model.closing is None and (model.loaded or not self._limit):
            self._enter(model)
            return
        if self._waiting >= self._queue:
            raise BusyError(f"{self._waiting} requests already wait for models to be loaded", retry_after=5.0)
        self._waiting += 1
        try:
            async with self._line:
                while model.closing is not None or not (model.loaded or self._fits(model)):
                    await self._make_room(model)
                self._enter(model)
        finally:
            self._waiting -= 1

    def _fits(self, model: _ManagedModel) -> bool:
        if not self._limit:
            return True
        cards = [each.card for each in self._models.values() if each is model or each.loaded]
        return all(cards) and sum(card.memory for card in cards if card) <= self._limit

    def _enter(self, model: _ManagedModel) -> None:
        model.users += 1
        model.used = next(self._clock)
        model.unwanted = False

    async def _make_room(self, model: _ManagedModel) -> None:
        """Take one step towards free memory. A cancellation leaves no model half unloaded."""
        self._news.clear()
        if model.closing is not None:
            await asyncio.shield(model.closing)
            return
        for each in list(self._models.values()):
            await self.card(each.name)
        need = (await self.card(model.name)).memory
        if need > self._limit > 0:
            raise _too_large(model.name, need, self._limit)
        others = sorted((each for each in self._models.values() if each.loaded), key=lambda each: each.used)
        closing = next((each.closing for each in others if each.closing is not None), None)
        idle = next((each for each in others if not each.users), None)
        if closing is not None:
            await asyncio.shield(closing)
        elif self._fits(model):
            return
        elif idle is not None:
            await asyncio.shield(self._close(idle))
        else:
            await self._wait_for(others, need)

    async def _wait_for(self, others: list[_ManagedModel], need: int) -> None:
        """Admit no new holders to the models that must be unloaded, and wait until one of them is released."""
        excess = need + sum(each.card.memory for each in others if each.card) - self._limit
        leaving: list[_ManagedModel] = []
        for each in others:
            if excess > 0:
                each.leaving = True
                leaving.append(each)
                excess -= each.card.memory if each.card else 0
        try:
            await self._news.wait()
        finally:
            for each in leaving:
                each.leaving = False

    def _close(self, model: _ManagedModel) -> asyncio.Task[None]:
        """Unload a model without holders in a task of its own, so that a cancellation leaves no child process."""
        if model.closing is None:
            model.closing = self._spawn(self._unload(model))
        return model.closing

    async def _unload(self, model: _ManagedModel) -> None:
        try:
            await model.pool.close()
        except BitnetChatError:
            log.exception("unloading of the model %s failed", model.name)
        finally:
            model.pool = Pool(model.source, queue=self._queue)
            model.closing, model.unwanted = None, False
            self._news.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.warning("loading of a model failed: %s", error)

        task.add_done_callback(over)
        return task


def _too_large(name: str, need: int, limit: int) -> ModelError:
    return ModelError(
        f"the model {name} needs {size(need)} of memory; the limit of all models is {size(limit)}",
        remedy="use a larger --memory-limit, a smaller context window (--ctx) or a smaller --parallel",
    )


# Facts about a model from its file: sizes, context window, chat template.


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts about a model for listings. Empty or 0 if unknown, as nearly all are for a model on another computer."""

    name: str
    """Its name on this server."""
    size: int = 0
    """Bytes of its file."""
    modified: float = 0.0
    """Modification time of the file, in seconds since 1970."""
    architecture: str = ""
    parameters: int = 0
    quantization: str = ""
    trained: int = 0
    """Context window of the training, in tokens."""
    window: int = 0
    """Context window on this server, in tokens."""
    memory: int = 0
    """Bytes of all backends together: the weights once, and a context window for each backend."""
    template: str = ""
    """The chat template in the file."""
    license: str = ""

    @property
    def takes_tools(self) -> bool:
        """Whether its template supports tools."""
        return "tools" in self.template

    @property
    def thinks(self) -> bool:
        return any(mark in self.template for mark in ("<think>", "enable_thinking", "reasoning_content"))


def read_card(name: str, source: BackendFactory) -> ModelCard:
    """Read the header of a file; blocks for about 0.1 s with a large model. The card of a file that cannot be read is
    empty; loading the model reports the error.
    """
    from bitnet_chat.models.info import read_info

    if source.path is None:
        return ModelCard(name, window=source.context)
    try:
        info = read_info(source.path)
        modified = source.path.stat().st_mtime
    except (ModelError, OSError):
        return ModelCard(name)
    return _card(name, source, info, modified)


def _card(name: str, source: BackendFactory, info: ModelInfo, modified: float) -> ModelCard:
    header = info.header
    window = memory.context_for(header.context_length, source.context)
    size = header.size * (info.split[1] if info.split else 1)  # the parts of a model are about equal
    one = memory.need(size, info.shape, window)
    return ModelCard(
        name=name,
        size=size,
        modified=modified,
        architecture=header.architecture,
        parameters=info.parameters,
        quantization=info.quantization,
        trained=header.context_length or 0,
        window=window,
        memory=one + (source.parallel - 1) * (one - size),
        template=header.chat_template,
        license=info.license,
    )
