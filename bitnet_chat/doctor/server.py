"""The server that generates replies in place of an engine process: a remote one, or a llama-server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from bitnet_chat.backends.http.client import require_aiohttp
from bitnet_chat.config import Settings
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.discovery import INSTALL_SERVER, find_server
from bitnet_chat.errors import BitnetChatError, ConnectionLostError, HTTPStatusError

_GROUP = "server"
_LIMIT = 15.0
"""Time limit for a response, in seconds."""


def is_elsewhere(settings: Settings) -> bool:
    """Return whether engine and model are on a running server, so that those of this computer are not used."""
    return bool(settings.attach) or settings.backend in ("openai", "ollama")


def look(settings: Settings) -> Iterator[Finding]:
    """Check that the remote server responds and has the model. No reply is requested."""
    if settings.attach:
        yield from _attached(settings)
        return
    try:
        name, models = asyncio.run(_listed(settings))
    except BitnetChatError as error:
        yield broken(_GROUP, "answers", error.what, error.remedy or "start it, or correct --base-url")
        return
    except (ConnectionLostError, TimeoutError) as error:
        why = str(error) or f"no response within {_LIMIT:g} s"
        yield broken(_GROUP, "answers", f"the server does not answer: {why}", "check the log of the server")
        return
    yield ok(_GROUP, "answers", f"{name} answers", models=len(models))
    yield _model(settings, models)


async def _listed(settings: Settings) -> tuple[str, list[str]]:
    """Return the name of the server and its models. Raises BitnetChatError, ConnectionLostError or TimeoutError."""
    if settings.backend == "ollama":
        from bitnet_chat.backends.ollama import ollama_backend

        backend = ollama_backend(settings)
    else:
        from bitnet_chat.backends.openai import openai_backend

        backend = openai_backend(settings)
    service = backend.service
    try:
        async with asyncio.timeout(_LIMIT):
            return service.name, await service.models()
    except HTTPStatusError as error:
        if settings.model and error.refusal.status not in (401, 403):
            return service.name, []  # some servers do not list models
        raise error.refusal.error(service.name, service.model) from None
    finally:
        await backend.close()


def _model(settings: Settings, models: list[str]) -> Finding:
    told = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    wanted = settings.model
    if not models and not wanted:
        return broken(_GROUP, "model", "the server lists no model", "use -m NAME, or load one on the server")
    if not wanted:
        return ok(_GROUP, "model", f"{models[0]} is used, the first of: {told}", models=models)
    if not models or any(wanted in (each, each.removesuffix(":latest")) for each in models):
        return ok(_GROUP, "model", f"{wanted} is used", models=models)
    return warn(_GROUP, "model", f"the server does not list {wanted}; it lists: {told}", "use -m with one of them")


def _attached(settings: Settings) -> Iterator[Finding]:
    from bitnet_chat.backends.attached_server.client import ServerClient

    try:
        require_aiohttp()
        server = ServerClient(settings.attach, settings.backend_key or os.environ.get("BITNET_CHAT_API_KEY", ""))
        facts = server.greet()
    except BitnetChatError as error:
        yield broken(_GROUP, "answers", error.what, error.remedy or "bitnet-chat serve starts one")
        return
    status = str(facts.get("status", ""))
    seen = f"bitnet-chat serve at {server.url} answers{f', status: {status}' if status else ''}"
    yield ok(_GROUP, "answers", seen, status=status)


def own(settings: Settings, configured: str) -> tuple[list[Finding], EngineBinary | None]:
    """Find the llama-server that would be started. Returns the findings, and the program if it is found."""
    try:
        require_aiohttp()
        binary = find_server(settings.engine or None, configured or None, limit=settings.probe_timeout)
    except BitnetChatError as error:
        return [broken(_GROUP, "found", error.what, error.remedy or INSTALL_SERVER)], None
    seen = f"{binary.path.name}, {binary.label} ({binary.path.parent})"
    return [ok(_GROUP, "found", seen, path=str(binary.path), version=binary.version)], binary
