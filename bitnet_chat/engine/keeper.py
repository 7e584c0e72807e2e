"""Keeps one child in step with a conversation, whatever happens to it.

The conversation is the truth; what the child remembers is a copy of it. Whenever the two differ, the child is made to
forget or replaced by one that is started with the right history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine import death
from bitnet_chat.engine.child import Transport
from bitnet_chat.engine.dialects import Talk
from bitnet_chat.engine.process import EngineProcess, State
from bitnet_chat.engine.restarts import RestartBudget
from bitnet_chat.errors import BitnetChatError, EngineDied
from bitnet_chat.prompt.verbatim import as_sent
from bitnet_chat.prompt.window import messages_to_drop, without_oldest


class Keeper:
    """At most one living child. ``talk`` may be expensive: it is called once, in a thread, when first needed."""

    def __init__(
        self,
        talk: Callable[[], Talk],
        *,
        transport: Transport = "auto",
        on_spawn: Callable[[EngineProcess], None] | None = None,
    ) -> None:
        self.process: EngineProcess | None = None
        self.budget = RestartBudget()
        self.busy = False
        """True while somebody deals with the child: its death is then theirs to notice."""
        self._make_talk = talk
        self._talk: Talk | None = None
        self._transport = transport
        self._on_spawn = on_spawn
        self._memory: Conversation | None = None
        self._retold = False
        self._dropped: tuple[Message, ...] = ()
        self._notices: list[str] = []
        self._launch_notes: tuple[str, ...] = ()
        self._overflow_note = ""
        self._starting: asyncio.Task[None] | None = None
        self._watchers: set[asyncio.Task[None]] = set()
        self._closed = False

    # Notices

    def notify(self, line: str) -> None:
        """A line for the user, told with the next event. May be called from a thread."""
        self._notices.append(line)

    def take_notices(self, *, of_launch: bool) -> list[str]:
        """What has not been told yet. ``of_launch``: also what could not be kept when the child was started, which is
        of interest when that child is the one that replies."""
        notices, self._notices = self._notices, []
        if self._overflow_note:
            notices.append(self._overflow_note)
            self._overflow_note = ""
        if of_launch:
            notices += self._launch_notes
            self._launch_notes = ()
        return notices

    # Children

    def start(self, history: Conversation) -> None:
        """Begin to load for ``history``, in the background. What goes wrong is told with the next reply."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._begin(history))

    @property
    def starting(self) -> asyncio.Task[None] | None:
        """The task that loads in the background, while it does."""
        return self._starting if self._starting is not None and not self._starting.done() else None

    async def _begin(self, history: Conversation) -> None:
        try:
            await self.talk()
            if not self.busy and not self._closed:
                await self.synchronise(history)
        except BitnetChatError:
            self.discard()  # the next reply tries again and tells

    async def talk(self) -> Talk:
        if self._talk is None:
            # Reads the model's header and compiles its template: tens of milliseconds that no front end should feel.
            self._talk = await asyncio.get_running_loop().run_in_executor(None, self._make_talk)
        return self._talk

    async def synchronise(self, history: Conversation) -> EngineProcess:
        """A child that remembers ``history`` or is about to. Raises BitnetChatError when none can be started."""
        talk = await self.talk()
        history = as_sent(history)
        if history.turns[: len(self._dropped)] != self._dropped:  # another conversation, which may well fit
            self.restore(())
        process = self.process
        if process is None or process.state is State.DEAD:
            return self.spawn(talk, history)
        if self._memory == history:
            return process
        command = talk.clearing()
        memory = self._memory
        same_start = memory is not None and memory.system == history.system and not self._retold
        if command and same_start and not history.turns and process.state is State.IDLE:
            process.command(command, forgets=True)
            self._memory = history
            return process
        return self.spawn(talk, history)

    def spawn(self, talk: Talk, history: Conversation) -> EngineProcess:
        """Replace the child. Raises BitnetChatError when it cannot be started."""
        self.discard()
        if self._closed:
            raise EngineDied("the engine was closed", remedy="open another one")
        history = as_sent(history)
        if history.turns[: len(self._dropped)] != self._dropped:
            self.restore(())
        launch = talk.launch(without_oldest(history, len(self._dropped)))
        self._launch_notes = launch.notes
        self._retold = talk.clearing() is not None and bool(history.turns)
        process = EngineProcess(talk, launch, self._transport)
        self.process, self._memory = process, history
        if self._on_spawn is not None:
            self._on_spawn(process)
        watcher = asyncio.ensure_future(self._watch(process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return process

    async def _watch(self, process: EngineProcess) -> None:
        """A child that dies while nobody waits for it is replaced at once, so that the next message finds one."""
        await process.gone()
        if process is not self.process or self.busy or self._closed or process.ready_after is None:
            return
        history, talk = self._memory, self._talk
        if history is None or talk is None:
            return
        if not process.was_stopped:
            if not self.budget.spend(time.monotonic()):
                return  # the next reply finds it dead and tells
            self._tell_of_restart(process)
        self.try_spawn(talk, history)

    def try_spawn(self, talk: Talk, history: Conversation) -> None:
        """:meth:`spawn`, while nobody waits for it: what goes wrong is left for the next reply to find out."""
        try:
            self.spawn(talk, history)
        except BitnetChatError:
            self.discard()

    def discard(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.process, self._memory = None, None

    def remember(self, conversation: Conversation) -> None:
        """The child has lived through this by now."""
        self._memory = as_sent(conversation)

    async def close(self) -> None:
        """End the child and wait until it is gone, and those before it."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        self.discard()
        if self._watchers:
            await asyncio.wait(self._watchers)

    # Mending

    def spend_restart(self, process: EngineProcess) -> None:
        """Account for a death that nobody asked for. Raises EngineDied when there were too many."""
        if not self.budget.spend(time.monotonic()):
            raise death.too_often(process, self.budget.limit, self.budget.window)
        self._tell_of_restart(process)

    def _tell_of_restart(self, process: EngineProcess) -> None:
        self.notify(f"the engine {death.describe(process)}; it was restarted with the conversation")

    def drop_oldest(self, history: Conversation) -> bool:
        """Let the oldest turns leave the window from the next child on; False when there are none left."""
        turns = as_sent(history).turns
        count = messages_to_drop(history, len(self._dropped))
        if count == len(self._dropped):
            return False
        self._dropped = turns[:count]
        self._overflow_note = (
            f"the context window is full: the oldest {count} of {len(turns)} messages left it"
            " (the conversation still has them)"
        )
        return True

    @property
    def dropped(self) -> tuple[Message, ...]:
        """The oldest messages of the conversation, which the child does not have."""
        return self._dropped

    def restore(self, dropped: tuple[Message, ...]) -> None:
        """Take back what :meth:`drop_oldest` did: it was not this history that was too long."""
        self._dropped = dropped
        self._overflow_note = ""
