"""Middleware around every route: request checks, headers, limits, the request log, and the last error handler."""

from __future__ import annotations

import logging
import re
import time
from email.utils import formatdate

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitnet_chat.errors import InvalidFieldError
from bitnet_chat.server.auth import (
    COOKIE,
    HEADERS,
    SESSION,
    ApiKeyAuth,
    RejectedRequest,
    RequestGuard,
    RequestInfo,
    TooManyAttemptsError,
    cors_headers,
    preflight_headers,
    too_large,
    too_many_guesses,
)
from bitnet_chat.server.errors import error_json
from bitnet_chat.server.metrics import Metrics
from bitnet_chat.server.request_body import read_object
from bitnet_chat.server.responses import ClientDisconnectedError
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.text.utf8 import well_formed

log = logging.getLogger("bitnet_chat.server")
requests = logging.getLogger("bitnet_chat.server.requests")

_SLACK = 1 << 20
"""Bytes above the limit at which a body is cut here: below, an API reports the limit in its own error format."""
_UNREAD = 32_000_000
"""Bytes of a rejected body that are read before the refusal is sent. Most clients send all of it before they read the
response, and would report a broken connection instead.
"""
_LOGIN_LIMIT = 4096
"""Bytes; a login needs no key."""
_GONE = 499
"""Logged status if the client disconnected before the response; other servers use it as well."""
_SLASHES = re.compile(r"/{2,}")
_ALIASES = {
    "/models": "/v1/models",
    "/chat/completions": "/v1/chat/completions",
    "/completions": "/v1/completions",
    "/v1/health": "/health",
}
"""Paths that a llama-server serves under both names."""
_APIS = {
    "v1": "openai",
    "api": "ollama",
    "chats": "chats",
    "replies": "chats",
    "page": "page",
    "": "page",
} | dict.fromkeys(("props", "slots", "tokenize", "detokenize", "apply-template"), "llama")


class RequestMiddleware:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, guard: RequestGuard, metrics: Metrics) -> None:
        self._app, self._settings, self._guard, self._metrics = app, settings, guard, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": plain(scope["path"])}
        await _RequestCycle(self._app, self._settings, self._guard, self._metrics).run(scope, receive, send)


class _TooLargeError(Exception):
    """The body exceeds the limit."""


class _RequestCycle:
    """One request and its response."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, guard: RequestGuard, metrics: Metrics) -> None:
        self._app, self._settings, self._guard, self._metrics = app, settings, guard, metrics
        self._status = 0
        self._read = 0
        self._read_all = False
        self._cors: dict[str, str] = {}

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts, began = _facts(scope), time.monotonic()

        async def counted() -> Message:
            message = await receive()
            self._read += len(message.get("body", b""))
            self._read_all = not message.get("more_body", False)
            if self._read > self._settings.body_limit + _SLACK:
                raise _TooLargeError
            return message

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                self._dress(headers)
                if self._status >= 400 and not self._read_all and not await self._spend(facts, receive):
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._answer(facts, scope, counted, framed)
        except _TooLargeError:
            await self._fail(too_large(self._settings.body_limit), facts, scope, receive, framed)
        except Exception:
            log.exception("a request broke")
            broken = RejectedRequest(500, "internal server error; see the log of the server", kind="server_error")
            await self._fail(broken, facts, scope, receive, framed)
        finally:
            status = self._status or _GONE
            self._metrics.request(_api(facts.path), status)
            took = 1000 * (time.monotonic() - began)
            requests.info("%s %s %s %.0f ms", facts.method, one_line(facts.path), status, took)

    async def _answer(self, facts: RequestInfo, scope: Scope, receive: Receive, send: Send) -> None:
        if origin := self._guard.allowed_origin(facts):
            self._cors = cors_headers(origin)
        if (refusal := self._guard.refusal(facts)) is not None:
            await refused(refusal, facts.path)(scope, receive, send)
        elif facts.method == "OPTIONS" and origin and "access-control-request-method" in facts.headers:
            wanted = facts.headers.get("access-control-request-headers", "")
            await Response(status_code=204, headers=preflight_headers(origin, wanted))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _spend(self, facts: RequestInfo, receive: Receive) -> bool:
        """Read and discard the rest of the body. False: it is incomplete, so the connection cannot be reused."""
        if not self._read and "expect" in facts.headers:
            return False  # its client waits for leave to send it
        while not self._read_all and self._read <= _UNREAD:
            message = await receive()
            self._read += len(message.get("body", b""))
            self._read_all = not message.get("more_body", False)
        return self._read_all

    async def _fail(
        self, refusal: RejectedRequest, facts: RequestInfo, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send an error. A response that has begun can only be cut."""
        if self._status:
            raise ConnectionAbortedError(refusal.what)
        await refused(refusal, facts.path)(scope, receive, send)

    def _dress(self, headers: MutableHeaders) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        for name, value in self._cors.items():
            headers[name] = value
        headers.add_vary_header("Origin")
        headers.setdefault("date", formatdate(usegmt=True))


def plain(path: str) -> str:
    """A path in the form that checks, routes and log use: clients join a base URL with a trailing slash and a path with
    a leading one.
    """
    path = _SLASHES.sub("/", path)
    path = path.rstrip("/") or "/"
    return _ALIASES.get(path, path)


def refused(refusal: RejectedRequest, path: str) -> Response:
    """A refusal in the error format of the API of its path."""
    what, remedy = well_formed(refusal.what), well_formed(refusal.remedy)
    message = f"{what}; {remedy}" if remedy else what
    error: object = message
    if _api(path) != "ollama":
        error = {
            "message": message,
            "type": refusal.kind,
            "param": None,
            "code": refusal.code or None,
            "remedy": remedy,
        }
    return _json({"error": error}, refusal.status, dict(refusal.headers))


def login_routes(keys: ApiKeyAuth) -> list[BaseRoute]:
    """``POST /login {key}``: the cookie that the page sends with its requests."""

    async def login(request: Request) -> Response:
        address = request.client.host if request.client is not None else ""
        try:
            key = (await read_object(request, _LOGIN_LIMIT)).needed_text("key")
        except InvalidFieldError as error:
            return refused(
                RejectedRequest(error.status, error.what, 'send {"key": "…"}', code=error.code), request.url.path
            )
        except ClientDisconnectedError:
            return Response(status_code=_GONE)
        try:
            if not keys.is_right(key, address):
                wrong = RejectedRequest(401, "the API key is wrong", "", "authentication_error", "invalid_api_key")
                return refused(wrong, request.url.path)
        except TooManyAttemptsError as error:
            return refused(too_many_guesses(error), request.url.path)
        response = Response(status_code=204)
        response.set_cookie(
            COOKIE,
            keys.session(),
            max_age=SESSION,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def logout(request: Request) -> Response:
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return [Route("/login", login, methods=["POST"]), Route("/logout", logout, methods=["POST"])]


def _facts(scope: Scope) -> RequestInfo:
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


def _api(path: str) -> str:
    """The API of a path."""
    first = path.split("/")[1] if path.startswith("/") else ""
    return _APIS.get(first, first if first in ("health", "metrics", "login") else "other")


def _json(value: object, status: int, headers: dict[str, str]) -> Response:
    return Response(error_json(value), status, headers, media_type="application/json")
