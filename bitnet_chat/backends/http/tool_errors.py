"""Invalid tool calls of replies that have valid ones as well: they are reported with the results of those. Pure."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.filters.tool_call_repair import InvalidToolCall

_REMEMBERED = 256
"""Replies whose faults are kept."""


class PendingToolErrors:
    """Faults of replies with valid calls; front ends do not get them."""

    def __init__(self) -> None:
        self._faults: OrderedDict[tuple[ToolCall, ...], tuple[InvalidToolCall, ...]] = OrderedDict()

    def keep(self, calls: list[ToolCall], faults: Sequence[InvalidToolCall]) -> list[ToolCall]:
        """Keep ``faults`` for the next request with ``calls``. Returns the calls with unique ids: some servers number
        their calls, and then another client has calls with the same ids."""
        if not calls or not faults:
            return calls
        calls = [replace(call, id=f"call_{secrets.token_hex(8)}") for call in calls]
        self._faults[tuple(calls)] = tuple(faults)
        if len(self._faults) > _REMEMBERED:
            self._faults.popitem(last=False)
        return calls

    def told_in(self, conversation: Conversation) -> Conversation:
        """``conversation`` with the faults among the calls of their reply, and their reports after its results."""
        if not self._faults:
            return conversation
        messages: list[Message] = []
        faults: tuple[InvalidToolCall, ...] = ()
        for message in conversation.messages:
            if message.role != "tool":
                messages += [fault.result for fault in faults]
                faults = self._faults.get(message.tool_calls, ())
                calls = (*message.tool_calls, *(fault.call for fault in faults))
                message = replace(message, tool_calls=calls) if faults else message
            messages.append(message)
        return Conversation((*messages, *(fault.result for fault in faults)))
