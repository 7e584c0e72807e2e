"""The backend ``openai``: any server with the chat completions of OpenAI's API.

The vocabulary of the model is unknown: special tokens in a message are sent unchanged and may take effect, tokens are
estimated from the length of texts until the server reports counts, and these counts are used as they are, whether or
not they include the token that ends a reply.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from bitnet_chat.backends.http.backend import RemoteBackend, sign_of_life
from bitnet_chat.backends.http.client import checked_url, require_aiohttp
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import ExternalEndpoint, RequestTarget
from bitnet_chat.backends.http.openai_format import OpenAIFormat
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import by_length
from bitnet_chat.errors import HTTPStatusError, ModelError, UsageError

_WINDOW = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")
"""Names of the size of the context window in lists of models: vLLM, others, and llama-server in ``meta``."""


def openai_backend(settings: Settings) -> RemoteBackend:
    """Make the backend; sends no request yet. Raises UsageError for settings that cannot be used."""
    require_aiohttp()
    if not settings.base_url:
        raise UsageError(
            "--backend openai needs the address of a server",
            remedy="give it with --base-url, such as http://127.0.0.1:8000/v1",
        )
    base = checked_url(settings.base_url)
    if not urlsplit(base).path:
        base += "/v1"
    fit = ServerContextWindow(settings.overflow, by_length)
    fit.size = settings.ctx or None
    service = OpenAIEndpoint(base, settings)
    return RemoteBackend(
        service,
        OpenAIFormat(),
        fit,
        by_length,
        sampling=settings.sampling,
        sign_of_life=sign_of_life(settings),
    )


class OpenAIEndpoint(ExternalEndpoint):
    """A server with the OpenAI API. Its model is the named one or the first of its list."""

    def __init__(self, base: str, settings: Settings) -> None:
        self._wanted, self._size = settings.model, settings.ctx or None
        self._found: RequestTarget | None = None
        super().__init__(base, settings, name=f"the server at {base}")

    @property
    def model(self) -> str:
        return self._found.model if self._found is not None else self._wanted

    @property
    def target(self) -> RequestTarget | None:
        return self._found

    async def ready(self) -> RequestTarget:
        if self._found is None:
            try:
                listed = await self._connection.get("/models")
            except HTTPStatusError as error:
                # Some servers have no list, and a key may be limited to some models.
                if not self._wanted or error.refusal.status in (401, 403):
                    raise
                listed = None
            except UsageError:
                if not self._wanted:
                    raise
                listed = None
            self._found = self._chosen(_entries(listed))
        return self._found

    def _chosen(self, entries: list[dict[str, Any]]) -> RequestTarget:
        name = self._wanted or next((each["id"] for each in entries), "")
        if not name:
            raise ModelError(f"{self.name} does not list a model", remedy="name one with -m NAME")
        entry = next((each for each in entries if each["id"] == name), {})
        return RequestTarget(self._connection, name, self._size or _window(entry))

    async def models(self) -> list[str]:
        return [each["id"] for each in _entries(await self._connection.get("/models"))]


def _entries(listed: Any) -> list[dict[str, Any]]:
    data = listed.get("data") if isinstance(listed, dict) else listed
    return [
        each for each in (data if isinstance(data, list) else ()) if isinstance(each, dict) and _is_name(each.get("id"))
    ]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _window(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    for place in (entry, meta if isinstance(meta, dict) else {}):
        for name in _WINDOW:
            size = place.get(name)
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return size
    return None
