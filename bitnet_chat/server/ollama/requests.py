"""Requests of the Ollama API, parsed and checked. Pure.

Fields are applied, ignored or refused as in :mod:`bitnet_chat.server.openai.requests`. Fields about the execution of a
model (``num_thread``, ``num_gpu``, …) are accepted without effect: they are fixed at the start of the server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bitnet_chat.backend import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.conversation.api_messages import conversation_of, text_only
from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.server.reply_fields import seed_of, stops_of, thinking, tools_of

_MOST = 2**31 - 1
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class OllamaRequest:
    """A request for a reply, or for loading or unloading a model."""

    model: str
    conversation: Conversation
    """Empty for a request that loads or unloads the model."""
    options: ReplyOptions
    stream: bool
    thinking: bool
    """Whether the reply includes thoughts."""
    window: int
    """Tokens of the context window that the client expects; 0: any."""
    whole: bool
    """Refuse a conversation that is larger than the window, whatever the policy of the server."""
    keep_alive: float | None
    """Seconds that the model stays loaded; 0: unload it after the reply, negative: forever."""

    @property
    def only_loads(self) -> bool:
        return not self.conversation.turns

    @property
    def unloads(self) -> bool:
        return self.keep_alive == 0


def chat_request(fields: Fields) -> OllamaRequest:
    """Parse the body of ``/api/chat``. Raises InvalidFieldError."""
    messages = fields.objects("messages") or []
    tools = tools_of(fields)
    return _request(fields, lambda: conversation_of(messages) if messages else Conversation(), tools)


def generate_request(fields: Fields) -> OllamaRequest:
    """Parse the body of ``/api/generate``. Raises InvalidFieldError.

    The prompt becomes a user message, since chat models support no other text.
    """
    prompt, system = fields.text("prompt") or "", fields.text("system") or ""
    for field in ("suffix", "template"):
        fields.refuse(field, "")
    fields.refuse("raw", False)
    fields.refuse("context", [], why="is not supported here: use /api/chat for earlier messages")
    fields.refuse("images", [], why=f"is set: {text_only('image')}")
    for field in ("width", "height", "steps"):
        fields.refuse(field, 0)
    conversation = Conversation().with_system(system).with_user(prompt) if prompt else Conversation()
    return _request(fields, lambda: conversation, ())


def model_request(fields: Fields) -> str:
    """Return the name of the model in the body of ``/api/show``. Raises InvalidFieldError."""
    name = fields.text("model") or fields.text("name")
    fields.accept("name", "system", "template", "options", "verbose")
    fields.finish()
    return _needed(fields, name)


def _needed(fields: Fields, name: str | None) -> str:
    if not name:
        raise fields.wrong("model", "is missing", code="missing_required_parameter")
    return name


def _request(fields: Fields, said: Callable[[], Conversation], tools: tuple[Tool, ...]) -> OllamaRequest:
    model = _needed(fields, fields.text("model"))
    stream = fields.flag("stream")
    options, window = _options(fields.inner("options") or Fields({}, "options", fields.notes))
    fields.refuse("logprobs", False)
    fields.refuse("top_logprobs", 0)
    truncate = fields.flag("truncate")
    fields.accept("shift")  # the context is never shifted during a reply
    template, keep_alive = _template(fields), _keep_alive(fields)
    format = _format(fields)
    fields.finish()
    return OllamaRequest(
        model=model,
        conversation=said(),
        options=ReplyOptions(
            max_tokens=options.max_tokens,
            sampling=options.sampling,
            stop=options.stop,
            tools=tools,
            format=format,
            template=template,
        ),
        stream=stream is not False,
        thinking=template.get("enable_thinking") is not False,
        window=window,
        whole=truncate is False,
        keep_alive=keep_alive,
    )


# Options


@dataclass(frozen=True, slots=True)
class _Options:
    max_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]


def _options(fields: Fields) -> tuple[_Options, int]:
    """Return the options of the reply, and the tokens of the context window (0: any)."""
    limit = fields.whole("num_predict", -2, _MOST)
    top_k = fields.whole("top_k", -1, _MOST)
    window = max(0, fields.whole("num_ctx", -1, _MOST) or 0)
    options = _Options(
        max_tokens=limit if limit is not None and limit > 0 else None,  # -1 and -2: no limit of its own
        sampling=Sampling(
            temperature=fields.number("temperature", 0, 100),
            top_p=fields.number("top_p", 0, 1),
            top_k=None if top_k is None else max(0, top_k),
            min_p=fields.number("min_p", 0, 1),
            seed=seed_of(fields, random_below_zero=True),
            repeat_penalty=fields.number("repeat_penalty", 0, 100),
            presence_penalty=fields.number("presence_penalty", -100, 100),
            frequency_penalty=fields.number("frequency_penalty", -100, 100),
        ),
        stop=stops_of(fields),
    )
    for field in ("num_thread", "num_batch", "num_gpu", "main_gpu", "low_vram", "use_mmap", "use_mlock", "numa"):
        fields.accept(field)
    fields.accept("f16_kv", "num_keep", "mirostat_tau", "mirostat_eta")
    fields.ignore("mirostat", 0)
    for field in ("tfs_z", "typical_p"):
        fields.ignore(field, 1, 1.0)
    fields.ignore("repeat_last_n", 64)  # the default of llama.cpp
    fields.ignore("penalize_newline", True)
    fields.ignore("logits_all", False)
    for field in ("vocab_only", "embedding_only"):
        fields.refuse(field, False)
    fields.finish()
    return options, window


def _format(fields: Fields) -> ResponseFormat | None:
    value = fields.get("format")
    if value is None or value == "":
        return None
    if value == "json":
        return ResponseFormat()
    if not isinstance(value, dict):
        raise fields.wrong("format", "must be 'json' or a JSON schema")
    schema: Mapping[str, object] = value
    return ResponseFormat(schema)


def _template(fields: Fields) -> Mapping[str, object]:
    """Return the arguments of the chat template for ``think``."""
    value = fields.get("think")
    if value is None or isinstance(value, bool):
        return {} if value is None else thinking(on=value)
    level = fields.choice("think", ("low", "medium", "high", "max"))
    return thinking(on=True) | {"reasoning_effort": level}


def _keep_alive(fields: Fields) -> float | None:
    """Return seconds, from a number or a duration such as ``5m`` or ``1h30m``."""
    value = fields.get("keep_alive")
    if value is None or value == "":
        return None
    text = value.strip() if isinstance(value, str) else ""
    seconds = _seconds(text) if text else fields.number("keep_alive", -math.inf, math.inf)
    if seconds is None:
        raise fields.wrong("keep_alive", "must be a number of seconds or a duration such as 5m")
    return seconds


def _seconds(text: str) -> float | None:
    sign, digits = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if re.fullmatch(r"\d{1,18}(?:\.\d*)?", digits):
        return sign * float(digits)
    parts = _DURATION.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits or len(digits) > 100:
        return None
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
