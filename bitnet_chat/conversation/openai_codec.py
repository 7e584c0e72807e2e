"""Messages, tools and tool calls as the JSON of the OpenAI chat format, and of Ollama's variant of it. Pure.

The differences between the users of the format: OpenAI has the arguments of a call as a text, chat templates and Ollama
have them as an object; the content beside calls is null in the API, and a text for a template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from bitnet_chat.conversation.message import Conversation, Message, Role, Tool, ToolCall
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.text.utf8 import well_formed

_ROLES: tuple[str, ...] = get_args(Role)
_CHOICES = ("auto", "none", "required")


def encode_message(message: Message) -> dict[str, Any]:
    """``message`` as part of a request."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["content"] = message.content or None
        fields["tool_calls"] = [encode_tool_call(call) for call in message.tool_calls]
    if message.role == "tool":
        fields["tool_call_id"] = message.call_id
    return fields


def encode_template_message(message: Message) -> dict[str, Any]:
    """``message`` for a chat template. Raises ValueError and RecursionError for arguments that are not JSON."""
    fields = encode_message(message) | {"content": message.content}
    for call in fields.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return fields | ({"name": message.tool_name} if message.role == "tool" else {})


def encode_ollama_message(message: Message) -> dict[str, Any]:
    """``message`` as part of a request to Ollama."""
    if message.role == "tool":
        return {"role": "tool", "tool_name": message.tool_name, "content": message.content}
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [encode_ollama_call(*each) for each in enumerate(message.tool_calls)]
    return fields


def encode_tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def encode_ollama_call(index: int, call: ToolCall) -> dict[str, Any]:
    """``call`` without its id. Arguments that are not an object become an empty one.

    ``index``: among the calls of the message. Clients join the pieces of a stream by it.
    """
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = {}
    if not isinstance(arguments, dict):
        arguments = {}
    return {"function": {"index": index, "name": call.name, "arguments": arguments}}


def encode_tool(tool: Tool) -> dict[str, Any]:
    """``tool`` for an API or a chat template. A tool without parameters gets a schema without properties."""
    parameters = dict(tool.parameters) or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def encode_tool_choice(choice: str) -> object:
    """``choice``: ``auto``, ``none``, ``required`` or the name of a tool."""
    return choice if choice in _CHOICES else {"type": "function", "function": {"name": choice}}


def encode_response_format(schema: Mapping[str, object] | None) -> dict[str, Any]:
    """A ``response_format``. None: any JSON object."""
    if schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": dict(schema)}}


def well_formed_call(call: ToolCall) -> ToolCall:
    """``call`` with U+FFFD in place of bytes that are not UTF-8."""
    return ToolCall(call.id, well_formed(call.name), well_formed(call.arguments))


def decode_tool_call(value: object, fallback_id: str) -> ToolCall:
    """The inverse of :func:`encode_tool_call`; ``fallback_id`` replaces a missing id.

    Raises ValueError with a predicate: "is not an object with 'function'".
    """
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping):
        raise ValueError("is not an object with 'function'")
    id, name = value.get("id", fallback_id), function.get("name")
    if not isinstance(id, str) or not isinstance(name, str) or not name:
        raise ValueError("has no 'name', or an 'id' that is not a string")
    return ToolCall(id, name, decode_arguments(function.get("arguments")))


def decode_arguments(value: object) -> str:
    """The arguments of a call, a JSON text or an object, as a JSON text. Raises ValueError for any other value."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
    try:
        if isinstance(text, str) and isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise ValueError("has 'arguments' that are not a JSON object")


def decode_conversation(dicts: Iterable[Mapping[str, object]]) -> Conversation:
    """A conversation of complete messages. Raises UsageError with the number of the first invalid message."""
    messages: list[Message] = []
    for number, each in enumerate(dicts, 1):
        if not isinstance(each, Mapping):
            raise UsageError(f"message {number} is not an object with 'role' and 'content'")
        role, content = each.get("role"), each.get("content")
        if role not in _ROLES:
            raise UsageError(f"message {number} has the role {role!r}", remedy=f"use one of: {', '.join(_ROLES)}")
        calls = _decode_calls(each.get("tool_calls"), number) if role == "assistant" else ()
        text = _decode_content(content, number) if content is not None or not calls else ""
        if role == "system" and number > 1:
            raise UsageError(f"message {number} is a system message; it can only be the first")
        if role not in ("system", "tool") and messages and messages[-1].role == role:
            raise UsageError(f"message {number} is a second {role} message in a row")
        if role == "assistant" and (not messages or messages[-1].role == "system"):
            raise UsageError(f"message {number} is an assistant message before any user message")
        if role == "tool":
            call = _answered_call(each, messages, number)
            messages.append(Message("tool", text, call_id=call.id, tool_name=call.name))
        else:
            finish = FinishReason.TOOL_CALLS if calls else None
            messages.append(Message(role, text, finish, tool_calls=calls))  # type: ignore[arg-type]  # see above
    return Conversation(tuple(messages))


def _decode_content(content: object, number: int) -> str:
    """A string, or parts that are texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"message {number} has no text in 'content'")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind != "text":
            raise UsageError(f"message {number} has a part of the type {kind!r}; only 'text' can be used")
        if not isinstance(text, str):
            raise UsageError(f"message {number} has a part without a text")
        texts.append(text)
    return "\n".join(texts)


def _decode_calls(value: object, number: int) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UsageError(f"message {number} has 'tool_calls' that are not a list")
    calls: list[ToolCall] = []
    for place, each in enumerate(value, 1):
        try:
            calls.append(decode_tool_call(each, f"call_{number}_{place}"))
        except ValueError as error:
            raise UsageError(f"message {number}, call {place}, {error}") from None
    return tuple(calls)


def _answered_call(fields: Mapping[str, object], messages: Sequence[Message], number: int) -> ToolCall:
    """The open call with the result in message ``number``."""
    open_calls = Conversation(tuple(messages)).open_calls
    id = fields.get("tool_call_id")
    for call in open_calls:
        if id in (call.id, None):
            return call
    if not open_calls:
        raise UsageError(f"message {number} is the result of a tool without a call")
    raise UsageError(f"message {number} is a result: no tool call with id {id!r}")
