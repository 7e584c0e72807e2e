"""Routes: the handlers of a path by method, and the plain form of a path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bitnet_chat.server import error_responses

Handler = Callable[[Request], Awaitable[Response]]

_SLASHES = re.compile(r"/{2,}")
_ALIASES = {
    "/models": "/v1/models",
    "/chat/completions": "/v1/chat/completions",
    "/completions": "/v1/completions",
    "/v1/health": "/health",
}
"""Paths that a llama-server serves under both names."""


def plain(path: str) -> str:
    """Return a path in the form that checks, routes and log use: clients join a base URL with a trailing slash and a
    path with a leading one.
    """
    path = _SLASHES.sub("/", path)
    path = path.rstrip("/") or "/"
    return _ALIASES.get(path, path)


class _Methods:
    """An ASGI application: the handlers of one path, by method."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._allowed = ", ".join([*handlers, *(["HEAD"] if "GET" in handlers else [])])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        handler = self._handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            response = error_responses.method_not_allowed(scope["path"], method, self._allowed)
        else:
            response = await handler(Request(scope, receive))
        await response(scope, receive, send)


def route(path: str, **handlers: Handler) -> Route:
    """Return the route of a path: ``route("/chats", GET=list, POST=create)``. HEAD is GET without the body."""
    return Route(path, _Methods(handlers))


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for an unknown path."""
    await error_responses.not_found(scope["path"])(scope, receive, send)
