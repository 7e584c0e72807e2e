"""Supervisor of one engine process, which it keeps in sync with a conversation.

The conversation is the truth; what the child remembers is a copy of it. Whenever the two differ, the child is made to
forget or replaced by one that is started with the right history.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial

from bitnet_chat.backend import JournalPlace, Sampling
from bitnet_chat.context.summary import Summary
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.context.window import Policy
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import exit_errors
from bitnet_chat.engine.context_saver import ContextSaver
from bitnet_chat.engine.context_window import EngineContextWindow
from bitnet_chat.engine.loaded_engine import EngineInstance
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.prompt import EnginePrompt
from bitnet_chat.engine.protocols import EngineProtocol
from bitnet_chat.engine.protocols.lazy_protocol import ProtocolOnDemand
from bitnet_chat.engine.saved_states import EngineStates, StateJob, shared_messages
from bitnet_chat.engine.standby import StandbyPool
from bitnet_chat.engine.transport import TransportKind
from bitnet_chat.engine.user_notices import Notices
from bitnet_chat.errors import BitnetChatError, EngineDiedError
from bitnet_chat.events import ContextOrigin, Notice
from bitnet_chat.util.threads import run_in_daemon_thread

_PAUSE = 0.1  # seconds


class EngineSupervisor:
    """At most one living child, and its spares. ``protocol`` may be expensive: it is called in a thread, when first
    needed. ``affordable``: whether there is memory for a spare beside the process of the given id; None for no spares.
    ``refit``: whether a process that ended before it was ready is started anew with another ``protocol``; may take
    time.
    """

    def __init__(
        self,
        protocol: Callable[[], EngineProtocol],
        window: EngineContextWindow,
        *,
        transport: TransportKind = "auto",
        on_spawn: Callable[[EngineProcess], None] | None = None,
        affordable: Callable[[int], bool] | None = None,
        refit: Callable[[EngineProcess], bool] = lambda process: False,
        states: EngineStates | None = None,
    ) -> None:
        """``states``: None keeps no states."""
        self.place: Callable[[], JournalPlace | None] = lambda: None
        """The conversation of the current reply in a journal, for its states."""
        self._saver = ContextSaver(states) if states is not None else None
        self._is_alone = False
        self.budget = RestartBudget()
        self.window = window
        self.busy = False
        """True while a task uses the child: that task then handles its death."""
        self.sampling = Sampling()
        """Sampling of the current reply, and as a guess of the next one."""
        self.protocols = ProtocolOnDemand(protocol)
        self._refit = refit
        self._transport = transport
        self._on_spawn = on_spawn
        self._loaded: EngineInstance | None = None
        self._history = Conversation()  # what the child is in step with, whole
        self._notices = Notices()
        self.notify, self.tell = self._notices.notify, self._notices.tell
        self._crashed: EngineProcess | None = None  # its death is not told yet: what follows from it may be open
        self._wanted: Conversation | None = None
        self._starting: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._watchers: set[asyncio.Task[None]] = set()
        self._standby = StandbyPool(self._load_spare, affordable) if affordable is not None else None
        self._closed = False

    @property
    def process(self) -> EngineProcess | None:
        return self._loaded.process if self._loaded is not None else None

    @property
    def spare_pids(self) -> list[int]:
        return self._standby.pids if self._standby is not None else []

    def begin(self, *, alone: bool) -> None:
        """Begin a request. ``alone``: without the notices and dropped messages of other requests, and without an
        earlier death of the child, which changes nothing in its reply."""
        self.busy, self._is_alone = True, alone
        if alone:
            self._crashed = None
            self._notices.forget_request()
            self.window.restore(())

    def take_notices(self, *, of_launch: bool) -> list[Notice]:
        """Notices that were not shown yet. ``of_launch``: also what could not be kept when the child was started, which
        is of interest when that child is the one that replies."""
        self._account_for_the_fallen()
        notices = self._notices.take()
        if (note := self.window.take_note())[0]:
            notices.append(Notice(*note))
        if of_launch and self._loaded is not None:
            notices += map(Notice, self._loaded.notes)
            self._loaded.notes = ()
        return notices

    # Getting ready

    def prepare(self, history: Conversation) -> None:
        """Have a child for ``history``, in the background, and let leave the window what will have to. A load for
        another history is given up. Errors are reported with the next reply; nothing is done during one."""
        if self._replacing is not None:
            self._replacing.cancel()
        if self.busy or self._closed:
            return
        self._wanted = history
        if self.starting is None:
            self._starting = asyncio.ensure_future(self._begin())

    @property
    def starting(self) -> asyncio.Task[None] | None:
        """The task that gets ready in the background, while it does."""
        return self._starting if self._starting is not None and not self._starting.done() else None

    async def _begin(self) -> None:
        try:
            protocol = await self.protocol()
            while self._wanted is not None and not self.busy and not self._closed:
                history, self._wanted = self._wanted, None
                count = await run_in_daemon_thread(partial(self.to_drop, protocol, self.prompt(history), None))
                if self.window.policy == "drop-oldest":
                    self.release(history, count)
                elif count > self.window.count_left(history):
                    continue  # a summary is made when a reply is awaited
                prompt = self.prompt(history)
                process = await self.synchronise(prompt)
                self._watch_over(self._read_ahead(process, protocol, prompt))
        except BitnetChatError:
            self.discard()  # the next reply tries again and tells
        if not self.busy:
            self._fill_spares()

    def rest(self) -> None:
        """The reply is over. A child that the next message cannot be typed to is replaced while the reply is read; one
        whose reply was cut at its limit is kept as long as it may have to go on with it."""
        self.busy = False
        loaded = self._loaded
        if (
            loaded is not None
            and loaded.has_strayed
            and self.protocols.made is not None
            and self.protocols.made.carries_all
        ):
            loaded.turn_to(self.window.kept(self._history))  # its figures are of what is not told again
        if loaded is not None and loaded.is_alive:
            self._save_later(loaded)
        if loaded is not None and loaded.is_alive and not loaded.is_at_limit:
            self._replacing = asyncio.ensure_future(self._replace_unless_ready(loaded))
        else:
            self._fill_spares()

    async def _replace_unless_ready(self, loaded: EngineInstance) -> None:
        await self.protocols.render_ahead(self.window.kept(self._history))
        if self.busy or self._closed or loaded is not self._loaded or not loaded.is_alive:
            return
        if self._is_ready(loaded):
            self._fill_spares()
            return
        # Not at once: a program that asks one question ends now, and a client may have its next one ready.
        await asyncio.sleep(_PAUSE)
        self._replacing = None
        self.prepare(self._history)

    def _is_ready(self, loaded: EngineInstance, message: str = "") -> bool:
        """Whether a message after the history can be typed to a child, as far as can be said before there is one."""
        if self.protocols.made is not None and self.protocols.made.carries_all:
            return True
        memory = self.window.kept(self._history)
        if loaded.has_strayed or loaded.memory != memory:
            return False
        process = loaded.process
        return process.is_prepared_for(memory) if not message else process.input_for(memory, message) is not None

    def _fill_spares(self) -> None:
        """Load the spares, now that no reply is under way."""
        loaded, protocol = self._loaded, self.protocols.made
        if self._standby is None or loaded is None or protocol is None or protocol.carries_all or self._closed:
            return
        kept, history = self.window.kept, self._history
        memories = [kept(history.without_last_turn())]
        if protocol.clearing() is None or loaded.replayed_thinking:
            memories.append(kept(history.cleared()))
        self._standby.want([memory for memory in memories if memory != loaded.memory], loaded.process)

    # Children

    async def protocol(self) -> EngineProtocol:
        return await self.protocols.get()

    async def refitted(self, process: EngineProcess) -> bool:
        """Whether a start that ended at an option is worth another one, which is then addressed anew. Raises as the
        ``refit`` that was given."""
        if not await asyncio.get_running_loop().run_in_executor(None, self._refit, process):
            return False
        self.protocols.forget()
        self.discard()
        return True

    def prompt(self, history: Conversation, text: str = "", *, goes_on: bool = False) -> EnginePrompt:
        """The prompt of a message after ``history``, with the part of it that the window holds now."""
        return EnginePrompt(history, self.window.kept(history), text, goes_on)

    async def synchronise(self, prompt: EnginePrompt) -> EngineProcess:
        """A child that remembers the history of ``prompt`` or is about to, and that can be sent its message, or can
        continue the last reply. Raises BitnetChatError if none can be started."""
        protocol = await self.protocol()
        message, unfinished = prompt.text, prompt.is_silent
        self.window.follow(prompt.history)
        self._history, memory = prompt.history, prompt.kept
        await self.protocols.render_ahead(memory, message)
        if self._standby is not None and self.busy:
            self._standby.pause(memory)
        loaded = self._loaded
        if loaded is not None and loaded.is_alive:
            if protocol.carries_all:
                loaded.turn_to(memory)
                if self.busy:
                    loaded.was_hurried = True
                    loaded.was_hurried = True
                    loaded.process.hurry()  # what it has read of a history by now it keeps
                return loaded.process
            samples_as = loaded.samples_as(self.sampling)
            fits = loaded.is_within if unfinished else self._is_ready(loaded, message)
            if samples_as and loaded.memory == memory and fits:
                return loaded.process
            command = protocol.clearing()
            same_start = samples_as and memory.system == loaded.memory.system and not loaded.replayed_thinking
            if command and same_start and not memory.turns and loaded.process.state is ProcessState.IDLE:
                loaded.clear(command, memory)
                return loaded.process
        spare = self._standby.take(memory, self.sampling) if self._standby is not None and not unfinished else None
        if spare is not None and message and spare.process.input_for(memory, message) is None:
            spare.process.kill()
            spare = None
        if spare is None:
            cache = await self._saver.begin_cache(protocol, memory) if self._saver is not None else None
            return self._replace(memory, message=message, unfinished=unfinished, cache=cache)
        self.discard()
        self._loaded = spare
        return spare.process

    def spawn(self, history: Conversation) -> EngineProcess:
        """Replace the child. Raises BitnetChatError if it cannot be started."""
        self._history = history
        return self._replace(self.window.kept(history))

    def _replace(
        self, memory: Conversation, *, message: str = "", unfinished: bool = False, cache: StateJob | None = None
    ) -> EngineProcess:
        self.discard()
        self._loaded = self._load(memory, message=message, unfinished=unfinished, cache=cache)
        return self._loaded.process

    def _load(
        self, memory: Conversation, *, message: str = "", unfinished: bool = False, cache: StateJob | None = None
    ) -> EngineInstance:
        """A child that is started with ``memory``, the one that answers or a spare. ``message``: what is put to it."""
        if self._closed or self.protocols.made is None:
            raise EngineDiedError("the engine was closed", remedy="open another one")
        protocol = self.protocols.made
        launch = protocol.launch(memory, unfinished=unfinished, sampling=self.sampling)
        if message and protocol.input(launch, launch.context, memory, message) is None:
            launch = protocol.launch(memory, message=message, sampling=self.sampling)
        if cache is not None:
            launch = replace(launch, argv=(*launch.argv, *protocol.cache_flags(str(cache.pending.path))))
        process = EngineProcess(protocol, launch, self._transport)
        replayed_thinking = protocol.clearing() is not None and bool(memory.turns)
        loaded = EngineInstance(
            process,
            memory,
            replayed_thinking=replayed_thinking,
            notes=launch.notes,
            is_within=unfinished,
            sampling=self.sampling,
        )
        loaded.cache = cache
        if self._on_spawn is not None:
            self._on_spawn(process)
        self._watch_over(self._watch(loaded))
        return loaded

    async def _load_spare(self, memory: Conversation) -> EngineInstance:
        await self.protocols.render_ahead(memory)
        return self._load(memory)

    def _watch_over(self, work: Coroutine[object, object, None]) -> None:
        watcher = asyncio.ensure_future(work)
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _read_ahead(self, process: EngineProcess, protocol: EngineProtocol, prompt: EnginePrompt) -> None:
        """Have the child restore or read a history while no reply is waited for, where its start has not done that."""
        await process.settled()
        memory, loaded = prompt.kept, self._loaded
        if prompt.history.last is not None and prompt.history.last.was_cut:  # it may be generated again
            prompt = self.prompt(prompt.history.without_last_turn())

        def is_wanted() -> bool:
            is_idle = process.state is ProcessState.IDLE and not self.busy and not self._closed
            return is_idle and loaded is not None and loaded is self._loaded and loaded.memory == memory

        if loaded is None or process is not loaded.process or not is_wanted():
            return
        if self._saver is not None:
            await self._saver.recall(loaded, protocol, memory, loaded.evaluated, is_wanted)
            self._save_later(loaded)  # it gave up a state that was not begun
        # What a whole state leaves is read with the message, as by the engine that has saved it: batches of another
        # shape round differently.
        if not is_wanted() or process.meter.context_used is not None or loaded.exact == memory:
            return
        with contextlib.suppress(BitnetChatError):  # the next reply reports a template that refuses
            if (told := protocol.preparation(memory)) is not None:
                loaded.cut_to(memory)
                loaded.was_hurried, loaded.place = False, None
                process.command(told.data, forgets=True, stop=told.stop)
                await process.settled()
                if process.state is ProcessState.IDLE and not loaded.was_hurried:
                    loaded.evaluated = memory
                    self._save_later(loaded)

    async def _watch(self, loaded: EngineInstance) -> None:
        """Replace a child that dies while no reply is awaited, so that the next message finds one."""
        process = loaded.process
        await process.gone()
        if loaded is self._loaded and not self.busy and not self._closed:
            await self.protocols.render_ahead(loaded.memory)
        if loaded is not self._loaded or self.busy or self._closed or process.ready_after is None:
            return
        if not process.was_stopped:
            if not self.budget.spend(time.monotonic()):
                return  # the next reply finds it dead and tells
            self._tell_of_restart(process)
        try:
            self._replace(loaded.memory)
        except BitnetChatError:
            self.discard()

    def try_spawn(self, history: Conversation) -> None:
        """Call :meth:`spawn` after a reply; the next reply reports an error."""
        try:
            self.spawn(history)
        except BitnetChatError:
            self.discard()

    async def side_prompt(self, message: str) -> EngineProcess:
        """A child without any history, for a message beside the conversation; :meth:`end_errand` follows.
        The one that answers makes room for it, or does it itself. Raises BitnetChatError when it cannot be started."""
        if (await self.protocol()).carries_all and self._loaded is not None and self._loaded.is_alive:
            self._loaded.turn_to(Conversation())
            self._loaded.has_strayed = True
            self._loaded.forgot()
            self._loaded.was_hurried = True
            self._loaded.process.hurry()
            return self._loaded.process
        self.discard()
        return self._load(Conversation(), message=message).process

    def end_errand(self, process: EngineProcess) -> None:
        if process is self.process:
            process.stop()
        else:
            process.kill()

    def discard(self) -> None:
        if self._loaded is not None:
            if self._loaded.cache is not None and self._saver is not None:
                self._saver.discard(self._loaded.cache)
            if self._crashed is not None and self._has_restarted:
                self._account_for_the_fallen()  # before it cannot be seen any more
            self._loaded.process.kill()
        self._loaded = None

    def abandon(self) -> None:
        """The rest of the running reply is not read."""
        if self._loaded is not None and self.protocols.made is not None and self.protocols.made.carries_all:
            self._loaded.process.stop()
            self._loaded.has_strayed = True
        else:
            self.discard()

    def remember(self, conversation: Conversation, *, is_within: bool = False, is_at_limit: bool = False) -> None:
        """The child has lived through this by now; ``is_within``: and can go on with the last reply; ``is_at_limit``:
        which was cut at its limit of tokens."""
        self._history = conversation
        if self._loaded is not None and self.protocols.made is not None:
            self._loaded.record(self.window.kept(conversation), self.protocols.made, self.window.count)
            self._loaded.has_answered = True
            self._loaded.is_within, self._loaded.is_at_limit = is_within, is_at_limit

    def expect(self, conversation: Conversation) -> None:
        """The next message will follow this, which the child has not lived through: it has more of the last reply, or
        its message."""
        self._history = conversation
        if self._loaded is not None:
            self._loaded.has_answered = self._loaded.has_strayed = True

    async def recall(self, prompt: EnginePrompt) -> bool:
        """Have the child restore a saved state before ``prompt``, if that spares it from reading. Whether the child is
        idle then, as it was before."""
        loaded, protocol = self._loaded, self.protocols.made
        if self._saver is not None and loaded is not None and protocol is not None:
            if prompt.known is None:
                await self._saver.recall(loaded, protocol, prompt.kept, loaded.evaluated)
            else:  # a short state as well: what is read anew rounds differently
                await self._saver.recall(loaded, protocol, prompt.kept, loaded.exact, worth=1)
        return loaded is not None and loaded is self._loaded and loaded.process.state is ProcessState.IDLE

    def _save_later(self, loaded: EngineInstance) -> None:
        if self._saver is not None and self.protocols.made is not None:
            self._saver.save_later(loaded, self.protocols.made, lambda: loaded is self._loaded and not self.busy)

    @property
    def is_saving(self) -> bool:
        """Whether the child writes a state."""
        return self._saver is not None and self._saver.is_writing

    @property
    def is_saved(self) -> bool:
        """Whether the context of the child is saved, and the state has not been removed."""
        loaded = self._loaded
        if loaded is None or loaded.saved is None or loaded.saved != loaded.evaluated:
            return False
        return loaded.state is not None and loaded.state.is_present

    def sent(self, prompt: EnginePrompt) -> ContextOrigin | None:
        """Note that the child evaluates ``prompt``, of which it may not read all. How its context came about."""
        loaded = self._loaded
        if loaded is None:
            return None
        origin = loaded.origin(prompt.kept)
        if prompt.goes_on:
            origin = replace(origin, begun=len(prompt.history.messages[-1].content))
        loaded.cut_to(prompt.kept)
        loaded.place, loaded.is_alone = self.place, self._is_alone
        return origin

    async def evaluated_messages(self, prompt: EnginePrompt) -> int:
        """Number of messages of the history with which a saved state or a context that can be used begins, as they were
        evaluated at first; -1 for none."""
        loaded, protocol, kept = self._loaded, await self.protocol(), prompt.kept
        live = shared_messages(loaded.exact, kept) if loaded is not None and loaded.is_alive else -1
        if not protocol.carries_all and (prompt.text or live < len(kept.turns)):
            live = -1  # such a context can only be extended
        return live if self._saver is None else max(live, await self._saver.shared(kept))

    def has_read(self, prompt: EnginePrompt) -> None:
        """Note that the child has read all of ``prompt``."""
        if self._loaded is not None:
            self._loaded.evaluated = prompt.kept
            if self._saver is not None and self._loaded.cache is not None:
                self._watch_over(self._saver.keep_cache(self._loaded))

    async def close(self) -> None:
        """Save the context, end the child, its spares and earlier ones, and wait until all have ended."""
        if self._saver is not None and self._loaded is not None and self.protocols.made is not None:
            self._closed = True
            await self._saver.close(self._loaded, self.protocols.made)
        self._closed = True
        if self._replacing is not None:
            self._replacing.cancel()
        if self._starting is not None:
            self._starting.cancel()
        if self._standby is not None:
            self._standby.close()
        self.discard()
        if self._watchers:
            await asyncio.wait(self._watchers)

    # The window

    @property
    def context_used(self) -> TokenCount | None:
        """Tokens in the context of the child, with an error where they are an estimate; None where none is alive, and
        while the first one loads: the vocabulary that estimates need may not be read yet."""
        loaded = self._loaded
        if loaded is None or self.protocols.made is None or not loaded.is_alive:
            return None
        if loaded.process.state is ProcessState.STARTING and self.window.size is None:
            return None
        return loaded.used(self.protocols.made, self.window.count)

    def used(self, protocol: EngineProtocol, kept: Conversation) -> TokenCount | None:
        """Tokens in the context of a loaded child that has the turns ``kept``; None without such a child."""
        loaded = self._loaded
        if loaded is None or loaded.process.state is not ProcessState.IDLE:
            return None
        if loaded.memory != kept or loaded.has_strayed:
            return None
        return loaded.used(protocol, self.window.count)

    def to_drop(
        self, protocol: EngineProtocol, prompt: EnginePrompt, max_tokens: int | None, alone: Policy | None = None
    ) -> int:
        """See :meth:`EngineContextWindow.to_drop`."""
        if self.process is not None:
            self.window.size = self.process.meter.context_size or self.window.size
        used = self.used(protocol, prompt.kept)
        return self.window.to_drop(protocol, prompt, used, max_tokens, alone)

    def release(self, history: Conversation, count: int, summary: Summary | None = None) -> None:
        """Drop the ``count`` oldest messages from the window, beginning with the next prompt."""
        window, protocol, summary = self.window, self.protocols.made, summary or Summary()
        if count > window.count_left(history):
            assert protocol is not None, "it was counted with it"
            tokens = window.cost_of_oldest(protocol, history, count)
            window.drop(history, count, tokens, summary.text, summary.remark)

    # Mending

    def consume_restart(self, process: EngineProcess, *, before_message: bool = False) -> None:
        """Account for an unexpected death. ``before_message``: the child was not sent the message of this request yet.
        Raises EngineDiedError when there were too many, or the next would die of the same."""
        if (lasting := exit_errors.fault_error(process)) is not None:
            raise lasting
        if not self.budget.spend(time.monotonic()):
            raise exit_errors.restart_limit_error(process, self.budget.limit, self.budget.window)
        if not (before_message and self._is_alone):
            self._tell_of_restart(process)

    def _tell_of_restart(self, process: EngineProcess) -> None:
        self._account_for_the_fallen()
        self._crashed = process

    def _account_for_the_fallen(self) -> None:
        """A line about a death, with the state of the restart: the next child may not load."""
        if self._crashed is None:
            return
        line = f"the engine {exit_errors.describe(self._crashed)}"
        if self._has_restarted:
            line += "; it was restarted with the conversation"
        elif self.process is not None and self.process.state is ProcessState.STARTING:
            line += "; it is being restarted with the conversation"
        self._crashed = None
        self.notify(line)

    @property
    def _has_restarted(self) -> bool:
        process = self.process
        return process is not None and process is not self._crashed and process.ready_after is not None


# How often an engine may be restarted before it is given up. Pure; the clock is the caller's.


class RestartBudget:
    """Budget of at most ``limit`` restarts in any ``window`` seconds."""

    def __init__(self, limit: int = 3, window: float = 60.0) -> None:
        self.limit, self.window = limit, window
        self.spent = 0
        """Number of all restarts."""
        self._times: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Take one restart; False if none is left."""
        while self._times and now - self._times[0] >= self.window:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        self.spent += 1
        return True
