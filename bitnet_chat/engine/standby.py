"""Spare engine processes, loaded for conversations to which a command may return (``/clear``, ``/regen``, ``/undo``).

They share the weights of the model with the current process through the page cache; each has its own context window.
They are loaded one after the other, and only while no reply is requested.
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
"""Maximum number of spare processes: one without turns, for /clear, and one without the last turn, for /regen, /edit
and /undo.
"""


class StandbyPool:
    """At most :data:`LIMIT` spare processes, each with another conversation in its context."""

    def __init__(
        self, launch: Callable[[Conversation], Awaitable[EngineInstance]], affordable: Callable[[int], bool]
    ) -> None:
        """Create an empty pool. ``launch``: starts a process with a conversation; raises BitnetChatError.
        ``affordable``: returns whether the free memory is enough for another process like that with the given process
        id.
        """
        self._launch = launch
        self._affordable = affordable
        self._ready: list[EngineInstance] = []
        self._filling: asyncio.Task[None] | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the running spare processes."""
        return [each.process.pid for each in self._ready if each.is_alive]

    def want(self, memories: Sequence[Conversation], first: EngineProcess) -> None:
        """Keep spare processes for the conversations ``memories``, and end the others. Missing ones are started after
        ``first``, the current process, has loaded.
        """
        self._stop_filling()
        wanted = list(dict.fromkeys(memories))[:LIMIT]
        self._keep(lambda each: each.memory in wanted)
        if missing := [memory for memory in wanted if all(each.memory != memory for each in self._ready)]:
            self._filling = asyncio.ensure_future(self._fill(missing, first))

    def take(self, memory: Conversation, sampling: Sampling) -> EngineInstance | None:
        """Remove and return the spare process with the conversation ``memory`` and this sampling; None if there is
        none. The caller must end it.
        """
        for each in self._ready:
            if each.is_alive and each.memory == memory and each.samples_as(sampling):
                self._ready.remove(each)
                return each
        return None

    def pause(self, wanted: Conversation) -> None:
        """Stop loading until the next :meth:`want`, because a reply after the conversation ``wanted`` is requested. A
        process that is being loaded is ended unless it is for ``wanted``.
        """
        self._stop_filling()
        self._keep(lambda each: each.process.state is not ProcessState.STARTING or each.memory == wanted)

    def close(self) -> None:
        """End all spare processes."""
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
                return  # the error is reported when a process for a reply cannot be started
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
