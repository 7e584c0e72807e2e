"""Error responses, each in the format of the API of its path; also those for unknown paths and methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response

from bitnet_chat.errors import BitnetChatError, InvalidFieldError
from bitnet_chat.server.chats.responses import error_body as chats_body
from bitnet_chat.server.errors import APIError, RejectedRequest, error_json, openai_form, to_api_error
from bitnet_chat.server.ollama.responses import error_body as ollama_body
from bitnet_chat.server.ollama.responses import not_served
from bitnet_chat.server.openai.responses import error_body as openai_body
from bitnet_chat.server.responses import json_response
from bitnet_chat.text.utf8 import well_formed

_APIS = {
    "v1": "openai",
    "api": "ollama",
    "chats": "chats",
    "replies": "chats",
    "page": "page",
    "": "page",
} | dict.fromkeys(("props", "slots", "tokenize", "detokenize", "apply-template"), "llama")
_BODIES: Mapping[str, Callable[[APIError], dict[str, object]]] = {
    "openai": openai_body,
    "ollama": ollama_body,
    "chats": chats_body,
    "llama": openai_form,
}


_INSTEAD = {
    **dict.fromkeys(("responses", "messages"), "set the client to chat completions, /v1/chat/completions"),
    "embeddings": "use another server for embeddings",
}
"""Paths below ``/v1/`` that clients of other servers ask for, with the remedy."""


def api_of(path: str) -> str:
    """Return the name of the API of a path, as the metrics have it."""
    first = path.split("/")[1] if path.startswith("/") else ""
    return _APIS.get(first, first if first in ("health", "metrics", "login") else "other")


def error_response(error: BitnetChatError, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an error of a handler."""
    problem = to_api_error(error)
    body = _BODIES.get(api_of(path))
    if body is None:
        return rejection_response(RejectedRequest(problem.status, problem.what, problem.remedy, problem.type), path)
    return json_response(error_json(body(problem)), problem.status, {**problem.headers, **(headers or {})})


def rejection_response(rejection: RejectedRequest, path: str) -> Response:
    """Return the response for a request that no handler gets."""
    what, remedy = well_formed(rejection.what), well_formed(rejection.remedy)
    message = f"{what}; {remedy}" if remedy else what
    error: object = message
    if api_of(path) != "ollama":
        error = {
            "message": message,
            "type": rejection.kind,
            "param": None,
            "code": rejection.code or None,
            "remedy": remedy,
        }
    return json_response(error_json({"error": error}), rejection.status, rejection.headers)


def not_found(path: str) -> Response:
    """Return the 404 response for an unknown path; 501 for one of Ollama that is not supported."""
    if path.startswith("/v1/"):
        remedy = _INSTEAD.get(path.split("/")[2], "")
        error = InvalidFieldError(f"{path} is not served here", code="not_found", status=404, remedy=remedy)
        return error_response(error, path)
    if path.startswith("/api/"):
        return error_response(not_served(path), path)
    return rejection_response(RejectedRequest(404, f"path {path} does not exist", code="not_found"), path)


def method_not_allowed(path: str, method: str, allowed: str) -> Response:
    """Return the 405 response. ``allowed``: the methods of the path, separated by commas."""
    headers, code = {"Allow": allowed}, "method_not_allowed"
    what, remedy = f"method {method} is not supported by {path}", f"use {allowed}"
    match api_of(path):
        case "openai" | "ollama":
            what = f"{method} is not allowed at {path}"
        case "chats":
            what = f"{method} is not allowed"
        case "llama":
            remedy = remedy.removesuffix(", HEAD")
        case _:
            return rejection_response(RejectedRequest(405, what, code=code, headers=headers), path)
    return error_response(InvalidFieldError(what, code=code, status=405, remedy=remedy), path, headers)
