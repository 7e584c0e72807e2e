"""One request for a reply, and its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.client import CancellableRequest, ConnectionLostError, not_an_api, whole
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.tool_errors import PendingToolErrors, split_invalid
from bitnet_chat.backends.http.wire_format import (
    Delta,
    InvalidToolCall,
    ResponseAccumulator,
    ResponseParser,
    WireFormat,
    sent,
)
from bitnet_chat.errors import BitnetChatError, EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.filters.tool_calls import CALL_LIMIT
from bitnet_chat.templates.special_tokens import note
from bitnet_chat.util.threads import run_beside_loop

if TYPE_CHECKING:
    import aiohttp

_REFUSAL = 5.0  # seconds that a server has to refuse what may be too long


class InvalidToolCallsError(Exception):
    """The reply is complete, and none of its tool calls is valid."""

    def __init__(self, faults: list[InvalidToolCall]) -> None:
        super().__init__(faults[0].why)
        self.faults = faults


class RequestAttempt:
    """``server``: its name, for errors. ``sign_of_life``: seconds after which a line tells of a call of a tool that is
    still being written."""

    def __init__(
        self,
        line: CancellableRequest,
        account: ResponseAccumulator,
        wire: WireFormat,
        fit: ServerContextWindow,
        untold: PendingToolErrors,
        *,
        server: str,
        sign_of_life: float,
    ) -> None:
        self._line, self._account, self.wire, self._fit, self._untold = line, account, wire, fit, untold
        self._server, self._sign_of_life = server, sign_of_life
        self._has_started = False

    async def events(
        self, question: RequestMessages, options: ReplyOptions, target: RequestTarget
    ) -> AsyncGenerator[Event, None]:
        """The events of the reply, its end included. Raises the errors of :data:`.retry.AttemptError`."""
        account, reader = self._account, self.wire.reader(options)
        account.prompt_estimate = lambda: self._fit.estimate(question)
        body = await self._line.within(
            run_beside_loop(question.history, sent, self.wire, question, options, self._fit, target)
        )
        prefix, _ = target.specials.as_text(question.prefix)
        account.begin(prefix, question.overlap if prefix else "")
        await self._line.ask(lambda sent: target.connection.post(self.wire.path, body.content, sent))
        response = None
        if options.alone and target.count is None and self._fit.may_be_refused(question):
            # A client gets a refusal as a status, if it comes before anything is told.
            response = await self._line.heard(_REFUSAL)
        for event in self._opening(body.changed):
            yield event
        response = response or await self._line.answer()
        try:
            async with aclosing(self._content(response, reader, target)) as events:
                async for event in events:
                    yield event
        except ValueError as error:
            reader.error = f"it sent {error}"
            for event in _told(reader.speech.take(), account):  # what came before that
                yield event
        except ConnectionLostError:
            if reader.finish is None:
                raise
        finally:
            account.pieces, account.usage = reader.speech.pieces, reader.usage
        for event in self._end(reader, question, options, target):
            yield event

    def _opening(self, changed: int) -> Iterator[Event]:
        """Notices that follow once the server has accepted the request: a refused one may have to be cut again."""
        text, dropped = self._fit.window.take_note()
        if text:
            yield Notice(text, dropped)
        if self._has_started:
            return
        self._has_started = True
        if changed:
            yield Notice(note(changed, "conversation"))
        yield Started()  # its receiver has work of its own to do, which should not hold up the request

    async def _content(
        self, response: aiohttp.ClientResponse, reader: ResponseParser, target: RequestTarget
    ) -> AsyncGenerator[Event, None]:
        """Read the body of the response, streamed or not. Raises ValueError for a body that is not a reply."""
        if response.content_type == "application/json" != self.wire.streamed:
            content = await self._line.within(whole(response, target.connection.base))
            for event in _told(reader.whole(content), self._account):
                yield event
        elif response.content_type == "text/html":
            raise not_an_api(target.connection.base)
        else:
            calls = _CallProgress(self._sign_of_life)
            while not reader.done and (data := await self._line.chunk()):
                said = reader.feed(data)
                for event in _told(said, self._account):
                    yield event
                for notice in calls.feed(reader.call_size, self._account, is_quiet=not said):
                    yield notice
                if calls.is_too_long:
                    reader.finish, reader.done = FinishReason.LENGTH, True
                    self._line.hang_up()
        for event in _told(reader.end(), self._account):
            yield event

    def _end(
        self, reader: ResponseParser, question: RequestMessages, options: ReplyOptions, target: RequestTarget
    ) -> list[Event]:
        """Of a stream that has ended. Raises ConnectionLostError, InvalidToolCallsError."""
        account, usage, events = self._account, reader.usage, list[Event]()
        account.over()
        if reader.error:
            return cut_off(self._server, account, reader.error, self._fit.size)
        if reader.finish is None:
            raise ConnectionLostError("the stream ended before the reply did")
        if (heard := self._line.take()) is not None:
            target.connection.spend(heard)
        offered = options.tools if options.tool_choice != "none" else ()
        if usage.prompt is not None and not options.alone:
            self._fit.learn(question, usage.prompt)
        calls, faults = split_invalid(reader.calls(), offered)
        if faults and not offered:
            events.append(Notice("the model asked for a tool, but the request has no tools: the call was not made"))
        elif faults and not calls:
            raise InvalidToolCallsError(faults)
        calls = self._untold.keep(calls, faults)
        asks = reader.finish is FinishReason.TOOL_CALLS
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP if asks else reader.finish
        return [*events, *calls, completed(account, reason, self._fit.size)]


class _CallProgress:
    """The progress of tool calls while the model generates them, without text to show."""

    def __init__(self, sign_of_life: float) -> None:
        self._sign_of_life = sign_of_life
        self._told, self._size = 0.0, 0

    @property
    def is_too_long(self) -> bool:
        return self._size > CALL_LIMIT

    def feed(self, size: int, account: ResponseAccumulator, *, is_quiet: bool) -> list[Notice]:
        """After each chunk. ``size``: characters of all calls so far. ``is_quiet``: the chunk held no text."""
        now = asyncio.get_running_loop().time
        if not is_quiet or not self._told:
            self._told = now()
        if size <= self._size:
            return []
        self._size = size
        account.asked()
        if self.is_too_long:
            return [Notice(f"a tool call was stopped: it was longer than {CALL_LIMIT:,} characters")]
        if now() - self._told > self._sign_of_life:
            self._told = now()
            return [Notice("the model is generating a long tool call")]
        return []


def _told(said: Sequence[Delta], account: ResponseAccumulator) -> list[Event]:
    """The parsed content, as events."""
    events: list[Event] = []
    for each in said:
        if each.thinking:
            if thought := account.thought(each.text):
                events.append(ThinkingDelta(thought))
        elif text := account.said(each.text):
            events.append(TextDelta(text))
    return events


# How a reply from a server ends, as events. Pure.


def completed(account: ResponseAccumulator, reason: FinishReason, size: int | None) -> Completed:
    """``size``: tokens of the window, where they are known; so below."""
    return Completed(reason, account.text, account.stats(size))


def stopped(account: ResponseAccumulator, reason: FinishReason | None, size: int | None) -> Completed:
    """The end of a reply that was cancelled by the caller."""
    account.over()
    return completed(account, reason or FinishReason.INTERRUPTED, size)


def of_window(end: Completed, options: ReplyOptions, size: int | None) -> Completed:
    """Servers report ``length`` both for a reply's own limit and for the end of the window."""
    stats = end.stats
    within = options.max_tokens is None or (stats.exact and stats.tokens < options.max_tokens)
    if end.reason is FinishReason.LENGTH and within and size and (stats.context_used or 0) >= size:
        return replace(end, reason=FinishReason.CONTEXT_OVERFLOW)
    return end


def cut_off(name: str, account: ResponseAccumulator, why: str, size: int | None) -> list[Event]:
    """Of a reply that did not come to its own end. ``name``: of the server."""
    if account.is_empty:
        return [Failed(EngineDiedError(f"{name} ended the reply before its first token: {why}", remedy="try again"))]
    line = _one_line(f"{name} ended the reply early: {why}")
    return [Notice(line), completed(account, FinishReason.ENGINE_DIED, size)]


def refused(
    error: BitnetChatError, account: ResponseAccumulator, untold: Sequence[InvalidToolCall], size: int | None
) -> list[Event]:
    """Of a reply that a server would not give. ``untold``: results within it for the model: all but the answer
    to that is whole."""
    if not untold:
        return [Failed(error, account.text)]
    line = _one_line(f"the model could not be told that it called {untold[0].call.name} wrongly: {error.what}")
    return [Notice(line), completed(account, FinishReason.STOP, size)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
