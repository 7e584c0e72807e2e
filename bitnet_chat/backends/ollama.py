"""The backend ``ollama``: a running Ollama, through its native API.

The vocabulary of the model is unknown: special tokens in a message are sent unchanged and may take effect, tokens are
estimated from the length of texts until the server reports counts, and these counts are used as they are, whether or
not they include the token that ends a reply.
"""

from __future__ import annotations

import contextlib
from typing import Any

from bitnet_chat.backends.http.backend import RemoteBackend, sign_of_life
from bitnet_chat.backends.http.client import checked_url, require_aiohttp
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import ExternalEndpoint, RequestTarget
from bitnet_chat.backends.http.ollama_format import OllamaFormat
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import by_length
from bitnet_chat.errors import BitnetChatError, ConnectionLostError, HTTPStatusError, ModelError

_LOOKS = 4
"""Attempts to get the size of the context window; older versions do not report it."""
DEFAULT_URL = "http://127.0.0.1:11434"


def ollama_backend(settings: Settings) -> RemoteBackend:
    """Make the backend; sends no request yet. Raises UsageError for settings that cannot be used."""
    require_aiohttp()
    base = checked_url(settings.base_url or DEFAULT_URL)
    for end in ("/v1", "/api"):  # part of the address in other clients
        base = base.removesuffix(end)
    wire = OllamaFormat(context_size=settings.ctx)
    fit = ServerContextWindow(settings.overflow, by_length)
    fit.size = settings.ctx or None

    async def preload(target: RequestTarget) -> None:
        await target.connection.ask(wire.path, wire.preload(target.model))

    service = OllamaEndpoint(base, settings)
    return RemoteBackend(
        service,
        wire,
        fit,
        by_length,
        sampling=settings.sampling,
        preload=preload,
        sign_of_life=sign_of_life(settings),
    )


class OllamaEndpoint(ExternalEndpoint):
    """A running Ollama. Its model is the named one or the first of its list."""

    def __init__(self, base: str, settings: Settings) -> None:
        self._model, self._size = settings.model, settings.ctx or None
        self._asked = 0
        super().__init__(base, settings, name=f"Ollama at {base}")

    @property
    def model(self) -> str:
        return self._model

    @property
    def target(self) -> RequestTarget | None:
        return RequestTarget(self._connection, self._model, self._size) if self._model else None

    async def ready(self) -> RequestTarget:
        if not self._model:
            self._model = next(iter(await self.models()), "")
            if not self._model:
                raise ModelError(f"{self.name} has no model yet", remedy="run: ollama pull NAME")
        self._asked += 1
        if self._size is None and 1 < self._asked <= _LOOKS:  # known only of a loaded model
            self._size = await self._loaded_size()
        return RequestTarget(self._connection, self._model, self._size)

    async def _loaded_size(self) -> int | None:
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError):
            running = await self._connection.get("/api/ps")
            models = running.get("models") if isinstance(running, dict) else None
            for each in models if isinstance(models, list) else ():
                if isinstance(each, dict) and self._model in (each.get("name"), each.get("model")):
                    size = each.get("context_length")
                    return size if isinstance(size, int) and size > 0 else None
        return None

    async def models(self) -> list[str]:
        return _names(await self._connection.get("/api/tags"))


def _names(listed: Any) -> list[str]:
    models = listed.get("models") if isinstance(listed, dict) else None
    found = [
        each.get("name") or each.get("model")
        for each in (models if isinstance(models, list) else ())
        if isinstance(each, dict)
    ]
    return [name for name in found if isinstance(name, str) and name]
