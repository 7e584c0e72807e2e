"""Replies and listings in the format of the Ollama API: JSON objects, one per line in a stream. Pure.

Durations are in nanoseconds, times in the format of RFC 3339.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bitnet_chat.conversation import ToolCall
from bitnet_chat.conversation.openai_codec import encode_ollama_call, well_formed_call
from bitnet_chat.errors import FinishReason, InvalidFieldError
from bitnet_chat.events import BURST, Completed, Event, Stats, TextDelta, ThinkingDelta
from bitnet_chat.server.errors import APIError, without_tools
from bitnet_chat.server.model_manager import ModelCard
from bitnet_chat.server.responses import to_json, usage_of

TAG = ":latest"
"""Suffix of every name in listings: Ollama clients look for it, and for the plain name."""
_FOR_EVER = "2318-01-01T00:00:00Z"
"""The unload time of a model that stays loaded until its memory is needed. Ollama clients show this year as forever."""
_WHOLE = (FinishReason.STOP, FinishReason.ROLE_MARKER, FinishReason.EMPTY, FinishReason.TOOL_CALLS)


_OPTION_NAMES = {"response_format": "format"}
"""Options that a backend may refuse by the name of the OpenAI API, with their names in this API."""
_UNSUPPORTED = {
    "embed": "embeddings are not made here",
    "embeddings": "embeddings are not made here",
    "pull": "models are not fetched through this API; bitnet-chat models pull does it",
    "push": "models are not published through this API",
    "create": "models are not made through this API; bitnet-chat serve -m NAME=FILE names one",
    "copy": "models are not copied through this API; bitnet-chat serve -m NAME=FILE names one",
    "delete": "models are not removed through this API; bitnet-chat models rm does it",
    "blobs": "files are not taken through this API",
}
"""Paths of Ollama below ``/api/`` that this server does not have, with the reason."""


def line(value: object) -> bytes:
    return to_json(value) + b"\n"


def error_body(problem: APIError) -> dict[str, object]:
    """Return ``{"error": …}`` with the names that this API has for options."""
    message, name = problem.message, _OPTION_NAMES.get(problem.param, "")
    if problem.param == "tools":
        message = without_tools(message)
    elif name:
        message = message.replace(problem.param, name, 1)
    return {"error": message}


def not_served(path: str) -> InvalidFieldError:
    """Return the error for a path without a handler: 501 for one of Ollama, else 404."""
    if (why := _UNSUPPORTED.get(path.split("/")[2])) is not None:
        return InvalidFieldError(f"{path} is not supported here: {why}", status=501)
    return InvalidFieldError(f"{path} is not served here", status=404)


def time_of(seconds: float) -> str:
    """``2025-03-01T12:00:00.123456Z``; ``seconds`` since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class OllamaEncoder:
    """Encodes one reply as JSON objects. ``now``: the time, in seconds since 1970."""

    def __init__(self, model: str, *, thinking: bool = True) -> None:
        """``thinking``: include thoughts."""
        self._model, self._thinking = model, thinking
        self._calls = 0

    def piece(self, event: Event, now: float) -> dict[str, object] | None:
        """Return the object for an event; None if the API cannot express it."""
        match event:
            case TextDelta(text):
                return self._object(now, self._said(text), done=False)
            case ThinkingDelta(text) if self._thinking:
                return self._object(now, self._said("", thinking=text), done=False)
            case ToolCall():
                return self._object(now, self._said("", calls=[event]), done=False)
        return None

    def last(self, end: Completed, total: float, notices: Sequence[str], now: float) -> dict[str, object]:
        """Return the last object of a stream. ``total``: seconds since the request arrived."""
        return {**self._object(now, self._said(""), done=True), **_end(end, total, notices)}

    def whole(
        self,
        end: Completed,
        thinking: str,
        calls: Sequence[ToolCall],
        total: float,
        notices: Sequence[str],
        now: float,
    ) -> dict[str, object]:
        said = self._said(end.text, thinking=thinking if self._thinking else "", calls=calls)
        return {**self._object(now, said, done=True), **_end(end, total, notices)}

    def loaded(self, reason: str, now: float) -> dict[str, object]:
        """Return the object for a request without a prompt. ``reason``: ``load`` or ``unload``."""
        return {**self._object(now, self._said(""), done=True), "done_reason": reason}

    def _object(self, now: float, said: Mapping[str, object], *, done: bool) -> dict[str, object]:
        return {"model": self._model, "created_at": time_of(now), **said, "done": done}

    def _said(self, text: str, *, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, object]:
        raise NotImplementedError


class OllamaChatEncoder(OllamaEncoder):
    """Encodes replies of ``/api/chat``."""

    def _said(self, text: str, *, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [self._call(each) for each in calls]
        return {"message": message}

    def _call(self, call: ToolCall) -> dict[str, object]:
        index, self._calls = self._calls, self._calls + 1
        return {"id": call.id, **encode_ollama_call(index, well_formed_call(call))}


class OllamaGenerateEncoder(OllamaEncoder):
    """Encodes replies of ``/api/generate``, which has no tool calls."""

    def _said(self, text: str, *, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, object]:
        return {"response": text, **({"thinking": thinking} if thinking else {})}


def done_reason(reason: FinishReason) -> str:
    """Return the done reason of the API: ``length`` for any incomplete reply, since the API has no other value."""
    return "stop" if reason in _WHOLE else "length"


def _end(end: Completed, total: float, notices: Sequence[str]) -> dict[str, object]:
    stats = end.stats
    usage = usage_of(stats)
    said: dict[str, object] = {
        "done_reason": done_reason(end.reason),
        **_durations(stats, total),
        "prompt_eval_count": usage["prompt_tokens"],
        "eval_count": usage["completion_tokens"],
    }
    more = {
        "finish_reason": str(end.reason),
        "exact": stats.exact,
        "prompt_tokens": stats.prompt_tokens,
        "notices": list(notices),
    }
    return {**said, "bitnet_chat": more}


def _durations(stats: Stats, total: float) -> dict[str, object]:
    """Return the durations in nanoseconds. The time before the engine receives the message counts as loading. The time
    of a reply that arrived in one burst is divided by tokens: clients calculate a speed from it.
    """
    first = min(stats.time_to_first_token or 0.0, stats.seconds)
    if stats.tokens and stats.seconds - first <= BURST:
        prompt = stats.prompt_tokens or 0
        first = min(first, stats.seconds * prompt / (prompt + stats.tokens))
    return {
        "total_duration": _nanoseconds(total),
        "load_duration": _nanoseconds(total - stats.seconds),
        "prompt_eval_duration": _nanoseconds(first),
        "eval_duration": _nanoseconds(stats.seconds - first),
    }


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


# Models


def full_name(name: str) -> str:
    return name if ":" in name else name + TAG


def listed(card: ModelCard, created: float) -> dict[str, object]:
    """Return an entry of ``/api/tags``. ``created``: seconds since 1970, for a model without a file."""
    name = full_name(card.name)
    return {
        "name": name,
        "model": name,
        "modified_at": time_of(card.modified or created),
        "size": card.size,
        "digest": _digest(card),
        "details": _details(card),
    }


def running(card: ModelCard, size: int, window: int) -> dict[str, object]:
    """Return an entry of ``/api/ps``. ``size``: bytes of memory. ``window``: tokens."""
    name = full_name(card.name)
    return {
        "name": name,
        "model": name,
        "size": size or card.memory,
        "digest": _digest(card),
        "details": _details(card),
        "expires_at": _FOR_EVER,
        "size_vram": 0,
        "context_length": window,
    }


def shown(card: ModelCard, created: float, *, here: bool) -> dict[str, object]:
    """Return the body of ``/api/show``. ``here``: whether the file is on this computer; the capabilities of a remote
    model are unknown, so tools are listed.
    """
    kind = card.architecture
    info: dict[str, object] = {"general.architecture": kind, "general.parameter_count": card.parameters}
    if kind and card.trained:
        info[f"{kind}.context_length"] = card.trained
    return {
        "license": card.license,
        "modelfile": f"FROM {card.name}\n",
        "parameters": f"num_ctx {card.window}" if card.window else "",
        "template": card.template,
        "details": _details(card),
        "model_info": info,
        "capabilities": [
            "completion",
            *(["tools"] if card.takes_tools or not here else []),
            *(["thinking"] if card.thinks else []),
        ],
        "modified_at": time_of(card.modified or created),
    }


def _details(card: ModelCard) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "gguf" if card.size else "",
        "family": card.architecture,
        "families": [card.architecture] if card.architecture else [],
        "parameter_size": _amount(card.parameters),
        "quantization_level": card.quantization,
    }


def _amount(parameters: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= size:
            return f"{parameters / size:.1f}{letter}"
    return str(parameters) if parameters else ""


def _digest(card: ModelCard) -> str:
    """Return an identifier that changes with the model or its file. It is not a hash of the file."""
    facts = f"{card.name}\0{card.size}\0{card.modified}\0{card.parameters}"
    return hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()
