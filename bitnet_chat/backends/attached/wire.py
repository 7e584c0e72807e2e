"""The connections of one who is attached to a running server: requests, and streams of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from bitnet_chat.backends.attached.server import Server, encoded, error_of
from bitnet_chat.backends.remote.connection import Lost, chunk, whole
from bitnet_chat.errors import UsageError
from bitnet_chat.text.sse import ServerSentEvent, SseDecoder

if TYPE_CHECKING:
    import aiohttp

_CONNECTING = 30.0
"""Seconds."""


class Wire:
    """Opens nothing until it is asked to; has to be closed."""

    def __init__(self, server: Server, headers: Mapping[str, str]) -> None:
        self._server, self._headers = server, headers
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def json(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON of an answer, whatever its status. Raises Lost and BitnetChatError."""
        return await whole(await self.send(method, path, body), self._server.url)

    async def post(self, path: str, body: Mapping[str, object]) -> aiohttp.ClientResponse:
        """Raises Lost and BitnetChatError."""
        response = await self.send("POST", path, body)
        if response.status < 300:
            return response
        try:
            answer = await whole(response, self._server.url)
        except UsageError:  # no JSON: something else than the server has answered
            answer = None
        raise error_of(answer, response.status, self._server.url)

    async def send(
        self, method: str, path: str, body: Mapping[str, object] | None, headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """The response, whatever its status. Raises Lost, and NoServer where nobody answers."""
        import aiohttp

        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                # One that was kept open may have been closed by the other side, and a new one costs next to nothing.
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=not self._server.is_loopback,
            )
        more = dict(headers or {}) | ({} if body is None else {"Content-Type": "application/json"})
        data = None if body is None else encoded(body)
        try:
            return await session.request(method, self._server.url + path, data=data, headers=more)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise self._server.missing(getattr(error, "strerror", "") or str(error)) from None
        except aiohttp.ServerDisconnectedError:
            raise Lost("it has closed the connection") from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # RuntimeError: the session was closed meanwhile
            raise Lost(" ".join(str(error).split()) or type(error).__name__) from None


async def told_by(
    response: aiohttp.ClientResponse | None, until: asyncio.Event | None = None
) -> AsyncGenerator[ServerSentEvent]:
    """The events of a stream until it ends or breaks, or ``until`` is set. None: it broke before it began."""
    if response is None:
        return
    decoder = SseDecoder()
    leave = asyncio.ensure_future(_close_when(until, response)) if until is not None else None
    try:
        while data := await chunk(response):
            for told in decoder.feed(data):
                yield told
    except (Lost, ValueError):
        return
    finally:
        if leave is not None:
            leave.cancel()
        response.close()


async def _close_when(event: asyncio.Event, response: aiohttp.ClientResponse) -> None:
    await event.wait()
    response.close()


async def wait(seconds: float, until: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)
