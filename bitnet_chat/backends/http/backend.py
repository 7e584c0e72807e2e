"""A backend that sends requests to a server and yields the events of its streamed responses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from bitnet_chat.backend import BackendState, BackendStatus, EngineFacts, ReplyOptions, Sampling
from bitnet_chat.backends.http import attempt
from bitnet_chat.backends.http.attempt import RequestAttempt
from bitnet_chat.backends.http.client import CancellableRequest
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import Endpoint, PromptStates, RequestTarget
from bitnet_chat.backends.http.fit_request import RequestTrimmer
from bitnet_chat.backends.http.request import RequestMessages, sent_conversation
from bitnet_chat.backends.http.retry import AttemptError, ReplyRetry
from bitnet_chat.backends.http.tool_errors import PendingToolErrors
from bitnet_chat.backends.http.wire_format import ResponseAccumulator, WireFormat
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import (
    BitnetChatError,
    ConnectionLostError,
    FinishReason,
    HTTPStatusError,
    RequestCancelledError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, ContextOrigin, Event, Failed, Notice
from bitnet_chat.filters.continuation import is_repeated
from bitnet_chat.filters.tool_call_repair import SIGN_OF_LIFE, ToolCallRepair
from bitnet_chat.util.resources import ProcessUsage
from bitnet_chat.util.threads import run_beside_loop, run_in_daemon_thread


def sign_of_life(settings: Settings) -> float:
    """The ``sign_of_life`` of a backend, in seconds: less than the stall timeout."""
    return min(SIGN_OF_LIFE, settings.stall_timeout / 3) if settings.stall_timeout else SIGN_OF_LIFE


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
        states: PromptStates | None = None,
        facts: Callable[[], EngineFacts] = EngineFacts,
    ) -> None:
        """``count``: tokens of a text. ``sampling``: of replies without options. ``goes_on``: whether the server
        continues an incomplete reply at the end of the conversation. ``preload``: loads the model, where ``ready`` does
        not. ``sign_of_life``: seconds without text until a notice about an unfinished tool call. ``states``: saves
        and restores what the server has read; None if nothing can. ``facts``: of an engine that is ours."""
        self._states, self._facts = states, facts
        self._origin: ContextOrigin | None = None
        self._service, self._wire, self._fit, self._count = service, wire, fit, count
        self._sampling, self._goes_on, self._preload = sampling, goes_on, preload
        self._sign_of_life = sign_of_life
        self._pending = PendingToolErrors()
        self._closed = False
        self._starting: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._is_starting = False
        """True until the server has started, or a reply shows it."""
        self._request: CancellableRequest | None = None
        """The request of the running reply."""
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
        # The next reply tries again, and reports the error.
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError):
            target = await self._service.ready()
            self._learn_size(target)
            if self._preload is not None:
                await self._preload(target)
        self._is_starting = False

    def prepare(self, history: Conversation) -> None:
        self.start()
        if self._states is not None and history.turns and self._request is None:
            self._preparing = asyncio.ensure_future(self._recall(history, self._states))

    async def _recall(self, history: Conversation, states: PromptStates) -> None:
        """Restore the state of a conversation before its next message is known."""
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError):
            sent = await run_beside_loop(history, sent_conversation, history)
            target = await self._service.ready()
            if self._request is None:
                await states.recall(target, sent, ())

    def count(self, text: str) -> TokenCount | None:
        return self._count(text)

    def interrupt(self, reason: FinishReason = FinishReason.INTERRUPTED) -> None:
        if self._request is not None:
            self._request.stop(reason)

    @property
    def _state(self) -> BackendState:
        if self._request is None:
            return BackendState.STARTING if self._is_starting else BackendState.IDLE
        if self._request.reason is not None:
            return BackendState.INTERRUPTING
        return BackendState.GENERATING if self._request.is_open else BackendState.STARTING

    def status(self) -> BackendStatus:
        service, state, facts = self._service, self._state, self._facts()
        memory, cpu = self._load.of(service.pid) if service.pid is not None else (None, None)
        return BackendStatus(
            model=service.model,
            engine=service.engine,
            state=state if service.is_alive or state is BackendState.STARTING else BackendState.DEAD,
            context_used=self._used,
            context_size=self._fit.size,
            memory=memory,
            cpu=cpu,
            restarts=service.restarts,
            context_exact=self._is_exact,
            state_saved=self._states is not None and self._states.is_saved,
            engine_version=facts.version,
            sampling=self._sampling,
            facts=facts,
        )

    async def close(self) -> None:
        """A running reply ends with its text so far."""
        if self._closed:
            return
        self._closed = True
        self.interrupt()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._states is not None:
            await self._states.close()
        await self._service.close()

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        options = self._with_defaults(options or ReplyOptions())
        if self._request is not None:
            raise UsageError("a reply is running already")
        request = self._request = CancellableRequest(options.timeout)
        self._origin = None
        account = ResponseAccumulator(time.monotonic())
        try:
            try:
                question = await request.within(run_beside_loop(conversation, self._question, conversation, options))
            except (UsageError, RequestCancelledError) as error:
                self._release(request)
                if isinstance(error, UsageError):
                    yield Failed(error)
                else:
                    yield attempt.stopped(account, request.reason, self._fit.size)
                return
            account.was_shown(question.thinking_shown)
            retry = self._retry(request, account, question, options)
            for event in self._opening(retry):
                yield event
            while not retry.is_over:
                try:
                    target = await self._prepare(retry, request, options)
                    for text in self._service.take_notices():
                        yield Notice(text)
                    async with aclosing(await self._attempt(retry, request, target)) as events:
                        async for event in events:
                            if isinstance(event, Completed):
                                event = self._learn(event, retry, options)
                            yield self._passed(event, request)
                    return
                except AttemptError as error:
                    for event in await retry.after(error):
                        if isinstance(error, RequestCancelledError):
                            self._note_reply(event, retry, options)
                        yield self._passed(event, request)
                finally:
                    request.hang_up()
        finally:
            request.stop(FinishReason.INTERRUPTED)
            self._release(request)

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        """See :func:`bitnet_chat.backend.refusal_of`."""
        request, target = CancellableRequest(options.timeout), self._service.target
        try:
            question = await run_beside_loop(conversation, self._question, conversation, options)
            if target is not None and options.alone:
                self._learn_size(target)
                self._check_tools(options, target)
                await RequestTrimmer(request, self._fit_for(options), self._wire).check(question, options, target)
        except BitnetChatError as error:
            return error
        except RequestCancelledError:
            pass
        finally:
            request.close()
        return None

    def _retry(
        self,
        request: CancellableRequest,
        account: ResponseAccumulator,
        question: RequestMessages,
        options: ReplyOptions,
    ) -> ReplyRetry:
        service, fit = self._service, self._fit_for(options)
        attempt = RequestAttempt(
            request,
            account,
            self._wire,
            fit,
            ToolCallRepair(options.offered),
            self._pending,
            server=service.name,
            sign_of_life=self._sign_of_life,
        )
        return ReplyRetry(service, request, account, fit, attempt, question, options)

    def _fit_for(self, options: ReplyOptions) -> ServerContextWindow:
        fit = self._fit.alone(options.overflow) if options.alone else self._fit
        fit.tools = options.offered
        return fit

    def _check_tools(self, options: ReplyOptions, target: RequestTarget) -> None:
        if options.offered and not target.knows_tools:
            raise UnsupportedError("tools", f"the chat template of {self._service.model} has no place for them")

    def _question(self, conversation: Conversation, options: ReplyOptions) -> RequestMessages:
        """Raises UsageError for a request that no server can answer."""
        question = RequestMessages.of(self._pending.told_in(conversation))
        if refused := self._wire.refusal(options):
            raise UnsupportedError(*refused)
        return question

    def _with_defaults(self, options: ReplyOptions) -> ReplyOptions:
        return replace(options, sampling=options.sampling.over(self._sampling))

    def _release(self, request: CancellableRequest) -> None:
        if self._request is not request:
            return
        if request.reason is not None:
            self._service.after_stop()
        request.close()
        self._request, self._is_starting = None, False

    def _opening(self, retry: ReplyRetry) -> Iterator[Event]:
        if retry.question.note:
            yield Notice(retry.question.note)
        if retry.question.prefix and not self._goes_on:
            yield retry.continue_in_words("this server cannot go on with a reply by itself")

    async def _prepare(self, retry: ReplyRetry, request: CancellableRequest, asked: ReplyOptions) -> RequestTarget:
        """Wait for the server, and make room in its context window."""
        retry.target = None
        target = retry.target = await request.within(self._service.ready())
        self._learn_size(target)
        retry.fit.size = retry.fit.size or self._fit.size
        self._check_tools(asked, target)
        await retry.trimmer.make_room(retry.question, retry.options, target)
        if self._states is not None:
            await request.within(self._choose_continuation(self._states, retry, target, asked))
            prompt = Conversation(retry.fit.messages(retry.question))
            is_exact = retry.question.is_repeated
            await request.within(self._states.recall(target, prompt, asked.offered, is_exact=is_exact))
            origin = self._states.origin(target, prompt, asked.offered)
            self._origin = replace(origin, begun=len(retry.question.prefix))
            self._states.sent()
        return target

    async def _choose_continuation(
        self, states: PromptStates, retry: ReplyRetry, target: RequestTarget, asked: ReplyOptions
    ) -> None:
        """Have an incomplete reply generated again if that helps, see :func:`is_repeated`."""
        question = retry.question.continued()
        if question.cut is None or not retry.may_repeat:
            return
        before = retry.fit.kept(question.history).messages + question.before
        prompt = Conversation((*before, Message("assistant", question.prefix)))
        evaluated = await states.evaluated_messages(target, prompt, asked.offered)
        is_again = is_repeated(Conversation((*before, question.cut)), evaluated)
        retry.question = question.repeated() if is_again else question

    async def _attempt(
        self, retry: ReplyRetry, request: CancellableRequest, target: RequestTarget
    ) -> AsyncGenerator[Event]:
        """The events of one request."""
        question, options, tokens = retry.question, retry.options, 0
        if question.cut is not None and question.is_repeated:
            texts = question.cut.thinking, question.cut.content
            tokens = await request.within(run_in_daemon_thread(partial(self._tokens_of, texts)))
            limit = options.max_tokens
            options = options if limit is None else replace(options, max_tokens=limit + tokens)
        return retry.attempt.events(question, options, target, tokens)

    def _tokens_of(self, texts: Sequence[str]) -> int:
        return sum((self._count(text) or by_length(text)).count for text in texts if text)

    def _passed(self, event: Event, request: CancellableRequest) -> Event:
        if isinstance(event, Completed):
            event = replace(event, origin=self._origin)
        if isinstance(event, Completed | Failed):
            self._release(request)  # before the end is yielded: the next request may follow at once
        return event

    def _learn(self, end: Completed, retry: ReplyRetry, asked: ReplyOptions) -> Completed:
        # A field that was refused because of its value in one request may be accepted in another.
        self._wire = self._wire if asked.alone and retry.wire.depends_on_request else retry.wire
        self._used = end.stats.context_used or self._used
        self._is_exact = end.stats.exact
        self._note_reply(end, retry, asked)
        return attempt.of_window(end, asked, retry.fit.size)

    def _note_reply(self, end: Event, retry: ReplyRetry, asked: ReplyOptions) -> None:
        """Note what the server has read, also of a reply that was stopped: its prompt, if there is text."""
        question, states, target = retry.question, self._states, retry.target
        if states is None or target is None or not isinstance(end, Completed):
            return
        if not end.text and end.reason is not FinishReason.STOP:
            return
        held = retry.fit.kept(question.history).messages + question.before
        held = (*held, Message("assistant", question.whole(end.text)))
        states.replied(target, Conversation(held), asked, end.stats.context_used or self._used)

    def _learn_size(self, target: RequestTarget) -> None:
        if target.context_size is not None:
            self._fit.size = target.context_size
