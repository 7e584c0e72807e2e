"""Replies from a resident engine: one turn after another, through deaths, interrupts and full context windows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import death
from bitnet_chat.engine.child import Transport
from bitnet_chat.engine.dialects import Talk
from bitnet_chat.engine.keeper import Keeper
from bitnet_chat.engine.meter import tells_overflow
from bitnet_chat.engine.process import EngineProcess, State
from bitnet_chat.engine.turn import Turn
from bitnet_chat.errors import BitnetChatError, ContextOverflow, EngineDied, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta, ThinkingDelta
from bitnet_chat.prompt.verbatim import as_sent, clean
from bitnet_chat.stream.framer import EngineError, ReplyText, ThinkingText, TurnEnd

_CHEAP_REPLAY = 2.0
"""Seconds. After an interrupt a classic engine has a reply without an end in its context. Where a fresh start with the
history takes less than this it is made at once, while the user is typing; a longer one is not worth its wait."""


class Session:
    """One reply at a time; see :meth:`bitnet_chat.backends.Backend.reply`."""

    def __init__(
        self,
        talk: Callable[[], Talk],
        *,
        transport: Transport = "auto",
        on_spawn: Callable[[EngineProcess], None] | None = None,
    ) -> None:
        self.keeper = Keeper(talk, transport=transport, on_spawn=on_spawn)
        self._stop_reason: FinishReason | None = None
        self._stopped = asyncio.Event()

    @property
    def process(self) -> EngineProcess | None:
        return self.keeper.process

    @property
    def state(self) -> State:
        if self.process is not None:
            return self.process.state
        return State.STARTING if self.keeper.starting is not None else State.DEAD

    def interrupt(self, reason: FinishReason = FinishReason.INTERRUPTED) -> None:
        """Stop the reply that is under way, or the wait for it."""
        if self.keeper.busy and self._stop_reason is None:
            self._stop_reason = reason
            self._stopped.set()
            if self.process is not None:
                self.process.stop()

    async def close(self) -> None:
        """A reply that is under way ends with what it has."""
        self.interrupt()
        await self.keeper.close()

    async def reply(self, conversation: Conversation, options: ReplyOptions) -> AsyncIterator[Event]:
        keeper, last = self.keeper, conversation.last
        if last is None or last.role != "user":
            raise UsageError("there is no user message to reply to")
        if keeper.busy:
            raise UsageError("a reply is under way already")
        cleaned = clean(last.content)
        if not cleaned.text:
            yield Failed(UsageError("an empty message cannot be sent"))
            return
        keeper.busy = True
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
            history = as_sent(Conversation(conversation.messages[:-1]))
            async for event in self._attempts(history, cleaned.text, options):
                for notice in keeper.take_notices(of_launch=isinstance(event, Started)):
                    yield Notice(notice)
                if isinstance(event, Completed | Failed):
                    # Before it is told: who hears it may ask the next question at once.
                    finished = True
                    self._release(timer)
                yield event
        finally:
            if not finished:  # the caller walked away
                self._release(timer)
                keeper.discard()

    def _release(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
        self.keeper.busy = False

    async def _attempts(self, history: Conversation, text: str, options: ReplyOptions) -> AsyncIterator[Event]:
        """Tries until there is a reply or no hope: a death before the first word costs the user nothing but time."""
        started = time.monotonic()
        announced = False
        dropped = self.keeper.dropped
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
                turn = Turn(process.meter, started)
                async for event in self._turn(process, turn, options):
                    yield event
                if turn.error:
                    self.keeper.discard()
                    if (failed := self._error(process, history, turn)) is None:
                        continue
                    yield failed
                    return
                if turn.end is not None:
                    yield await self._completed(process, history.with_user(text), turn, turn.end)
                    return
                reason = self._reason_of_death(process, history, turn)
                if reason is not None:
                    await self._keep_in_step(history, text, turn, reason)
                    yield Completed(reason, turn.text, turn.stats())
                    return
            except BitnetChatError as error:
                self.keeper.discard()
                if isinstance(error, ContextOverflow):  # the message alone is too long, whatever stands before it
                    self.keeper.restore(dropped)
                yield Failed(error)
                return

    async def _ready(self, history: Conversation) -> EngineProcess | None:
        """The child, idle and in step; None when the user does not want to wait any longer."""
        silent_deaths = 0
        if self.keeper.starting is not None:
            await self._or_stop(self.keeper.starting)
        while not self._stopped.is_set():
            process = await self.keeper.synchronise(history)
            if process.state is State.STARTING:
                await self._or_stop(asyncio.ensure_future(process.settled()))
            if self._stopped.is_set():
                break
            if self.state is State.IDLE:
                return process
            await process.gone()
            if process.ready_after is None:
                # llama-completion can exit before its log thread has written why: another try may say it.
                silent_deaths += not process.log.tail()
                if silent_deaths in (1, 2) and not process.log.tail():
                    continue
                if not (process.meter.overflowed and self.keeper.drop_oldest(history)):
                    raise death.too_long(process) if process.meter.overflowed else death.while_loading(process)
            elif not process.was_stopped:
                self.keeper.spend_restart(process)
        return None

    async def _or_stop(self, task: asyncio.Future[None]) -> None:
        stop = asyncio.ensure_future(self._stopped.wait())
        waiting: list[asyncio.Future[Any]] = [task, stop]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def _turn(self, process: EngineProcess, turn: Turn, options: ReplyOptions) -> AsyncIterator[Event]:
        """Passes on what the child says until the turn ends or it dies; ``turn`` keeps the account."""
        talk = await self.keeper.talk()
        limit = options.max_tokens if talk.max_tokens is None else None
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
                turn.arrived(text)
                yield TextDelta(text)
            if limit is not None and turn.end is None and turn.at_least >= limit:
                self.interrupt(FinishReason.LENGTH)
        turn.over()
        await process.log_is_level()

    # The end of a turn

    async def _completed(
        self, process: EngineProcess, conversation: Conversation, turn: Turn, end: TurnEnd
    ) -> Completed:
        """The engine ended the turn; ``conversation`` has the message, not yet the reply."""
        talk, meter = await self.keeper.talk(), process.meter
        # A modern engine keeps to its limit by itself, and ends the reply as if it were whole; so it does when its
        # context window is full.
        at_limit = meter.tokens is not None and meter.tokens == talk.max_tokens
        full = meter.context_size is not None and (meter.context_used or 0) >= meter.context_size
        meter.ended(turn.tokens, natural=end.natural and not at_limit and not full)
        conversation = conversation.with_assistant(turn.text)
        self.keeper.remember(conversation)
        reason = FinishReason.STOP
        if self._stop_reason is not None and not end.natural:
            reason = self._stop_reason
            # A message that got no reply is mostly taken back; a new child need not know of it.
            known = conversation if turn.text else Conversation(conversation.messages[:-2])
            self._after_interrupt(process, talk, known, turn)
        elif at_limit:
            reason = FinishReason.LENGTH
        elif full:
            reason = FinishReason.CONTEXT_OVERFLOW
        return Completed(reason, turn.text, turn.stats())

    def _error(self, process: EngineProcess, history: Conversation, turn: Turn) -> Completed | Failed | None:
        """A modern engine reported an error instead of a reply, or in the middle of it. None: worth another try."""
        if not (tells_overflow(turn.error) or process.meter.overflowed):
            error = EngineDied(f"the engine reported: {turn.error}", remedy="ask again, or /clear to start over")
            return Failed(error, turn.text)
        if turn.text:
            return Completed(FinishReason.CONTEXT_OVERFLOW, turn.text, turn.stats())
        if not self.keeper.drop_oldest(history):
            raise death.too_long(process)
        return None

    def _after_interrupt(self, process: EngineProcess, talk: Talk, conversation: Conversation, turn: Turn) -> None:
        """Make the engine's context as well-formed again as it allows."""
        if talk.closes_interrupted:
            if talk.no_message and process.state is State.IDLE:
                # A signal that came just after the end of the reply is still waiting, and would end the engine with
                # the next message. It had better do so now.
                process.command(talk.no_message, forgets=False)
            return
        seconds = process.ready_after or 0.0
        if process.meter.prompt_tokens and turn.first is not None:
            prefill = (turn.first - turn.sent) / process.meter.prompt_tokens
            seconds += prefill * (process.meter.context_used or 0)
        if seconds <= _CHEAP_REPLAY:
            self.keeper.try_spawn(talk, conversation)

    def _reason_of_death(self, process: EngineProcess, history: Conversation, turn: Turn) -> FinishReason | None:
        """The child died in this turn: why the reply is over, or None where it is worth another try.

        Raises EngineDied or ContextOverflow when there is no hope.
        """
        if process.was_stopped and self._stop_reason is not None:
            return self._stop_reason
        # A classic engine whose context is full ends with 0 in the middle of its reply.
        if process.meter.overflowed or (process.exit_code == 0 and not process.was_stopped):
            if turn.text:
                return FinishReason.CONTEXT_OVERFLOW
            if not self.keeper.drop_oldest(history):
                raise death.too_long(process)
            return None
        self.keeper.spend_restart(process)
        return FinishReason.ENGINE_DIED if turn.text else None

    async def _keep_in_step(self, history: Conversation, text: str, turn: Turn, reason: FinishReason) -> None:
        """After a death in mid-reply: a new child that knows the part that had arrived, while the user reads."""
        memory = history.with_user(text).with_assistant(turn.text) if turn.text else history
        if reason is FinishReason.CONTEXT_OVERFLOW:
            self.keeper.drop_oldest(memory)
        self.keeper.try_spawn(await self.keeper.talk(), memory)
