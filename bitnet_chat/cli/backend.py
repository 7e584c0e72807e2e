"""The backend that the settings ask for: an engine, and the guard around it."""

from __future__ import annotations

from bitnet_chat.backends.guarded import Advice, GuardedBackend, GuardLimits
from bitnet_chat.backends.resident import ResidentBackend
from bitnet_chat.config import Settings
from bitnet_chat.engine.binary import Dialect


def open_backend(
    settings: Settings, configured: str, *, dialect: Dialect | None = None, advice: Advice = "flags"
) -> GuardedBackend:
    """Starts nothing. ``advice``: see :class:`GuardedBackend`.

    Raises EngineNotFound or ModelError for what can be seen to be missing."""
    resident = ResidentBackend(settings, configured, dialect=dialect)
    return GuardedBackend(resident, GuardLimits.of(settings), resident.role_markers, advice=advice)
