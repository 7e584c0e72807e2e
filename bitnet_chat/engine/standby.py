"""Loaded spare processes beside the current one, for the conversations that a command may return to.

Their weights are shared with it through the page cache; the context window of each is its own. They are loaded one
after another and only while no reply is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from bitnet_chat.backend import Sampling
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.loaded_engine import EngineInstance
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.errors import BitnetChatError

LIMIT = 2
"""One without any turn, for /clear, and one without the last, for /regen, /edit and /undo."""


class StandbyPool:
    """At most :data:`LIMIT` children, each for another conversation."""

    def __init__(
        self, launch: Callable[[Conversation], Awaitable[EngineInstance]], affordable: Callable[[int], bool]
    ) -> None:
        """Create an empty standby. ``launch`` may raise BitnetChatError. ``affordable``: whether there is memory for
        another process like that of the given id."""
        self._launch = launch
        self._affordable = affordable
        self._ready: list[EngineInstance] = []
        self._filling: asyncio.Task[None] | None = None

    @property
    def pids(self) -> list[int]:
        return [each.process.pid for each in self._ready if each.is_alive]

    def want(self, memories: Sequence[Conversation], first: EngineProcess) -> None:
        """Keep children for ``memories`` and no others. The missing ones are loaded as soon as ``first``, the child
        that answers, has loaded."""
        self._stop_filling()
        wanted = list(dict.fromkeys(memories))[:LIMIT]
        self._keep(lambda each: each.memory in wanted)
        if missing := [memory for memory in wanted if all(each.memory != memory for each in self._ready)]:
            self._filling = asyncio.ensure_future(self._fill(missing, first))

    def take(self, memory: Conversation, sampling: Sampling) -> EngineInstance | None:
        """The child that remembers ``memory``, which belongs to the caller then."""
        for each in self._ready:
            if each.is_alive and each.memory == memory and each.samples_as(sampling):
                self._ready.remove(each)
                return each
        return None

    def pause(self, wanted: Conversation) -> None:
        """Load nothing until the next :meth:`want`: a reply is awaited, after ``wanted``."""
        self._stop_filling()
        self._keep(lambda each: each.process.state is not ProcessState.STARTING or each.memory == wanted)

    def close(self) -> None:
        self._stop_filling()
        self._keep(lambda each: False)

    async def _fill(self, missing: Sequence[Conversation], first: EngineProcess) -> None:
        await first.settled()
        for memory in missing:
            if not self._affordable(first.pid):
                return
            try:
                loaded = await self._launch(memory)
            except BitnetChatError:
                return  # the child that answers will be told why, when it is its turn
            self._ready.append(loaded)
            await loaded.process.settled()
            if not loaded.is_alive:
                return

    def _keep(self, wanted: Callable[[EngineInstance], bool]) -> None:
        for each in self._ready:
            if not (each.is_alive and wanted(each)):
                each.process.kill()
        self._ready = [each for each in self._ready if each.is_alive and wanted(each)]

    def _stop_filling(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None
