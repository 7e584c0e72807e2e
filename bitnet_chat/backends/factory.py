"""Makes backends and journals from the settings: for a resident engine, another server, or an attached server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.backends.wrappers.runaway_guard import Advice, GuardedBackend, GuardLimits
from bitnet_chat.config import Settings, flag
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.threads import Sharing
from bitnet_chat.errors import UsageError
from bitnet_chat.journal import Journal, JournalStore
from bitnet_chat.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from bitnet_chat.backend import Backend
    from bitnet_chat.backends.llama_server import LlamaServer
    from bitnet_chat.engine.binary import EngineBinary
    from bitnet_chat.tools import Toolbox

Convert = Callable[["Path", "EngineBinary"], object]
"""Makes the file that an engine needs out of a model file, as :func:`bitnet_chat.engine.conversion.obtain` does."""

AT_ONCE = 16
"""Concurrent requests of a batch, where a server has as many seats."""


_ENGINE = ("engine", "backend", "base_url", "rpc", "ctx", "threads", "chat_template", "overflow", "io", "engine_args")
"""Settings of a resident engine."""


def refuse_for_an_engine(given: Iterable[str], settings: Settings, written: Callable[[str], str] = flag) -> None:
    """Raises UsageError for a setting that the attached server would ignore. ``written``: the name of a setting in the
    error."""
    clash = [written(name) for name in _ENGINE if name in given]
    if settings.attach and clash:
        raise UsageError(
            f"{' and '.join(clash)} does not go with {written('attach')}: the engine belongs to {settings.attach}",
            remedy="give it to bitnet-chat serve",
        )


def open_journal(settings: Settings) -> JournalStore:
    """Open the journal. Raises ServerUnreachableError where the server of ``--attach`` does not answer, UsageError for
    a wrong key.
    """
    if not settings.attach:
        return open_local_journal(settings)
    from bitnet_chat.backends.attached_server.client import ServerClient
    from bitnet_chat.backends.attached_server.journal import ServerJournal
    from bitnet_chat.backends.http.client import require_aiohttp

    require_aiohttp()
    key = settings.backend_key or os.environ.get("BITNET_CHAT_API_KEY", "")
    return ServerJournal.at(ServerClient(settings.attach, key))


def open_local_journal(settings: Settings) -> Journal:
    journal = Journal()
    journal.made_with = made_with(settings)
    return journal


def open_interactive(
    settings: Settings,
    configured: str,
    journal: JournalStore,
    *,
    advice: Advice = "flags",
    model: str = "",
    convert: Convert | None = None,
) -> Backend:
    """Starts nothing. ``journal``: of :func:`open_journal`. ``model``: the one that was asked for by name, now.
    ``convert``: see :func:`open_backend`.

    Raises EngineNotFoundError, ModelError or UsageError."""
    if not settings.attach:
        wanted = replace(settings, model=model or settings.model)
        return open_backend(wanted, configured, advice=advice, convert=convert)
    from bitnet_chat.backends.attached_server.backend import AttachedBackend
    from bitnet_chat.backends.attached_server.journal import ServerJournal

    assert isinstance(journal, ServerJournal)
    return AttachedBackend(
        journal.server,
        journal.facts,
        journal.place if settings.journal else None,
        model=journal.model_of(model, settings.model),
        sampling=settings.sampling,
    )


def open_batch(settings: Settings) -> tuple[Backend, int]:
    """For a batch on a running server: the backend, and the number of concurrent requests."""
    from bitnet_chat.backends.attached_server.backend import AttachedBackend
    from bitnet_chat.backends.attached_server.journal import ServerJournal

    journal = open_journal(settings)
    assert isinstance(journal, ServerJournal)
    model = journal.model_of("", settings.model)
    backend = AttachedBackend(journal.server, journal.facts, model=model, sampling=settings.sampling, urgent=False)
    return backend, max(1, min(int(journal.facts.get("parallel") or 1), AT_ONCE))


# The backend that the settings ask for, and the guard around it.


def open_backend(
    settings: Settings,
    configured: str,
    *,
    dialect: Dialect | None = None,
    advice: Advice = "flags",
    sharing: Sharing | None = None,
    name: str = "",
    convert: Convert | None = None,
) -> GuardedBackend:
    """Starts no engine; converts the model first where it must be. ``advice``: see :class:`GuardedBackend`.
    ``dialect`` and ``sharing`` of the processors: of an engine; others have none. ``name``: of the model, where it was
    given one. ``convert``: shows the user what it does; without it a conversion is silent.

    Raises EngineNotFoundError, ModelError or UsageError for what can be seen to be missing."""
    if settings.backend == "engine":
        from bitnet_chat.backends.local_engine import LocalEngineBackend

        resident = LocalEngineBackend(settings, configured, dialect=dialect, sharing=sharing, name=name)
        if resident.awaits_conversion:
            from bitnet_chat.engine.conversion import obtain

            (convert or obtain)(resident.model, resident.binary)
        return GuardedBackend(resident, GuardLimits.of(settings), resident.role_markers, advice=advice)
    if settings.backend == "llama-server":
        return _guarded(_llama_server(settings, configured, 1, Sharing(), name).backend(), settings, advice)
    return _guarded(_elsewhere(settings), settings, advice)


def open_factory(
    settings: Settings,
    configured: str,
    *,
    parallel: int,
    models: int = 1,
    name: str = "",
    dialect: Dialect | None = None,
    convert: Convert | None = None,
) -> BackendFactory:
    """Backends for a server: ``parallel`` of them answer side by side, and those of ``models`` models in all. Starts
    nothing; raises as open_backend does. ``name``, ``dialect``, ``convert``: as there."""
    from bitnet_chat.models.store import origin_of

    if settings.backend == "llama-server":
        server = _llama_server(settings, configured, parallel, Sharing(models=models), name)
        make = server.backend
        return BackendFactory(
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

    def another() -> GuardedBackend:
        return open_backend(
            settings,
            configured,
            dialect=dialect,
            advice="nothing",
            sharing=sharing,
            name=name,
            convert=convert,
        )

    first = another()
    if settings.backend == "engine":
        from bitnet_chat.backends.local_engine import LocalEngineBackend

        assert isinstance(first.inner, LocalEngineBackend)
        path = first.inner.model
    else:
        path = None

    origin = origin_of(path) if path is not None else ""
    return BackendFactory(
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


def expect(backend: Backend, toolbox: Toolbox | None) -> None:
    """Set an engine's tools before it loads, so that it prefills the prompt of the first reply."""
    expecting = getattr(getattr(backend, "inner", backend), "expect", None)
    if toolbox is not None and expecting is not None:
        expecting(toolbox.tools)


# The limits of one reply, and what it is made with, out of the settings.

_MAKING = ("backend", "ctx", "overflow", "temperature", "seed", "chat_template", "engine_args", "guard", "repeat_limit")
"""Settings that a reply depends on, beside its limits."""


def reply_options(settings: Settings) -> ReplyOptions:
    """The limits of the settings; 0 means no limit."""
    return ReplyOptions(max_tokens=settings.max_tokens or None, timeout=settings.timeout or None)


def made_with(settings: Settings) -> dict[str, object]:
    """The settings that the journal keeps with each reply: those that differ from the defaults; ``overflow`` always."""
    usual = Settings()
    chosen = {name: getattr(settings, name) for name in _MAKING if getattr(settings, name) != getattr(usual, name)}
    return {"bitnet_chat": __version__, "overflow": settings.overflow} | chosen
