"""The default engine of a server, and the models of a remote server.

Consecutive requests of a server rarely share a history. A llama-cli is started again for each of them, while the
prebuilt library and a llama-server can process any conversation in the running process. These are therefore preferred
if they support the model without a conversion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bitnet_chat.backends.factory import open_backend, open_factory
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.local_engine import engine_request, model_path
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.config import Settings
from bitnet_chat.engine import conversion
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.discovery import find_server
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.selection import judge, select
from bitnet_chat.errors import BitnetChatError, ConnectionLostError, HTTPStatusError
from bitnet_chat.models.names import key_of
from bitnet_chat.models.registry import AUTO
from bitnet_chat.text.sanitize import one_line


@dataclass(frozen=True, slots=True)
class PreferredEngine:
    """The settings with which a server opens a model."""

    settings: Settings
    dialect: Dialect | None = None
    """The required dialect of the engine; None: any."""
    notice: str = ""
    """One line with the engine and the reason; empty if it is the engine of an interactive session."""


def preferred(settings: Settings, configured: str, *, parallel: int, any_backend: bool) -> PreferredEngine:
    """Select the engine of a server. ``parallel``: number of parallel requests; more than one prefer a llama-server,
    which is one process, to the library, which needs a process for each. ``any_backend``: whether ``--backend`` was not
    given. Raises nothing: faults are reported when the backend is opened.
    """
    usual = PreferredEngine(settings)
    if settings.backend != "engine" or settings.engine_args or settings.rpc:
        return usual
    try:
        wish = engine_request(settings, configured)
        if wish.is_named:
            return usual
        model = model_path(settings, lambda infos: judge(wish)(infos))
        if select(wish, model).contender.engine.dialect is Dialect.NATIVE and parallel == 1:
            return usual
    except BitnetChatError:
        return usual
    ways = [_library(settings, configured, model), _server(settings, configured, model) if any_backend else None]
    return next((each for each in (ways if parallel == 1 else reversed(ways)) if each is not None), usual)


def _library(settings: Settings, configured: str, model: Path) -> PreferredEngine | None:
    try:
        taken = select(engine_request(settings, configured, Dialect.NATIVE), model).contender
    except BitnetChatError:
        return None
    if taken.obstacle or (taken.converts and conversion.present(model) is None):
        return None
    name = packages.name_of(taken.engine)
    why = "reads another conversation without a new process; --engine PATH selects another"
    return PreferredEngine(settings, Dialect.NATIVE, f"using the prebuilt engine {name}: it {why}")


def _server(settings: Settings, configured: str, model: Path) -> PreferredEngine | None:
    from bitnet_chat.backends.http.client import require_aiohttp
    from bitnet_chat.models.info import read_info
    from bitnet_chat.models.resolve import by_engine

    try:
        require_aiohttp()
        server = find_server(None, configured or None, limit=settings.probe_timeout)
        if any(by_engine(server.path)([read_info(model)])):
            return None
    except BitnetChatError:
        return None
    why = "one process serves all conversations; --backend engine uses one engine per conversation"
    return PreferredEngine(replace(settings, backend="llama-server"), None, f"using llama-server: {why}")


_LIST_TIMEOUT = 10.0
"""Seconds within which a remote server must list its models."""
_MAX_MODELS = 500
"""Maximum number of models of a remote server that are offered."""


def has_models(settings: Settings) -> bool:
    """Return whether the models of a remote server are offered: with such a backend and without ``--model``."""
    return settings.backend in ("openai", "ollama") and not settings.model


async def models_of(settings: Settings, configured: str, *, parallel: int) -> Mapping[str, BackendFactory]:
    """Return the models of the remote server by name, in its order. Empty if it lists none or cannot be reached: then
    its default model is used. Raises UsageError for invalid settings.
    """
    backend = open_backend(settings, configured, advice="nothing")
    assert isinstance(backend.inner, RemoteBackend)
    try:
        async with asyncio.timeout(_LIST_TIMEOUT):
            listed = await backend.inner.service.models()
    except (BitnetChatError, ConnectionLostError, HTTPStatusError, TimeoutError):
        return {}
    finally:
        await backend.close()
    names = {one_line(each): each for each in reversed(listed[:_MAX_MODELS]) if one_line(each) and key_of(each) != AUTO}
    return {
        name: open_factory(replace(settings, model=names[name]), configured, parallel=parallel)
        for name in reversed(names)
    }
