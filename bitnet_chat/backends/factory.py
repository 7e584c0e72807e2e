"""Makes backends and journals from the settings: for a resident engine, an external server or an attached server."""

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
"""Converts a model file for an engine, as :func:`bitnet_chat.engine.conversion.obtain` does."""

AT_ONCE = 16
"""Maximum number of concurrent requests of a batch on an attached server."""
_ENGINE = ("engine", "backend", "base_url", "rpc", "ctx", "threads", "chat_template", "overflow", "io", "engine_args")
"""Settings of a resident engine."""


def refuse_for_an_engine(given: Iterable[str], settings: Settings, written: Callable[[str], str] = flag) -> None:
    """Raises UsageError for a setting without effect on an attached server. ``written``: gives the name of a setting
    for the error."""
    clash = [written(name) for name in _ENGINE if name in given]
    if settings.attach and clash:
        raise UsageError(
            f"{' and '.join(clash)} does not go with {written('attach')}: the engine belongs to {settings.attach}",
            remedy="give it to bitnet-chat serve",
        )


def open_journal(settings: Settings) -> JournalStore:
    """Open the journal. Raises ServerUnreachableError if the server of ``--attach`` does not answer, and UsageError for
    a wrong key."""
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
    """Make the backend of a REPL; starts nothing. ``journal``: of :func:`open_journal`. ``model``: name of a model in
    place of the setting. ``convert``: see :func:`open_backend`.

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
    """The backend for a batch on an attached server, and the number of concurrent requests."""
    from bitnet_chat.backends.attached_server.backend import AttachedBackend
    from bitnet_chat.backends.attached_server.journal import ServerJournal

    journal = open_journal(settings)
    assert isinstance(journal, ServerJournal)
    model = journal.model_of("", settings.model)
    backend = AttachedBackend(journal.server, journal.facts, model=model, sampling=settings.sampling, urgent=False)
    return backend, max(1, min(int(journal.facts.get("parallel") or 1), AT_ONCE))


# The backend of the settings, with its guard.


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
    """Make a backend; starts no engine. Converts the model first if its engine needs that. ``advice``: see
    :class:`GuardedBackend`. ``dialect`` and ``sharing`` (of the processors): for engines only. ``name``: of the model;
    empty: that of its file. ``convert``: a conversion with progress; None: a silent one.

    Raises EngineNotFoundError, ModelError or UsageError for missing or invalid parts, as far as they are known before
    the start."""
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
    """Make a factory for ``parallel`` concurrent backends of one of ``models`` loaded models; starts nothing. Raises as
    open_backend does. ``name``, ``dialect``, ``convert``: as there."""
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
    # A server ends a turn at the delimiters of its template itself: no role markers are needed.
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
    """Set the tools of an engine before it loads: it then prefills the prompt of the first reply."""
    expecting = getattr(getattr(backend, "inner", backend), "expect", None)
    if toolbox is not None and expecting is not None:
        expecting(toolbox.tools)


# The limits of one reply and its settings in the journal.

_MAKING = ("backend", "ctx", "overflow", "temperature", "seed", "chat_template", "engine_args", "guard", "repeat_limit")
"""Settings besides the limits on which a reply depends."""


def reply_options(settings: Settings) -> ReplyOptions:
    """The limits of the settings; 0 means no limit."""
    return ReplyOptions(max_tokens=settings.max_tokens or None, timeout=settings.timeout or None)


def made_with(settings: Settings) -> dict[str, object]:
    """The settings that the journal keeps with each reply: ``overflow``, and those that differ from the defaults."""
    usual = Settings()
    chosen = {name: getattr(settings, name) for name in _MAKING if getattr(settings, name) != getattr(usual, name)}
    return {"bitnet_chat": __version__, "overflow": settings.overflow} | chosen
