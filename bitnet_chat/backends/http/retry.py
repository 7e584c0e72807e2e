"""Retries of a reply: the changes of the request between two attempts, and the end after the last attempt."""

from __future__ import annotations

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.http.attempt import RequestAttempt, completed, cut_off, refused, stopped
from bitnet_chat.backends.http.client import CancellableRequest
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import Endpoint, RequestTarget
from bitnet_chat.backends.http.errors import ErrorResponse
from bitnet_chat.backends.http.fit_request import RequestTrimmer
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.wire_format import ResponseAccumulator, WireFormat
from bitnet_chat.errors import (
    BitnetChatError,
    ConnectionLostError,
    FinishReason,
    HTTPStatusError,
    InvalidToolCallsError,
    OtherReplyError,
    RequestCancelledError,
)
from bitnet_chat.events import Event, Notice

_REFUSALS = 8
"""Refusals of one request that lead to another attempt."""

AttemptError = (
    InvalidToolCallsError,
    OtherReplyError,
    RequestCancelledError,
    HTTPStatusError,
    ConnectionLostError,
    BitnetChatError,
)
"""The errors that :meth:`ReplyRetry.after` handles."""


class ReplyRetry:
    """The present request of one reply, and its changes after a failed attempt."""

    def __init__(
        self,
        service: Endpoint,
        request: CancellableRequest,
        account: ResponseAccumulator,
        fit: ServerContextWindow,
        attempt: RequestAttempt,
        question: RequestMessages,
        options: ReplyOptions,
    ) -> None:
        self._service, self._request, self._account, self.fit, self.attempt = service, request, account, fit, attempt
        self.trimmer = RequestTrimmer(request, fit, attempt.wire)
        self.question = question
        self.options = options
        """The options of the next attempt, with the rest of the limits."""
        self.target: RequestTarget | None = None
        """The target of the present attempt, once it is known."""
        self.may_repeat = options.repeats(Sampling())
        """Whether an incomplete reply may be generated again."""
        self.is_over = False
        self._wanted = options
        self._cuts = self._refusals = 0
        self._before = fit.left, fit.summary

    @property
    def wire(self) -> WireFormat:
        return self.attempt.wire

    def continue_in_words(self, why: str) -> Notice:
        """Ask the model to continue, in a message, for a server that cannot continue a reply."""
        self.question = self.question.in_words()
        return Notice(f"{why}: it was asked to continue")

    async def after(self, error: Exception) -> list[Event]:
        """The events after a failed attempt. They end the reply if ``is_over`` is set."""
        try:
            match error:
                case InvalidToolCallsError():
                    return self._after_invalid_calls()
                case OtherReplyError():
                    self.may_repeat, self.question = False, self.question.continued()
                    return []
                case HTTPStatusError():
                    return await self._after_status(error)
                case ConnectionLostError():
                    return await self._after_loss(error)
                case BitnetChatError():
                    return [*map(Notice, self._service.take_notices()), *self._refused(error)]
        except RequestCancelledError:
            pass
        return self._end(stopped(self._account, self._request.reason, self.fit.size))

    def _after_invalid_calls(self) -> list[Event]:
        repair = self.attempt.repair
        if not repair.begin_answer():
            return self._end(repair.failure, completed(self._account, FinishReason.STOP, self.fit.size))
        self.question = self.question.with_faults(self._account.text, repair.reported)
        self.options = self._wanted.after(self._account.stats(self.fit.size))
        self._account.go_on()
        self._cuts = self._refusals = 0
        return []

    async def _after_status(self, error: HTTPStatusError[ErrorResponse]) -> list[Event]:
        refusal = error.refusal
        self._refusals += 1
        if self._refusals <= _REFUSALS and self._account.is_fresh:
            if (less := _without(self.wire, error)) is not None:
                self.attempt.wire = self.trimmer.wire = less
                return []
            if self.question.prefix and refusal.status in (400, 422) and not refusal.is_overflow:
                # Some templates accept complete replies only.
                return [self.continue_in_words("this model's template cannot go on with a reply")]
            if refusal.is_overflow and self.target is not None:
                try:
                    await self.trimmer.drop_more(self.question, refusal, self.target)
                except BitnetChatError as overflow:
                    self.fit.restore(*self._before)
                    return self._refused(overflow)
                return []
        return self._refused(refusal.error(self._service.name, self._service.model))

    async def _after_loss(self, error: ConnectionLostError) -> list[Event]:
        why = await self._service.after_loss() or str(error)
        self._cuts += 1
        if self._account.is_fresh and self._cuts <= self._service.retries:
            return []
        self._account.over()
        return self._end(*cut_off(self._service.name, self._account, why, self.fit.size))

    def _refused(self, error: BitnetChatError) -> list[Event]:
        return self._end(*refused(error, self._account, self.attempt.repair.reported, self.fit.size))

    def _end(self, *events: Event) -> list[Event]:
        self.is_over = True
        return list(events)


def _without(wire: WireFormat, error: HTTPStatusError[ErrorResponse]) -> WireFormat | None:
    """The format without the optional field that a strict server has refused; None: the error names none of them."""
    return next((wire.without(field) for field in wire.optional if error.refusal.names(field)), None)
