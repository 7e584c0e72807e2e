"""The JSON between a running server and an attached client. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.attached_server.client import error_of
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.conversation.openai_codec import (
    encode_message,
    encode_response_format,
    encode_tool,
    encode_tool_choice,
)
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, PromptProgress, Stats, TextDelta, ThinkingDelta
from bitnet_chat.text.sse import ServerSentEvent

LOST = "the connection to the server was lost during the reply"


@dataclass(frozen=True, slots=True)
class RemoteReplyStarted:
    """A reply of another client has begun. ``message``: its user message; None: a reply is continued. ``row``: of the
    reply in the journal of the server; None: not known."""

    message: str | None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class ChatRenamed:
    title: str


@dataclass(frozen=True, slots=True)
class ChatRemoved:
    """The chat was removed."""


@dataclass(frozen=True, slots=True)
class BranchSwitched:
    """Another branch is the current one."""


Heard = RemoteReplyStarted | ChatRenamed | ChatRemoved | BranchSwitched | Event
"""An event of a chat: each :class:`RemoteReplyStarted` is followed by the events of that reply, to its Completed or
Failed.
"""


class ChatEventParser:
    """Parses the stream of a chat, without the replies of this client."""

    def __init__(self) -> None:
        self.open = False
        """Whether a reply of another client is running."""
        self._text: list[str] = []
        self._title: str | None = None

    def heard(self, told: ServerSentEvent, own: set[str]) -> list[Heard]:
        data = data_of(told)
        if told.event == "chat":
            return self._chat(data)
        if data.get("variant"):  # of several variants of a reply, the first one
            return []
        if told.event == "start":
            ended = [self.lost()] if self.open else []
            self.open = data.get("generation") not in own
            self._text.clear()
            user = data.get("user")
            started = RemoteReplyStarted(user["content"] if user else None, data.get("message"))
            return [*ended, *([started] if self.open else [])]
        event = event_of(told.event, data, "".join(self._text)) if self.open else None
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        elif isinstance(event, Completed | Failed):
            self.open = False
        return [] if event is None else [event]

    def _chat(self, data: Mapping[str, Any]) -> list[Heard]:
        if data.get("deleted"):
            return [ChatRemoved()]
        before, self._title = self._title, str(data.get("title") or "")
        renamed = [ChatRenamed(self._title)] if before is not None and before != self._title else []
        return [*renamed, *([BranchSwitched()] if data.get("head") is not None else [])]

    def lost(self) -> Failed:
        self.open = False
        return Failed(EngineDiedError(LOST), "".join(self._text))


def body_of(
    conversation: Conversation, options: ReplyOptions, *, model: str = "", sampling: Sampling
) -> dict[str, object]:
    """A request for a reply. ``sampling``: replaces the values that ``options`` do not set."""
    body: dict[str, object] = {"messages": [encode_message(message) for message in conversation.messages]}
    last = conversation.last
    if last is not None and last.role == "assistant":
        body["continue"] = True
    if model:
        body["model"] = model
    if options.max_tokens is not None:
        body["max_tokens"] = options.max_tokens
    for each in fields(Sampling):
        value = getattr(options.sampling, each.name)
        value = getattr(sampling, each.name) if value is None else value
        if value is not None:
            body[each.name] = value
    if options.stop:
        body["stop"] = list(options.stop)
    if options.tools:
        body["tools"] = [encode_tool(tool) for tool in options.tools]
        body["tool_choice"] = encode_tool_choice(options.tool_choice)
    if options.format is not None:
        body["response_format"] = encode_response_format(options.format.schema)
    return body


def data_of(told: ServerSentEvent) -> Mapping[str, Any]:
    try:
        data = json.loads(told.data)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def event_of(name: str, data: Mapping[str, Any], so_far: str) -> Event | None:
    """The event of a reply for an event of the stream; None: another kind of event. ``so_far``: the text of the
    reply."""
    match name:
        case "chunk":
            return TextDelta(str(data.get("text") or ""))
        case "thinking":
            return ThinkingDelta(str(data.get("text") or ""))
        case "progress":
            done, total = data.get("done"), data.get("total")
            if not isinstance(done, int) or not isinstance(total, int):
                return None
            return PromptProgress(done, total, repeats=data.get("repeats") is True)
        case "notice":
            return Notice(str(data.get("text") or ""))
        case "tool_call":
            return ToolCall(str(data.get("id")), str(data.get("name")), str(data.get("arguments")))
        case "complete":
            known = {each.name for each in fields(Stats)}
            stats = data.get("stats")
            figures = {key: value for key, value in stats.items() if key in known} if isinstance(stats, dict) else {}
            return Completed(_reason(data.get("finish_reason")) or FinishReason.STOP, so_far, Stats(**figures))
        case "error":
            error = error_of(data, 0, "the server")
            return Failed(error, so_far)
    return None


def _reason(name: object) -> FinishReason | None:
    return next((each for each in FinishReason if each.value == name), None)


def message_in(chat: object, id: int | None) -> tuple[str, FinishReason | None]:
    """The text of the message ``id`` and its finish reason; None: the reply is running or missing."""
    messages = chat.get("messages") if isinstance(chat, dict) else None
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("id") == id and id is not None:
            return str(message.get("content") or ""), _reason(message.get("finish_reason"))
    return "", None
