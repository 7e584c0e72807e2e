"""The ``messages`` of the OpenAI API as a conversation. Pure.

An engine's chat template wants one system message and then turns, so: system and developer messages at the beginning
become one, and user messages in a row become one, with a blank line between them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.serve.body import Fields
from bitnet_chat.serve.problems import Refused

_BETWEEN = "\n\n"


def conversation_of(messages: Sequence[Fields]) -> Conversation:
    """Raises Refused, naming what cannot be used, such as ``messages[2].content[0].type``."""
    if not messages:
        raise Refused("messages is empty", param="messages")
    made: list[Message] = []
    open_calls: dict[str, ToolCall] = {}
    for fields in messages:
        role = fields.needed_text("role")
        if role in ("system", "developer", "user", "assistant"):
            fields.refuse("name", "", why="is not supported here: a chat template has no place for it")
        if open_calls and role != "tool":
            missing = next(iter(open_calls))
            raise fields.wrong("role", f"is {role}, and the result of the call {missing} is still missing")
        match role:
            case "system" | "developer":
                made = _with_system(made, fields)
            case "user":
                made = _joined(made, Message("user", _content(fields)))
            case "assistant":
                message = _assistant(fields)
                if not any(each.role == "user" for each in made):
                    raise fields.wrong("role", "is assistant before any message of a user")
                open_calls = {call.id: call for call in message.tool_calls}
                made = _joined(made, message)
            case "tool":
                call = _called(fields, open_calls)
                fields.accept("name")
                made.append(Message("tool", _content(fields), call_id=call.id, tool_name=call.name))
            case _:
                raise fields.wrong("role", f"is {role!r}", remedy="use system, developer, user, assistant or tool")
        fields.finish()
    _check_end(made, messages[-1], open_calls)
    return Conversation(tuple(made))


def _check_end(made: Sequence[Message], last: Fields, open_calls: dict[str, ToolCall]) -> None:
    if open_calls:
        raise Refused(f"the result of the call {next(iter(open_calls))} is missing", param="messages")
    if made[-1].role == "assistant":
        raise last.wrong("role", "is assistant: a reply follows a message of a user, or the result of a tool")
    if made[-1].role == "system":
        raise Refused("messages holds no message of a user", param="messages")
    if made[-1].role == "user" and not made[-1].content:
        raise last.wrong("content", "is empty")


def _with_system(made: list[Message], fields: Fields) -> list[Message]:
    if any(each.role != "system" for each in made):
        raise fields.wrong("role", "is one that can only be at the beginning", remedy="say it in the first message")
    return _joined(made, Message("system", _content(fields)))


def _joined(made: list[Message], message: Message) -> list[Message]:
    """With one more message, or with a longer last one."""
    last = made[-1] if made else None
    if last is None or last.role != message.role or last.tool_calls or message.tool_calls:
        return [*made, message]
    return [*made[:-1], Message(message.role, last.content + _BETWEEN + message.content)]


def _content(fields: Fields) -> str:
    """A text, or the text of its parts."""
    if not isinstance(fields.get("content"), list):
        return fields.needed_text("content")
    texts = []
    for part in fields.needed_objects("content"):
        kind = part.needed_text("type")
        if kind != "text":
            raise part.wrong("type", f"is {kind!r}: only text can be read here", code="unsupported_content")
        texts.append(part.needed_text("text"))
        part.finish()
    return "".join(texts)


def _assistant(fields: Fields) -> Message:
    # As clients give back what they got, with all that was empty in it.
    fields.accept("reasoning_content", "refusal", "annotations", "parsed")
    for field in ("audio", "function_call"):
        fields.refuse(field)
    calls = tuple(_call(each) for each in fields.objects("tool_calls") or ())
    if len({call.id for call in calls}) < len(calls):
        raise fields.wrong("tool_calls", "has two calls with the same id")
    content = "" if calls and fields.get("content") is None else _content(fields)
    return Message("assistant", content, tool_calls=calls)


def _call(fields: Fields) -> ToolCall:
    fields.accept("index")
    kind = fields.text("type") or "function"
    if kind != "function":
        raise fields.wrong("type", f"is {kind!r}: only functions can be called here", code="unsupported_parameter")
    function = fields.needed_inner("function")
    function.accept("parsed_arguments")
    name, arguments = function.needed_text("name"), function.text("arguments") or "{}"
    try:
        whole = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise function.wrong("arguments", "is no JSON object")
    call = ToolCall(fields.needed_text("id"), name, arguments)
    function.finish()
    fields.finish()
    return call


def _called(fields: Fields, open_calls: dict[str, ToolCall]) -> ToolCall:
    """The call that this is the result of; it is answered now."""
    id = fields.needed_text("tool_call_id")
    if id not in open_calls:
        raise fields.wrong("tool_call_id", f"is {id!r}, which no call before it has that is not answered yet")
    return open_calls.pop(id)
