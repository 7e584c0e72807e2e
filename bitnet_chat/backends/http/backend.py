"""A backend that asks a server and passes on what it streams, whichever wire format it speaks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from bitnet_chat.backend import BackendStatus, ReplyOptions, Sampling
from bitnet_chat.backends.http import attempt
from bitnet_chat.backends.http.attempt import InvalidToolCallsError, RequestAttempt
from bitnet_chat.backends.http.client import (
    CancellableRequest,
    ConnectionLostError,
    HTTPStatusError,
    RequestCancelledError,
)
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import Endpoint, RequestTarget
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.tool_errors import PendingToolErrors, limits_left, repair_prompt
from bitnet_chat.backends.http.trimming import RequestTrimmer
from bitnet_chat.backends.http.wire_format import InvalidToolCall, ResponseAccumulator, WireFormat
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, FinishReason, UnsupportedError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice
from bitnet_chat.util.resources import ProcessUsage
from bitnet_chat.util.threads import run_beside_loop

_REFUSALS = 8  # of one message that lead to another try
SIGN_OF_LIFE = 20.0
"""Seconds of a call of a tool after which a line says that it is still being written: nothing else is seen of it."""


class RemoteBackend:
    """See :class:`bitnet_chat.backend.Backend`."""

    def __init__(
        self,
        service: Endpoint,
        wire: WireFormat,
        fit: ServerContextWindow,
        count: Callable[[str], TokenCount | None],
        *,
        sampling: Sampling,
        goes_on: bool = False,
        preload: Callable[[RequestTarget], Awaitable[None]] | None = None,
        sign_of_life: float = SIGN_OF_LIFE,
    ) -> None:
        """``sampling``: what a reply gets that asks for nothing else. ``goes_on``: whether the server goes on with a
        reply that ends the conversation. ``preload``: has the model loaded, where that is not done with ``ready``.
        ``sign_of_life``: seconds after which a line tells of a call of a tool that is still being written."""
        self._service, self._wire, self._fit, self._count = service, wire, fit, count
        self._sampling, self._goes_on, self._preload = sampling, goes_on, preload
        self._sign_of_life = sign_of_life
        self._untold = PendingToolErrors()
        self._closed = False
        self._starting: asyncio.Task[None] | None = None
        self._is_starting = False
        """Until it has started, or a reply has shown that it has."""
        self._line: CancellableRequest | None = None
        """Of the reply that is under way."""
        self._used: int | None = None
        self._is_exact = True
        self._load = ProcessUsage()

    @property
    def service(self) -> Endpoint:
        return self._service

    def start(self) -> None:
        if self._starting is None and not self._closed:
            self._starting = asyncio.ensure_future(self._start())

    async def _start(self) -> None:
        self._is_starting = True
        # What goes wrong comes with the next reply, which tries again.
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError):
            target = await self._service.ready()
            self._learn_size(target)
            if self._preload is not None:
                await self._preload(target)
        self._is_starting = False

    def prepare(self, history: Conversation) -> None:
        self.start()

    def count(self, text: str) -> TokenCount | None:
        return self._count(text)

    def interrupt(self, reason: FinishReason = FinishReason.INTERRUPTED) -> None:
        if self._line is not None:
            self._line.stop(reason)

    @property
    def _state(self) -> str:
        if self._line is None:
            return "starting" if self._is_starting else "idle"
        if self._line.reason is not None:
            return "interrupting"
        return "generating" if self._line.is_open else "starting"

    def status(self) -> BackendStatus:
        service, state = self._service, self._state
        memory, cpu = self._load.of(service.pid) if service.pid is not None else (None, None)
        return BackendStatus(
            model=service.model,
            engine=service.engine,
            state=state if service.is_alive or state == "starting" else "dead",
            context_used=self._used,
            context_size=self._fit.size,
            memory=memory,
            cpu=cpu,
            restarts=service.restarts,
            context_exact=self._is_exact,
            sampling=self._sampling,
        )

    async def close(self) -> None:
        """A reply that is under way ends with what it has."""
        if self._closed:
            return
        self._closed = True
        self.interrupt()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._service.close()

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        options = self._with_defaults(options or ReplyOptions())
        if self._line is not None:
            raise UsageError("a reply is under way already")
        line = self._line = CancellableRequest(options.timeout)
        account = ResponseAccumulator(time.monotonic())
        try:
            try:
                question = await line.within(run_beside_loop(conversation, self._question, conversation, options))
            except (UsageError, RequestCancelledError) as error:
                self._rest(line)
                yield Failed(error) if isinstance(error, UsageError) else self._stopped(account, line)
                return
            if question.note:
                yield Notice(question.note)
            fit = self._fit_for(options)
            async with aclosing(self._attempts(question, options, account, line, fit)) as events:
                async for event in events:
                    if isinstance(event, Completed | Failed):
                        self._rest(line)  # before it is told: who hears it may ask the next question at once
                    yield event
        finally:
            line.stop(FinishReason.INTERRUPTED)
            self._rest(line)

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        """See :func:`bitnet_chat.backend.refusal_of`."""
        line, target = CancellableRequest(options.timeout), self._service.target
        try:
            question = await run_beside_loop(conversation, self._question, conversation, options)
            if target is not None and options.alone:
                self._learn_size(target)
                self._check_tools(options, target)
                await RequestTrimmer(line, self._fit_for(options), self._wire).check(question, options, target)
        except BitnetChatError as error:
            return error
        except RequestCancelledError:
            pass
        finally:
            line.close()
        return None

    def _fit_for(self, options: ReplyOptions) -> ServerContextWindow:
        fit = self._fit.alone(options.overflow) if options.alone else self._fit
        fit.tools = options.tools if options.tool_choice != "none" else ()
        return fit

    def _check_tools(self, options: ReplyOptions, target: RequestTarget) -> None:
        if options.tools and options.tool_choice != "none" and not target.knows_tools:
            raise UnsupportedError("tools", f"the chat template of {self._service.model} has no place for them")

    def _question(self, conversation: Conversation, options: ReplyOptions) -> RequestMessages:
        """Raises UsageError for what is wrong with it whatever the server says."""
        question = RequestMessages.of(self._untold.told_in(conversation))
        if refused := self._wire.refusal(options):
            raise UnsupportedError(*refused)
        return question

    def _with_defaults(self, options: ReplyOptions) -> ReplyOptions:
        return replace(options, sampling=options.sampling.over(self._sampling))

    def _rest(self, line: CancellableRequest) -> None:
        if self._line is not line:
            return
        if line.reason is not None:
            self._service.after_stop()
        line.close()
        self._line, self._is_starting = None, False

    async def _attempts(
        self,
        question: RequestMessages,
        options: ReplyOptions,
        account: ResponseAccumulator,
        line: CancellableRequest,
        fit: ServerContextWindow,
    ) -> AsyncGenerator[Event, None]:
        """Tries until there is a reply or no hope."""
        cuts = refusals = 0
        told: list[InvalidToolCall] = []
        wanted = options
        window, clearing, wire = fit.window, RequestTrimmer(line, fit, self._wire), self._wire
        exchange = RequestAttempt(
            line,
            account,
            self._wire,
            fit,
            self._untold,
            server=self._service.name,
            sign_of_life=self._sign_of_life,
        )
        before = window.left, window.summary
        if question.prefix and not self._goes_on:
            question = question.in_words()
            yield Notice("this server cannot go on with a reply by itself: it was asked to continue")
        while True:
            target: RequestTarget | None = None
            try:
                target = await line.within(self._service.ready())
                self._learn_size(target)
                fit.size = fit.size or self._fit.size
                self._check_tools(options, target)
                await clearing.make_room(question, wanted, target)
                for note in self._service.take_notices():
                    yield Notice(note)
                async with aclosing(exchange.events(question, wanted, target)) as events:
                    async for event in events:
                        if isinstance(event, Completed):
                            # Of what was refused for what one client had asked, nothing is known to be the server's.
                            self._wire = self._wire if options.alone and wire.depends_on_request else wire
                            self._used = event.stats.context_used or self._used
                            self._is_exact = event.stats.exact
                            event = attempt.of_window(event, options, fit.size)
                        yield event
                return
            except InvalidToolCallsError as error:
                why = error.faults[0].why
                if told:
                    yield Notice(f"the model twice asked for a tool in a form that cannot be read: {why}")
                    yield self._completed(account, FinishReason.STOP)
                    return
                # Once: the model is told what is wrong, and goes on in the same reply.
                told = error.faults
                question = repair_prompt(question, account.text, told)
                wanted = limits_left(options, account.stats(fit.size))
                account.go_on()
                cuts = refusals = 0
            except RequestCancelledError:
                yield self._stopped(account, line)
                return
            except HTTPStatusError as error:
                refusals += 1
                again = refusals <= _REFUSALS and account.is_fresh
                if again and (less := _without(wire, error)) is not None:
                    wire = exchange.wire = clearing.wire = less
                    continue
                if again and question.prefix and error.refusal.status in (400, 422) and not error.refusal.is_overflow:
                    question = question.in_words()  # some templates take no reply that is not whole
                    yield Notice("this model's template cannot go on with a reply: it was asked to continue")
                    continue
                try:
                    if again and error.refusal.is_overflow and target is not None:
                        await clearing.drop_more(question, error.refusal, target)
                        continue
                    failure = error.refusal.error(self._service.name, self._service.model)
                except BitnetChatError as overflow:
                    window.restore(*before)
                    failure = overflow
                except RequestCancelledError:
                    yield self._stopped(account, line)
                    return
                for event in attempt.refused(failure, account, told, fit.size):
                    yield event
                return
            except ConnectionLostError as error:
                why = await self._service.after_loss() or str(error)
                cuts += 1
                if account.is_fresh and cuts <= self._service.retries:
                    continue
                account.over()
                for event in attempt.cut_off(self._service.name, account, why, fit.size):
                    yield event
                return
            except BitnetChatError as error:
                for note in self._service.take_notices():
                    yield Notice(note)
                for event in attempt.refused(error, account, told, fit.size):
                    yield event
                return
            finally:
                line.hang_up()

    def _stopped(self, account: ResponseAccumulator, line: CancellableRequest) -> Completed:
        account.over()
        return self._completed(account, line.reason or FinishReason.INTERRUPTED)

    def _completed(self, account: ResponseAccumulator, reason: FinishReason) -> Completed:
        return attempt.completed(account, reason, self._fit.size)

    def _learn_size(self, target: RequestTarget) -> None:
        if target.context_size is not None:
            self._fit.size = target.context_size


def _without(wire: WireFormat, error: HTTPStatusError) -> WireFormat | None:
    """A strict server knows fewer fields: the format without the one that it named, if that can be left out."""
    return next((wire.without(field) for field in wire.optional if error.refusal.names(field)), None)
