"""A conversation is an immutable tuple of messages; every change makes a new one.

Text may hold lone surrogates (U+DC80..U+DCFF): they stand for bytes of a reply that were not UTF-8, as
``surrogateescape`` makes them, so that a reply can be given back to an engine byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from bitnet_chat.errors import FinishReason, UsageError

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may ask to have called. ``parameters``: a JSON schema of type ``object``."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call that a model asks for; also an event of a reply. ``arguments``: a JSON object, as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``finish`` tells why an assistant message ended; None for other roles and replies from outside.

    ``thinking``: what a model thought before it answered. It is kept, and never goes back to an engine.
    ``tool_calls``: what an assistant message asks for, behind its text. A message of the role ``tool`` is the result of
    the call ``call_id`` of the tool ``tool_name``.
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
        """True for a reply that did not come to its own end, and that may be continued."""
        return self.finish not in (None, FinishReason.STOP, FinishReason.ROLE_MARKER, FinishReason.TOOL_CALLS)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order: at most one system message, first, then user and assistant in turn."""

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
            if not isinstance(content, str):
                raise UsageError(f"message {number} has no text in 'content'")
            if role == "system" and number > 1:
                raise UsageError(f"message {number} is a system message; it can only be the first")
            if role != "system" and messages and messages[-1].role == role:
                raise UsageError(f"message {number} is a second {role} message in a row")
            if role == "assistant" and (not messages or messages[-1].role == "system"):
                raise UsageError(f"message {number} is an assistant message before any user message")
            messages.append(Message(role, content))  # type: ignore[arg-type]  # checked against _ROLES above
        return cls(tuple(messages))

    @property
    def system(self) -> str:
        """The system prompt; empty when there is none."""
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
        return Conversation((*self.messages, Message("user", text)))

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

    def without_last_reply(self) -> Conversation:
        """Drops the last assistant message, if it is the last one: what ``/regen`` asks again."""
        if self.last is not None and self.last.role == "assistant":
            return Conversation(self.messages[:-1])
        return self

    def without_last_turn(self) -> Conversation:
        """Drops the last user message and all that follows it; unchanged where there is none."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == "user":
                return Conversation(self.messages[:index])
        return self

    def cleared(self) -> Conversation:
        """Only the system prompt."""
        return Conversation(self.messages[: len(self.messages) - len(self.turns)])
