"""HTTP requests to one server, with failures of the connection as errors of this program."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bitnet_chat.backends.http import errors
from bitnet_chat.errors import EngineNotFoundError, FinishReason, UsageError
from bitnet_chat.text.utf8 import well_formed

if TYPE_CHECKING:
    import aiohttp


_KEPT = 4.0
"""Seconds for which an idle connection is kept: most servers close it after five."""
_SPENDING = 1.0
"""Seconds for the end of a response after its useful part."""
_REFUSING = 10.0
"""Seconds for the body of a refusal, which is optional."""
_CONNECTING = 30.0  # seconds for TCP and TLS; the time of a reply is not limited here
_ANSWER_LIMIT = 1 << 25


class ConnectionLostError(Exception):
    """The connection ended during a request or a response. The text gives the reason."""


class HTTPStatusError(Exception):
    """The server refused the request."""

    def __init__(self, refusal: errors.ErrorResponse) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


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
    """Raises UsageError where it is not installed."""
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
    """The request was sent on a reused connection, which the server may have closed in the meantime."""


class HTTPConnection:
    """A client for ``base``. Connects at the first request; the caller closes it."""

    def __init__(self, base: str, key: str = "", *, is_ours: bool = False, keeps: bool | None = None) -> None:
        """``is_ours``: the server is a process of this program; where it does not answer it has ended. ``keeps``:
        whether connections are kept for the next request; None: only those to other computers. A local one costs
        little, and llama-server closes its keep-alive connections after each streamed reply."""
        self.base = base
        self._keeps = not is_loopback(base) if keeps is None else keeps
        self._is_ours, self._is_closed = is_ours, False
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._session: aiohttp.ClientSession | None = None
        self._spent: set[asyncio.Task[None]] = set()

    async def get(self, path: str) -> Any:
        """Get the JSON at ``path``. Raises Refused, ConnectionLostError, EngineNotFoundError."""
        return await whole(await self._send("GET", path), self.base)

    async def post(
        self, path: str, body: Mapping[str, object], sent: asyncio.Event | None = None
    ) -> aiohttp.ClientResponse:
        """The response, whose body is still to come. ``sent`` is set when the request is on its way. Raises as ``get``
        does."""
        # A lone surrogate has an escape in JSON, which servers refuse: none is sent.
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

        if self._is_closed:  # another request has found that the server has ended
            raise ConnectionLostError("its connections are closed")
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_on_kept)
            trace.on_connection_create_start.append(_on_new)
            trace.on_request_chunk_sent.append(_on_sent)
            self._session = aiohttp.ClientSession(
                # How many there are at a time is decided elsewhere: each reply has one.
                connector=(
                    aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT)
                    if self._keeps
                    else aiohttp.TCPConnector(limit=0, force_close=True)
                ),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Proxies are for what is elsewhere, and no request to this computer leaves it.
                trust_env=not is_loopback(self.base),
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
                # A server may close a kept connection before it reads the request; on a new connection it has read
                # it. Each attempt takes a kept connection until none is left.
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
                remedy="SSL_CERT_FILE names a file with further trusted authorities",
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
        raise HTTPStatusError(
            errors.read(response.status, body, headers.get("Retry-After", ""), headers.get("Location", ""))
        )


async def _on_kept(session: object, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.is_on_kept = True


async def _on_new(session: object, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.is_on_kept = False


async def _on_sent(session: object, context: SimpleNamespace, params: object) -> None:
    if context.trace_request_ctx.sent is not None:
        context.trace_request_ctx.sent.set()


async def _words_of(response: aiohttp.ClientResponse) -> bytes:
    """What a refusal says, as far as it comes: some servers hang up in its middle, on a request that they do not
    want to read."""
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
    """The error for a server that answers with something else than JSON, such as a page."""
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
    """The next bytes of a response, whatever has arrived; empty at its end. Raises ConnectionLostError."""
    import aiohttp

    try:
        return await response.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLostError(_words(error)) from None


def _refusal(error: Exception) -> str:
    """The reason of a failed connection in the system's words, which asyncio replaces with its own."""
    words, number = getattr(error, "strerror", "") or str(error), getattr(error, "errno", None)
    if "Connect call failed" in words and isinstance(number, int):
        return os.strerror(number)
    return words or "it does not answer"


def _words(error: Exception) -> str:
    # For an answer that is not HTTP aiohttp adds the address, which the message has already.
    return " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# The connection of one reply: its waits, and how they are cancelled.

_T = TypeVar("_T")


class RequestCancelledError(Exception):
    """The reply was interrupted, or reached its time limit, during a wait."""


class CancellableRequest:
    """The caller closes it. ``timeout``: seconds until it is stopped, None: no limit."""

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
        """The server has begun to answer."""
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
        """Return the result of ``work``. Raises RequestCancelledError when the line is stopped before that."""
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
            raise RequestCancelledError from None  # both at the same time: the stop takes precedence
        finally:
            self._prompt_timeout = None

    async def ask(self, request: Callable[[asyncio.Event], Coroutine[Any, Any, aiohttp.ClientResponse]]) -> None:
        """Start ``request``, and return once it is sent, when it sets the event, or has failed. Raises
        RequestCancelledError."""
        sent = asyncio.Event()
        self._request = asyncio.ensure_future(request(sent))
        self._request.add_done_callback(lambda task: sent.set())
        await self.within(sent.wait())

    async def heard(self, patience: float) -> aiohttp.ClientResponse | None:
        """As ``answer``; None where the server has said nothing within ``patience`` seconds."""
        if self._request is not None:
            await self.within(asyncio.wait([self._request], timeout=patience))
            return await self.answer() if self._request.done() else None
        return None

    async def answer(self) -> aiohttp.ClientResponse:
        """Return the response to the request; its body is read from now on. Raises RequestCancelledError, and the
        errors of the request.
        """
        if self._request is None:
            raise RequestCancelledError
        self._response = await self.within(self._request)
        return self._response

    async def chunk(self) -> bytes:
        """The next bytes of the response, whatever has arrived; empty at its end. Raises RequestCancelledError and
        ConnectionLostError.
        """
        # No timeout, which would be made anew for each token: hanging up ends the wait.
        if self.reason is None and self._response is not None:
            try:
                return await chunk(self._response)
            except ConnectionLostError:
                if self.reason is None:
                    raise
        raise RequestCancelledError

    def take(self) -> aiohttp.ClientResponse | None:
        """Return the response without reading its rest, instead of closing the connection."""
        response, self._response, self._request = self._response, None, None
        return response

    def hang_up(self) -> None:
        """Close the connection: the server then stops generating."""
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
