"""Errors in the terms of HTTP: status, type, code and message. Pure.

The log of an engine (``detail``) is not sent to clients: it names files of this computer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from bitnet_chat.errors import (
    BitnetChatError,
    BusyError,
    ContextOverflowError,
    EngineDiedError,
    EngineNotFoundError,
    FinishReason,
    InvalidFieldError,
    ModelError,
    ReplyCancelledError,
    RequestTimeoutError,
    ShuttingDownError,
    UnknownModelError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Failed
from bitnet_chat.text.sanitize import escaped
from bitnet_chat.text.utf8 import well_formed


@dataclass(frozen=True, slots=True)
class APIError:
    """An error in the terms of HTTP. ``type`` and ``code`` are those of the OpenAI API."""

    status: int
    type: str
    code: str
    message: str
    """Subject, verb, value and remedy, in one line."""
    what: str
    remedy: str = ""
    param: str = ""
    retry_after: float | None = None
    """Seconds until another attempt may succeed."""
    passes: bool = True
    """Whether the same request may succeed later."""
    prompt_tokens: int | None = None
    context_size: int | None = None
    """Tokens of a conversation that is too long, and of the context window."""

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        if self.status >= 500 and not self.passes:
            headers["x-should-retry"] = "false"  # the OpenAI clients would retry a 5xx twice
        return headers


@dataclass(frozen=True, slots=True)
class RejectedRequest:
    """An error of a request that no handler gets. ``kind``: an error type of the OpenAI API."""

    status: int
    what: str
    remedy: str = ""
    kind: str = "invalid_request_error"
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


_INVALID, _LIMIT, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"


def to_api_error(error: BitnetChatError) -> APIError:
    """Return the HTTP form of an error."""
    status, kind, code, param, passes = _place(error)
    what, remedy = well_formed(error.what), well_formed(error.remedy)
    needed, window = None, None
    if isinstance(error, ContextOverflowError) and error.needed and error.size:
        needed, window = error.needed, error.size
        what = _too_long(needed, error.reserve, window)
    if isinstance(error, ContextOverflowError) and remedy:  # the original remedy is for a terminal
        remedy = _WITH_LESS if error.by_policy else _WITHOUT_TOOLS
    return APIError(
        status,
        kind,
        code,
        f"{what}; {remedy}" if remedy else what,
        what,
        remedy,
        param,
        error.retry_after if isinstance(error, BusyError) else None,
        passes,
        needed,
        window,
    )


_WITH_LESS = "send less of the conversation; --overflow drop-oldest has the server leave out the oldest messages"
_WITHOUT_TOOLS = "send a shorter message or fewer tools; a larger --ctx makes room where the model allows it"


def _too_long(needed: int, reserve: int, window: int) -> str:
    """Return the message, in words that clients of OpenAI, llama-server and Ollama search for. All in tokens."""
    kept = f", and {reserve} are kept for the reply" if reserve else ""
    return (
        f"This model's maximum context length is {window} tokens, and the request has {needed} with the chat template"
        f" and its tools{kept}: the input length exceeds the available context size"
    )


def _place(error: BitnetChatError) -> tuple[int, str, str, str, bool]:
    """Status, type, code, parameter, and whether a retry may succeed."""
    match error:
        case InvalidFieldError():
            return error.status, _INVALID, error.code or "invalid_value", error.param, False
        case UnsupportedError():
            return 400, _INVALID, "unsupported_parameter", error.option, False
    known = (place for kind, place in _PLACES if isinstance(error, kind))
    return next(known, (500, _SERVER, str(error.reason), "", True))


_PLACES: tuple[tuple[type[BitnetChatError], tuple[int, str, str, str, bool]], ...] = (
    (UnknownModelError, (404, _INVALID, "model_not_found", "model", False)),
    (UsageError, (400, _INVALID, "invalid_value", "", False)),
    (ContextOverflowError, (400, _INVALID, "context_length_exceeded", "messages", False)),
    (ShuttingDownError, (503, _SERVER, "ending", "", True)),
    (BusyError, (429, _LIMIT, "rate_limit_exceeded", "", True)),
    (EngineNotFoundError, (503, _SERVER, "no_engine", "", False)),
    (ModelError, (503, _SERVER, "bad_model", "", False)),
    (EngineDiedError, (503, _SERVER, "engine_died", "", True)),
    (RequestTimeoutError, (504, _SERVER, "timeout", "", True)),
    (ReplyCancelledError, (503, _SERVER, "interrupted", "", True)),
)
"""The first that matches: a subclass stands before its base."""


_BROKEN = {
    FinishReason.ENGINE_DIED: "the engine process ended during the reply",
    FinishReason.STALLED: "the reply was stopped: the engine made no progress",
    FinishReason.CUT_OFF: "the reply was cut off",
}


def failure_of(end: Completed | Failed) -> BitnetChatError | None:
    """Return the error of a reply that is not usable; None for a usable one.

    A reply that a limit has cut is usable; one that a fault has cut is not.
    """
    if isinstance(end, Failed):
        return end.error
    if end.reason in _BROKEN:
        return EngineDiedError(_BROKEN[end.reason], remedy="try again")
    if end.text:
        return None
    match end.reason:
        case FinishReason.TIMEOUT:
            return RequestTimeoutError(
                "the reply reached its time limit before its first token", remedy="try again later"
            )
        case FinishReason.INTERRUPTED:
            return ReplyCancelledError("the reply was stopped before its first token", remedy="try again")
        case FinishReason.CONTEXT_OVERFLOW:
            return ContextOverflowError("the conversation leaves no room for a reply in the context window")
    return None


def openai_form(problem: APIError) -> dict[str, object]:
    """Return ``{"error": …}`` in the format of the OpenAI API."""
    counts = {"n_prompt_tokens": problem.prompt_tokens, "n_ctx": problem.context_size}  # fields of llama-server
    return {
        "error": {
            "message": problem.message,
            "type": problem.type,
            "param": problem.param or None,
            "code": problem.code,
            **({} if problem.context_size is None else counts),
        }
    }


def without_tools(message: str) -> str:
    """Return the message in the words of Ollama, which clients of both APIs search for."""
    return message.replace("tools is not supported here", "the model does not support tools", 1)


def error_json(form: object) -> bytes:
    """Return an error as JSON in ASCII: it may quote untrusted input, and terminals often show it unescaped."""
    return escaped(json.dumps(form, ensure_ascii=False, separators=(",", ":"))).encode()
