"""The application: which path is whose, and what stands around all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from bitnet_chat.serve.desk import Desk
from bitnet_chat.serve.settings import ServeSettings

if TYPE_CHECKING:
    from bitnet_chat.journal import Journal


def application(desk: Desk, settings: ServeSettings, journal: Journal | None) -> Starlette:
    """Everything that is served. ``journal``: where chats are kept; None: nowhere but in memory."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.start()
        try:
            yield
        finally:
            await desk.close(settings.grace)

    return Starlette(routes=_routes(desk, settings, journal), lifespan=lifespan)


def _routes(desk: Desk, settings: ServeSettings, journal: Journal | None) -> Sequence[BaseRoute]:
    """Each API brings its own."""
    return []
