"""The description of ``/v1``. Data."""

from __future__ import annotations

from bitnet_chat.backend import MOST_VARIANTS
from bitnet_chat.server.openapi.schema import (
    AMOUNT,
    FLAG,
    NULL,
    NUMBER,
    OBJECT,
    SECONDS,
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
    names,
    nullable,
    one_of,
    open_object,
    operation,
    parameter,
    ref,
    reply_object,
)

WHAT_WENT_WRONG = {
    400: "An invalid parameter, which is named, or messages that do not fit into the context window.",
    401: "The API key is missing or wrong.",
    403: "A host or an origin that is not allowed.",
    404: "A model, chat or path that does not exist.",
    409: "The chat already has a running reply.",
    413: "The request is too large.",
    415: "An unsupported Content-Type or encoding.",
    429: "The queue is full; Retry-After has the seconds to wait.",
    500: "Internal server error.",
    501: "Not supported.",
    503: "No engine is available.",
    504: "The time limit expired before the first word.",
}
ALWAYS = (401, 403, 500)
WITH_BODY = (400, 413, 415)
WITH_REPLY = (404, 429, 503, 504)
URGENCY = parameter("header", "Priority", TEXT, "RFC 9218: with u=6 or u=7 the request yields to interactive ones.")
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 128}
MOST = 2**31 - 1
SAMPLING: dict[str, Schema] = {
    "temperature": between(0, 2),
    "top_p": between(0, 1),
    "top_k": described(between(-1, MOST, WHOLE), "Beyond OpenAI's API, as llama-server has it."),
    "min_p": described(between(0, 1), "Beyond OpenAI's API, as llama-server has it."),
    "repeat_penalty": described(between(0.01, 2), "Beyond OpenAI's API, as llama-server has it."),
    "repetition_penalty": described(between(0.01, 2), "The same in vLLM."),
    "seed": described(between(-(2**63), 2**63 - 1, WHOLE), "The same seed gives the same reply."),
    "presence_penalty": between(-2, 2),
    "frequency_penalty": between(-2, 2),
    "stop": any_of({"type": "string"}, array({"type": "string"}, maxItems=256)),
}
TOOLING: dict[str, Schema] = {
    "tools": described(
        array(ref("Tool"), maxItems=1000),
        "With tool_choice auto a model without support for tools answers without them, with a notice.",
    ),
    "tool_choice": any_of(
        one_of("auto", "none", "required"),
        open_object({"type": {"const": "function"}, "function": open_object({"name": NAME}, {})}, {}),
    ),
    "response_format": any_of(
        open_object({"type": {"const": "text"}}, {}),
        open_object({"type": {"const": "json_object"}}, {"schema": OBJECT}),
        open_object({"type": {"const": "json_schema"}, "schema": OBJECT}, {}),
        open_object(
            {
                "type": {"const": "json_schema"},
                "json_schema": open_object({"schema": OBJECT}, {"name": NAME, "description": TEXT, "strict": FLAG}),
            },
            {},
        ),
    ),
    **{
        name: described(OBJECT, "A schema in place of response_format, as in llama-server and vLLM.")
        for name in ("json_schema", "guided_json")
    },
    "reasoning_effort": described(
        TEXT,
        "Argument of the chat template: none, minimal, low, medium, high, xhigh or max; others are ignored. none:"
        " without thoughts, if the template supports it.",
    ),
    **dict.fromkeys(("think", "enable_thinking"), described(FLAG, "Whether the chat template enables thoughts.")),
    "chat_template_kwargs": {
        "type": "object",
        "properties": dict.fromkeys(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"), NULL),
        "description": "Additional arguments of the chat template.",
    },
}
TOKENS: Schema = described(between(-1, MOST, WHOLE), "-1: no limit.")
_STREAM: dict[str, Schema] = {
    "stream": FLAG,
    "stream_options": described(open_object({}, {"include_usage": FLAG}), "Requires stream: true."),
}
_ONLY: dict[str, Schema] = {
    **dict.fromkeys(
        ("n", "n_cmpl"), described(between(1, MOST_VARIANTS, WHOLE), "Number of replies, from one prefill if possible.")
    ),
    "n_probs": {"enum": [0]},
    "logit_bias": any_of({"type": "object", "maxProperties": 0}, {"type": "array", "maxItems": 0}),
    **{
        name: {"enum": [""]}
        for name in ("grammar", "guided_grammar", "guided_regex", "guided_choice", "structured_outputs")
    },
}
_PART = any_of(
    open_object({"type": one_of("text", "input_text", "output_text"), "text": TEXT}, {}),
    open_object({"type": {"const": "refusal"}, "refusal": TEXT}, {}),
    described(open_object({"type": one_of("thinking", "redacted_thinking", "reasoning")}, {}), "Ignored."),
)
_CONTENT = described(any_of(TEXT, array(any_of(TEXT, _PART))), "Parts are joined by newlines.")
_NAMED_CALL = open_object({"name": TEXT}, {"arguments": described(any_of(TEXT, OBJECT), "A JSON object.")})
_NONE: Schema = {"type": "array", "maxItems": 0}

_USAGE = reply_object(
    {"prompt_tokens": AMOUNT, "completion_tokens": AMOUNT, "total_tokens": AMOUNT},
    {"prompt_tokens_details": reply_object({"cached_tokens": AMOUNT})},
)
_DETAILS = described(
    reply_object(
        {
            "finish_reason": TEXT,
            "exact": FLAG,
            "tokens_per_second": SECONDS,
            "time_to_first_token": SECONDS,
            "seconds": NUMBER,
            "context_used": nullable(WHOLE),
            "context_size": nullable(WHOLE),
            "notices": described(
                array(TEXT), "Fields and messages that were ignored, changed or left out for this reply."
            ),
        }
    ),
    "Beyond OpenAI's API: the exact finish reason, whether the engine counted the tokens, and the timings.",
)
_FINISH = one_of("stop", "length", "tool_calls")
_CALL = reply_object(
    {"id": TEXT, "type": {"const": "function"}, "function": reply_object({"name": TEXT, "arguments": TEXT})}
)


def _whole(kind: str, choice: Schema) -> Schema:
    return reply_object(
        {
            "id": TEXT,
            "object": {"const": kind},
            "created": WHOLE,
            "model": TEXT,
            "system_fingerprint": TEXT,
            "choices": array(choice, minItems=1, maxItems=MOST_VARIANTS),
            "usage": ref("Usage"),
            "bitnet_chat": ref("ReplyDetails"),
        }
    )


SCHEMAS: dict[str, Schema] = {
    "Error": reply_object(
        {"error": reply_object({"message": TEXT, "type": TEXT, "param": nullable(TEXT), "code": nullable(TEXT)})}
    ),
    "Usage": _USAGE,
    "ReplyDetails": _DETAILS,
    "Tool": open_object(
        {
            "type": {"const": "function"},
            "function": open_object(
                {"name": NAME},
                {"description": TEXT, "parameters": {"type": "object", "properties": {"type": one_of("object")}}},
            ),
        },
        {},
    ),
    "ToolCall": open_object({"function": _NAMED_CALL}, {"id": TEXT, "type": one_of("function")}),
    "SystemMessage": described(
        open_object({"role": one_of("system", "developer")}, {"content": _CONTENT, "images": _NONE}),
        "All of them are placed before the conversation.",
    ),
    "UserMessage": open_object({"role": {"const": "user"}}, {"content": _CONTENT, "images": _NONE}),
    "AssistantMessage": described(
        open_object(
            {"role": {"const": "assistant"}},
            {
                "content": _CONTENT,
                "tool_calls": array(ref("ToolCall"), maxItems=256),
                "function_call": _NAMED_CALL,
                "images": _NONE,
            },
        ),
        "At the end: the beginning of the reply, which is continued.",
    ),
    "ToolMessage": open_object(
        {"role": one_of("tool", "function")},
        {"content": _CONTENT, "tool_call_id": TEXT, "tool_name": TEXT, "name": TEXT, "images": _NONE},
    ),
    "Message": names(["SystemMessage", "UserMessage", "AssistantMessage", "ToolMessage"]),
    "ChatRequest": described(
        open_object(
            {"messages": array(ref("Message"), minItems=1, maxItems=10_000)},
            {
                "model": described(TEXT, "Empty: the default model. auto: the best fit."),
                **dict.fromkeys(("max_completion_tokens", "max_tokens", "n_predict"), TOKENS),
                **SAMPLING,
                **TOOLING,
                **_STREAM,
                **_ONLY,
                "parallel_tool_calls": described(FLAG, "false: of several calls the first is kept."),
                "logprobs": one_of(False),
                "top_logprobs": {"enum": [0]},
                "modalities": {"enum": [["text"]]},
                "functions": _NONE,
                "function_call": one_of("none", "auto"),
                **dict.fromkeys(("audio", "web_search_options"), NULL),
            },
        ),
        "Unknown names are ignored, with a notice in bitnet_chat.notices of the reply.",
    ),
    "ChatCompletion": _whole(
        "chat.completion",
        reply_object(
            {
                "index": AMOUNT,
                "message": reply_object(
                    {"role": {"const": "assistant"}, "content": nullable(TEXT), "refusal": NULL},
                    {"reasoning_content": TEXT, "tool_calls": array(_CALL)},
                ),
                "logprobs": NULL,
                "finish_reason": _FINISH,
            }
        ),
    ),
    "CompletionRequest": open_object(
        {
            "prompt": any_of(
                {"type": "string", "minLength": 1}, array({"type": "string", "minLength": 1}, minItems=1, maxItems=1)
            )
        },
        {
            "model": TEXT,
            "max_tokens": TOKENS,
            **SAMPLING,
            **_STREAM,
            **_ONLY,
            "best_of": {"enum": [1]},
            "echo": one_of(False),
            "logprobs": NULL,
            "suffix": {"enum": [""]},
        },
    ),
    "Completion": _whole(
        "text_completion",
        reply_object({"text": TEXT, "index": AMOUNT, "logprobs": NULL, "finish_reason": _FINISH}),
    ),
    "Model": reply_object({"id": TEXT, "object": {"const": "model"}, "created": WHOLE, "owned_by": TEXT}),
    "Models": reply_object({"object": {"const": "list"}, "data": array(ref("Model"), minItems=1)}),
}


_EVENT = reply_object({"data": described(TEXT, "A chunk of the OpenAI API, an error, or [DONE].")})


def _refusals(*statuses: int) -> dict[str, Schema]:
    return errors(ref("Error"), WHAT_WENT_WRONG, *statuses, *ALWAYS)


def _reply(id: str, summary: str, request: str, whole: str) -> Schema:
    answered = answer("The reply: whole, or as server-sent events that end in data: [DONE].", ref(whole))
    answered["content"]["text/event-stream"] = {"schema": _EVENT}
    return operation(
        id,
        "OpenAI",
        summary,
        {"200": answered, **_refusals(*WITH_BODY, *WITH_REPLY)},
        URGENCY,
        body=body(ref(request)),
    )


PATHS: dict[str, Schema] = {
    "/v1/chat/completions": {
        "post": _reply("createChatCompletion", "Generate a reply to a conversation", "ChatRequest", "ChatCompletion")
    },
    "/v1/completions": {
        "post": _reply(
            "createCompletion",
            "Generate a reply to a prompt, which becomes a user message",
            "CompletionRequest",
            "Completion",
        )
    },
    "/v1/models": {
        "get": operation(
            "listModels", "OpenAI", "List models", {"200": answer("The models.", ref("Models")), **_refusals()}
        )
    },
    "/v1/models/{model}": {
        "get": operation(
            "retrieveModel",
            "OpenAI",
            "Get a model",
            {"200": answer("It.", ref("Model")), **_refusals(404)},
            parameter(
                "path", "model", {"type": "string", "minLength": 1}, "Name of the model; it may contain slashes."
            ),
        )
    },
}
