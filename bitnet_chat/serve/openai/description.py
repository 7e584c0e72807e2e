"""The description of ``/v1``. Data."""

from __future__ import annotations

from bitnet_chat.serve.schema import (
    AMOUNT,
    ANYTHING,
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
    between,
    body,
    errors,
    given,
    listed,
    maybe,
    names,
    one_of,
    operation,
    parameter,
    ref,
    taken,
    told,
)

WHAT_WENT_WRONG = {
    400: "A parameter cannot be used; it is named. Or the messages do not fit into the context window.",
    401: "The API key is missing or wrong.",
    403: "Another name of this server, or a page of another site.",
    404: "There is no such thing here: a model, a chat, a path.",
    409: "The chat is being answered already.",
    413: "The request is too large.",
    415: "The body is not said to be JSON.",
    429: "Too many wait already; Retry-After says for how long to stay away.",
    500: "A fault of the server.",
    501: "Not a thing that this server does.",
    503: "No engine can answer at the moment.",
    504: "The time for the reply ran out before its first word.",
}
ALWAYS = (401, 403, 500)
WITH_BODY = (400, 413, 415)
WITH_REPLY = (404, 429, 503, 504)
URGENCY = parameter(
    "header", "Priority", TEXT, "RFC 9218: with u=6 or u=7 this is batch work, which makes way for people."
)
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
MOST = 2**31 - 1
SAMPLING: dict[str, Schema] = {
    "temperature": between(0, 2),
    "top_p": between(0, 1),
    "top_k": told(between(0, MOST, WHOLE), "Beyond OpenAI's API, as llama-server has it."),
    "min_p": told(between(0, 1), "Beyond OpenAI's API, as llama-server has it."),
    "repeat_penalty": told(between(0.01, 2), "Beyond OpenAI's API, as llama-server has it."),
    "seed": told(between(-(2**63), 2**63 - 1, WHOLE), "The same seed, the same reply."),
    "presence_penalty": between(-2, 2),
    "frequency_penalty": between(-2, 2),
    "stop": any_of({"type": "string", "minLength": 1}, listed({"type": "string", "minLength": 1}, maxItems=4)),
}
TOOLING: dict[str, Schema] = {
    "tools": listed(ref("Tool"), maxItems=128),
    "tool_choice": any_of(
        one_of("auto", "none", "required"),
        taken({"type": {"const": "function"}, "function": taken({"name": NAME}, {})}, {}),
    ),
    "response_format": any_of(
        taken({"type": one_of("text", "json_object")}, {}),
        taken(
            {
                "type": {"const": "json_schema"},
                "json_schema": taken({"name": NAME, "schema": OBJECT}, {"description": TEXT, "strict": FLAG}),
            },
            {},
        ),
    ),
}
TOKENS: Schema = between(1, MOST, WHOLE)
_STREAM: dict[str, Schema] = {
    "stream": FLAG,
    "stream_options": told(
        taken({}, {"include_usage": FLAG, "include_obfuscation": one_of(False)}), "Only with stream: true."
    ),
}
_ONLY: dict[str, Schema] = {
    "n": {"enum": [1]},
    "logit_bias": {"type": "object", "maxProperties": 0},
    "service_tier": one_of("auto", "default"),
}
_CONTENT = any_of(TEXT, listed(taken({"type": {"const": "text"}, "text": TEXT}, {}), minItems=1))

_USAGE = given(
    {"prompt_tokens": AMOUNT, "completion_tokens": AMOUNT, "total_tokens": AMOUNT},
    {"prompt_tokens_details": given({"cached_tokens": AMOUNT})},
)
_DETAILS = told(
    given(
        {
            "finish_reason": TEXT,
            "exact": FLAG,
            "tokens_per_second": SECONDS,
            "time_to_first_token": SECONDS,
            "seconds": NUMBER,
            "context_used": maybe(WHOLE),
            "context_size": maybe(WHOLE),
            "notices": listed(TEXT),
        }
    ),
    "Beyond OpenAI's API: why the reply really ended, whether the engine itself counted its tokens, how fast it was.",
)
_FINISH = one_of("stop", "length", "tool_calls")
_CALL = given({"id": TEXT, "type": {"const": "function"}, "function": given({"name": TEXT, "arguments": TEXT})})


def _whole(kind: str, choice: Schema) -> Schema:
    return given(
        {
            "id": TEXT,
            "object": {"const": kind},
            "created": WHOLE,
            "model": TEXT,
            "system_fingerprint": TEXT,
            "choices": listed(choice, minItems=1, maxItems=1),
            "usage": ref("Usage"),
            "bitnet_chat": ref("ReplyDetails"),
        }
    )


SCHEMAS: dict[str, Schema] = {
    "Error": given({"error": given({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": maybe(TEXT)})}),
    "Usage": _USAGE,
    "ReplyDetails": _DETAILS,
    "Tool": taken(
        {
            "type": {"const": "function"},
            "function": taken(
                {"name": NAME},
                {
                    "description": TEXT,
                    "parameters": {"type": "object", "properties": {"type": one_of("object")}},
                    "strict": one_of(False),
                },
            ),
        },
        {},
    ),
    "ToolCall": taken(
        {
            "id": TEXT,
            "function": taken(
                {"name": TEXT}, {"arguments": told(TEXT, "A JSON object."), "parsed_arguments": ANYTHING}
            ),
        },
        {"type": one_of("function"), "index": ANYTHING},
    ),
    "SystemMessage": taken({"role": one_of("system", "developer"), "content": _CONTENT}, {}),
    "UserMessage": taken({"role": {"const": "user"}, "content": _CONTENT}, {}),
    "AssistantMessage": taken(
        {"role": {"const": "assistant"}},
        {
            "content": _CONTENT,
            "tool_calls": listed(ref("ToolCall")),
            "reasoning_content": ANYTHING,
            "refusal": ANYTHING,
            "annotations": ANYTHING,
            "parsed": ANYTHING,
            "audio": NULL,
            "function_call": NULL,
        },
    ),
    "ToolMessage": taken({"role": {"const": "tool"}, "content": _CONTENT, "tool_call_id": TEXT}, {"name": ANYTHING}),
    "Message": names(["SystemMessage", "UserMessage", "AssistantMessage", "ToolMessage"]),
    "ChatRequest": taken(
        {"messages": listed(ref("Message"), minItems=1)},
        {
            "model": told(TEXT, "Empty: the default model. auto: whichever suits."),
            "max_completion_tokens": TOKENS,
            "max_tokens": TOKENS,
            **SAMPLING,
            **TOOLING,
            **_STREAM,
            **_ONLY,
            "parallel_tool_calls": told(FLAG, "false only without tools."),
            "logprobs": one_of(False),
            "top_logprobs": {"enum": [0]},
            "modalities": {"enum": [["text"]]},
            "store": one_of(False),
            "verbosity": one_of("medium"),
            **dict.fromkeys(("user", "metadata", "safety_identifier"), ANYTHING),
            **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention"), ANYTHING),
            **dict.fromkeys(("audio", "function_call", "functions", "moderation", "prediction"), NULL),
            **dict.fromkeys(("prompt_cache_options", "reasoning_effort", "web_search_options"), NULL),
        },
    ),
    "ChatCompletion": _whole(
        "chat.completion",
        given(
            {
                "index": {"const": 0},
                "message": given(
                    {"role": {"const": "assistant"}, "content": maybe(TEXT), "refusal": NULL},
                    {"reasoning_content": TEXT, "tool_calls": listed(_CALL)},
                ),
                "logprobs": NULL,
                "finish_reason": _FINISH,
            }
        ),
    ),
    "CompletionRequest": taken(
        {
            "prompt": any_of(
                {"type": "string", "minLength": 1}, listed({"type": "string", "minLength": 1}, minItems=1, maxItems=1)
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
            "user": ANYTHING,
        },
    ),
    "Completion": _whole(
        "text_completion",
        given({"text": TEXT, "index": {"const": 0}, "logprobs": NULL, "finish_reason": _FINISH}),
    ),
    "Model": given({"id": TEXT, "object": {"const": "model"}, "created": WHOLE, "owned_by": TEXT}),
    "Models": given({"object": {"const": "list"}, "data": listed(ref("Model"), minItems=1)}),
}


_EVENT = given({"data": told(TEXT, "A chunk as the OpenAI API has it, an error, or [DONE].")})


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
        "post": _reply("createChatCompletion", "A reply to a conversation", "ChatRequest", "ChatCompletion")
    },
    "/v1/completions": {
        "post": _reply(
            "createCompletion",
            "A reply to a prompt, which becomes the message of a user",
            "CompletionRequest",
            "Completion",
        )
    },
    "/v1/models": {
        "get": operation(
            "listModels", "OpenAI", "What can answer", {"200": answer("All of them.", ref("Models")), **_refusals()}
        )
    },
    "/v1/models/{model}": {
        "get": operation(
            "retrieveModel",
            "OpenAI",
            "One of the models",
            {"200": answer("It.", ref("Model")), **_refusals(404)},
            parameter("path", "model", {"type": "string", "minLength": 1}, "Its name; it may hold slashes."),
        )
    },
}
