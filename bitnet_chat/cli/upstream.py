"""The models of a server that answers for this one, each offered by its own name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from bitnet_chat.backends.factory import open_backend, open_source
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.http.client import Lost, Refused
from bitnet_chat.backends.pool import Source
from bitnet_chat.config import Settings
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.models.names import key_of
from bitnet_chat.models.registry import AUTO
from bitnet_chat.text.sanitize import one_line

_PATIENCE = 10.0
"""Seconds for its list."""
_MOST = 500
"""Models of it."""


def has_models(settings: Settings) -> bool:
    """Whether it is asked what it has: not where a model was named."""
    return settings.backend in ("openai", "ollama") and not settings.model


async def models_of(settings: Settings, configured: str, *, parallel: int) -> Mapping[str, Source]:
    """By name, in its order. Empty where it tells of none, or does not answer: then it answers with its own default,
    once it does. Raises UsageError for settings that cannot be used."""
    backend = open_backend(settings, configured, advice="nothing")
    assert isinstance(backend.inner, RemoteBackend)
    try:
        async with asyncio.timeout(_PATIENCE):
            listed = await backend.inner.service.models()
    except (BitnetChatError, Lost, Refused, TimeoutError):
        return {}
    finally:
        await backend.close()
    names = {one_line(each): each for each in reversed(listed[:_MOST]) if one_line(each) and key_of(each) != AUTO}
    return {
        name: open_source(replace(settings, model=names[name]), configured, parallel=parallel)
        for name in reversed(names)
    }
