"""From a request to its response, with errors and disconnects."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bitnet_chat.errors import BitnetChatError, InternalError
from bitnet_chat.events import Stats

log = logging.getLogger("bitnet_chat.server")

T = TypeVar("T")
_GONE = 499
"""Logged status for a client that disconnected; it is never sent."""


class ClientDisconnectedError(Exception):
    """The client has closed its connection."""


async def respond(
    scope: Scope,
    receive: Receive,
    send: Send,
    answer: Callable[[Request], Awaitable[Response]],
    refusal: Callable[[BitnetChatError], Response],
) -> None:
    """Send the result of ``answer``, or of ``refusal`` for the error that it raises."""
    try:
        response = await answer(Request(scope, receive))
    except BitnetChatError as error:
        response = refusal(error)
    except ClientDisconnectedError:
        response = Response(status_code=_GONE)
    except Exception:
        log.exception("a request broke")
        response = refusal(InternalError("internal server error; see the log of the server"))
    await response(scope, receive, send)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``. Raises ClientDisconnectedError, with ``work`` cancelled, if the client closes its
    connection first.

    The body of the request must have been read before.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnectedError
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# A stream of server-sent events that ends when its client goes, and takes with it what was made for that client.

PING = 15.0
"""Seconds of silence after which a comment keeps the connection alive through proxies."""


class EventStream(EventSourceResponse):
    """``events`` are bytes of whole events, each sent at once; ``gone`` is called when the response ends.

    ``gone`` is called in any case: at the end of all events, and after a disconnect before the first one.
    """

    def __init__(
        self,
        events: AsyncIterable[bytes],
        *,
        gone: Callable[[], object] = lambda: None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            events,
            headers=headers,
            sep="\n",
            ping=0,  # see below
            ping_message_factory=lambda: ServerSentEvent(comment="", sep="\n"),
        )
        self._gone = gone
        self._send: Send | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()

    async def _listen_for_exit_signal_with_grace(self) -> None:
        # The original looks twice a second whether the server is to end, and then cuts every stream. Here the desk
        # ends the replies, and they end their streams. The task pings in place of another one: with a hundred streams
        # each task counts.
        assert self._send is not None
        self.ping_interval = PING
        await self._ping(self._send)

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # The original opens a scope for a timeout that is not set: a tenth of what a piece costs in this process.
        await send(message)


# Whether a person waits for an answer, as the ``Priority`` header of RFC 9218 says. Pure.

_URGENCY = re.compile(r"(?:^|,)\s*u=([0-7])(?=\s*(?:$|[,;]))")
_BACKGROUND = 6
"""Urgency from which on a request has low priority; the default is 3."""


def is_urgent(header: str | None) -> bool:
    """False for ``u=6`` and ``u=7``. An invalid header is ignored."""
    found = _URGENCY.findall(header or "")
    return not found or int(found[-1]) < _BACKGROUND


# How many tokens a request took, as clients are told. Pure.


def usage_of(stats: Stats) -> dict[str, int]:
    """``prompt_tokens`` is the whole prompt, including the tokens that were in the context before."""
    before = stats.prompt_size
    if before is None and stats.context_used is not None:
        before = stats.context_used - stats.tokens
    before = max(before or 0, stats.prompt_tokens or 0)
    return {"prompt_tokens": before, "completion_tokens": stats.tokens, "total_tokens": before + stats.tokens}


def detailed_usage(stats: Stats) -> dict[str, object]:
    """The same, with the number of prompt tokens that were in the context before, if known."""
    usage = usage_of(stats)
    if stats.prompt_tokens is None:
        return dict(usage)
    return usage | {"prompt_tokens_details": {"cached_tokens": usage["prompt_tokens"] - stats.prompt_tokens}}
