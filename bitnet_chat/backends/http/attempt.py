"""One request for a reply, and its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.client import CancellableRequest, whole
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.tool_errors import PendingToolErrors
from bitnet_chat.backends.http.wire_format import Delta, ResponseAccumulator, ResponseParser, WireFormat, sent
from bitnet_chat.errors import (
    BitnetChatError,
    ConnectionLostError,
    EngineDiedError,
    FinishReason,
    InvalidToolCallsError,
    OtherReplyError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.filters.tool_call_repair import CallProgress, InvalidToolCall, ToolCallRepair
from bitnet_chat.templates.special_tokens import note
from bitnet_chat.util.threads import run_beside_loop

if TYPE_CHECKING:
    import aiohttp

_WHOLE = ("application/json", "text/html")
"""Content types that are read as one JSON value: a reply that is not streamed, or the page of another server."""
_REFUSAL = 5.0  # seconds to wait for the refusal of a request that may be too long


class RequestAttempt:
    """One request of a reply and its response. ``repair``: the calls of the reply. ``server``: its name, for errors.
    ``sign_of_life``: seconds without text until a notice about an unfinished tool call."""

    def __init__(
        self,
        request: CancellableRequest,
        account: ResponseAccumulator,
        wire: WireFormat,
        fit: ServerContextWindow,
        repair: ToolCallRepair,
        pending: PendingToolErrors,
        *,
        server: str,
        sign_of_life: float,
    ) -> None:
        self._request, self._account, self.wire, self._fit = request, account, wire, fit
        self.repair, self._pending = repair, pending
        self._server, self._sign_of_life = server, sign_of_life
        self._has_started = False

    async def events(
        self, question: RequestMessages, options: ReplyOptions, target: RequestTarget, known_tokens: int = 0
    ) -> AsyncGenerator[Event]:
        """The events of the reply, its end included. ``options``: their limit of tokens counts ``known_tokens`` of a
        reply that is generated again. Raises the errors of :data:`.retry.AttemptError`."""
        account, reader = self._account, self.wire.reader(options)
        response, changed = await self._send(question, options, target, known_tokens)
        for event in self._opening(changed):
            yield event
        response = response or await self._request.answer()
        try:
            if response.content_type in _WHOLE:
                content = await self._request.within(whole(response, target.connection.base))
                for event in _told(reader.whole(content), account):
                    yield event
            else:
                progress = CallProgress(self._sign_of_life)
                while not reader.done and (data := await self._request.chunk()):
                    for event in self._read(data, reader, progress):
                        yield event
            for event in _told(reader.end(), account):
                yield event
        except ValueError as error:
            reader.error = f"it sent {error}"
            for event in _told(reader.speech.take(), account):  # the valid part before the error
                yield event
        except ConnectionLostError:
            if reader.finish is None:
                raise
        finally:
            account.pieces, account.usage = reader.speech.pieces, reader.usage
        for event in self._end(reader, question, options, target):
            yield event

    async def _send(
        self, question: RequestMessages, options: ReplyOptions, target: RequestTarget, known_tokens: int
    ) -> tuple[aiohttp.ClientResponse | None, int]:
        """Send the request. Return the response, if it is needed before the first event, and the number of special
        tokens that were made text."""
        self._account.prompt_estimate = lambda: self._fit.estimate(question)
        body = await self._request.within(
            run_beside_loop(question.history, sent, self.wire, question, options, self._fit, target)
        )
        prefix, _ = target.specials.as_text(question.prefix)
        known = question.cut if question.is_repeated else None
        self._account.begin(prefix, question.overlap, known=known, known_tokens=known_tokens)
        await self._request.ask(lambda sent: target.connection.post(self.wire.path, body.content, sent))
        response = None
        if options.alone and target.count is None and self._fit.may_be_refused(question):
            # A client of an API gets a refusal as a status only if it comes before the first event.
            response = await self._request.heard(_REFUSAL)
        return response, body.changed

    def _opening(self, changed: int) -> Iterator[Event]:
        """The notices of an accepted request (a refused one may be trimmed again), and the start."""
        text, dropped = self._fit.take_note()
        if text:
            yield Notice(text, dropped)
        if self._has_started:
            return
        self._has_started = True
        if changed:
            yield Notice(note(changed, "conversation"))
        yield Started()  # after the request is sent: the receiver has work of its own to do

    def _read(self, data: bytes, reader: ResponseParser, progress: CallProgress) -> list[Event]:
        """The events of a piece of a streamed body. Raises OtherReplyError, and ValueError for bytes of another
        format."""
        said = reader.feed(data)
        events = _told(said, self._account)
        if self._account.differs:
            raise OtherReplyError
        if reader.call_size:
            self._account.asked()
            events += progress.feed(reader.call_size, asyncio.get_running_loop().time(), has_text=bool(said))
            if progress.is_too_long:
                reader.finish, reader.done = FinishReason.LENGTH, True
                self._request.hang_up()
        return events

    def _end(
        self, reader: ResponseParser, question: RequestMessages, options: ReplyOptions, target: RequestTarget
    ) -> list[Event]:
        """The last events of a response. Raises ConnectionLostError, InvalidToolCallsError, OtherReplyError."""
        account, usage, repair, events = self._account, reader.usage, self.repair, list[Event]()
        account.over()
        if reader.error:
            return cut_off(self._server, account, reader.error, self._fit.size)
        if reader.finish is None:
            raise ConnectionLostError("the stream ended before the reply did")
        if account.differs or account.repeated is not None:
            raise OtherReplyError
        if (heard := self._request.take()) is not None:
            target.connection.spend(heard)
        if usage.prompt is not None and not options.alone:
            self._fit.learn(question, usage.prompt)
        for call in reader.calls():
            repair.add(call)
        if repair.faults and not options.offered:
            events.append(Notice("the model asked for a tool, but the request has no tools: the call was not made"))
        elif repair.is_needed:
            raise InvalidToolCallsError
        calls = self._pending.keep(repair.calls, repair.faults)
        asks = reader.finish is FinishReason.TOOL_CALLS
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP if asks else reader.finish
        return [*events, *calls, completed(account, reason, self._fit.size)]


def _told(said: Sequence[Delta], account: ResponseAccumulator) -> list[Event]:
    """Parsed content as events."""
    events: list[Event] = []
    repeated = account.repeated
    for each in said:
        if each.thinking:
            if thought := account.thought(each.text):
                events.append(ThinkingDelta(thought))
        elif text := account.said(each.text):
            events.append(TextDelta(text))
    if account.repeated is not None and account.repeated != repeated:
        events.append(account.repeated)
    return events


# How a reply from a server ends, as events. Pure.


def completed(account: ResponseAccumulator, reason: FinishReason, size: int | None) -> Completed:
    """``size``: tokens of the context window; None: not known."""
    return Completed(reason, account.text, account.stats(size))


def stopped(account: ResponseAccumulator, reason: FinishReason | None, size: int | None) -> Completed:
    """The end of a reply that was cancelled by the caller."""
    account.over()
    return completed(account, reason or FinishReason.INTERRUPTED, size)


def of_window(end: Completed, options: ReplyOptions, size: int | None) -> Completed:
    """``end`` with its real reason: servers report ``length`` also at the end of the context window."""
    stats = end.stats
    within = options.max_tokens is None or (stats.exact and stats.tokens < options.max_tokens)
    if end.reason is FinishReason.LENGTH and within and size and (stats.context_used or 0) >= size:
        return replace(end, reason=FinishReason.CONTEXT_OVERFLOW)
    return end


def cut_off(name: str, account: ResponseAccumulator, why: str, size: int | None) -> list[Event]:
    """The end of an incomplete reply. ``name``: of the server."""
    if account.is_empty:
        return [Failed(EngineDiedError(f"{name} ended the reply before its first token: {why}", remedy="try again"))]
    line = _one_line(f"{name} ended the reply early: {why}")
    return [Notice(line), completed(account, FinishReason.ENGINE_DIED, size)]


def refused(
    error: BitnetChatError, account: ResponseAccumulator, reported: Sequence[InvalidToolCall], size: int | None
) -> list[Event]:
    """The end of a reply that the server has refused. ``reported``: faults in the refused request; the reply before
    them is complete."""
    if not reported:
        return [Failed(error, account.text)]
    line = _one_line(f"the model could not be told that it called {reported[0].call.name} wrongly: {error.what}")
    return [Notice(line), completed(account, FinishReason.STOP, size)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
