"""``/openapi.json``: requests and responses of the server, as OpenAPI 3.1."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bitnet_chat.server.openapi import chats, ollama, openai
from bitnet_chat.server.openapi.schema import (
    AMOUNT,
    FLAG,
    TEXT,
    WHOLE,
    answer,
    array,
    nullable,
    operation,
    ref,
    reply_object,
)
from bitnet_chat.server.responses import json_response
from bitnet_chat.server.routing import route
from bitnet_chat.version import __version__


def routes() -> list[BaseRoute]:
    async def described(request: Request) -> Response:
        return json_response(_written())

    return [route("/openapi.json", GET=described)]


@cache
def _written() -> bytes:
    return json.dumps(document(), separators=(",", ":")).encode()


def document() -> dict[str, Any]:
    """Return a new OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bitnet-chat",
            "version": __version__,
            "description": "Conversations with a local model. What is not described here is ignored with a notice, or,"
            " where the server was started with --strict, refused by name.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "tags": [
            {"name": "OpenAI", "description": "For clients of the OpenAI API."},
            {"name": "Ollama", "description": "For clients of Ollama."},
            {"name": "Chats", "description": "Stored conversations, readable by several clients."},
            {"name": "Server", "description": "Status of the server."},
        ],
        "paths": {**openai.PATHS, **chats.PATHS, **ollama.PATHS, **_PATHS},
        "components": {
            "schemas": {**openai.SCHEMAS, **chats.SCHEMAS, **ollama.SCHEMAS, **_SCHEMAS},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Required if the server was started with a key.",
                }
            },
        },
    }


_SCHEMAS = {
    "Health": reply_object(
        {
            "status": {"enum": ["ok", "unavailable"]},
            "model": TEXT,
            "engine": TEXT,
            "state": TEXT,
            "models": array(TEXT),
            "parallel": AMOUNT,
            "busy": AMOUNT,
            "waiting": AMOUNT,
            "context_size": nullable(WHOLE),
            "version": TEXT,
        },
        {"cached": FLAG},
    )
}
_PATHS = {
    "/health": {
        "get": operation(
            "health",
            "Server",
            "Readiness of an engine",
            {"200": answer("An engine is ready.", ref("Health")), "503": answer("No engine is ready.", ref("Health"))},
        )
    },
    "/metrics": {
        "get": operation(
            "metrics",
            "Server",
            "Prometheus metrics",
            {
                "200": {
                    "description": "Text in the requested format.",
                    "content": {
                        "text/plain": {"schema": TEXT},
                        "application/openmetrics-text": {"schema": TEXT},
                    },
                }
            },
        )
    },
}
