"""The ASGI application: routes and middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.journal.memory import MemoryJournal
from bitnet_chat.server import health, llama_server_api
from bitnet_chat.server.auth import ApiKeyAuth, RejectedRequest, RequestGuard
from bitnet_chat.server.chats import endpoints as chats
from bitnet_chat.server.chats.service import ChatService
from bitnet_chat.server.middleware import RequestMiddleware, login_routes, refused
from bitnet_chat.server.ollama import endpoints as ollama
from bitnet_chat.server.openai import endpoints as openai
from bitnet_chat.server.openapi import document
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.server.uvicorn_server import listening
from bitnet_chat.server.web import files as page

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalStore


def application(scheduler: ReplyScheduler, settings: ServeSettings, journal: JournalStore | None) -> Starlette:
    """The whole application. ``journal``: storage of the chats; None: memory only."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        scheduler.start()
        try:
            yield
        finally:
            await scheduler.close(0.0)
            await chat_desk.close()

    chat_desk = ChatService(scheduler, journal if journal is not None else MemoryJournal(), settings.linger)
    keys = ApiKeyAuth(settings.api_key)
    routes = [*health.routes(scheduler), *login_routes(keys), *_routes(scheduler, settings, chat_desk)]
    frame = Middleware(
        RequestMiddleware, settings=settings, guard=RequestGuard(settings, keys), metrics=scheduler.metrics
    )
    app = Starlette(
        routes=routes, middleware=[frame], lifespan=lifespan, exception_handlers={HTTPException: _no_such_route}
    )
    app.router.redirect_slashes = False  # the frame has taken them away: what it redirects to would be the same path
    return app


def _no_such_route(request: Request, error: Exception) -> Response:
    """The answer for a path outside the APIs."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        what = f"method {request.method} is not supported by {request.url.path}"
    else:
        what = f"path {request.url.path} does not exist"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    return refused(RejectedRequest(error.status_code, what, code=code, headers=error.headers or {}), request.url.path)


@asynccontextmanager
async def running(
    scheduler: ReplyScheduler, settings: ServeSettings, journal: JournalStore | None, app: Starlette | None = None
) -> AsyncIterator[str]:
    """Serve the application during the block; gives its address.

    At the end of the block running replies have ``settings.grace`` seconds while new ones are refused, and their
    clients receive the rest; after an exception they have no time.
    """
    async with listening(app or application(scheduler, settings, journal), settings.host, settings.port) as url:
        grace = settings.grace
        try:
            yield url
        except BaseException:
            grace = 0.0
            raise
        finally:
            await scheduler.close(grace)


def _routes(scheduler: ReplyScheduler, settings: ServeSettings, chat_desk: ChatService) -> Sequence[BaseRoute]:
    """The routes of all APIs."""
    return [
        *openai.routes(scheduler, settings),
        *ollama.routes(scheduler, settings),
        *llama_server_api.routes(scheduler, settings),
        *chats.routes(chat_desk, settings),
        *document.routes(),
        *page.routes(),
    ]
