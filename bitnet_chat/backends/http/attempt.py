"""One request for a reply, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

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

_REFUSAL = 5.0  # seconds that a server has to refuse what may be too long


class InvalidToolCallsError(Exception):
    """The reply is whole, and nothing of what it asks for can be made."""

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
        """What the reply says, and how it ended. Raises Stopped, Refused, Lost, Misspoken."""
        account, reader = self._account, self.wire.reader(options)
        account.prompt_estimate = lambda: self._fit.estimate(question)
        body = await self._line.within(
            run_beside_loop(question.history, sent, self.wire, question, options, self._fit, target)
        )
        prefix, _ = target.specials.as_text(question.prefix)
        account.begin(prefix, question.loose_end if prefix else "")
        await self._line.ask(lambda sent: target.connection.post(self.wire.path, body.content, sent))
        response = None
        if options.alone and target.count is None and self._fit.may_be_refused(question):
            # A client gets a refusal as a status, if it comes before anything is told.
            response = await self._line.heard(_REFUSAL)
        text, dropped = self._fit.window.take_note()
        if text:  # not before: what is refused may have to be cut again
            yield Notice(text, dropped)
        if not self._has_started:
            self._has_started = True
            if body.changed:
                yield Notice(note(body.changed, "conversation"))
            yield Started()  # not before: who hears it has work of its own to do, which should not hold up the request
        response = response or await self._line.answer()
        try:
            if response.content_type == "application/json" != self.wire.streamed:
                content = await self._line.within(whole(response, target.connection.base))
                for event in _told(reader.whole(content), account):
                    yield event
            elif response.content_type == "text/html":
                raise not_an_api(target.connection.base)
            else:
                async with aclosing(self._streamed(reader)) as events:
                    async for event in events:
                        yield event
            for event in _told(reader.end(), account):
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
        account.over()
        if reader.error:
            for event in cut_off(self._server, account, reader.error, self._fit.size):
                yield event
            return
        if reader.finish is None:
            raise ConnectionLostError("the stream ended before the reply did")
        if (heard := self._line.take()) is not None:
            target.connection.spend(heard)
        for event in self._end(reader, question, options):
            yield event

    async def _streamed(self, reader: ResponseParser) -> AsyncGenerator[Event, None]:
        now, told, gathered = asyncio.get_running_loop().time, 0.0, 0
        while not reader.done and (data := await self._line.chunk()):
            said = reader.feed(data)
            if said or not told:
                told = now()
            for event in _told(said, self._account):
                yield event
            if reader.call_size <= gathered:
                continue
            gathered = reader.call_size
            self._account.asked()
            if gathered > CALL_LIMIT:
                yield Notice(f"a call of a tool was stopped: it was longer than {CALL_LIMIT:,} characters")
                reader.finish, reader.done = FinishReason.LENGTH, True
                self._line.hang_up()
            elif now() - told > self._sign_of_life:
                told = now()
                yield Notice("the model is writing a long call of a tool")

    def _end(self, reader: ResponseParser, question: RequestMessages, options: ReplyOptions) -> list[Event]:
        """Of a reply that has come to an end of its own. Raises Misspoken."""
        account, usage, events = self._account, reader.usage, list[Event]()
        offered = options.tools if options.tool_choice != "none" else ()
        if usage.prompt is not None and not options.alone:
            self._fit.learn(question, usage.prompt)
        calls, faults = split_invalid(reader.calls(), offered)
        if faults and not offered:
            events.append(Notice("the model asked for a tool, and was offered none: nothing is called"))
        elif faults and not calls:
            raise InvalidToolCallsError(faults)
        calls = self._untold.keep(calls, faults)
        asks = reader.finish is FinishReason.TOOL_CALLS
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP if asks else reader.finish
        assert reason is not None
        return [*events, *calls, completed(account, reason, self._fit.size)]


def _told(said: Sequence[Delta], account: ResponseAccumulator) -> list[Event]:
    """What has come, as events."""
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


def of_window(end: Completed, options: ReplyOptions, size: int | None) -> Completed:
    """Servers call it a length, whether a reply has reached its own limit or the end of the window."""
    stats = end.stats
    within = options.max_tokens is None or (stats.exact and stats.tokens < options.max_tokens)
    if end.reason is FinishReason.LENGTH and within and size and (stats.context_used or 0) >= size:
        return replace(end, reason=FinishReason.CONTEXT_OVERFLOW)
    return end


def cut_off(name: str, account: ResponseAccumulator, why: str, size: int | None) -> list[Event]:
    """Of a reply that did not come to its own end. ``name``: of the server."""
    if account.is_empty:
        return [Failed(EngineDiedError(f"{name} broke off before the first word: {why}", remedy="ask again"))]
    line = _one_line(f"{name} broke off in the middle of the reply: {why}")
    return [Notice(line), completed(account, FinishReason.ENGINE_DIED, size)]


def refused(
    error: BitnetChatError, account: ResponseAccumulator, untold: Sequence[InvalidToolCall], size: int | None
) -> list[Event]:
    """Of a reply that a server would not give. ``untold``: what the model was to hear in its middle: all but the answer
    to that is whole."""
    if not untold:
        return [Failed(error, account.text)]
    line = _one_line(f"the model could not be told that it called {untold[0].call.name} wrongly: {error.what}")
    return [Notice(line), completed(account, FinishReason.STOP, size)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
