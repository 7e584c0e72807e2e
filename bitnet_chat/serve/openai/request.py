"""Requests of the OpenAI API, taken apart. Pure.

What changes the answer is obeyed or refused by name; what does not (``user``, ``metadata``, …) is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitnet_chat.backends import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.serve.body import Fields
from bitnet_chat.serve.openai.messages import conversation_of

_MOST_TOKENS = 2**31 - 1
_SEEDS = 2**32 - 1
"""An engine has so many; the API has more. The one behind the last asks llama.cpp for a new seed each time."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHOICES = ("auto", "none", "required")
_MOST_TOOLS = 128
_MOST_STOPS = 4


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What a client asks for. ``usage``: whether a stream is to tell its tokens at the end."""

    conversation: Conversation
    options: ReplyOptions
    model: str
    stream: bool
    usage: bool


def chat_request(fields: Fields) -> ReplyRequest:
    """A body of ``/v1/chat/completions``. Raises Refused."""
    model = fields.text("model") or ""
    messages = fields.needed_objects("messages")
    options = options_of(fields)
    stream, usage = _stream(fields)
    fields.accept("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
    for field in ("audio", "function_call", "functions", "moderation", "prediction", "prompt_cache_options"):
        fields.refuse(field)
    for field in ("reasoning_effort", "web_search_options"):
        fields.refuse(field)
    fields.refuse("logprobs", False)
    fields.refuse("modalities", ["text"])
    fields.refuse("store", False, why="is not possible here: nothing is stored for this API")
    fields.refuse("top_logprobs", 0)
    fields.refuse("verbosity", "medium")
    fields.refuse("parallel_tool_calls", True, *(() if options.tools else (False,)))
    _refuse_for_all(fields)
    fields.finish()
    return ReplyRequest(conversation_of(messages), options, model, stream, usage)


def options_of(fields: Fields) -> ReplyOptions:
    """What the reply is to be like, in any API that has this one's words for it. Raises Refused."""
    tools = _tools(fields)
    return ReplyOptions(
        max_tokens=_max_tokens(fields, "max_completion_tokens", "max_tokens"),
        sampling=_sampling(fields),
        stop=_stop(fields),
        tools=tools,
        tool_choice=_tool_choice(fields, tools),
        format=_format(fields),
    )


def completion_request(fields: Fields) -> ReplyRequest:
    """A body of ``/v1/completions``. The prompt becomes the message of a user: models that chat know no other text.

    Raises Refused.
    """
    model = fields.text("model") or ""
    if isinstance(fields.get("prompt"), list):
        prompts = fields.texts("prompt") or []
        if len(prompts) != 1:
            raise fields.wrong("prompt", f"is a list of {len(prompts)}: one prompt can be answered at a time")
        prompt = prompts[0]
    else:
        prompt = fields.needed_text("prompt")
    if not prompt:
        raise fields.wrong("prompt", "is empty")
    options = ReplyOptions(max_tokens=_max_tokens(fields, "max_tokens"), sampling=_sampling(fields), stop=_stop(fields))
    stream, usage = _stream(fields)
    fields.accept("user")
    fields.refuse("best_of", 1)
    fields.refuse("echo", False)
    fields.refuse("logprobs")
    fields.refuse("suffix", "")
    _refuse_for_all(fields)
    fields.finish()
    return ReplyRequest(Conversation().with_user(prompt), options, model, stream, usage)


def _refuse_for_all(fields: Fields) -> None:
    fields.refuse("n", 1, why="can only be 1 here")
    fields.refuse("logit_bias", {})
    fields.refuse("service_tier", "auto", "default")


def _stream(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and whether to tell the usage then."""
    stream = bool(fields.flag("stream"))
    options = fields.inner("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise fields.wrong("stream_options", "is of no use without stream: true")
    usage = bool(options.flag("include_usage"))
    options.refuse("include_obfuscation", False)
    options.finish()
    return stream, usage


def _max_tokens(fields: Fields, *names: str) -> int | None:
    given = [value for name in names if (value := fields.whole(name, 1, _MOST_TOKENS)) is not None]
    return min(given, default=None)


def _sampling(fields: Fields) -> Sampling:
    seed = fields.whole("seed", -(2**63), 2**63 - 1)
    return Sampling(
        temperature=fields.number("temperature", 0, 2),
        top_p=fields.number("top_p", 0, 1),
        top_k=fields.whole("top_k", 0, _MOST_TOKENS),  # these two and repeat_penalty: as llama-server calls them
        min_p=fields.number("min_p", 0, 1),
        seed=None if seed is None else seed % _SEEDS,
        repeat_penalty=fields.number("repeat_penalty", 0.01, 2),
        presence_penalty=fields.number("presence_penalty", -2, 2),
        frequency_penalty=fields.number("frequency_penalty", -2, 2),
    )


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    stops = (fields.texts("stop") or []) if isinstance(value, list | None) else [fields.needed_text("stop")]
    if len(stops) > _MOST_STOPS:
        raise fields.wrong("stop", f"has {len(stops)} texts; {_MOST_STOPS} is the most")
    if "" in stops:
        raise fields.wrong("stop", "has an empty text")
    return tuple(stops)


def _tools(fields: Fields) -> tuple[Tool, ...]:
    tools = [_tool(each) for each in fields.objects("tools") or ()]
    if len(tools) > _MOST_TOOLS:
        raise fields.wrong("tools", f"has {len(tools)} tools; {_MOST_TOOLS} is the most")
    if twice := _twice(tool.name for tool in tools):
        raise fields.wrong("tools", f"has the name {twice} twice")
    return tuple(tools)


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _tool(fields: Fields) -> Tool:
    kind = fields.needed_text("type")
    if kind != "function":
        raise fields.wrong("type", f"is {kind!r}: only functions can be called here", code="unsupported_parameter")
    function = fields.needed_inner("function")
    name = _named(function)
    parameters = function.inner("parameters")
    if parameters is not None and parameters.values.get("type", "object") != "object":
        raise parameters.wrong("type", "has to be object")
    function.refuse("strict", False)
    tool = Tool(name, function.text("description") or "", {} if parameters is None else parameters.values)
    function.finish()
    fields.finish()
    return tool


def _named(fields: Fields) -> str:
    name = fields.needed_text("name")
    if not _NAME.fullmatch(name):
        raise fields.wrong("name", "has to be 1 to 64 letters, digits, _ or -")
    return name


def _tool_choice(fields: Fields, tools: tuple[Tool, ...]) -> str:
    if not isinstance(fields.get("tool_choice"), dict):
        choice = fields.choice("tool_choice", _CHOICES) or "auto"
    else:
        named = fields.needed_inner("tool_choice")
        kind = named.needed_text("type")
        if kind != "function":
            raise named.wrong("type", f"is {kind!r}: only a function can be chosen", code="unsupported_parameter")
        function = named.needed_inner("function")
        choice = _named(function)
        if choice in _CHOICES:
            raise function.wrong("name", f"is {choice}, which means something else as a choice")
        if choice not in [tool.name for tool in tools]:
            raise function.wrong("name", f"is {choice}, which is none of the tools")
        function.finish()
        named.finish()
    if choice == "required" and not tools:
        raise fields.wrong("tool_choice", "is required, and there are no tools")
    return choice


def _format(fields: Fields) -> ResponseFormat | None:
    given = fields.inner("response_format")
    if given is None:
        return None
    kind = given.needed_text("type")
    schema: Mapping[str, object] | None = None
    if kind == "json_schema":
        described = given.needed_inner("json_schema")
        _named(described)
        schema = described.needed_inner("schema").values
        if (description := described.text("description")) is not None:
            schema = {"description": description, **schema}
        described.flag("strict")  # a grammar is strict
        described.finish()
    elif kind not in ("text", "json_object"):
        raise given.wrong("type", f"is {kind!r}", remedy="use one of: text, json_object, json_schema")
    given.finish()
    return None if kind == "text" else ResponseFormat(schema)
