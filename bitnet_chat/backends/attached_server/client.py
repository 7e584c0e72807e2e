"""The client of a running ``bitnet-chat serve``: its address, its key, and its errors.

The calls of ``ServerClient`` block: they are made from threads, or before the event loop runs. ``ServerConnection`` has
the requests and streams of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from bitnet_chat.backends.http.client import checked_url, chunk, whole
from bitnet_chat.errors import (
    BitnetChatError,
    BusyError,
    ChatNotFoundError,
    ConnectionLostError,
    ContextOverflowError,
    EngineDiedError,
    EngineNotFoundError,
    ModelError,
    ServerUnreachableError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.text.sse import ServerSentEvent, SseDecoder
from bitnet_chat.text.utf8 import well_formed
from bitnet_chat.util.loopback import leads_to_loopback

if TYPE_CHECKING:
    import aiohttp


TIMEOUT = 30.0
"""Seconds for a response without a reply of a model."""
_LIMIT = 1 << 28
"""Bytes of a response."""


class ServerClient:
    """Blocking requests to one server."""

    def __init__(self, url: str, key: str = "") -> None:
        """Does not connect yet. Raises UsageError for an invalid address."""
        self.url = checked_url(url, "--attach")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.is_loopback = leads_to_loopback(self.url)

    def greet(self) -> Mapping[str, Any]:
        """Get the server's description of itself, which it sends before its model is loaded as well. Raises
        ServerUnreachableError if it does not answer, and UsageError for another kind of server or a wrong key."""
        status, facts = self._send("GET", "/health", None)
        if status not in (200, 503) or not isinstance(facts, dict) or "parallel" not in facts:
            raise UsageError(
                f"the server at {self.url} is not a bitnet-chat serve",
                remedy="give --attach the address that bitnet-chat serve prints",
            )
        self.call("GET", "/chats?limit=1")
        return facts

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON of the response; None for an empty one. Raises BitnetChatError."""
        status, answer = self._send(method, path, body)
        if status >= 400:
            raise self.refusal(status, answer)
        return answer

    def refusal(self, status: int, answer: object) -> BitnetChatError:
        """The error of a refused request."""
        return error_of(answer, status, self.url)

    def missing(self, why: str) -> ServerUnreachableError:
        start = "bitnet-chat serve starts one" if self.is_loopback else "start bitnet-chat serve there"
        return ServerUnreachableError(
            f"no server answers at {self.url}: {why}", remedy=f"{start}; --attach=URL names another address"
        )

    def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> tuple[int, Any]:
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError
        from urllib.request import ProxyHandler, Request, build_opener

        data = None if body is None else encoded(body)
        headers = self.headers | ({} if data is None else {"Content-Type": "application/json"})
        request = Request(self.url + path, data, headers, method=method)
        # Proxies are for other computers.
        opener = build_opener(*([ProxyHandler({})] if self.is_loopback else []))
        try:
            try:
                with opener.open(request, timeout=TIMEOUT) as response:
                    return response.status, _decoded(response.read(_LIMIT))
            except HTTPError as error:
                with error:
                    return error.code, _decoded(error.read(_LIMIT))
        except URLError as error:
            raise self.missing(_words(error.reason)) from None
        except (HTTPException, OSError) as error:
            raise self.missing(_words(error)) from None


def encoded(body: Mapping[str, object]) -> bytes:
    return well_formed(json.dumps(body, ensure_ascii=False)).encode()


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None


def _words(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def error_of(answer: object, status: int, url: str) -> BitnetChatError:
    """The error of a response, of the same class as on the server."""
    told = answer.get("error") if isinstance(answer, dict) else None
    told = told if isinstance(told, dict) else {}
    what, remedy = str(told.get("message") or f"{url} answers with status {status}"), str(told.get("remedy") or "")
    if status in (401, 403):
        return UsageError(f"{url}: {what}", remedy="set $BITNET_CHAT_API_KEY to its key")
    match told.get("type"):
        case "chat_not_found":
            return ChatNotFoundError(what, remedy="bitnet-chat history list shows the conversations")
        case "unsupported_parameter":
            return _unsupported(str(told.get("param") or ""), what, remedy)
        case "context_length_exceeded":
            return ContextOverflowError(what, remedy=remedy)
        case "chat_is_answering" | "rate_limit_exceeded" | "timeout":
            return BusyError(what, retry_after=5.0, remedy=remedy)
        case "no_engine":
            return EngineNotFoundError(what, remedy=remedy)
        case "bad_model":
            return ModelError(what, remedy=remedy)
        case "engine_died" | "interrupted":
            return EngineDiedError(what, remedy=remedy)
    if 400 <= status < 500:
        return UsageError(what, remedy=remedy)
    return EngineDiedError(what, remedy=remedy)


def _unsupported(option: str, what: str, remedy: str) -> BitnetChatError:
    error = UnsupportedError(option, what, remedy=remedy)
    error.what = what  # the server's own message
    return error


# Requests and streams on the event loop.

_CONNECTING = 30.0
"""Seconds for a connection."""


class ServerConnection:
    """Requests of the event loop. Connects at the first of them; the caller closes it."""

    def __init__(self, server: ServerClient, headers: Mapping[str, str]) -> None:
        self._server, self._headers = server, headers
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def json(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON of a response with any status. Raises ConnectionLostError and BitnetChatError."""
        return await whole(await self.send(method, path, body), self._server.url)

    async def post(self, path: str, body: Mapping[str, object]) -> aiohttp.ClientResponse:
        """Raises ConnectionLostError and BitnetChatError."""
        response = await self.send("POST", path, body)
        if response.status < 300:
            return response
        try:
            answer = await whole(response, self._server.url)
        except UsageError:  # not JSON: a program other than the server answered
            answer = None
        raise error_of(answer, response.status, self._server.url)

    async def send(
        self, method: str, path: str, body: Mapping[str, object] | None, headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """The response with any status. Raises ConnectionLostError, and ServerUnreachableError if the server does not
        answer."""
        import aiohttp

        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                # The server may have closed a kept connection; a new one is cheap.
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
            raise ConnectionLostError("the server closed the connection") from None
        except (
            aiohttp.ClientError,
            OSError,
            RuntimeError,
        ) as error:  # RuntimeError: the session was closed
            raise ConnectionLostError(" ".join(str(error).split()) or type(error).__name__) from None


async def decode_events(
    response: aiohttp.ClientResponse | None, until: asyncio.Event | None = None
) -> AsyncGenerator[ServerSentEvent]:
    """Yield the events of a stream until it ends or breaks, or ``until`` is set. ``response``: None: no events."""
    if response is None:
        return
    decoder = SseDecoder()
    leave = asyncio.ensure_future(_close_when(until, response)) if until is not None else None
    try:
        while data := await chunk(response):
            for told in decoder.feed(data):
                yield told
    except (ConnectionLostError, ValueError):
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
