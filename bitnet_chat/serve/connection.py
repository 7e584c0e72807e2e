"""From a request to its response, whatever goes wrong in between, and clients that go away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bitnet_chat.errors import BitnetChatError

log = logging.getLogger("bitnet_chat.serve")

T = TypeVar("T")
_GONE = 499
"""The status that the log has for a client that did not wait; nobody else sees it."""


class ClientGone(Exception):
    """Nobody is there to answer any more."""


async def respond(
    scope: Scope,
    receive: Receive,
    send: Send,
    answer: Callable[[Request], Awaitable[Response]],
    refusal: Callable[[BitnetChatError], Response],
) -> None:
    """Sends what ``answer`` gives, or what ``refusal`` makes of the error that it raises."""
    try:
        response = await answer(Request(scope, receive))
    except BitnetChatError as error:
        response = refusal(error)
    except ClientGone:
        response = Response(status_code=_GONE)
    except Exception:
        log.exception("a request broke")
        response = refusal(BitnetChatError("the server failed at this request; its log says why"))
    await response(scope, receive, send)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` gives. Raises ClientGone, with ``work`` cancelled, when the client closes its connection first.

    The body of the request has to have been read before.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
