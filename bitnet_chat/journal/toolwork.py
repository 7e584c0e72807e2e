"""What a message has of calls of tools and their results, as the text of one column. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict

from bitnet_chat.conversation import Message, ToolCall


def packed(message: Message) -> str:
    """JSON; empty for a message that has to do with no tool."""
    fields: dict[str, object] = {}
    if message.tool_calls:
        fields["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.call_id:
        fields["call_id"] = message.call_id
    if message.tool_name:
        fields["tool_name"] = message.tool_name
    return json.dumps(fields) if fields else ""


Work = tuple[tuple[ToolCall, ...], str, str]
"""``tool_calls``, ``call_id`` and ``tool_name`` of a message."""


def unpacked(text: str) -> tuple[Work, bool]:
    """What :func:`packed` was given, and whether it can be read."""
    if not text:
        return ((), "", ""), True
    try:
        fields = json.loads(text)
        calls = tuple(
            ToolCall(str(call["id"]), str(call["name"]), str(call["arguments"]))
            for call in fields.get("tool_calls", ())
        )
        return (calls, str(fields.get("call_id", "")), str(fields.get("tool_name", ""))), True
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # written by another release
        return ((), "", ""), False
