"""A conversation is an immutable tuple of messages; every change makes a new one.

Text may contain lone surrogates (U+DC80..U+DCFF): they represent bytes of a reply that were not UTF-8, as in
``surrogateescape``, so that a reply can be sent to an engine again byte for byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from bitnet_chat.errors import FinishReason, UsageError

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: tuple[str, ...] = get_args(Role)
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
    """One message. ``finish``: the finish reason of an assistant message; None for other roles and external replies.

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
    """Messages in order: at most one system message, first, then user and assistant in turn, usually beginning with the
    user. The results of a reply with calls follow it. See :mod:`bitnet_chat.conversation.api_messages`.
    """

    messages: tuple[Message, ...] = ()

    @classmethod
    def from_dicts(cls, dicts: Iterable[Mapping[str, object]]) -> Conversation:
        """From OpenAI-style objects. Raises UsageError naming the first message that is wrong."""
        messages: list[Message] = []
        for number, each in enumerate(dicts, 1):
            if not isinstance(each, Mapping):
                raise UsageError(f"message {number} is not an object with 'role' and 'content'")
            role, content = each.get("role"), each.get("content")
            if role not in _ROLES:
                raise UsageError(f"message {number} has the role {role!r}", remedy=f"use one of: {', '.join(_ROLES)}")
            calls = calls_in(each.get("tool_calls"), number) if role == "assistant" else ()
            text = text_in(content, number) if content is not None or not calls else ""
            if role == "system" and number > 1:
                raise UsageError(f"message {number} is a system message; it can only be the first")
            if role not in ("system", "tool") and messages and messages[-1].role == role:
                raise UsageError(f"message {number} is a second {role} message in a row")
            if role == "assistant" and (not messages or messages[-1].role == "system"):
                raise UsageError(f"message {number} is an assistant message before any user message")
            if role == "tool":
                call = _call_answered(each, messages, number)
                messages.append(Message("tool", text, call_id=call.id, tool_name=call.name))
            else:
                finish = FinishReason.TOOL_CALLS if calls else None
                messages.append(Message(role, text, finish, tool_calls=calls))  # type: ignore[arg-type]  # see above
        return cls(tuple(messages))

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

    def with_system(self, text: str) -> Conversation:
        """The same turns under another system prompt; empty text removes it."""
        head = (Message("system", text),) if text else ()
        return Conversation(head + self.turns)

    def with_user(self, text: str) -> Conversation:
        """Add a user message. Open calls get a result that marks them as not executed."""
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
            for call in message.tool_calls:  # one result each: not every server gives each call an id of its own
                if answered[call.id]:
                    answered[call.id] -= 1
                else:
                    left.append(call)
            return tuple(left)
        return ()

    def with_all_answered(self, result: str = NOT_CALLED) -> Conversation:
        """Each open call has ``result``."""
        results = (Message("tool", result, call_id=call.id, tool_name=call.name) for call in self.open_calls)
        return Conversation((*self.messages, *results))

    def without_last_reply(self) -> Conversation:
        """Drop the last message if it is an assistant message, for ``/regen``."""
        if self.last is not None and self.last.role == "assistant":
            return Conversation(self.messages[:-1])
        return self

    def without_last_turn(self) -> Conversation:
        """Drop the last user message and all that follows it; unchanged without one."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == "user":
                return Conversation(self.messages[:index])
        return self

    def cleared(self) -> Conversation:
        """Only the system prompt."""
        return Conversation(self.messages[: len(self.messages) - len(self.turns)])


def text_in(content: object, number: int) -> str:
    """The text of message ``number``: a string, or parts that are texts. Raises UsageError for anything else."""
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


def calls_in(value: object, number: int) -> tuple[ToolCall, ...]:
    """The ``tool_calls`` of message ``number``, in the form of the OpenAI API. Raises UsageError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UsageError(f"message {number} has 'tool_calls' that are not a list")
    calls: list[ToolCall] = []
    for place, each in enumerate(value, 1):
        function = each.get("function") if isinstance(each, Mapping) else None
        if not isinstance(each, Mapping) or not isinstance(function, Mapping):
            raise UsageError(f"message {number}, call {place}, is not an object with 'function'")
        id, name, arguments = each.get("id", f"call_{number}_{place}"), function.get("name"), function.get("arguments")
        if not isinstance(id, str) or not isinstance(name, str) or not name:
            raise UsageError(f"message {number}, call {place}, has no 'name', or an 'id' that is not a string")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments)
        try:
            if not isinstance(arguments, str) or not isinstance(json.loads(arguments), dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise UsageError(f"message {number}, call {place}, has 'arguments' that are not a JSON object") from None
        calls.append(ToolCall(id, name, arguments))
    return tuple(calls)


def _call_answered(fields: Mapping[str, object], messages: Sequence[Message], number: int) -> ToolCall:
    """The call of which message ``number`` is the result."""
    open_calls = Conversation(tuple(messages)).open_calls
    id = fields.get("tool_call_id")
    for call in open_calls:
        if id in (call.id, None):
            return call
    if not open_calls:
        raise UsageError(f"message {number} is the result of a tool without a call")
    raise UsageError(f"message {number} is a result: no tool call with id {id!r}")
