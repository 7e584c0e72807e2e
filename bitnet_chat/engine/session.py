"""A conversation with a resident engine: keeps the child in step with the conversation, whatever happens to it.

The conversation is the truth; what the child remembers is a copy of it. Whenever the two differ, the child is cleared
or replaced by one that is started with the right history.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.child import Transport
from bitnet_chat.engine.dialects import Talk
from bitnet_chat.engine.meter import Meter, tells_overflow
from bitnet_chat.engine.process import EngineProcess, State
from bitnet_chat.engine.restarts import RestartBudget
from bitnet_chat.errors import BitnetChatError, ContextOverflow, EngineDied, FinishReason, ModelError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta, ThinkingDelta
from bitnet_chat.prompt.verbatim import clean
from bitnet_chat.prompt.window import messages_to_drop, without_oldest
from bitnet_chat.stream.framer import EngineError, ReplyText, ThinkingText, TurnEnd

_CHEAP_REPLAY = 2.0
"""Seconds. After an interrupt a classic engine has a reply without an end in its context. Where a fresh start with the
history takes less than this it is made at once, while the user is typing; a longer one is not worth its wait."""


class Session:
    """One engine, at most one child at a time. ``talk`` may be expensive: it is called once, when first needed."""

    def __init__(
        self,
        talk: Callable[[], Talk],
        *,
        transport: Transport = "auto",
        budget: RestartBudget | None = None,
        on_spawn: Callable[[EngineProcess], None] | None = None,
    ) -> None:
        self._make_talk = talk
        self._talk: Talk | None = None
        self._transport = transport
        self._budget = budget or RestartBudget()
        self._on_spawn = on_spawn
        self.process: EngineProcess | None = None
        self._memory: Conversation | None = None
        self._dropped = 0
        self._notices: list[str] = []
        self._launch_notes: tuple[str, ...] = ()
        self._retold = False
        self._starting: asyncio.Task[None] | None = None
        self._watchers: set[asyncio.Task[None]] = set()
        self._stop_reason: FinishReason | None = None
        self._stopped = asyncio.Event()
        self._busy = False
        self._closed = False

    @property
    def state(self) -> State:
        return self.process.state if self.process is not None else State.DEAD

    def notify(self, line: str) -> None:
        """A line for the user, told with the next reply. May be called from a thread."""
        self._notices.append(line)

    # Loading

    def start(self, history: Conversation) -> None:
        """Begin to load for ``history``, in the background. Errors are kept for the next reply."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._begin(history))

    async def _begin(self, history: Conversation) -> None:
        try:
            await self._ensure_talk()
            if not self._busy and not self._closed:
                await self._synchronise(history)
        except BitnetChatError:
            self._discard()  # the next reply tries again and tells

    async def _ensure_talk(self) -> Talk:
        if self._talk is None:
            # Reads the model's header and compiles its template: tens of milliseconds that no front end should feel.
            self._talk = await asyncio.get_running_loop().run_in_executor(None, self._make_talk)
        return self._talk

    async def _synchronise(self, history: Conversation) -> EngineProcess:
        """The process, remembering ``history`` or about to. Raises BitnetChatError when none can be started."""
        talk = await self._ensure_talk()
        history = history.without_marks()
        if self._dropped > len(history.turns):
            self._dropped = 0
        process = self.process
        if process is not None and process.state is not State.DEAD:
            if self._memory == history:
                return process
            command = talk.clearing()
            memory = self._memory
            same_start = memory is not None and memory.system == history.system
            if command and same_start and not history.turns and process.state is State.IDLE and not self._retold:
                process.command(command, forgets=True)
                self._memory, self._dropped = history, 0
                return process
        return self._spawn(talk, history)

    def _spawn(self, talk: Talk, history: Conversation) -> EngineProcess:
        self._discard()
        if not history.turns:
            self._dropped = 0
        launch = talk.launch(without_oldest(history, self._dropped))
        self._launch_notes = launch.notes  # of this child: told with the reply that it gives
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
        """A process that dies while nobody waits for it is replaced at once, so that the next message finds one."""
        await process.gone()
        if process is not self.process or self._busy or self._closed or process.ready_after is None:
            return
        history = self._memory
        if history is None or self._talk is None:
            return
        if not process.was_stopped:
            if not self._budget.spend(time.monotonic()):
                return  # the next reply finds it dead and tells
            self._notices.append(f"the engine {_death(process)}; it was restarted with the conversation")
        try:
            self._spawn(self._talk, history)
        except BitnetChatError:
            self._discard()

    def _discard(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.process, self._memory = None, None

    # Replies

    def interrupt(self, reason: FinishReason = FinishReason.INTERRUPTED) -> None:
        """Stop the reply that is under way, or the wait for it."""
        if self._busy and self._stop_reason is None:
            self._stop_reason = reason
            self._stopped.set()
            if self.process is not None:
                self.process.stop()

    async def reply(self, conversation: Conversation, options: ReplyOptions) -> AsyncIterator[Event]:
        """See :meth:`bitnet_chat.backends.Backend.reply`."""
        last = conversation.last
        if last is None or last.role != "user":
            raise UsageError("there is no user message to reply to")
        if self._busy:
            raise UsageError("a reply is under way already")
        cleaned = clean(last.content)
        if not cleaned.text:
            yield Failed(UsageError("an empty message cannot be sent"))
            return
        self._busy = True
        self._stop_reason = None
        self._stopped.clear()
        timer = None
        if options.timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(options.timeout, self.interrupt, FinishReason.TIMEOUT)
        finished = False
        try:
            if cleaned.note:
                yield Notice(cleaned.note)
            history = Conversation(conversation.messages[:-1])
            async for event in self._attempts(history, cleaned.text, options):
                for notice in self._take_notices():
                    yield Notice(notice)
                finished = isinstance(event, Completed | Failed)
                yield event
        finally:
            if timer is not None:
                timer.cancel()
            self._busy = False
            if not finished:  # the caller walked away
                self._discard()

    def _take_notices(self) -> list[str]:
        notices = [*self._notices, *self._launch_notes]
        self._notices, self._launch_notes = [], ()
        return notices

    async def _attempts(self, history: Conversation, text: str, options: ReplyOptions) -> AsyncIterator[Event]:
        """Tries until there is a reply or no hope: a death before the first word costs the user nothing but time."""
        started = time.monotonic()
        announced = False
        while True:
            try:
                process = await self._ready(history)
                if process is None:
                    yield Completed(self._stop_reason or FinishReason.INTERRUPTED, "", Stats())
                    return
                process.send(text)
                if not announced:
                    announced = True
                    yield Started()
                turn = _Turn(process.meter, started)
                async for event in self._turn(process, turn, options):
                    yield event
                if turn.end is not None:
                    yield self._completed(process, history, text, turn)
                    return
                self._despair_or_retry(process, history, turn)
            except _Ended as ended:
                self._keep_in_step(history, text, ended)
                yield Completed(ended.reason, ended.turn.text, ended.turn.stats())
                return
            except BitnetChatError as error:
                self._discard()
                yield Failed(error)
                return

    async def _ready(self, history: Conversation) -> EngineProcess | None:
        """The process, idle and in step; None when the user does not want to wait any longer."""
        if self._starting is not None and not self._starting.done():
            await self._or_stop(self._starting)
        while self._stop_reason is None:
            process = await self._synchronise(history)
            if process.state is State.STARTING:
                await self._or_stop(asyncio.ensure_future(process.settled()))
            if self._stop_requested():
                break
            if self._is_idle(process):
                return process
            await process.gone()
            if process.ready_after is None:
                self._could_not_load(process, history)
            elif not process.was_stopped:
                self._spend_restart(process)
        return None

    def _stop_requested(self) -> bool:
        return self._stop_reason is not None

    @staticmethod
    def _is_idle(process: EngineProcess) -> bool:
        return process.state is State.IDLE

    async def _or_stop(self, task: asyncio.Future[None]) -> None:
        stop = asyncio.ensure_future(self._stopped.wait())
        waiting: list[asyncio.Future[Any]] = [task, stop]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    def _could_not_load(self, process: EngineProcess, history: Conversation) -> None:
        if process.meter.overflowed and self._drop_oldest(history):
            return
        self._discard()
        if process.meter.overflowed:
            raise _too_long(process.meter, process)
        tail = process.log.tail()
        if process.exit_code is not None and process.exit_code < 0:
            raise EngineDied(f"the engine {_death(process)} while it loaded", remedy=_DIED_REMEDY, detail=tail)
        raise ModelError(
            "the engine could not load the model",
            remedy="its log says why; bitnet-chat engine list shows other engines, -m FILE takes another model",
            detail=tail,
        )

    def _spend_restart(self, process: EngineProcess) -> None:
        if not self._budget.spend(time.monotonic()):
            raise EngineDied(
                f"the engine {_death(process)}, for the {self._budget.limit + 1}th time in "
                f"{self._budget.window:g} seconds",
                remedy=_DIED_REMEDY,
                detail=process.log.tail(),
            )
        self._notices.append(f"the engine {_death(process)}; it was restarted with the conversation")

    def _drop_oldest(self, history: Conversation) -> bool:
        dropped = messages_to_drop(history, self._dropped)
        if dropped == self._dropped:
            return False
        self._notices.append(
            f"the context window is full: the oldest {dropped} of {len(history.turns)} messages left it"
            " (the conversation still has them)"
        )
        self._dropped = dropped
        return True

    async def _turn(self, process: EngineProcess, turn: _Turn, options: ReplyOptions) -> AsyncIterator[Event]:
        """Passes on what the process says until the turn ends or it dies; ``turn`` keeps the account."""
        assert self._talk is not None
        limit = options.max_tokens if self._talk.max_tokens is None else None
        if self._stop_reason is not None:  # it came while the message was being handed over
            process.stop()
        while turn.end is None and (frames := await process.frames()):
            text = ""
            for frame in frames:
                if isinstance(frame, ReplyText):
                    text += frame.text
                elif isinstance(frame, ThinkingText):
                    turn.arrived()
                    yield ThinkingDelta(frame.text)
                elif isinstance(frame, EngineError):
                    turn.error = frame.text
                elif isinstance(frame, TurnEnd):
                    turn.end = frame
            if text:
                turn.arrived()
                turn.text += text
                yield TextDelta(text)
            if limit is not None and turn.end is None and turn.at_least >= limit:
                self.interrupt(FinishReason.LENGTH)
        turn.over()
        await process.log_is_level()

    def _completed(self, process: EngineProcess, history: Conversation, text: str, turn: _Turn) -> Event:
        assert turn.end is not None and self._talk is not None
        natural = turn.end.natural
        process.meter.ended(turn.tokens, natural=natural)
        if turn.error:
            self._discard()
            if tells_overflow(turn.error) or process.meter.overflowed:
                if not turn.text:
                    return Failed(_too_long(process.meter, process))
                return Completed(FinishReason.CONTEXT_OVERFLOW, turn.text, turn.stats())
            return Failed(EngineDied(f"the engine reported: {turn.error}", remedy="/regen asks again"), turn.text)
        self._memory = history.with_user(text).with_assistant(turn.text).without_marks()
        reason = FinishReason.STOP
        if self._stop_reason is not None and not natural:
            reason = self._stop_reason
            if not self._talk.closes_interrupted:
                self._close_reply(process, turn)
            elif self._talk.no_message and process.state is State.IDLE:
                # A signal that came just after the end of the reply is still waiting, and would end the engine with
                # the next message. It had better do so now.
                process.command(self._talk.no_message, forgets=False)
        elif process.meter.tokens is not None and process.meter.tokens == self._talk.max_tokens:
            reason = FinishReason.LENGTH
        return Completed(reason, turn.text, turn.stats())

    def _close_reply(self, process: EngineProcess, turn: _Turn) -> None:
        memory, talk = self._memory, self._talk
        assert memory is not None and talk is not None
        used, prompt = process.meter.context_used or 0, process.meter.prompt_tokens
        seconds = process.ready_after or 0.0
        if prompt and turn.first is not None:
            seconds += used * (turn.first - turn.sent) / prompt
        if seconds <= _CHEAP_REPLAY:
            self._spawn(talk, memory)

    def _despair_or_retry(self, process: EngineProcess, history: Conversation, turn: _Turn) -> None:
        """The process died in this turn. Returns when it is worth another try; raises _Ended or an error if not."""
        overflowed = process.meter.overflowed or (process.exit_code == 0 and not process.was_stopped)
        if process.was_stopped and self._stop_reason is not None:
            raise _Ended(self._stop_reason, turn)
        if overflowed:
            if turn.text:
                raise _Ended(FinishReason.CONTEXT_OVERFLOW, turn)
            if not self._drop_oldest(history):
                raise _too_long(process.meter, process)
            return
        self._spend_restart(process)
        if turn.text:
            raise _Ended(FinishReason.ENGINE_DIED, turn)

    def _keep_in_step(self, history: Conversation, text: str, ended: _Ended) -> None:
        """After a death in mid-reply: a new child that knows the part that had arrived, while the user reads."""
        memory = history.with_user(text).with_assistant(ended.turn.text) if ended.turn.text else history
        if ended.reason is FinishReason.CONTEXT_OVERFLOW:
            self._drop_oldest(memory)
        assert self._talk is not None
        try:
            self._spawn(self._talk, memory.without_marks())
        except BitnetChatError:
            self._discard()

    async def close(self) -> None:
        """End the child and wait until it is gone, and those before it."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        self._discard()
        if self._watchers:
            await asyncio.wait(self._watchers)


class _Turn:
    """The account of one turn."""

    def __init__(self, meter: Meter, sent: float) -> None:
        self.text = ""
        self.error = ""
        self.end: TurnEnd | None = None
        self.sent = sent
        self.first: float | None = None
        self._ended: float | None = None
        self._arrivals = 0
        self._meter = meter

    @property
    def tokens(self) -> int:
        """As the engine counts; where it does not tell, by what arrived: several tokens may come in one piece, and
        one of them makes about four characters."""
        if self._meter.tokens is not None:
            return self._meter.tokens
        return max(self._arrivals, len(self.text) // 4)

    @property
    def at_least(self) -> int:
        """For limits: never more than there were, so that no reply is cut before its time."""
        return self._meter.tokens if self._meter.tokens is not None else self._arrivals

    def arrived(self) -> None:
        self._arrivals += 1
        if self.first is None:
            self.first = time.monotonic()

    def over(self) -> None:
        self._ended = time.monotonic()

    def stats(self) -> Stats:
        meter = self._meter
        return Stats(
            prompt_tokens=meter.prompt_tokens,
            tokens=self.tokens,
            time_to_first_token=None if self.first is None else self.first - self.sent,
            seconds=(self._ended or time.monotonic()) - self.sent,
            context_used=meter.context_used,
            context_size=meter.context_size,
            exact=meter.tokens is not None,
        )


class _Ended(Exception):
    """The reply is over though the engine did not end it."""

    def __init__(self, reason: FinishReason, turn: _Turn) -> None:
        super().__init__(reason)
        self.reason, self.turn = reason, turn


_DIED_REMEDY = "its log says more; a smaller model or --ctx needs less memory"


def _too_long(meter: Meter, process: EngineProcess) -> ContextOverflow:
    size = f" of {meter.context_size} tokens" if meter.context_size else ""
    return ContextOverflow(
        f"the message does not fit into the context window{size}",
        remedy="shorten it, or give a larger --ctx where the model allows it",
        detail=process.log.tail(3),
    )


def _death(process: EngineProcess) -> str:
    code = process.exit_code
    if process.out_of_step or code is None:
        return "went out of step"
    if code >= 0:
        return f"ended by itself (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed ({name})" + (": out of memory?" if name == "SIGKILL" else "")
