"""Replies from a resident engine: one turn after another, through deaths, interrupts and full context windows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.context.tokenizer import Tokenizer, TokenLimit
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import encoded_conversation, normalise
from bitnet_chat.engine import exit_errors
from bitnet_chat.engine.context_window import EngineContextWindow
from bitnet_chat.engine.fit_prompt import ContextTrimmer
from bitnet_chat.engine.log import tells_overflow
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.prompt import EnginePrompt
from bitnet_chat.engine.protocols import EncodedMessage, EngineProtocol
from bitnet_chat.engine.reply import Estimate, ReplyAccumulator
from bitnet_chat.engine.saved_states import EngineStates
from bitnet_chat.engine.supervisor import EngineSupervisor
from bitnet_chat.engine.transport import TransportKind
from bitnet_chat.engine_output import EngineError, Frame, PrefillProgress, ReplyText, ThinkingText, TurnEnd
from bitnet_chat.errors import (
    BitnetChatError,
    ContextOverflowError,
    EmptyMessageError,
    EngineDiedError,
    FinishReason,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import (
    Completed,
    ContextOrigin,
    Event,
    Failed,
    Notice,
    PromptProgress,
    Started,
    Stats,
    TextDelta,
    ThinkingDelta,
)
from bitnet_chat.filters.continuation import KnownReplyRemover, is_repeated
from bitnet_chat.util.threads import run_beside_loop, run_in_daemon_thread

_TRIES = 9  # loads again of a model that failed to load without a word
_WITH_GRAMMAR = "use --backend llama-server"
_PATIENCE = 3.0  # seconds for all of them but the first two


class Session:
    """One reply at a time; see :meth:`bitnet_chat.backend.Backend.reply`."""

    def __init__(
        self,
        protocol: Callable[[], EngineProtocol],
        window: EngineContextWindow | None = None,
        *,
        transport: TransportKind = "auto",
        on_spawn: Callable[[EngineProcess], None] | None = None,
        tokenizer: Callable[[], Tokenizer | None] = lambda: None,
        affordable: Callable[[int], bool] | None = None,
        refit: Callable[[EngineProcess], bool] = lambda process: False,
        states: EngineStates | None = None,
        repeats: Callable[[ReplyOptions], bool] = lambda options: False,
    ) -> None:
        """Create a session. ``tokenizer``: the model's, if any; may take time. ``repeats``: whether the engine
        generates the same reply again with these options. For the rest see :class:`EngineSupervisor`."""
        self._repeats = repeats
        window = window or EngineContextWindow("drop-oldest", by_length)
        self.supervisor = EngineSupervisor(
            protocol, window, transport=transport, on_spawn=on_spawn, affordable=affordable, refit=refit, states=states
        )
        self._trimmer = ContextTrimmer(self.supervisor, self._or_stop)
        self._tokenizer = tokenizer
        self._stop_reason: FinishReason | None = None
        self._arguments: Mapping[str, object] = {}
        self._stopped = asyncio.Event()

    @property
    def process(self) -> EngineProcess | None:
        return self.supervisor.process

    @property
    def state(self) -> ProcessState:
        if self.process is not None:
            return self.process.state
        return ProcessState.STARTING if self.supervisor.starting is not None else ProcessState.DEAD

    def interrupt(self, reason: FinishReason = FinishReason.INTERRUPTED) -> None:
        """Stop the running reply, or the wait for it."""
        if self.supervisor.busy and self._stop_reason is None:
            self._stop_reason = reason
            self._stopped.set()
            if self.process is not None:
                self.process.stop()

    async def close(self) -> None:
        """End the engine. A running reply ends with the text so far."""
        self.interrupt()
        await self.supervisor.close()

    async def reply(self, conversation: Conversation, options: ReplyOptions) -> AsyncGenerator[Event]:
        """See :meth:`bitnet_chat.backend.Backend.reply`. Turns are repeated until a reply or a final error: a death
        before the first token costs only time."""
        if self.supervisor.busy:
            raise UsageError("a reply is under way already")
        told = _told(conversation)
        cut, conversation = _cut_reply(conversation)
        cleaned = normalise(conversation.messages[-1].content)
        if not cleaned.text:
            yield Failed(EmptyMessageError())
            return
        attempts = self._begin(conversation, cut, options)
        attempts.told = told
        try:
            if cleaned.note and cut is None:
                yield Notice(cleaned.note)
            for notice in self.supervisor.take_notices(of_launch=False):  # of what was done since the last reply
                yield notice
            while attempts.end is None:
                for event in await self._begin_turn(attempts):
                    yield event
                while attempts.is_in_turn and (frames := await attempts.process.frames()):
                    for event in self._read(attempts, frames):
                        yield event
                for event in await self._end_turn(attempts):
                    yield event
            for notice in self.supervisor.take_notices(of_launch=False):
                yield notice
            # Before the end is reported: the next question may follow it at once.
            self._release(attempts)
            yield attempts.end
        finally:
            if self._release(attempts):  # the caller has left
                self.supervisor.abandon()

    def _begin(self, conversation: Conversation, cut: Message | None, options: ReplyOptions) -> Attempts:
        supervisor = self.supervisor
        supervisor.begin(alone=options.alone)
        supervisor.sampling = options.sampling
        supervisor.place = options.place
        self._stop_reason = None
        self._stopped.clear()
        window = supervisor.window
        attempts = Attempts(conversation, cut, options, window.left, window.summary)
        if options.timeout is not None:
            loop = asyncio.get_running_loop()
            attempts.timer = loop.call_later(options.timeout, self.interrupt, FinishReason.TIMEOUT)
        return attempts

    def _release(self, attempts: Attempts) -> bool:
        """The reply is over. Whether it was not before."""
        if attempts.is_over:
            return False
        attempts.is_over = True
        if attempts.timer is not None:
            attempts.timer.cancel()
        self.supervisor.rest()
        return True

    async def check(self, conversation: Conversation, options: ReplyOptions) -> None:
        """Raises BitnetChatError for a request that would be refused by any engine. A reply may be running."""
        cut, conversation = _cut_reply(conversation)
        if not normalise(conversation.messages[-1].content).text:
            raise EmptyMessageError
        prompt = await self._asked(conversation, cut, options)
        if options.alone:
            await self._trimmer.leaving(prompt, options)

    async def _prompt(self, conversation: Conversation, cut: Message | None, options: ReplyOptions) -> EnginePrompt:
        """The request for the engine. Raises BitnetChatError for an impossible one."""
        protocol = await self.supervisor.protocol()
        # With others than before the template is rendered, which takes what time it is given.
        is_new, self._arguments = options.template != self._arguments, options.template
        use = partial(protocol.use, options.template)
        if without_effect := await run_in_daemon_thread(use) if is_new else use():
            self.supervisor.tell(without_effect)
        prompt = await self._asked(conversation, cut, options)
        if options.alone:
            prompt = await self._trimmer.cut(prompt, options)
        if cut is not None and self._repeats(options) and (again := await self._from_the_message(prompt, cut)):
            return again
        return self._continuing(prompt)

    def _continuing(self, prompt: EnginePrompt) -> EnginePrompt:
        """``prompt``, with a notice if it continues a reply in words."""
        if prompt.goes_on and prompt.text:
            self.supervisor.tell("this engine cannot continue a reply by itself: it was asked to continue")
        return prompt

    async def _from_the_message(self, prompt: EnginePrompt, cut: Message) -> EnginePrompt | None:
        """A prompt with which the engine generates ``cut`` again, see :func:`is_repeated`; None where that cannot
        help."""
        supervisor, kept = self.supervisor, Conversation((*prompt.kept.messages[:-1], cut))
        if not is_repeated(kept, await supervisor.evaluated_messages(prompt)):
            return None
        *before, asked, _ = prompt.history.messages
        prompt = supervisor.prompt(Conversation(tuple(before)), asked.content)
        count = supervisor.window.count
        tokens = sum(count(text).count for text in (cut.thinking, cut.content) if text)
        return replace(prompt, known=cut, known_tokens=tokens)

    async def _with_known(self, prompt: EnginePrompt, options: ReplyOptions) -> ReplyOptions:
        """The options for the engine: its limit of tokens counts the known beginning of the reply too."""
        limit = options.max_tokens or (await self.supervisor.protocol()).max_tokens
        if prompt.known is None or limit is None:
            return options
        return replace(options, max_tokens=limit + prompt.known_tokens)

    async def _asked(self, conversation: Conversation, cut: Message | None, options: ReplyOptions) -> EnginePrompt:
        protocol = await self.supervisor.protocol()
        if options.format is not None and not protocol.carries_all:
            why = "an engine on a pseudo-terminal accepts no grammar for one reply"
            raise UnsupportedError("response_format", why, remedy=_WITH_GRAMMAR)
        if cut is None:
            *earlier, asked = (await run_beside_loop(conversation, encoded_conversation, conversation)).messages
            return self.supervisor.prompt(Conversation(tuple(earlier)), asked.content)
        whole = Conversation((*conversation.messages, cut))
        encoded = await run_beside_loop(whole, encoded_conversation, whole)
        return self.supervisor.prompt(encoded, protocol.go_on_message, goes_on=True)

    async def _allowance(self, options: ReplyOptions) -> TokenLimit | None:
        """Allowance for an engine that does not enforce a limit and stops a few tokens after it."""
        if options.max_tokens is None or _matches_prefix(await self.supervisor.protocol(), options.max_tokens):
            return None
        tokenizer = await asyncio.get_running_loop().run_in_executor(None, self._tokenizer)
        return TokenLimit(tokenizer, options.max_tokens) if tokenizer is not None else None

    def _estimate(self, protocol: EngineProtocol, prompt: EnginePrompt) -> Estimate:
        """Estimate for the next turn, for an engine without figures."""
        count = self.supervisor.window.count

        def asked() -> TokenCount:
            return TokenCount(0) if prompt.is_silent else protocol.cost_of_message(prompt.text, count)

        return Estimate(self.supervisor.used(protocol, prompt.kept), asked, count)

    async def _begin_turn(self, attempts: Attempts) -> list[Event]:
        """Send the message to a process that is ready for it. Sets the end of the reply if that is not possible."""
        options = attempts.options
        try:
            prompt = attempts.prompt or await self._prompt(attempts.conversation, attempts.cut, options)
            attempts.prompt = prompt
            allowance, wanted = await self._allowance(options), await self._with_known(prompt, options)
            ready = await self._ready(prompt, options)
            if ready is None:
                self._finish(attempts, Completed(self._stop_reason or FinishReason.INTERRUPTED, "", Stats()))
                return []
            process, prompt = ready
            attempts.prompt = prompt
            # From here until the message is sent nothing is waited for: the child might die meanwhile.
            protocol = await self.supervisor.protocol()
            estimate = self._estimate(protocol, prompt)
            message = self._input(process, prompt, wanted)
            tags, cut = process.thinking_tags, prompt.known
            attempts.process, attempts.turn = (
                process,
                ReplyAccumulator(
                    process.meter,
                    attempts.began,
                    attempts.told,
                    message.overlap,
                    allowance,
                    estimate,
                    tags,
                    KnownReplyRemover(cut.content, cut.thinking) if cut is not None else None,
                    prompt.known_tokens,
                ),
            )
            attempts.limit = None if _matches_prefix(protocol, options.max_tokens) else wanted.max_tokens
            process.send(message)
            attempts.has_read = False
            attempts.origin = self.supervisor.sent(prompt)
            if self._stop_reason is not None:  # it came while the message was being handed over
                process.stop()
            if attempts.has_started:
                return []
            attempts.has_started = True
            if changed := protocol.note_of(prompt.text):
                self.supervisor.tell(changed)
            return [*self.supervisor.take_notices(of_launch=True), Started()]
        except BitnetChatError as error:
            self._fail(attempts, error)
            return []

    def _read(self, attempts: Attempts, frames: Iterable[Frame]) -> Iterator[Event]:
        """The events of ``frames``; stops a turn that has reached its limit."""
        process, turn = attempts.process, attempts.turn
        for event in turn_events(turn, frames):
            if not attempts.has_read and isinstance(event, TextDelta | ThinkingDelta) and attempts.prompt is not None:
                attempts.has_read = True
                self.supervisor.has_read(attempts.prompt)
            yield from self.supervisor.take_notices(of_launch=False)
            yield event
        if turn.end is not None:
            return
        if turn.is_another:
            process.stop()
        if attempts.limit is not None and turn.exceeds(attempts.limit):
            self.interrupt(FinishReason.LENGTH)
        if process.meter.has_shifted:  # what follows answers another context
            process.kill()

    async def _end_turn(self, attempts: Attempts) -> list[Event]:
        """Handle the end of a turn or the death of the child. Sets the end of the reply, unless the turn is
        repeated."""
        if attempts.end is not None:
            return []
        process, turn, prompt = attempts.process, attempts.turn, attempts.prompt
        assert prompt is not None, "a turn has begun"
        turn.over(natural=turn.end is not None and turn.end.natural)
        await process.log_is_level()
        last: list[Event] = [
            ThinkingDelta(text) if thinking else TextDelta(text) for text, thinking in turn.within_after_all()
        ]
        attempts.told = turn.told
        try:
            end: Completed | Failed | None
            if turn.is_another and self._stop_reason is None:
                self.supervisor.expect(prompt.history)  # the engine has the message and another reply
                asked = await self._asked(attempts.conversation, attempts.cut, attempts.options)
                attempts.prompt, end = self._continuing(asked), None
            elif turn.error is not None:
                end = await self._error(process, prompt, turn, turn.error, attempts.options)
            elif turn.end is not None:
                end = await self._completed(process, prompt, turn, turn.end)
            else:
                end = await self._died(process, prompt, turn)
            if end is not None:
                self._finish(attempts, end)
        except BitnetChatError as error:
            self._fail(attempts, error)
        return last

    def _fail(self, attempts: Attempts, error: BitnetChatError) -> None:
        if self.state is ProcessState.DEAD:  # a message that was not sent is not a fault of the child
            self.supervisor.discard()
        self._finish(attempts, Failed(error))

    def _finish(self, attempts: Attempts, end: Completed | Failed) -> None:
        attempts.end = replace(end, origin=attempts.origin) if isinstance(end, Completed) else end
        if not end.text and (attempts.has_started or _is_overflow(end)):
            # What left made room for a message that may be no part of the conversation, or was too long alone.
            self.supervisor.window.restore(attempts.left, attempts.summary)

    async def _ready(self, prompt: EnginePrompt, options: ReplyOptions) -> tuple[EngineProcess, EnginePrompt] | None:
        """The child, idle, in sync, and with room for the message, and the prompt as it fits; None after the user
        stopped waiting."""
        deaths, supervisor = _SilentDeaths(), self.supervisor
        if supervisor.starting is not None:
            await self._or_stop(supervisor.starting)
        while not self._stopped.is_set():
            prompt = await self._trimmer.fit(prompt, options.max_tokens)
            await self._or_stop(asyncio.ensure_future(supervisor.protocols.render_ahead(prompt.kept, prompt.text)))
            if self._stopped.is_set():
                break
            if prompt.goes_on and not prompt.kept.turns:
                raise exit_errors.no_room_to_go_on()
            process = await supervisor.synchronise(prompt)
            if process.state is not ProcessState.IDLE:
                await self._or_stop(asyncio.ensure_future(process.settled()))
            if self._stopped.is_set():
                if process.state is ProcessState.STARTING and process.launch.answers:
                    supervisor.discard()  # it reads a message that is not to be answered
                break
            if self.state is not ProcessState.IDLE:
                await self._died_before(process, prompt, deaths)
            # Only now the size of its window is known.
            elif await self._trimmer.fit(prompt, options.max_tokens) == prompt:
                recalling = asyncio.ensure_future(supervisor.recall(prompt))
                await self._or_stop(recalling)
                if recalling.done() and recalling.result() and process is self.process:
                    return process, prompt
        return None

    async def _died_before(self, process: EngineProcess, prompt: EnginePrompt, deaths: _SilentDeaths) -> None:
        """The child died before it was sent the message. Raises BitnetChatError when another start cannot help."""
        await process.gone()
        if process.ready_after is not None:
            if not process.was_stopped:
                self.supervisor.consume_restart(process, before_message=True)
            return
        if await self.supervisor.refitted(process):
            return
        is_silent = process.fault is None and process.refusal is None and exit_errors.is_silent(process)
        if is_silent and deaths.is_worth_a_try():
            return
        if not process.meter.overflowed:
            raise exit_errors.while_loading(process, process.refusal)
        await self._trimmer.drop_more(process, prompt)

    def _input(self, process: EngineProcess, prompt: EnginePrompt, options: ReplyOptions) -> EncodedMessage:
        found = process.input_for(prompt.kept, prompt.text, options)
        assert found is not None, "it was started for this message"
        return found

    async def _or_stop(self, task: asyncio.Future[Any]) -> None:
        stop = asyncio.ensure_future(self._stopped.wait())
        waiting: list[asyncio.Future[Any]] = [task, stop]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    # The end of a turn

    async def _completed(
        self, process: EngineProcess, prompt: EnginePrompt, turn: ReplyAccumulator, end: TurnEnd
    ) -> Completed:
        """The engine ended the turn."""
        protocol, meter = await self.supervisor.protocol(), process.meter
        # A modern engine keeps to its limit by itself, and ends the reply as if it were whole; so it does when its
        # context window is full.
        at_limit = meter.tokens is not None and meter.tokens == protocol.max_tokens and not meter.is_whole
        full = meter.context_size is not None and (meter.context_used or 0) >= meter.context_size
        meter.ended(turn.tokens, natural=end.natural and not at_limit and not full)
        conversation = prompt.answered(turn.text)
        reason = FinishReason.STOP
        if self._stop_reason is not None and not end.natural and end.reason in (None, FinishReason.INTERRUPTED):
            reason = self._stop_reason
        elif end.reason is not None:
            reason = end.reason
        elif at_limit or turn.is_trimmed:
            reason = FinishReason.LENGTH
        elif full:
            reason = FinishReason.CONTEXT_OVERFLOW
        if turn.is_trimmed or meter.has_shifted:  # the child has more of the reply than was told, or less before it
            self.supervisor.expect(conversation)
        elif turn.text or end.natural:
            is_within = not (end.natural or protocol.closes_interrupted)
            is_at_limit = is_within and reason is FinishReason.LENGTH
            self.supervisor.remember(conversation, is_within=is_within, is_at_limit=is_at_limit)
        else:  # a message that got no reply is mostly taken back; a new child need not know of it
            self.supervisor.expect(prompt.history)
        if self._stop_reason is not None and protocol.no_message and process.state is ProcessState.IDLE:
            # A signal that came just after the end of the reply is still waiting, and would end the engine with the
            # next message. It had better do so now.
            process.command(protocol.no_message, forgets=False)
        return Completed(reason, turn.text, turn.stats())

    async def _error(
        self,
        process: EngineProcess,
        prompt: EnginePrompt,
        turn: ReplyAccumulator,
        error: EngineError,
        options: ReplyOptions,
    ) -> Completed | Failed | None:
        """The engine reported an error instead of a reply, or within it. None: the turn is repeated."""
        if (await self.supervisor.protocol()).carries_all:
            self.supervisor.expect(prompt.history)
        else:
            self.supervisor.discard()
        if error.why == "unsupported":
            option = "response_format" if options.format is not None else "this request"
            return Failed(UnsupportedError(option, error.text, remedy=_WITH_GRAMMAR), turn.text)
        if not (error.why == "context_full" or tells_overflow(error.text) or process.meter.overflowed):
            remedy = "ask again, or begin another conversation"
            return Failed(EngineDiedError(f"the engine reported: {error.text}", remedy=remedy), turn.text)
        if turn.text:
            return Completed(FinishReason.CONTEXT_OVERFLOW, turn.text, turn.stats())
        await self._trimmer.drop_more(process, prompt)
        return None

    async def _died(self, process: EngineProcess, prompt: EnginePrompt, turn: ReplyAccumulator) -> Completed | None:
        """The child died in this turn. None: the turn is repeated."""
        reason = await self._reason_of_death(process, prompt, turn)
        if reason is None:
            return None
        await self._keep_in_step(prompt, turn, reason)
        return Completed(reason, turn.text, turn.stats())

    async def _reason_of_death(
        self, process: EngineProcess, prompt: EnginePrompt, turn: ReplyAccumulator
    ) -> FinishReason | None:
        """The child died in this turn: the reason for the end of the reply, or None to repeat the turn.

        Raises EngineDiedError or ContextOverflowError when another try cannot help.
        """
        if process.was_stopped and self._stop_reason is not None:
            return self._stop_reason
        # A classic engine whose context is full ends with 0 in the middle of its reply.
        if process.meter.overflowed or (process.exit_code == 0 and not process.was_stopped):
            window, protocol = self.supervisor.window, await self.supervisor.protocol()
            # A reply can fill the window with tokens that print nothing.
            if turn.text or window.fits_alone(protocol, prompt):
                return FinishReason.CONTEXT_OVERFLOW
            await self._trimmer.drop_more(process, prompt)
            return None
        self.supervisor.consume_restart(process)
        return FinishReason.ENGINE_DIED if turn.text else None

    async def _keep_in_step(self, prompt: EnginePrompt, turn: ReplyAccumulator, reason: FinishReason) -> None:
        """After a death in mid-reply: a new child that knows the part that had arrived, while the user reads."""
        supervisor, protocol = self.supervisor, await self.supervisor.protocol()
        memory = prompt.answered(turn.text) if turn.text else prompt.history
        if reason is FinishReason.CONTEXT_OVERFLOW:
            supervisor.discard()
            if supervisor.window.policy != "drop-oldest":  # what is to be done takes time, or is nothing
                return
            with contextlib.suppress(ContextOverflowError):  # then the next reply reports it
                count = supervisor.to_drop(protocol, supervisor.prompt(memory), None)
                if count == supervisor.window.count_left(memory):
                    count = supervisor.window.dropped_when_full(memory)
                supervisor.release(memory, count)
        supervisor.try_spawn(memory)


class Attempts:
    """The turns of one reply. ``left`` and ``summary``: of the context window when the reply began."""

    process: EngineProcess
    turn: ReplyAccumulator
    """Record of the last turn."""
    limit: int | None = None
    """Tokens after which this program stops the turn."""
    origin: ContextOrigin | None = None
    """Of the context of the last turn."""

    def __init__(
        self,
        conversation: Conversation,
        cut: Message | None,
        options: ReplyOptions,
        left: tuple[Message, ...],
        summary: str,
    ) -> None:
        self.conversation, self.cut, self.options = conversation, cut, options
        self.left, self.summary = left, summary
        self.began = time.monotonic()
        self.timer: asyncio.TimerHandle | None = None
        self.prompt: EnginePrompt | None = None
        self.told = ""
        """Thoughts shown to the user."""
        self.has_read = False
        """The engine has read the whole prompt of this turn."""
        self.has_started = False
        """The message was sent once at least."""
        self.end: Completed | Failed | None = None
        self.is_over = False
        """The backend is free for the next reply."""

    @property
    def is_in_turn(self) -> bool:
        return self.end is None and self.turn.end is None


class _SilentDeaths:
    """Counter of children that died without a message while they loaded: limits the loads of a large model."""

    def __init__(self) -> None:
        self._count, self._began = 0, time.monotonic()

    def is_worth_a_try(self) -> bool:
        self._count += 1
        return self._count <= (_TRIES if time.monotonic() - self._began < _PATIENCE else 2)


def turn_events(turn: ReplyAccumulator, frames: Iterable[Frame]) -> list[Event]:
    """Events for a front end from ``frames``; ``turn`` counts them."""
    events: list[Event] = []
    text, repeated = "", turn.repeated
    for frame in frames:
        if isinstance(frame, ReplyText):
            text += frame.text
        elif isinstance(frame, ThinkingText):
            if thought := turn.thought(frame.text):
                events.append(ThinkingDelta(thought))
        elif isinstance(frame, PrefillProgress):
            events.append(PromptProgress(frame.done, frame.total))
        elif isinstance(frame, EngineError):
            turn.error = frame
        elif isinstance(frame, TurnEnd):
            turn.end = frame
    if text and (said := turn.said(text)):
        events.append(TextDelta(said))
    if turn.repeated is not None and turn.repeated != repeated:
        events.append(turn.repeated)
    return events


def _is_overflow(event: Completed | Failed) -> bool:
    return isinstance(event, Failed) and isinstance(event.error, ContextOverflowError)


def _matches_prefix(protocol: EngineProtocol, limit: int | None) -> bool:
    """Whether the engine itself ends a reply at ``limit`` tokens."""
    return protocol.carries_all or (protocol.max_tokens is not None and (limit is None or protocol.max_tokens <= limit))


def _told(conversation: Conversation) -> str:
    """The thoughts of a reply that was cut within them, which are generated again."""
    last = conversation.last
    return last.thinking if last is not None and not last.content else ""


def _cut_reply(conversation: Conversation) -> tuple[Message | None, Conversation]:
    """The reply that is to go on, None where there is nothing of one, and what stands before it.

    Raises UsageError for a conversation that nothing can be replied to.
    """
    cut = conversation.cut_reply
    if cut is None:
        return None, conversation
    return (cut if cut.content else None), Conversation(conversation.messages[:-1])
