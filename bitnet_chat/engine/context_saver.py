"""The context of an engine process, saved between two turns and restored before one.

A process knows tokens; :attr:`EngineInstance.evaluated` is the conversation that they begin with for certain. It is
shortened to the common part as soon as another prompt is sent, and extended when the engine has read all of it. A state
is saved under that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.loaded_engine import EngineInstance
from bitnet_chat.engine.process import ProcessState
from bitnet_chat.engine.protocols import EngineProtocol
from bitnet_chat.engine.saved_states import SAVE_PAUSE, SAVE_SHARE, WORTH_CHARACTERS, EngineStates, StateJob
from bitnet_chat.util.threads import run_in_daemon_thread

_TURN_LIMIT = 0.5
"""Seconds that a request may wait for the context of another conversation, which it replaces, to be saved."""
_CLOSE_LIMIT = 3.0
"""Seconds for which the end of a process waits for its context to be saved."""


class ContextSaver:
    """The states of the processes of one supervisor."""

    def __init__(self, states: EngineStates) -> None:
        self._states = states
        self._save_seconds = 0.0
        """Time that the last state took."""
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.is_writing = False
        """Whether a process writes a state: a request waits for that, and for nothing else."""

    def save_later(self, loaded: EngineInstance, protocol: EngineProtocol, is_wanted: Callable[[], bool]) -> None:
        """Save the context once nothing has been asked of the process for a while. ``is_wanted``: whether no request
        is running, and the process is still in use."""
        if self._task is not None and not self.is_writing:
            self._task.cancel()
        self._task = asyncio.ensure_future(self._save_at_rest(loaded, protocol, is_wanted))

    async def _save_at_rest(
        self, loaded: EngineInstance, protocol: EngineProtocol, is_wanted: Callable[[], bool]
    ) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(SAVE_PAUSE, SAVE_SHARE * self._save_seconds)):
                await self._closing.wait()
        await self._save(loaded, protocol, is_wanted)

    async def keep_cache(self, loaded: EngineInstance) -> None:
        """Keep the state that a process without commands has written before the first token of its first reply. At
        once: after a kill in this reply it tells that a process has begun with this history."""
        if loaded.cache is not None:
            job, loaded.cache = loaded.cache, None
            await run_in_daemon_thread(partial(self._states.commit, job, tokens=0, place=loaded.place()))

    async def recall(
        self,
        loaded: EngineInstance,
        protocol: EngineProtocol,
        wanted: Conversation,
        live: Conversation | None,
        is_wanted: Callable[[], bool] = lambda: True,
        *,
        worth: int = WORTH_CHARACTERS,
    ) -> None:
        """Have an idle process restore a saved state if that spares it from reading a part of ``wanted``. Returns when
        it is idle again, or has ended. A context that would be lost is saved first, if that takes less than
        :data:`_TURN_LIMIT`. ``live``: the usable part of its context. ``is_wanted``: asked again before the state is
        restored. ``worth``: characters that a state must spare."""
        await self._at_rest()
        process = loaded.process
        if protocol.restore("x") is None or process.state is not ProcessState.IDLE:
            return
        if self._states.is_lost(loaded.evaluated, wanted) and self._save_seconds <= _TURN_LIMIT:
            await self._save(loaded, protocol, is_wanted)
        found = await run_in_daemon_thread(partial(self._states.better, live, wanted, worth=worth))
        if found is None or process.state is not ProcessState.IDLE or not is_wanted():
            return
        state, part = found
        command = protocol.restore(state.path.name)
        assert command is not None, "it was asked above"
        loaded.forgot()
        process.command(command, forgets=True)
        await process.settled()
        if reason := self._failure(loaded):
            await run_in_daemon_thread(partial(self._states.remove, state, reason))
        else:
            loaded.restored_from(part, state.tokens)

    async def shared(self, conversation: Conversation) -> int:
        """Number of leading messages of a conversation that a state has; -1 without one."""
        return await run_in_daemon_thread(partial(self._states.shared, conversation))

    async def close(self, loaded: EngineInstance, protocol: EngineProtocol) -> None:
        """Save the context before the process is ended, in :data:`_CLOSE_LIMIT` seconds. A process that is reading is
        not waited for."""
        self._closing.set()
        process = loaded.process
        if process.ready_after is None or (process.state is ProcessState.STARTING and not self.is_writing):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                if self._task is not None:
                    await asyncio.wait([self._task])
                await process.settled()
                await self._save(loaded, protocol, lambda: True)

    def discard(self, job: StateJob) -> None:
        """Remove the file of a state that a process was started with and has not written."""
        self._states.discard(job)

    async def begin_cache(self, protocol: EngineProtocol, history: Conversation) -> StateJob | None:
        """The state that an engine without commands starts with, and writes at its first reply; None if it has no
        such option."""
        if not protocol.cache_flags("x"):
            return None
        return await self._begin(lambda: self._states.begin_copy(history))

    async def _at_rest(self) -> None:
        """Wait for a state that is being written; give up one that is not begun."""
        if self._task is not None and not self._task.done():
            if not self.is_writing:
                self._task.cancel()
            await asyncio.wait([self._task])

    async def _save(self, loaded: EngineInstance, protocol: EngineProtocol, is_wanted: Callable[[], bool]) -> None:
        """Save the context of an idle process, unless that has been done."""
        states, process, conversation = self._states, loaded.process, loaded.evaluated

        def is_possible() -> bool:
            return process.state is ProcessState.IDLE and is_wanted() and loaded.evaluated is conversation

        if conversation is None or loaded.saved == conversation or protocol.save("x") is None or not is_possible():
            return
        job = await self._begin(lambda: states.begin(conversation, is_alone=loaded.is_alone))
        if job is None:
            return
        command = protocol.save(job.name)
        if command is None or not is_possible():
            await run_in_daemon_thread(partial(states.discard, job))
            return
        began, used, place = time.monotonic(), process.meter.context_used or 0, loaded.place
        self.is_writing, reason = True, "the save was interrupted"
        try:
            process.command(command, forgets=False)
            await process.settled()
            reason = self._failure(loaded)
        finally:
            self.is_writing, self._save_seconds = False, time.monotonic() - began
            if reason:
                states.discard(job, reason)
        if not reason:
            loaded.saved = conversation
            await run_in_daemon_thread(partial(states.commit, job, tokens=used, place=place()))

    async def _begin(self, begin: Callable[[], StateJob | None]) -> StateJob | None:
        """Run ``begin`` in a thread; a job that comes after this was cancelled is discarded."""
        task = asyncio.ensure_future(run_in_daemon_thread(begin))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._discard_result)
            raise

    def _discard_result(self, task: asyncio.Future[StateJob | None]) -> None:
        if not task.cancelled() and task.exception() is None and (job := task.result()) is not None:
            self._states.discard(job)

    @staticmethod
    def _failure(loaded: EngineInstance) -> str:
        """Reason for the failure of the last command; empty if it succeeded."""
        return "the engine has ended" if loaded.process.state is ProcessState.DEAD else loaded.process.command_error
