"""A backend that asks a server and passes on what it streams, whichever wire format it speaks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from bitnet_chat.backends import BackendStatus, ReplyOptions, Sampling
from bitnet_chat.backends.remote import ending
from bitnet_chat.backends.remote.account import Account
from bitnet_chat.backends.remote.connection import Lost, Refused, chunk, not_an_api, whole
from bitnet_chat.backends.remote.fit import Fit
from bitnet_chat.backends.remote.mending import Untold, asked_again, left, told_apart
from bitnet_chat.backends.remote.question import Question
from bitnet_chat.backends.remote.service import Service, Target
from bitnet_chat.backends.remote.wire import Fault, Wire
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.load import Load
from bitnet_chat.errors import BitnetChatError, FinishReason, Unsupported, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.prompt import summary as summaries
from bitnet_chat.prompt.tokens import TokenCount
from bitnet_chat.stream.toolcalls import CALL_LIMIT

if TYPE_CHECKING:
    import aiohttp

_T = TypeVar("_T")
_SUMMARY_LIMIT = 256  # tokens
_REFUSALS = 8  # of one message that lead to another try
SIGN_OF_LIFE = 20.0
"""Seconds of a call of a tool after which a line says that it is still being written: nothing else is seen of it."""


class _Stopped(Exception):
    """The reply was interrupted, or its time is over, while something was waited for."""


class _Misspoken(Exception):
    """The reply is whole, and nothing of what it asks for can be made."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults[0].why)
        self.faults = faults


class RemoteBackend:
    """See :class:`bitnet_chat.backends.Backend`."""

    def __init__(
        self,
        service: Service,
        wire: Wire,
        fit: Fit,
        count: Callable[[str], TokenCount | None],
        *,
        sampling: Sampling,
        goes_on: bool = False,
        preload: Callable[[Target], Awaitable[None]] | None = None,
        sign_of_life: float = SIGN_OF_LIFE,
    ) -> None:
        """``sampling``: what a reply gets that asks for nothing else. ``goes_on``: whether the server goes on with a
        reply that ends the conversation. ``preload``: has the model loaded, where that is not done with ``ready``.
        ``sign_of_life``: seconds after which a line tells of a call of a tool that is still being written."""
        self._service, self._wire, self._fit, self._count = service, wire, fit, count
        self._sampling, self._goes_on, self._preload = sampling, goes_on, preload
        self._sign_of_life = sign_of_life
        self._untold = Untold()
        self._busy = False
        self._closed = False
        self._state = "idle"
        self._starting: asyncio.Task[None] | None = None
        self._stop_reason: FinishReason | None = None
        self._patience: asyncio.Timeout | None = None
        self._deadline: float | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._used: int | None = None
        self._load = Load()

    @property
    def service(self) -> Service:
        return self._service

    def start(self) -> None:
        if self._starting is None and not self._closed:
            self._starting = asyncio.ensure_future(self._start())

    async def _start(self) -> None:
        self._state = "starting"
        # What goes wrong comes with the next reply, which tries again.
        with contextlib.suppress(BitnetChatError, Lost, Refused):
            target = await self._service.ready()
            self._learn_size(target)
            if self._preload is not None:
                await self._preload(target)
        if self._state == "starting":
            self._state = "idle"

    def prepare(self, history: Conversation) -> None:
        self.start()

    def count(self, text: str) -> TokenCount | None:
        return self._count(text)

    def interrupt(self, reason: FinishReason = FinishReason.INTERRUPTED) -> None:
        if self._busy and self._stop_reason is None:
            self._stop_reason = reason
            self._state = "interrupting"
            if self._patience is not None:
                self._patience.reschedule(asyncio.get_running_loop().time())

    def status(self) -> BackendStatus:
        service = self._service
        memory, cpu = self._load.of(service.pid) if service.pid is not None else (None, None)
        return BackendStatus(
            model=service.model,
            engine=service.engine,
            state=self._state if service.is_alive or self._state == "starting" else "dead",
            context_used=self._used,
            context_size=self._fit.size,
            memory=memory,
            cpu=cpu,
            restarts=service.restarts,
        )

    async def close(self) -> None:
        """A reply that is under way ends with what it has."""
        if self._closed:
            return
        self._closed = True
        self.interrupt()
        self._hang_up()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._service.close()

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        options = self._with_defaults(options or ReplyOptions())
        if self._busy:
            raise UsageError("a reply is under way already")
        try:
            question = Question.of(self._untold.told_in(conversation))
            if refused := self._wire.refusal(options):
                raise Unsupported(*refused)
        except UsageError as error:
            yield Failed(error)
            return
        loop = asyncio.get_running_loop()
        self._busy, self._stop_reason = True, None
        self._deadline = None if options.timeout is None else loop.time() + options.timeout
        account = Account(time.monotonic())
        ended = False
        try:
            if question.note:
                yield Notice(question.note)
            async with aclosing(self._attempts(question, options, account)) as events:
                async for event in events:
                    if isinstance(event, Completed | Failed):
                        # Before it is told: who hears it may ask the next question at once.
                        ended = True
                        self._rest()
                    yield event
        finally:
            if not ended:
                self._stop_reason = FinishReason.INTERRUPTED
            self._rest()

    def _with_defaults(self, options: ReplyOptions) -> ReplyOptions:
        own, wanted = self._sampling, options.sampling
        if own == Sampling():
            return options
        return replace(
            options,
            sampling=replace(
                wanted,
                temperature=own.temperature if wanted.temperature is None else wanted.temperature,
                seed=own.seed if wanted.seed is None else wanted.seed,
            ),
        )

    def _rest(self) -> None:
        if self._busy and self._stop_reason is not None:
            self._service.after_stop()
        self._hang_up()
        self._busy = False
        self._patience = None
        self._state = "idle"

    def _hang_up(self) -> None:
        """The server stops generating when nobody listens any more."""
        response, self._response = self._response, None
        if response is not None:
            response.close()

    async def _attempts(
        self, question: Question, options: ReplyOptions, account: Account
    ) -> AsyncGenerator[Event, None]:
        """Tries until there is a reply or no hope."""
        announced, cuts, refusals = False, 0, 0
        told: list[Fault] = []
        wanted = options
        window = self._fit.window
        before = window.left, window.summary
        if question.prefix and not self._goes_on:
            question = question.in_words()
            yield Notice("this server cannot go on with a reply by itself: it was asked to continue")
        while True:
            target: Target | None = None
            try:
                self._state = "starting"
                target = await self._within(self._service.ready())
                self._learn_size(target)
                if options.tools and options.tool_choice != "none" and not target.knows_tools:
                    raise Unsupported("tools", f"the chat template of {self._service.model} has no place for them")
                await self._make_room(question, wanted, target)
                for line in (*self._service.take_notices(), window.take_note()):
                    if line:
                        yield Notice(line)
                if not announced:
                    announced = True
                    yield Started()
                async with aclosing(self._asked(question, wanted, account, target)) as events:
                    async for event in events:
                        if isinstance(event, Completed):
                            event = ending.of_window(event, options, self._fit.size)
                        yield event
                return
            except _Misspoken as error:
                why = error.faults[0].why
                if told:
                    yield Notice(f"the model twice asked for a tool in a form that cannot be read: {why}")
                    yield self._completed(account, FinishReason.STOP)
                    return
                # Once: the model is told what is wrong, and goes on in the same reply.
                told = error.faults
                question = asked_again(question, account.text, told)
                wanted = left(options, account.stats(self._fit.size))
                account.go_on()
                cuts = refusals = 0
            except _Stopped:
                account.over()
                yield self._completed(account, self._stop_reason or FinishReason.INTERRUPTED)
                return
            except Refused as error:
                refusals += 1
                again = refusals <= _REFUSALS and account.is_fresh
                if again and self._can_do_without(error):
                    continue
                if again and question.prefix and error.refusal.status in (400, 422) and not error.refusal.is_overflow:
                    question = question.in_words()  # some templates take no reply that is not whole
                    yield Notice("this model's template cannot go on with a reply: it was asked to continue")
                    continue
                try:
                    if again and error.refusal.is_overflow and target is not None:
                        await self._drop_more(question, error, target)
                        continue
                    failure = error.refusal.error(self._service.name, self._service.model)
                except BitnetChatError as overflow:
                    window.restore(*before)
                    failure = overflow
                except _Stopped:
                    account.over()
                    yield self._completed(account, self._stop_reason or FinishReason.INTERRUPTED)
                    return
                for event in ending.refused(failure, account, told, self._fit.size):
                    yield event
                return
            except Lost as error:
                if self._stop_reason is not None:  # we have hung up ourselves
                    account.over()
                    yield self._completed(account, self._stop_reason)
                    return
                why = await self._service.after_loss() or str(error)
                cuts += 1
                if account.is_fresh and cuts <= self._service.retries:
                    continue
                account.over()
                for event in ending.cut_off(self._service.name, account, why, self._fit.size):
                    yield event
                return
            except BitnetChatError as error:
                for line in self._service.take_notices():
                    yield Notice(line)
                for event in ending.refused(error, account, told, self._fit.size):
                    yield event
                return
            finally:
                self._hang_up()

    async def _asked(
        self, question: Question, options: ReplyOptions, account: Account, target: Target
    ) -> AsyncGenerator[Event, None]:
        """One request and what comes of it. Raises Lost, Refused, _Stopped."""
        body = self._wire.body(target.model, self._fit.messages(question), options, stream=True)
        account.begin(question.prefix, question.loose_end if question.prefix else "")
        response = self._response = await self._within(target.connection.post(self._wire.path, body))
        self._state = "generating"
        reader = self._wire.reader()
        now, told, gathered = asyncio.get_running_loop().time, 0.0, 0
        try:
            if response.content_type == "application/json" != self._wire.streamed:
                said = reader.whole(await self._within(whole(response, target.connection.base)))
                for event in _told(said, account):
                    yield event
            elif response.content_type == "text/html":
                raise not_an_api(target.connection.base)
            while not reader.done:
                data = await self._within(chunk(response))
                if not data:
                    break
                said = reader.feed(data)
                if said or not told:
                    told = now()
                for each in said:
                    if each.thinking:
                        if thought := account.thought(each.text):
                            yield ThinkingDelta(thought)
                    elif text := account.said(each.text):
                        yield TextDelta(text)
                if reader.call_size > gathered:
                    gathered = reader.call_size
                    account.asked()
                    if gathered > CALL_LIMIT:
                        yield Notice(f"a call of a tool was stopped: it was longer than {CALL_LIMIT:,} characters")
                        reader.finish, reader.done = FinishReason.LENGTH, True
                        break
                    if now() - told > self._sign_of_life:
                        told = now()
                        yield Notice("the model is writing a long call of a tool")
            for event in _told(reader.end(), account):
                yield event
        except ValueError as error:
            reader.error = f"it sent {error}"
            for event in _told(reader.speech.take(), account):  # what came before that
                yield event
        except Lost:
            if reader.finish is None:
                raise
        finally:
            account.pieces = reader.speech.pieces
        account.over()
        if reader.error:
            for event in ending.cut_off(self._service.name, account, reader.error, self._fit.size):
                yield event
            return
        if reader.finish is None:
            raise Lost("the stream ended before the reply did")
        account.usage = reader.usage
        if reader.usage.prompt is not None:
            self._used = reader.usage.prompt + (reader.usage.completion or reader.speech.pieces)
            self._fit.learn(question, reader.usage.prompt)
        offered = options.tools if options.tool_choice != "none" else ()
        calls, faults = told_apart(reader.calls(), offered)
        if faults and not offered:
            yield Notice("the model asked for a tool, and was offered none: nothing is called")
        elif faults and not calls:
            raise _Misspoken(faults)
        self._untold.keep(calls, faults)
        for call in calls:
            yield call
        asks = reader.finish is FinishReason.TOOL_CALLS
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP if asks else reader.finish
        yield self._completed(account, reason)

    def _completed(self, account: Account, reason: FinishReason) -> Completed:
        return ending.completed(account, reason, self._fit.size)

    def _can_do_without(self, error: Refused) -> bool:
        """A strict server knows fewer fields: whether the one that it named can be left out from now on."""
        return any(error.refusal.names(field) and self._wire.without(field) for field in self._wire.optional)

    async def _within(self, work: Awaitable[_T]) -> _T:
        """What ``work`` gives. Raises _Stopped when the reply is interrupted or out of time before that."""
        if self._stop_reason is not None:
            if asyncio.iscoroutine(work):
                work.close()
            raise _Stopped
        try:
            async with asyncio.timeout_at(self._deadline) as self._patience:
                return await work
        except TimeoutError:
            if self._patience is None or not self._patience.expired():
                raise
            self._stop_reason = self._stop_reason or FinishReason.TIMEOUT
            raise _Stopped from None
        finally:
            self._patience = None

    # The window

    def _learn_size(self, target: Target) -> None:
        if target.context_size is not None:
            self._fit.size = target.context_size

    async def _make_room(self, question: Question, options: ReplyOptions, target: Target) -> None:
        if self._fit.is_short(question):
            return
        loop = asyncio.get_running_loop()
        # A long history in a vocabulary that is not read yet takes its time.
        count = await self._within(loop.run_in_executor(None, self._fit.to_drop, question, options.max_tokens))
        await self._let_go(question.history, count, target)

    async def _drop_more(self, question: Question, error: Refused, target: Target) -> None:
        """The server said that it was too much. Raises ContextOverflow where nothing can be done about it."""
        self._fit.size = error.refusal.context_size or self._fit.size
        await self._let_go(question.history, self._fit.refused(question, error.refusal.prompt_tokens), target)

    async def _let_go(self, history: Conversation, count: int, target: Target) -> None:
        """Have the ``count`` oldest messages out of the window, and a summary in their place where that is wanted."""
        fit, window = self._fit, self._fit.window
        left = window.count_left(history)
        if count <= left:
            return
        summary = ""
        if fit.policy == "summarize":
            earlier = window.summary if left else ""
            summary = await self._summary(history.turns[left:count], earlier, target)
        window.drop(history, count, fit.cost_of_oldest(history, count), summary)

    async def _summary(self, turns: Sequence[Message], earlier: str, target: Target) -> str:
        """What the model makes of the turns that leave; empty where it makes nothing."""
        size = self._fit.size
        limit = min(_SUMMARY_LIMIT, size // 8) if size else _SUMMARY_LIMIT
        while size and turns and self._fit.tokens(turns).count + limit * 2 > size:
            turns = turns[1:]
        asked = (Message("user", summaries.request(turns, earlier, limit)),)
        body = self._wire.body(target.model, asked, ReplyOptions(max_tokens=limit), stream=False)
        with contextlib.suppress(BitnetChatError, Lost, Refused, ValueError):
            answer: Any = await self._within(target.connection.ask(self._wire.path, body))
            return "".join(each.text for each in self._wire.reader().whole(answer) if not each.thinking).strip()
        return ""


def _told(said: Sequence[Any], account: Account) -> list[Event]:
    """What has come, as events."""
    events: list[Event] = []
    for each in said:
        if each.thinking:
            if thought := account.thought(each.text):
                events.append(ThinkingDelta(thought))
        elif text := account.said(each.text):
            events.append(TextDelta(text))
    return events
