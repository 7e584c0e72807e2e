"""The description of ``/api``. Data."""

from __future__ import annotations

from bitnet_chat.server.openapi.openai import ALWAYS, URGENCY, WHAT_WENT_WRONG, WITH_BODY, WITH_REPLY
from bitnet_chat.server.openapi.schema import (
    AMOUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    WHOLE,
    Schema,
    answer,
    any_of,
    array,
    between,
    body,
    described,
    errors,
    nullable,
    one_of,
    open_object,
    operation,
    ref,
    reply_object,
)

_MOST = 2**31 - 1
_NAME: Schema = {"type": "string", "minLength": 1}
_NONE: Schema = {"type": "array", "maxItems": 0}
_OPTIONS = open_object(
    {},
    {
        "num_predict": described(between(-2, _MOST, WHOLE), "Maximum tokens of the reply; 0 or less: no limit."),
        "num_ctx": described(
            between(-1, _MOST, WHOLE), "A smaller context window of the server is used with a notice."
        ),
        "temperature": between(0, 100),
        "top_p": between(0, 1),
        "top_k": between(-1, _MOST, WHOLE),
        "min_p": between(0, 1),
        "seed": between(-(2**63), 2**63 - 1, WHOLE),
        "repeat_penalty": between(0, 100),
        "presence_penalty": between(-100, 100),
        "frequency_penalty": between(-100, 100),
        "stop": any_of({"type": "string"}, array({"type": "string"}, maxItems=256)),
        **{name: one_of(False) for name in ("vocab_only", "embedding_only")},
    },
)
_ALL: dict[str, Schema] = {
    "stream": described(FLAG, "Default: true."),
    "options": _OPTIONS,
    "format": any_of(one_of("json", ""), OBJECT),
    "think": described(any_of(FLAG, one_of("low", "medium", "high", "max")), "Argument of the chat template."),
    "keep_alive": described(
        any_of(NUMBER, TEXT), "Seconds or a duration such as 5m. 0: the model is unloaded after the reply."
    ),
    "logprobs": one_of(False),
    "top_logprobs": {"enum": [0]},
    "truncate": described(FLAG, "false: a conversation larger than the context window is refused."),
}
_TOOL = open_object(
    {"function": open_object({"name": _NAME}, {"description": TEXT, "parameters": OBJECT})},
    {"type": one_of("function")},
)
_SAID: dict[str, Schema] = {
    "model": TEXT,
    "created_at": {"type": "string", "format": "date-time"},
    "done": FLAG,
}
_END: dict[str, Schema] = {
    "done_reason": one_of("stop", "length", "load", "unload"),
    **dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), AMOUNT),
    **dict.fromkeys(("prompt_eval_count", "eval_count"), AMOUNT),
    "bitnet_chat": reply_object(
        {"finish_reason": TEXT, "exact": FLAG, "prompt_tokens": nullable(AMOUNT), "notices": array(TEXT)}
    ),
}
_DETAILS = reply_object({"format": TEXT, "family": TEXT, "parameter_size": TEXT, "quantization_level": TEXT})
_CARD: dict[str, Schema] = {"name": TEXT, "model": TEXT, "size": AMOUNT, "digest": TEXT, "details": _DETAILS}

SCHEMAS: dict[str, Schema] = {
    "OllamaError": reply_object({"error": TEXT}),
    "OllamaChatRequest": described(
        open_object(
            {"model": _NAME},
            {"messages": array(ref("Message"), maxItems=10_000), "tools": array(_TOOL, maxItems=1000), **_ALL},
        ),
        "Without messages the model is loaded, or with keep_alive 0 unloaded.",
    ),
    "OllamaGenerateRequest": open_object(
        {"model": _NAME},
        {
            "prompt": TEXT,
            "system": TEXT,
            **{name: {"enum": [""]} for name in ("suffix", "template")},
            "raw": one_of(False),
            **dict.fromkeys(("context", "images"), _NONE),
            **{name: {"enum": [0]} for name in ("width", "height", "steps")},
            **_ALL,
        },
    ),
    "OllamaChatReply": reply_object(
        {**_SAID, "message": reply_object({"role": {"const": "assistant"}, "content": TEXT})},
        _END,
    ),
    "OllamaGenerateReply": reply_object({**_SAID, "response": TEXT}, _END),
    "OllamaModels": reply_object(
        {"models": array(reply_object({**_CARD, "modified_at": {"type": "string", "format": "date-time"}}))}
    ),
    "OllamaLoaded": reply_object(
        {"models": array(reply_object({**_CARD, "size_vram": AMOUNT, "context_length": AMOUNT}))}
    ),
    "OllamaShowRequest": open_object({"model": _NAME}, {}),
    "OllamaModel": reply_object(
        {
            "details": _DETAILS,
            "model_info": OBJECT,
            "capabilities": array(TEXT),
            "modified_at": {"type": "string", "format": "date-time"},
        },
        {"license": TEXT, "modelfile": TEXT, "parameters": TEXT, "template": TEXT},
    ),
    "OllamaVersion": reply_object({"version": TEXT}),
}


def _refusals(*statuses: int) -> dict[str, Schema]:
    return errors(ref("OllamaError"), WHAT_WENT_WRONG, *statuses, *ALWAYS)


def _reply(id: str, summary: str, request: str, whole: str) -> Schema:
    answered = answer("The reply: whole, or as objects, one per line.", ref(whole))
    answered["content"]["application/x-ndjson"] = {"schema": TEXT}
    return operation(
        id,
        "Ollama",
        summary,
        {"200": answered, **_refusals(*WITH_BODY, *WITH_REPLY)},
        URGENCY,
        body=body(ref(request)),
    )


def _known(id: str, summary: str, schema: str) -> Schema:
    return operation(id, "Ollama", summary, {"200": answer("It.", ref(schema)), **_refusals()})


PATHS: dict[str, Schema] = {
    "/api/chat": {
        "post": _reply("ollamaChat", "Generate a reply to a conversation", "OllamaChatRequest", "OllamaChatReply")
    },
    "/api/generate": {
        "post": _reply("ollamaGenerate", "Generate a reply to a prompt", "OllamaGenerateRequest", "OllamaGenerateReply")
    },
    "/api/show": {
        "post": operation(
            "ollamaShow",
            "Ollama",
            "Show a model",
            {"200": answer("It.", ref("OllamaModel")), **_refusals(*WITH_BODY, 404)},
            body=body(ref("OllamaShowRequest")),
        )
    },
    "/api/tags": {"get": _known("ollamaTags", "List models", "OllamaModels")},
    "/api/ps": {"get": _known("ollamaPs", "List loaded models", "OllamaLoaded")},
    "/api/version": {"get": _known("ollamaVersion", "API version", "OllamaVersion")},
}
