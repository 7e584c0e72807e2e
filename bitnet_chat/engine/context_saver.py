"""The context of an engine process, saved between two turns and restored before one.

A process knows tokens; :attr:`EngineInstance.evaluated` is the conversation that they begin with for certain. It is
shortened to the common part as soon as another prompt is sent, and extended when the engine has read all of it. A state
is saved under that name.

A system prompt is saved from a context that begins with it: the process is asked to read the prompt alone, of which it
evaluates one token, and drops what follows. That is done when the next prompt shares nothing more anyway, at the end,
and at rest, after which the context is restored from its own state.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.loaded_engine import EngineInstance
from bitnet_chat.engine.process import ProcessState
from bitnet_chat.engine.protocols import EngineProtocol
from bitnet_chat.engine.saved_states import (
    SAVE_PAUSE,
    SAVE_SHARE,
    WORTH_CHARACTERS,
    EngineStates,
    StateJob,
    shared_messages,
)
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.prompt_cache.record import SavedState
from bitnet_chat.util.threads import run_in_daemon_thread

_TURN_LIMIT = 0.5
"""Seconds that a request may wait for the context of another conversation, which it replaces, to be saved."""
_CLOSE_LIMIT = 3.0
"""Seconds for which the end of a process waits for its context to be saved."""


class SaveAtRest:
    """The task that saves a context once nothing has been asked of an engine for a while."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._save_seconds = 0.0
        """Time that the last state took."""
        self._closing = asyncio.Event()
        self.is_writing = False
        """Whether the engine writes a state: a request waits for that, and for nothing else."""

    async def _pause(self) -> None:
        """Wait for a while, or until the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(SAVE_PAUSE, SAVE_SHARE * self._save_seconds)):
                await self._closing.wait()

    async def _at_rest(self) -> None:
        """Wait for a state that is being written; give up one that is not begun."""
        if self._task is not None and not self._task.done():
            if not self.is_writing:
                self._task.cancel()
            await asyncio.wait([self._task])

    @contextlib.contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """While the engine writes a state."""
        self.is_writing = True
        try:
            yield
        finally:
            self.is_writing = False


class ContextSaver(SaveAtRest):
    """The states of the processes of one supervisor."""

    def __init__(self, states: EngineStates) -> None:
        super().__init__()
        self._states = states
        self._prompt = Conversation()
        """The system prompt that was last looked for or saved."""

    def save_later(self, loaded: EngineInstance, protocol: EngineProtocol, is_wanted: Callable[[], bool]) -> None:
        """Save the context once nothing has been asked of the process for a while. ``is_wanted``: whether no request
        is running, and the process is still in use."""
        if self._task is not None and not self.is_writing:
            self._task.cancel()
        self._task = asyncio.ensure_future(self._save_at_rest(loaded, protocol, is_wanted))

    async def _save_at_rest(
        self, loaded: EngineInstance, protocol: EngineProtocol, is_wanted: Callable[[], bool]
    ) -> None:
        await self._pause()
        await self._save(loaded, protocol, is_wanted)
        await self._save_prompt(loaded, protocol, is_wanted, and_restore=not self._closing.is_set())

    async def keep_cache(self, loaded: EngineInstance) -> None:
        """Keep the state that a process without commands has written before the first token of its first reply. At
        once: after a kill in this reply it tells that a process has begun with this history."""
        if loaded.cache is not None:
            job, loaded.cache = loaded.cache, None
            place = loaded.place() if loaded.place is not None else None
            await run_in_daemon_thread(partial(self._states.commit, job, tokens=0, place=place))

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
        is_lost = self._states.is_lost(loaded.evaluated, wanted, is_alone=loaded.is_lone_request)
        if is_lost and self._save_seconds <= _TURN_LIMIT:
            await self._save(loaded, protocol, is_wanted)
        found = await run_in_daemon_thread(partial(self._states.better, live, wanted, worth=worth))
        if found is not None and process.state is ProcessState.IDLE and is_wanted():
            state, part = found
            process.meter.forgot()
            if await self._restore(loaded, protocol, state):
                loaded.restored_from(state, part)
        if shared_messages(loaded.evaluated, wanted) == 0 and self._save_seconds <= _TURN_LIMIT:
            await self._save_prompt(loaded, protocol, is_wanted)

    async def _restore(self, loaded: EngineInstance, protocol: EngineProtocol, state: SavedState) -> bool:
        """Have an idle process restore a state. False: it has ended, or cannot restore it, and the state is removed."""
        command = protocol.restore(state.path.name)
        assert command is not None, "an engine that has no such command saves no state either"
        loaded.forgot()
        if reason := await self._command(loaded, command):
            await run_in_daemon_thread(partial(self._states.remove, state, reason))
        return not reason

    async def _command(self, loaded: EngineInstance, command: bytes) -> str:
        """Have an idle process do something. Returns the reason for its failure; empty if it succeeded."""
        loaded.process.command(command, forgets=False)
        await loaded.process.settled()
        return "the engine has ended" if loaded.process.state is ProcessState.DEAD else loaded.process.command_error

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
                await self._save_prompt(loaded, protocol, lambda: True)
        if self._task is not None:
            self._task.cancel()  # which removes what is not complete
            await asyncio.wait([self._task])

    def discard(self, job: StateJob) -> None:
        """Remove the file of a state that a process was started with and has not written."""
        self._states.discard(job)

    async def begin_cache(self, protocol: EngineProtocol, history: Conversation) -> StateJob | None:
        """The state that an engine without commands starts with, and writes at its first reply; None if it has no
        such option."""
        if not protocol.cache_flags("x"):
            return None
        return await begun(self._states, lambda: self._states.begin_copy(history))

    async def _save(self, loaded: EngineInstance, protocol: EngineProtocol, is_wanted: Callable[[], bool]) -> None:
        """Save the context of an idle process, unless that has been done."""
        states, process, conversation, place = self._states, loaded.process, loaded.evaluated, loaded.place

        def is_possible() -> bool:
            return process.state is ProcessState.IDLE and is_wanted() and loaded.evaluated is conversation

        if conversation is None or not conversation.turns or place is None or loaded.saved == conversation:
            return
        if protocol.save("x") is None or not is_possible():
            return
        job = await begun(states, lambda: states.begin(conversation, is_alone=loaded.is_lone_request))
        if job is None:
            return
        with self._uninterrupted():
            is_written = await self._write(loaded, protocol, job, is_possible)
        if is_written:
            loaded.saved, loaded.state = conversation, None
            commit = partial(states.commit, job, tokens=process.command_tokens, place=place())
            loaded.state = await run_in_daemon_thread(commit)

    async def _save_prompt(
        self,
        loaded: EngineInstance,
        protocol: EngineProtocol,
        is_wanted: Callable[[], bool],
        *,
        and_restore: bool = False,
    ) -> None:
        """Save the system prompt of an idle process, unless it is short or has a state. Its context is the system
        prompt alone then; with ``and_restore`` it is restored from its own state, without which nothing is done."""
        process, conversation, own = loaded.process, loaded.evaluated, loaded.state

        def is_possible() -> bool:
            return process.state is ProcessState.IDLE and is_wanted()

        if conversation is None or protocol.save("x") is None or not is_possible() or not self._states.are_known:
            return
        and_restore = and_restore and bool(conversation.turns)
        if conversation.cleared() == self._prompt or (and_restore and loaded.saved != conversation):
            return
        if and_restore and (own is None or not await run_in_daemon_thread(partial(self._states.touch, own))):
            return
        self._prompt = conversation.cleared()
        job = await begun(self._states, lambda: self._states.begin_prompt(conversation))
        if job is None:
            return
        exact, restored = loaded.exact, loaded.restored
        with self._uninterrupted():
            if not await self._write_prompt(loaded, protocol, job, is_possible):
                self._prompt = Conversation()
            if and_restore and own is not None and is_possible() and await self._restore(loaded, protocol, own):
                loaded.evaluated = loaded.saved = conversation
                loaded.exact, loaded.restored = exact, restored

    async def _write_prompt(
        self, loaded: EngineInstance, protocol: EngineProtocol, job: StateJob, is_possible: Callable[[], bool]
    ) -> bool:
        """Have an idle process read a system prompt alone, and write and keep that. False: it is not written."""
        told, states, is_read = None, self._states, False
        try:
            with contextlib.suppress(BitnetChatError):  # the next reply reports a template that refuses
                told = await run_in_daemon_thread(partial(protocol.preparation, job.conversation))
            if told is not None and is_possible():
                loaded.cut_to(job.conversation)
                is_read = not await self._command(loaded, told.data)
        finally:
            if not is_read:
                states.discard(job)
        tokens = loaded.process.command_tokens
        if not is_read or not await self._write(loaded, protocol, job, is_possible):
            return False
        saved = loaded.process.command_tokens
        if saved > tokens:  # the text of a conversation, which is removed with it
            states.discard(job, f"it has {saved} tokens, and the system prompt {tokens}")
        else:
            await run_in_daemon_thread(partial(states.commit, job, tokens=saved, place=None))
        return True

    async def _write(
        self, loaded: EngineInstance, protocol: EngineProtocol, job: StateJob, is_possible: Callable[[], bool]
    ) -> bool:
        """Have an idle process write a state. False: it is not written, and discarded."""
        command = protocol.save(job.name)
        if command is None or not is_possible():
            await run_in_daemon_thread(partial(self._states.discard, job))
            return False
        began, reason = time.monotonic(), "the save was interrupted"
        try:
            reason = await self._command(loaded, command)
        finally:
            took = time.monotonic() - began
            self._save_seconds = max(took, self._save_seconds) if job.is_prompt else took
            if reason:
                self._states.discard(job, reason)
        return not reason


async def begun(states: EngineStates, begin: Callable[[], StateJob | None]) -> StateJob | None:
    """Run ``begin`` of ``states`` in a thread; a job that comes after this was cancelled is discarded."""
    task = asyncio.ensure_future(run_in_daemon_thread(begin))

    def discard(task: asyncio.Future[StateJob | None]) -> None:
        if not task.cancelled() and task.exception() is None and (job := task.result()) is not None:
            states.discard(job)

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(discard)
        raise
