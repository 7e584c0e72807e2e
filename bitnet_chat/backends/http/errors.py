"""Error responses of servers, and their errors in this program. No I/O.

The forms differ: ``{"error": {"message": …, "type": …, "code": …}}`` is that of OpenAI and llama-server,
``{"error": "…"}`` that of Ollama, ``{"object": "error", "message": …}`` and ``{"detail": …}`` those of vLLM; a proxy
responds with HTML.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from bitnet_chat.engine.log import tells_overflow
from bitnet_chat.errors import BitnetChatError, BusyError, EngineDiedError, ModelError, UnsupportedError, UsageError

BODY_LIMIT = 1 << 16
"""Bytes of an error response that are read."""
_LONGEST = 600
"""Characters of a message that are kept."""
_TAG = re.compile(r"(?s)<(script|style|head)\b.*?</\1>|<[^>]{0,2000}>")
_OVERFLOW = re.compile(
    r"context_length_exceeded|maximum context length|context (?:length|window|size)|exceeds? .{0,40}\bcontext\b"
    r"|prompt is too long|input (?:length|is too long)|too many (?:input )?tokens",
    re.I,
)
_WINDOW = re.compile(r"(?:context (?:length|window|size)[^0-9]{0,40}|n_ctx\D{1,5})(\d[\d,]{1,11})", re.I)
_ASKED = re.compile(
    r"(?:requested|resulted in|contains|has|prompt of|message is) (?:about )?(\d[\d,]{1,11}) (?:input )?tok"
)
_NO_TOOLS = re.compile(r"does not support tools|tool choice requires", re.I)
"""Ollama, about a model without tools; vLLM, without the option for the format of tool calls."""
_MODEL = re.compile(r"\bmodels?\b", re.I)


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """``message``: as the server sent it, not sanitized."""

    status: int
    message: str
    kind: str = ""
    """The server's type and code."""
    prompt_tokens: int | None = None
    context_size: int | None = None
    retry_after: float | None = None

    @property
    def is_overflow(self) -> bool:
        """Whether the conversation was too long for the context window."""
        return self.status in (400, 413, 422, 500) and bool(
            tells_overflow(self.kind) or tells_overflow(self.message) or _OVERFLOW.search(f"{self.kind} {self.message}")
        )

    def names(self, field: str) -> bool:
        """Whether a request was refused because of ``field``."""
        return self.status in (400, 422) and field in self.message

    def error(self, server: str, model: str) -> BitnetChatError:
        """The error. ``server``: the name of the server for the user."""
        said = f": {self.message}" if self.message else ""
        match self.status:
            case 401 | 403:
                return UsageError(
                    f"{server} does not accept the key{said}",
                    remedy="give another one with $BITNET_CHAT_BACKEND_KEY, backend_key in config.toml, or"
                    " --backend-key",
                )
            case 404 if _MODEL.search(self.message):
                return ModelError(f"{server} has no model {model}{said}", remedy="name one of its models with -m NAME")
            case 404 | 405:
                return UsageError(
                    f"{server} does not have this API ({self.status}{said})",
                    remedy="give --base-url the address at which the API begins, such as http://127.0.0.1:8000/v1",
                )
            case 429 | 503:
                return BusyError(
                    f"{server} is busy ({self.status}{said})",
                    retry_after=self.retry_after or 1.0,
                    remedy="try again in a moment",
                )
            case status if 300 <= status < 400:
                return UsageError(
                    f"{server} redirects to another address ({status}{said})",
                    remedy="give that address with --base-url; redirects are not followed",
                )
            case 400 if _NO_TOOLS.search(self.message):
                return UnsupportedError("tools", self.message)
            case status if status < 500:
                return UsageError(f"{server} refused the request ({status}{said})")
        return EngineDiedError(f"{server} failed ({self.status}{said})", remedy="read the server's log")


def read(status: int, body: bytes, retry_after: str = "", location: str = "") -> ErrorResponse:
    """Parse an error response. ``retry_after`` and ``location``: the headers of these names."""
    seconds = float(retry_after) if retry_after.isdigit() and len(retry_after) < 7 else None
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        plain = location or _TAG.sub(" ", text)
        return ErrorResponse(status, _short(plain), retry_after=seconds)
    message, kind, error = describe(content)
    return ErrorResponse(
        status,
        location or message,
        kind,
        prompt_tokens=_number(error.get("n_prompt_tokens")) or _found(_ASKED, message),
        context_size=_number(error.get("n_ctx")) or _found(_WINDOW, message),
        retry_after=seconds,
    )


def describe(content: Any) -> tuple[str, str, dict[str, Any]]:
    """The message, the kind and the fields of an error in any of the forms above."""
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return _short(error if isinstance(error, str) else json.dumps(error)), "", {}
    message = error.get("message") or error.get("detail") or error.get("error") or error
    words = message if isinstance(message, str) else json.dumps(message)
    kind = " ".join(str(error[name]) for name in ("type", "code") if error.get(name) is not None)
    return _short(words), kind, error


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _found(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(match.group(1).replace(",", "")) if match else None
