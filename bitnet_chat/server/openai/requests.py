"""Requests of the OpenAI API, parsed and checked, with extensions of llama-server and others. Pure.

A field that changes the reply is applied if possible. Otherwise it is ignored with a notice if the reply is usable
without it (``verbosity``, an unknown sampler), and refused by name if it requests another kind of reply (``logprobs``,
``grammar``, audio). ``serve --strict`` refuses both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitnet_chat.backend import MOST_VARIANTS, ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.conversation.api_messages import conversation_of
from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.server.reply_fields import name_of, needed_function, seed_of, stops_of, thinking, tools_of
from bitnet_chat.text.sanitize import one_line

_MOST_TOKENS = 2**31 - 1
_CHOICES = ("auto", "none", "required")
_HARMLESS = (
    *("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    *("prediction", "cache_prompt", "id_slot", "n_keep", "add_generation_prompt", "continue_final_message"),
    *("timings_per_token", "return_progress", "keep_alive"),
)
"""Fields that do not change the reply, whatever their value."""
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_ITS_OWN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
"""Arguments of a chat template that come from other fields of a request."""


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A request for ``count`` replies. ``usage``: whether a stream ends with the token usage."""

    conversation: Conversation
    options: ReplyOptions
    model: str
    stream: bool
    usage: bool
    one_call: bool = False
    """Whether the reply may contain at most one tool call."""
    count: int = 1


def chat_request(fields: Fields) -> OpenAIRequest:
    """Parse the body of ``/v1/chat/completions``. Raises InvalidFieldError."""
    model = fields.text("model") or ""
    messages = fields.needed_objects("messages")
    options = options_of(fields)
    stream, usage = _stream(fields)
    fields.refuse("audio")
    fields.refuse("functions", [], why="is not supported here: use tools")
    fields.refuse("function_call", "none", "auto", why="is not supported here: use tool_choice")
    fields.refuse("web_search_options")
    fields.refuse("modalities", ["text"])
    fields.refuse("logprobs", False)
    fields.refuse("top_logprobs", 0)
    fields.ignore("store", False, why="is not supported here: this API stores nothing")
    fields.ignore("verbosity", "medium")
    fields.ignore("moderation")
    one_call = fields.flag("parallel_tool_calls") is False
    count = _count(fields)
    _deal_with_the_rest(fields)
    fields.finish()
    return OpenAIRequest(conversation_of(messages), options, model, stream, usage, one_call, count)


def options_of(fields: Fields) -> ReplyOptions:
    """Parse the options of a reply, for any API with the same field names. Raises InvalidFieldError."""
    tools = tools_of(fields)
    return ReplyOptions(
        max_tokens=_max_tokens(fields, "max_completion_tokens", "max_tokens", "n_predict"),
        sampling=_sampling(fields),
        stop=stops_of(fields),
        tools=tools,
        tool_choice=_tool_choice(fields, tools),
        format=_format(fields),
        template=template_of(fields),
    )


def completion_request(fields: Fields) -> OpenAIRequest:
    """Parse the body of ``/v1/completions``. Raises InvalidFieldError.

    The prompt becomes a user message, since chat models support no other text.
    """
    model = fields.text("model") or ""
    if isinstance(fields.get("prompt"), list):
        prompts = fields.texts("prompt") or []
        if len(prompts) != 1:
            raise fields.wrong("prompt", f"is a list of {len(prompts)}: only one prompt per request is supported")
        prompt = prompts[0]
    else:
        prompt = fields.needed_text("prompt")
    if not prompt:
        raise fields.wrong("prompt", "is empty")
    options = ReplyOptions(
        max_tokens=_max_tokens(fields, "max_tokens"), sampling=_sampling(fields), stop=stops_of(fields)
    )
    stream, usage = _stream(fields)
    count = _count(fields)
    fields.refuse("best_of", 1, count)
    fields.refuse("echo", False)
    fields.refuse("logprobs")
    fields.refuse("suffix", "")
    _deal_with_the_rest(fields)
    fields.finish()
    return OpenAIRequest(Conversation().with_user(prompt), options, model, stream, usage, count=count)


def _count(fields: Fields) -> int:
    """Return the number of replies. ``n_cmpl`` is the name in llama-server."""
    given = (fields.whole(name, 1, MOST_VARIANTS) for name in ("n", "n_cmpl"))
    return next((count for count in list(given) if count is not None), 1)


def _deal_with_the_rest(fields: Fields) -> None:
    """Handle the remaining fields, which all requests share."""
    fields.accept(*_HARMLESS)
    fields.refuse("n_probs", 0)
    fields.refuse("logit_bias", {}, [])
    fields.ignore("service_tier", "auto", "default")
    for field in ("grammar", "guided_grammar", "guided_regex", "guided_choice", "structured_outputs"):
        fields.refuse(field, "", why="is not supported here: use response_format with a JSON schema")


def _stream(fields: Fields) -> tuple[bool, bool]:
    """Return whether to stream, and whether the stream reports the usage."""
    stream = bool(fields.flag("stream"))
    options = fields.inner("stream_options")
    if options is None:
        return stream, False
    if not stream:
        fields.change("stream_options", "requires stream: true")
    usage = bool(options.flag("include_usage"))
    options.ignore("include_obfuscation", False)
    options.finish()
    return stream, usage


def _max_tokens(fields: Fields, *names: str) -> int | None:
    """Return the smallest of several limits in tokens; None: no limit, which is -1 in a request, as in llama-server."""
    given = [value for name in names if (value := fields.whole(name, -1, _MOST_TOKENS)) is not None]
    for name in names:
        if fields.values.get(name) == 0:
            raise fields.wrong(name, "is 0: the minimum is 1", remedy="use -1 for no limit")
    return min((value for value in given if value > 0), default=None)


def template_of(fields: Fields) -> Mapping[str, object]:
    """Arguments of the chat template. ``think`` and ``enable_thinking`` are names of other servers for the same."""
    found: dict[str, object] = {}
    effort = fields.text("reasoning_effort")
    if fields.notes is None:
        fields.choice("reasoning_effort", _EFFORTS)
    if effort is not None and effort not in _EFFORTS:
        fields.change("reasoning_effort", f"is {one_line(effort[:40])!r}, which is not known: it is ignored")
        effort = None
    if effort == "none":
        found |= thinking(on=False)
    elif effort is not None:
        found["reasoning_effort"] = effort
    for name in ("think", "enable_thinking"):
        if (on := fields.flag(name)) is not None:
            found |= thinking(on=on)
    given = fields.inner("chat_template_kwargs")
    if given is not None:
        for name in _ITS_OWN:
            given.refuse(name, why="is made from the rest of the request")
        found |= given.values
    return found


def _sampling(fields: Fields) -> Sampling:
    # top_k, min_p and repeat_penalty are names of llama-server; -1 is vLLM's value for no limit.
    top_k = fields.whole("top_k", -1, _MOST_TOKENS)
    return Sampling(
        temperature=fields.number("temperature", 0, 2),
        top_p=fields.number("top_p", 0, 1),
        top_k=None if top_k is None else max(0, top_k),
        min_p=fields.number("min_p", 0, 1),
        seed=seed_of(fields),
        repeat_penalty=_first(fields.number(name, 0.01, 2) for name in ("repeat_penalty", "repetition_penalty")),
        presence_penalty=fields.number("presence_penalty", -2, 2),
        frequency_penalty=fields.number("frequency_penalty", -2, 2),
    )


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in list(values) if value is not None), None)


def _tool_choice(fields: Fields, tools: tuple[Tool, ...]) -> str:
    if not isinstance(fields.get("tool_choice"), dict):
        choice = fields.choice("tool_choice", _CHOICES) or "auto"
    else:
        named = fields.needed_inner("tool_choice")
        function = needed_function(named)
        choice = name_of(function)
        if choice in _CHOICES:
            raise function.wrong("name", f"is {choice}, which is a reserved value of tool_choice")
        if choice not in [tool.name for tool in tools]:
            raise function.wrong("name", f"is {choice}, which is not one of the tools")
        function.finish()
        named.finish()
    if choice == "required" and not tools:
        raise fields.wrong("tool_choice", "is required, but the request has no tools")
    return choice


def _format(fields: Fields) -> ResponseFormat | None:
    given = fields.inner("response_format")
    if given is None:
        return next((ResponseFormat(at.values) for at in map(fields.inner, ("json_schema", "guided_json")) if at), None)
    fields.refuse("json_schema", why="cannot be combined with response_format")
    fields.refuse("guided_json", why="cannot be combined with response_format")
    kind = given.needed_text("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise given.wrong("type", f"is {kind!r}", remedy="use one of: text, json_object, json_schema")
    schema: Mapping[str, object] | None = None
    if kind != "text" and (bare := given.inner("schema")) is not None:  # as llama.cpp has it
        schema = bare.values
    elif kind == "json_schema":
        described = given.needed_inner("json_schema")
        if described.get("name") is not None or described.notes is None:
            name_of(described)
        schema = described.needed_inner("schema").values
        if (description := described.text("description")) is not None:
            schema = {"description": description, **schema}
        described.flag("strict")  # a grammar is strict
        described.finish()
    given.finish()
    return None if kind == "text" else ResponseFormat(schema)
