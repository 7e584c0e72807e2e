"""The backend that the settings ask for: an engine, and the guard around it."""

from __future__ import annotations

from bitnet_chat.backends.guarded import Advice, GuardedBackend, GuardLimits
from bitnet_chat.backends.resident import ResidentBackend
from bitnet_chat.backends.source import Source
from bitnet_chat.config import Settings
from bitnet_chat.engine.binary import Dialect


def open_backend(
    settings: Settings, configured: str, *, dialect: Dialect | None = None, advice: Advice = "flags"
) -> GuardedBackend:
    """Starts nothing. ``advice``: see :class:`GuardedBackend`.

    Raises EngineNotFound or ModelError for what can be seen to be missing."""
    resident = ResidentBackend(settings, configured, dialect=dialect)
    return GuardedBackend(resident, GuardLimits.of(settings), resident.role_markers, advice=advice)


def open_source(settings: Settings, configured: str, *, parallel: int) -> Source:
    """Backends for a server: ``parallel`` of them answer side by side. Starts nothing; raises as open_backend does."""
    first = open_backend(settings, configured, advice="nothing")
    return Source(first.status().model, parallel, lambda: open_backend(settings, configured, advice="nothing"))
