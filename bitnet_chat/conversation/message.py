"""A conversation is an immutable tuple of messages; every change makes a new one.

Text may contain lone surrogates (U+DC80..U+DCFF): they represent bytes of a reply that were not UTF-8, as in
``surrogateescape``, so that a reply can be sent to an engine again byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bitnet_chat.errors import FinishReason, UsageError

Role = Literal["system", "user", "assistant", "tool"]
_WHOLE = (None, FinishReason.STOP, FinishReason.ROLE_MARKER, FinishReason.EMPTY, FinishReason.TOOL_CALLS)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call. ``parameters``: a JSON schema of type ``object``."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a model; also an event of a reply. ``arguments``: a JSON object, as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``finish``: the finish reason of a reply; None for other roles and for external replies.

    ``thinking``: the thoughts of a model before its answer. They are stored, and never sent to an engine.
    ``tool_calls``: calls of an assistant message, after its text. A message of the role ``tool`` is the result of the
    call ``call_id`` of the tool ``tool_name``.
    """

    role: Role
    content: str
    finish: FinishReason | None = None
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    tool_name: str = ""

    @property
    def was_cut(self) -> bool:
        """True for an incomplete reply, which may be continued."""
        return self.finish not in _WHOLE


NOT_CALLED = "error: the tool was not called"
"""The result of a call that was not executed, after a stop or the end of the program."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order: at most one system message, at the beginning, then user and assistant messages in turn. The
    results of a reply with calls follow it. See :mod:`bitnet_chat.conversation.api_messages`."""

    messages: tuple[Message, ...] = ()

    @classmethod
    def from_dicts(cls, dicts: Iterable[Mapping[str, object]]) -> Conversation:
        """See :func:`bitnet_chat.conversation.openai_codec.decode_conversation`."""
        from bitnet_chat.conversation.openai_codec import decode_conversation

        return decode_conversation(dicts)

    @property
    def system(self) -> str:
        """The system prompt; empty without one."""
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else ""

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system prompt."""
        return self.messages[1:] if self.messages and self.messages[0].role == "system" else self.messages

    @property
    def last(self) -> Message | None:
        return self.messages[-1] if self.messages else None

    @property
    def cut_reply(self) -> Message | None:
        """The incomplete reply at the end; None where the next reply is a new one.

        Raises UsageError for a conversation without a message to reply to, or with a complete reply at its end."""
        last = self.last
        reply = last if last is not None and last.role == "assistant" else None
        asked = self.messages[-1:] if reply is None else self.messages[-2:-1]
        if not asked or asked[0].role not in ("user", "tool") or all(each.role != "user" for each in self.messages):
            raise UsageError("the conversation has no user message to reply to")
        if reply is not None and not reply.was_cut:
            raise UsageError("the last reply is complete and cannot be continued")
        return reply

    def with_system(self, text: str) -> Conversation:
        """The same turns with another system prompt; an empty text removes it."""
        head = (Message("system", text),) if text else ()
        return Conversation(head + self.turns)

    def with_user(self, text: str) -> Conversation:
        """Add a user message. Open calls get a result that reports them as not executed."""
        return Conversation((*self.with_all_answered().messages, Message("user", text)))

    def with_assistant(
        self,
        text: str,
        finish: FinishReason | None = None,
        thinking: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
    ) -> Conversation:
        return Conversation((*self.messages, Message("assistant", text, finish, thinking, tool_calls)))

    def with_tool_result(self, call: ToolCall, result: str) -> Conversation:
        return Conversation((*self.messages, Message("tool", result, call_id=call.id, tool_name=call.name)))

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The calls of the last reply without a result."""
        answered: Counter[str] = Counter()
        for message in reversed(self.messages):
            if message.role == "tool":
                answered[message.call_id] += 1
                continue
            left: list[ToolCall] = []
            for call in message.tool_calls:  # one result each: the ids of some servers are not unique
                if answered[call.id]:
                    answered[call.id] -= 1
                else:
                    left.append(call)
            return tuple(left)
        return ()

    def with_all_answered(self, result: str = NOT_CALLED) -> Conversation:
        """Add ``result`` for each open call."""
        results = (Message("tool", result, call_id=call.id, tool_name=call.name) for call in self.open_calls)
        return Conversation((*self.messages, *results))

    def without_last_reply(self) -> Conversation:
        """Drop the last message if it is an assistant message, for ``/regen``."""
        if self.last is not None and self.last.role == "assistant":
            return Conversation(self.messages[:-1])
        return self

    def without_last_turn(self) -> Conversation:
        """Drop the last user message and all messages after it; unchanged without a user message."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == "user":
                return Conversation(self.messages[:index])
        return self

    def cleared(self) -> Conversation:
        """The system prompt alone."""
        return Conversation(self.messages[: len(self.messages) - len(self.turns)])
