"""HTTP requests to one server, with failures of the connection as errors of this program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bitnet_chat.backends.http import errors
from bitnet_chat.errors import (
    ConnectionLostError,
    EngineNotFoundError,
    FinishReason,
    HTTPStatusError,
    RequestCancelledError,
    UsageError,
)
from bitnet_chat.text.utf8 import well_formed
from bitnet_chat.util.loopback import leads_to_loopback

if TYPE_CHECKING:
    import aiohttp


_KEPT = 4.0
"""Seconds for which an idle connection is kept: most servers close one after five."""
_SPENDING = 1.0
"""Seconds for the rest of a response after its useful part."""
_REFUSING = 10.0
"""Seconds for the body of an error response."""
_CONNECTING = 30.0
"""Seconds for TCP and TLS. The time of a reply is not limited here."""
_ANSWER_LIMIT = 1 << 25
"""Bytes of a JSON response."""


def checked_url(url: str, what: str = "--base-url") -> str:
    """Return ``url`` without a slash at its end. Raises UsageError for an invalid address."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or any(ord(each) <= 32 for each in url):
        raise UsageError(f"{what}: {url} is not a server address", remedy="give one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"{what}: the address of a server has no user, question mark or # in it",
            remedy="a key goes into $BITNET_CHAT_BACKEND_KEY",
        )
    return parts.geturl().rstrip("/")


def require_aiohttp() -> None:
    """Raises UsageError if aiohttp is not installed."""
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise UsageError(
            "this backend is reached over HTTP, and aiohttp is not installed",
            remedy='pip install "bitnet-chat[remote]"',
        ) from None


@dataclass(slots=True)
class _RequestTrace:
    """The state of one request."""

    sent: asyncio.Event | None
    is_on_kept: bool = False
    """The request was sent on a reused connection, which the server may have closed already."""


class HTTPConnection:
    """A client for ``base``. Connects at the first request; the caller closes it."""

    def __init__(self, base: str, key: str = "", *, is_ours: bool = False, keeps: bool | None = None) -> None:
        """``is_ours``: the server is a process of this program, and has ended if it does not answer. ``keeps``: whether
        connections are kept for the next request; None: only those to other computers. A local connection costs little,
        and llama-server closes its keep-alive connections after each streamed reply."""
        self.base = base
        self._keeps = not leads_to_loopback(base) if keeps is None else keeps
        self._is_ours, self._is_closed = is_ours, False
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._session: aiohttp.ClientSession | None = None
        self._spent: set[asyncio.Task[None]] = set()

    async def get(self, path: str) -> Any:
        """Get the JSON at ``path``. Raises HTTPStatusError, ConnectionLostError, EngineNotFoundError."""
        return await whole(await self._send("GET", path), self.base)

    async def post(
        self, path: str, body: Mapping[str, object], sent: asyncio.Event | None = None
    ) -> aiohttp.ClientResponse:
        """The response, without its body. ``sent`` is set when the request is sent. Raises as ``get`` does."""
        # Servers refuse the JSON escape of a lone surrogate.
        return await self._send("POST", path, well_formed(json.dumps(body, ensure_ascii=False)).encode(), sent)

    async def ask(self, path: str, body: Mapping[str, object]) -> Any:
        """Post ``body`` and return the JSON of the response. Raises as ``get`` does."""
        return await whole(await self.post(path, body), self.base)

    def spend(self, response: aiohttp.ClientResponse) -> None:
        """Read the rest of ``response`` after its useful part, so that its connection is free for the next request."""
        if not self._keeps:
            response.close()
        if response.content.at_eof() or response.closed:
            return

        def over(task: asyncio.Task[None]) -> None:
            self._spent.discard(task)
            response.close()

        task = asyncio.ensure_future(_drain(response))
        self._spent.add(task)
        task.add_done_callback(over)

    async def close(self) -> None:
        self._is_closed = True
        for task in self._spent:
            task.cancel()
        if self._spent:
            await asyncio.wait(self._spent)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._is_closed:  # after the end of the server
            raise ConnectionLostError("its connections are closed")
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_on_kept)
            trace.on_connection_create_start.append(_on_new)
            trace.on_request_chunk_sent.append(_on_sent)
            self._session = aiohttp.ClientSession(
                # No limit of their number: each reply has one connection.
                connector=(
                    aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT)
                    if self._keeps
                    else aiohttp.TCPConnector(limit=0, force_close=True)
                ),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Proxies are for other computers.
                trust_env=not leads_to_loopback(self.base),
                trace_configs=[trace],
            )
        return self._session

    async def _request(
        self, method: str, path: str, data: bytes | None, sent: asyncio.Event | None
    ) -> aiohttp.ClientResponse:
        import aiohttp

        while True:
            trip = _RequestTrace(sent)
            try:
                return await self._opened().request(
                    method,
                    self.base + path,
                    data=data,
                    headers={"Content-Type": "application/json"} if data is not None else None,
                    allow_redirects=False,
                    trace_request_ctx=trip,
                )
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                # A server may close a kept connection without reading the request. Each attempt uses another kept
                # connection, and the last one a new connection.
                if not trip.is_on_kept:
                    raise

    async def _send(
        self, method: str, path: str, data: bytes | None = None, sent: asyncio.Event | None = None
    ) -> aiohttp.ClientResponse:
        import aiohttp

        base = self.base
        try:
            response = await self._request(method, path, data, sent)
        except aiohttp.ClientSSLError as error:
            raise EngineNotFoundError(
                f"the certificate of {base} cannot be trusted: {error}",
                remedy="SSL_CERT_FILE names a file with additional trusted authorities",
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            why = _refusal(error)
            if self._is_ours:
                raise ConnectionLostError(why) from None
            raise EngineNotFoundError(
                f"no server answers at {base}: {why}", remedy="start it, or give its address with --base-url"
            ) from None
        except aiohttp.InvalidURL:
            raise UsageError(f"{base} is not a server address") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLostError(_words(error)) from None
        if response.status == 200:
            return response
        body = await _words_of(response)
        headers = response.headers
        refusal = errors.read(response.status, body, headers.get("Retry-After", ""), headers.get("Location", ""))
        raise HTTPStatusError(refusal.message, refusal)


async def _on_kept(session: object, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.is_on_kept = True


async def _on_new(session: object, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.is_on_kept = False


async def _on_sent(session: object, context: SimpleNamespace, params: object) -> None:
    if context.trace_request_ctx.sent is not None:
        context.trace_request_ctx.sent.set()


async def _words_of(response: aiohttp.ClientResponse) -> bytes:
    """The body of an error response, as far as it arrives: some servers close the connection without reading the whole
    request."""
    body = b""
    try:
        with contextlib.suppress(TimeoutError, ConnectionLostError):
            async with asyncio.timeout(_REFUSING):
                while len(body) < errors.BODY_LIMIT and (part := await chunk(response)):
                    body += part
    finally:
        response.close()
    return body[: errors.BODY_LIMIT]


async def _drain(response: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, ConnectionLostError):
        async with asyncio.timeout(_SPENDING):
            while await chunk(response):
                pass


def not_an_api(base: str) -> UsageError:
    """The error for a server with a response other than JSON, such as a page."""
    return UsageError(
        f"the server at {base} does not have this API",
        remedy="give --base-url the address at which the API begins, such as http://127.0.0.1:8000/v1",
    )


async def whole(response: aiohttp.ClientResponse, base: str) -> Any:
    """The JSON of a response. Raises ConnectionLostError, and UsageError for an invalid body."""
    parts, size = [], 0
    try:
        while size < _ANSWER_LIMIT and (part := await chunk(response)):
            parts.append(part)
            size += len(part)
    finally:
        response.close()
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise not_an_api(base) from None


async def chunk(response: aiohttp.ClientResponse) -> bytes:
    """All bytes of a response that have arrived, at least one; empty at its end. Raises ConnectionLostError."""
    import aiohttp

    try:
        return await response.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLostError(_words(error)) from None


def _refusal(error: Exception) -> str:
    """The reason of a failed connection, as the system words it instead of asyncio."""
    words, number = getattr(error, "strerror", "") or str(error), getattr(error, "errno", None)
    if "Connect call failed" in words and isinstance(number, int):
        return os.strerror(number)
    return words or "it does not answer"


def _words(error: Exception) -> str:
    # For a response that is not HTTP aiohttp adds the address, which the message has already.
    return " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__


# The request of one reply: waits that can be cancelled.

_T = TypeVar("_T")


class CancellableRequest:
    """The request of one reply; the caller closes it. ``timeout``: seconds until it is stopped; None: no limit."""

    def __init__(self, timeout: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._prompt_timeout: asyncio.Timeout | None = None
        self._request: asyncio.Task[aiohttp.ClientResponse] | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._timer = None if timeout is None else self._loop.call_later(timeout, self.stop, FinishReason.TIMEOUT)
        self.reason: FinishReason | None = None
        """The reason for the stop; None before."""

    @property
    def is_open(self) -> bool:
        """Whether the server has begun its response."""
        return self._response is not None

    def stop(self, reason: FinishReason) -> None:
        """Cancel the present wait at once."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._prompt_timeout is not None:
            self._prompt_timeout.reschedule(self._loop.time())
        else:
            self.hang_up()

    async def within(self, work: Awaitable[_T]) -> _T:
        """Return the result of ``work``. Raises RequestCancelledError if the request is stopped before."""
        if self.reason is not None:
            if asyncio.iscoroutine(work):
                work.close()
            elif isinstance(work, asyncio.Future):
                work.add_done_callback(_heard)
            raise RequestCancelledError
        try:
            async with asyncio.timeout(None) as self._prompt_timeout:
                return await work
        except TimeoutError:
            if self._prompt_timeout is None or not self._prompt_timeout.expired():
                raise
            raise RequestCancelledError from None
        except ConnectionLostError:
            if self.reason is None:
                raise
            raise RequestCancelledError from None  # the stop takes precedence
        finally:
            self._prompt_timeout = None

    async def ask(self, request: Callable[[asyncio.Event], Coroutine[Any, Any, aiohttp.ClientResponse]]) -> None:
        """Start ``request``, which sets the event when it is sent, and return then or after its failure. Raises
        RequestCancelledError."""
        sent = asyncio.Event()
        self._request = asyncio.ensure_future(request(sent))
        self._request.add_done_callback(lambda task: sent.set())
        await self.within(sent.wait())

    async def heard(self, patience: float) -> aiohttp.ClientResponse | None:
        """As ``answer``; None if the response does not begin within ``patience`` seconds."""
        if self._request is not None:
            await self.within(asyncio.wait([self._request], timeout=patience))
            return await self.answer() if self._request.done() else None
        return None

    async def answer(self) -> aiohttp.ClientResponse:
        """Return the response, for :meth:`chunk`. Raises RequestCancelledError, and the errors of the request."""
        if self._request is None:
            raise RequestCancelledError
        self._response = await self.within(self._request)
        return self._response

    async def chunk(self) -> bytes:
        """All bytes of the response that have arrived, at least one; empty at its end. Raises RequestCancelledError and
        ConnectionLostError."""
        # No timeout object for each token: closing the connection ends the wait.
        if self.reason is None and self._response is not None:
            try:
                return await chunk(self._response)
            except ConnectionLostError:
                if self.reason is None:
                    raise
        raise RequestCancelledError

    def take(self) -> aiohttp.ClientResponse | None:
        """Release the response: its rest is read elsewhere, and its connection stays open."""
        response, self._response, self._request = self._response, None, None
        return response

    def hang_up(self) -> None:
        """Close the connection, so that the server stops generating."""
        request, self._request, self._response = self._request, None, None
        if request is None or request.cancel() or request.cancelled() or request.exception() is not None:
            return
        request.result().close()

    def close(self) -> None:
        self.hang_up()
        if self._timer is not None:
            self._timer.cancel()


def _heard(work: asyncio.Future[Any]) -> None:
    """Mark the error of an abandoned task as retrieved, so that asyncio does not log it."""
    if not work.cancelled():
        work.exception()
