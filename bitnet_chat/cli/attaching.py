"""Who answers and who keeps what is said: an engine of our own, or a running server that ``--attach`` names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.cli.limits import made_with
from bitnet_chat.config import Settings, flag
from bitnet_chat.errors import UsageError
from bitnet_chat.journal import Journal

if TYPE_CHECKING:
    from bitnet_chat.backends import Backend, Sampling
    from bitnet_chat.backends.guarded import Advice

AT_ONCE = 16
"""Lines of a batch that are asked at the same time, where a server has so many seats."""


_ENGINE = ("engine", "backend", "base_url", "rpc", "ctx", "threads", "chat_template", "overflow", "io", "engine_args")
"""Settings of an engine of our own."""


def refuse_for_an_engine(given: Mapping[str, object], settings: Settings) -> None:
    """Raises UsageError for a flag that would be ignored, since the server's engine is as it is."""
    clash = [flag(name) for name in _ENGINE if name in given]
    if settings.attach and clash:
        raise UsageError(
            f"{' and '.join(clash)} does not go with --attach: the engine is that of {settings.attach}",
            remedy="bitnet-chat serve takes it",
        )


def open_journal(settings: Settings) -> Journal:
    """Where conversations are kept. Raises NoServer where ``--attach`` finds none, UsageError for a wrong key."""
    if not settings.attach:
        return own_journal(settings)
    from bitnet_chat.backends.attached.journal import ServerJournal
    from bitnet_chat.backends.attached.server import Server
    from bitnet_chat.backends.remote.connection import require_aiohttp

    require_aiohttp()
    key = settings.backend_key or os.environ.get("BITNET_CHAT_API_KEY", "")
    return ServerJournal.at(Server(settings.attach, key))


def own_journal(settings: Settings) -> Journal:
    journal = Journal()
    journal.made_with = made_with(settings)
    return journal


def open_talker(
    settings: Settings, configured: str, journal: Journal, *, advice: Advice = "flags", model: str = ""
) -> Backend:
    """Starts nothing. ``journal``: of :func:`open_journal`. ``model``: the one that was asked for by name, now.

    Raises EngineNotFound, ModelError or UsageError."""
    if not settings.attach:
        from bitnet_chat.cli.backend import open_backend

        return open_backend(replace(settings, model=model or settings.model), configured, advice=advice)
    from bitnet_chat.backends.attached.backend import AttachedBackend
    from bitnet_chat.backends.attached.journal import ServerJournal

    assert isinstance(journal, ServerJournal)
    return AttachedBackend(
        journal.server,
        journal.facts,
        journal.place if settings.journal else None,
        model=journal.model_of(model, settings.model),
        sampling=_sampling(settings),
    )


def open_worker(settings: Settings) -> tuple[Backend, int]:
    """For a batch on a running server: the backend, and how many lines it may be asked at the same time."""
    from bitnet_chat.backends.attached.backend import AttachedBackend
    from bitnet_chat.backends.attached.journal import ServerJournal

    journal = open_journal(settings)
    assert isinstance(journal, ServerJournal)
    model = journal.model_of("", settings.model)
    backend = AttachedBackend(
        journal.server, journal.facts, model=model, sampling=_sampling(settings), urgent=False
    )  # fmt: skip
    return backend, max(1, min(int(journal.facts.get("parallel") or 1), AT_ONCE))


def _sampling(settings: Settings) -> Sampling:
    from bitnet_chat.backends import Sampling

    return Sampling(
        temperature=settings.temperature if settings.temperature >= 0 else None,
        seed=settings.seed if settings.seed >= 0 else None,
    )
