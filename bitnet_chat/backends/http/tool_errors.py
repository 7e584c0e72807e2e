"""Tool calls that cannot be made, and their reports to the model. Pure.

Where no call of a reply can be made, the model is asked again within the same reply. Where some can, the faults are
reported with the results of those.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.wire_format import InvalidToolCall, invalid_call
from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.events import Stats

_REMEMBERED = 256
"""Replies whose faults are to be told with the results of their other calls."""
_TOLD = 8
"""Faults of one reply that are told: a server may send any number."""


def split_invalid(
    made: Sequence[ToolCall | InvalidToolCall], tools: Sequence[Tool]
) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The calls that can be made, and those that cannot, such as calls of unknown tools."""
    names = [tool.name for tool in tools]
    calls: list[ToolCall] = []
    faults: list[InvalidToolCall] = []
    for each in made:
        if isinstance(each, InvalidToolCall):
            faults.append(each)
        elif each.name in names:
            calls.append(each)
        else:
            why = f"there is no tool {each.name[:64]!r}; there are: {', '.join(names)}"
            faults.append(invalid_call(each.id, each.name, why, each.arguments))
    return calls, faults[:_TOLD]


def repair_prompt(question: RequestMessages, text: str, faults: Sequence[InvalidToolCall]) -> RequestMessages:
    """The same with what the model has said so far, ``text``, and what was wrong with its calls."""
    asked = question.asked
    if question.prefix:  # the text goes on with it
        asked, text = asked[:-1], question.prefix + question.overlap + text
    said = Message("assistant", text, tool_calls=tuple(each.call for each in faults))
    return replace(question, asked=(*asked, said, *map(_result, faults)), prefix="", overlap="")


def limits_left(options: ReplyOptions, used: Stats) -> ReplyOptions:
    """The limit that is left for another answer. That on time is kept elsewhere."""
    if options.max_tokens is None:
        return options
    return replace(options, max_tokens=max(1, options.max_tokens - used.tokens))


class PendingToolErrors:
    """Faults of replies with other calls, which front ends do not see."""

    def __init__(self) -> None:
        self._faults: OrderedDict[tuple[ToolCall, ...], tuple[InvalidToolCall, ...]] = OrderedDict()

    def keep(self, calls: list[ToolCall], faults: Sequence[InvalidToolCall]) -> list[ToolCall]:
        """``faults``: those of the reply that has asked for ``calls``, which get ids here that are those of no other
        reply: servers may count them, and then those of another client have the same."""
        if not faults:
            return calls
        calls = [replace(call, id=f"call_{secrets.token_hex(8)}") for call in calls]
        self._faults[tuple(calls)] = tuple(faults)
        if len(self._faults) > _REMEMBERED:
            self._faults.popitem(last=False)
        return calls

    def told_in(self, conversation: Conversation) -> Conversation:
        """``conversation`` with the faults where they belong: behind the results of the other calls."""
        if not self._faults:
            return conversation
        messages: list[Message] = []
        faults: tuple[InvalidToolCall, ...] = ()
        for message in conversation.messages:
            if message.role != "tool":
                messages += map(_result, faults)
                faults = self._faults.get(message.tool_calls, ()) if message.tool_calls else ()
                if faults:
                    calls = (*message.tool_calls, *(each.call for each in faults))
                    message = replace(message, tool_calls=calls)
            messages.append(message)
        return Conversation((*messages, *map(_result, faults)))


def _result(fault: InvalidToolCall) -> Message:
    told = f"error: this call cannot be read: {fault.why}. Write it again."
    return Message("tool", told, call_id=fault.call.id, tool_name=fault.call.name)
