"""The backend that the settings ask for, and the guard around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitnet_chat.backends.guarded import Advice, GuardedBackend, GuardLimits
from bitnet_chat.backends.source import Source
from bitnet_chat.config import Settings
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.threads import Sharing
from bitnet_chat.errors import UsageError

if TYPE_CHECKING:
    from bitnet_chat.backends import Backend
    from bitnet_chat.backends.llama_server import LlamaServer


def open_backend(
    settings: Settings,
    configured: str,
    *,
    dialect: Dialect | None = None,
    advice: Advice = "flags",
    sharing: Sharing | None = None,
    name: str = "",
) -> GuardedBackend:
    """Starts no engine; converts the model first where it must be. ``advice``: see :class:`GuardedBackend`.
    ``dialect`` and ``sharing`` of the processors: of an
    engine; others have none. ``name``: of the model, where it was given one.

    Raises EngineNotFound, ModelError or UsageError for what can be seen to be missing."""
    if settings.backend == "engine":
        from bitnet_chat.backends.resident import ResidentBackend

        resident = ResidentBackend(settings, configured, dialect=dialect, sharing=sharing, name=name)
        if resident.awaits_conversion:
            from bitnet_chat.cli.converting import convert

            convert(resident.model, resident.binary)
        return GuardedBackend(resident, GuardLimits.of(settings), resident.role_markers, advice=advice)
    if settings.backend == "llama-server":
        return _guarded(_llama_server(settings, configured, 1, Sharing(), name).backend(), settings, advice)
    return _guarded(_elsewhere(settings), settings, advice)


def open_source(
    settings: Settings,
    configured: str,
    *,
    parallel: int,
    models: int = 1,
    name: str = "",
    dialect: Dialect | None = None,
) -> Source:
    """Backends for a server: ``parallel`` of them answer side by side, and those of ``models`` models in all. Starts
    nothing; raises as open_backend does. ``name``, ``dialect``: as there."""
    from bitnet_chat.models.store import origin_of

    if settings.backend == "llama-server":
        server = _llama_server(settings, configured, parallel, Sharing(models=models), name)
        make = server.backend
        return Source(
            server.label,
            parallel,
            lambda: _guarded(make(), settings, "nothing"),
            server.model,
            settings.ctx,
            shared=True,
            chat_template=settings.chat_template,
            origin=origin_of(server.model),
        )
    if settings.backend == "engine" and settings.rpc and parallel > 1:
        raise UsageError(
            f"--parallel {parallel} does not go with --rpc: an rpc-server serves one engine at a time",
            remedy="add --backend llama-server, one process of which answers them all",
        )
    sharing = Sharing(engines=parallel, models=models)
    first = open_backend(settings, configured, dialect=dialect, advice="nothing", sharing=sharing, name=name)
    if settings.backend == "engine":
        from bitnet_chat.backends.resident import ResidentBackend

        assert isinstance(first.inner, ResidentBackend)
        path = first.inner.model
    else:
        path = None

    def another() -> Backend:
        return open_backend(settings, configured, dialect=dialect, advice="nothing", sharing=sharing, name=name)

    origin = origin_of(path) if path is not None else ""
    return Source(
        first.status().model or settings.backend,
        parallel,
        another,
        path,
        settings.ctx,
        chat_template=settings.chat_template,
        origin=origin,
    )


def _guarded(backend: Backend, settings: Settings, advice: Advice) -> GuardedBackend:
    # Servers end a turn at the marks of its template by themselves: no role markers to look for.
    return GuardedBackend(backend, GuardLimits.of(settings), advice=advice)


def _llama_server(settings: Settings, configured: str, parallel: int, sharing: Sharing, name: str) -> LlamaServer:
    from bitnet_chat.backends.llama_server import LlamaServer

    return LlamaServer(settings, configured, parallel=parallel, sharing=sharing, name=name)


def _elsewhere(settings: Settings) -> Backend:
    if settings.backend == "ollama":
        from bitnet_chat.backends.ollama import ollama_backend

        return ollama_backend(settings)
    from bitnet_chat.backends.openai import openai_backend

    return openai_backend(settings)
