"""The middleware around every route: request checks, headers, limits, errors, metrics and the request log."""

from __future__ import annotations

import logging
import time
from email.utils import formatdate

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from bitnet_chat.errors import BitnetChatError, BodyTooLargeError, ClientDisconnectedError, InternalError
from bitnet_chat.server.auth import (
    HEADERS,
    RequestGuard,
    RequestInfo,
    cors_headers,
    preflight_headers,
    too_large,
)
from bitnet_chat.server.error_responses import api_of, error_response, rejection_response
from bitnet_chat.server.metrics import Metrics
from bitnet_chat.server.routing import plain
from bitnet_chat.text.sanitize import one_line

log = logging.getLogger("bitnet_chat.server")
requests = logging.getLogger("bitnet_chat.server.requests")

_SLACK = 1 << 20
"""Bytes above the limit at which the middleware stops a body. Below that, an API reports its limit itself."""
_UNREAD = 32_000_000
"""Bytes of a rejected body that are read before the error is sent. Most clients send all of it before they read the
response, and would report a broken connection instead.
"""
_DISCONNECTED = 499
"""Logged status if the client disconnected before the response; other servers use it as well."""


class RequestMiddleware:
    """The ASGI application of the server: the routes of ``router``, with everything that holds for all of them."""

    def __init__(self, router: Router, body_limit: int, guard: RequestGuard, metrics: Metrics) -> None:
        """``body_limit``: bytes of one request."""
        self.router = router
        self._body_limit, self._guard, self._metrics = body_limit, guard, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.router(scope, receive, send)
            return
        scope = {**scope, "path": plain(scope["path"])}
        info, began = _info(scope), time.monotonic()
        exchange = _Exchange(info, receive, send, self._body_limit)
        failure: Response | None = None
        try:
            try:
                app = self._answer(info, exchange) or self.router
                await app(scope, exchange.receive, exchange.send)
            except Exception as error:
                failure = self._failure(error, info.path, begun=bool(exchange.status))
            if failure is not None:
                if exchange.status:  # a response that has begun can only be cut
                    raise ConnectionAbortedError("the response was cut")
                await failure(scope, receive, exchange.send)
        finally:
            status = exchange.status or _DISCONNECTED
            self._metrics.count_request(api_of(info.path), status)
            took = 1000 * (time.monotonic() - began)
            requests.info("%s %s %s %.0f ms", info.method, one_line(info.path), status, took)

    def _answer(self, info: RequestInfo, exchange: _Exchange) -> Response | None:
        """Return the response to a rejected request and to a preflight request; None for all others."""
        if origin := self._guard.allowed_origin(info):
            exchange.cors = cors_headers(origin)
        if (rejection := self._guard.refusal(info)) is not None:
            return rejection_response(rejection, info.path)
        if info.method == "OPTIONS" and origin and "access-control-request-method" in info.headers:
            wanted = info.headers.get("access-control-request-headers", "")
            return Response(status_code=204, headers=preflight_headers(origin, wanted))
        return None

    def _failure(self, error: Exception, path: str, *, begun: bool) -> Response | None:
        """Return the response for an exception; None if the client has disconnected."""
        match error:
            case ClientDisconnectedError():
                return None
            case BodyTooLargeError():
                return rejection_response(too_large(self._body_limit), path)
            case BitnetChatError() if not begun:
                return error_response(error, path)
        log.error("a request broke", exc_info=error)
        return error_response(InternalError("internal server error; see the log of the server"), path)


class _Exchange:
    """The channels of one request: counts the bytes of its body, and completes the headers of its response."""

    def __init__(self, info: RequestInfo, receive: Receive, send: Send, body_limit: int) -> None:
        self._info, self._receive, self._send = info, receive, send
        self._body_limit = body_limit
        self._read = 0
        self._read_all = False
        self.status = 0
        """Of the response; 0 before it begins."""
        self.cors: dict[str, str] = {}
        """Headers for a page of another origin."""

    async def receive(self) -> Message:
        """Receive a message. Raises BodyTooLargeError."""
        message = await self._receive()
        self._count(message)
        if self._read > self._body_limit + _SLACK:
            raise BodyTooLargeError
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            self._complete(headers)
            if self.status >= 400 and not self._read_all and not await self._drain():
                headers["connection"] = "close"
        await self._send(message)

    def _count(self, message: Message) -> None:
        self._read += len(message.get("body", b""))
        self._read_all = not message.get("more_body", False)

    async def _drain(self) -> bool:
        """Read and discard the rest of the body. False: it is incomplete, so the connection cannot be reused."""
        if not self._read and "expect" in self._info.headers:
            return False  # the client waits for 100 Continue before it sends the body
        while not self._read_all and self._read <= _UNREAD:
            self._count(await self._receive())
        return self._read_all

    def _complete(self, headers: MutableHeaders) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        for name, value in self.cors.items():
            headers[name] = value
        headers.add_vary_header("Origin")
        headers.setdefault("date", formatdate(usegmt=True))


def _info(scope: Scope) -> RequestInfo:
    headers = Headers(scope=scope)
    client = scope.get("client")
    return RequestInfo(
        scope["method"],
        scope["path"],
        scope["scheme"],
        client[0] if client else "",
        {name.lower(): value for name, value in headers.items()},
        len(headers.getlist("host")),
        _cookies(headers.get("cookie", "")),
    )


def _cookies(header: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        found.setdefault(name, value)
    return found
