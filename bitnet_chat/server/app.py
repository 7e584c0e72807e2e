"""The ASGI application: the routes of all APIs within the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.routing import Router
from starlette.types import ASGIApp

from bitnet_chat.journal.memory import MemoryJournal
from bitnet_chat.server import api_key, health, llama_server_api
from bitnet_chat.server.auth import RequestGuard
from bitnet_chat.server.chats import endpoints as chats
from bitnet_chat.server.chats.service import ChatService
from bitnet_chat.server.middleware import RequestMiddleware
from bitnet_chat.server.ollama import endpoints as ollama
from bitnet_chat.server.openai import endpoints as openai
from bitnet_chat.server.openapi import document
from bitnet_chat.server.routing import not_found
from bitnet_chat.server.scheduler import ReplyScheduler
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.server.uvicorn_server import listening
from bitnet_chat.server.web import files as page

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalStore


def application(scheduler: ReplyScheduler, settings: ServeSettings, journal: JournalStore | None) -> RequestMiddleware:
    """Return the whole application. ``journal``: storage of the chats; None: memory only."""
    chat_service = ChatService(scheduler, journal if journal is not None else MemoryJournal(), settings.linger)
    keys = api_key.ApiKeyAuth(settings.api_key)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        scheduler.start()
        try:
            yield
        finally:
            await scheduler.close(0.0)
            await chat_service.close()

    routes = [
        *health.routes(scheduler),
        *api_key.routes(keys),
        *openai.routes(scheduler, settings),
        *ollama.routes(scheduler, settings),
        *llama_server_api.routes(scheduler, settings),
        *chats.routes(chat_service, settings),
        *document.routes(),
        *page.routes(),
    ]
    # The middleware has removed trailing slashes: a redirect would lead to the same path.
    router = Router(routes, redirect_slashes=False, default=not_found, lifespan=lifespan)
    return RequestMiddleware(router, settings.body_limit, RequestGuard(settings, keys), scheduler.metrics)


@asynccontextmanager
async def running(
    scheduler: ReplyScheduler, settings: ServeSettings, journal: JournalStore | None, app: ASGIApp | None = None
) -> AsyncIterator[str]:
    """Serve the application during the block. Yields its address. Raises UsageError if the address cannot be used.

    At the end of the block new replies are refused, and running ones have ``settings.grace`` seconds, in which their
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
