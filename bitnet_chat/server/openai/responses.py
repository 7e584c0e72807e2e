"""Replies in the format of the OpenAI API, whole and in chunks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bitnet_chat.conversation import ToolCall
from bitnet_chat.conversation.openai_codec import encode_tool_call, well_formed_call
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, TextDelta, ThinkingDelta
from bitnet_chat.server.errors import APIError, openai_form, without_tools
from bitnet_chat.server.responses import common_usage, to_json
from bitnet_chat.version import __version__

DONE = b"data: [DONE]\n\n"
_FINGERPRINT = f"bitnet-chat-{__version__}"
_OPTION_NAMES = {"format": "response_format"}
"""Options that a backend may refuse, with their names in this API."""
_AS_THEY_WERE = {
    FinishReason.STOP: "stop",
    FinishReason.ROLE_MARKER: "stop",
    FinishReason.EMPTY: "stop",
    FinishReason.TOOL_CALLS: "tool_calls",
}


def finish_reason(reason: FinishReason) -> str:
    """Return the finish reason of the API: ``length`` for any incomplete reply, since the API has no other value."""
    return _AS_THEY_WERE.get(reason, "length")


def event(value: object) -> bytes:
    """Return a server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


def error_body(problem: APIError) -> dict[str, object]:
    """Return ``{"error": …}`` with the names that this API has for options."""
    if problem.param == "tools":
        problem = replace(problem, message=without_tools(problem.message))
    elif (name := _OPTION_NAMES.get(problem.param)) is not None:
        problem = replace(problem, param=name, message=problem.message.replace(problem.param, name, 1))
    return openai_form(problem)


class _ChunkTemplate:
    """A chunk in which only the text varies; the rest is encoded once."""

    def __init__(self, empty: bytes) -> None:
        """``empty``: the chunk for an empty text, which is its last empty string."""
        self._before, _, self._after = empty.rpartition(b'""')

    def of(self, text: str) -> bytes:
        return b"%b%b%b" % (self._before, to_json(text), self._after)


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Fields that all chunks of a reply share. ``created``: seconds since 1970."""

    id: str
    created: int
    model: str

    def of(self, kind: str, choices: Sequence[object]) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": _FINGERPRINT,
            "choices": list(choices),
        }


def details(end: Completed, notices: Sequence[str]) -> dict[str, object]:
    """Return the extension ``bitnet_chat``: exact finish reason, speed, and notices."""
    stats = end.stats
    return {
        "finish_reason": str(end.reason),
        "exact": stats.exact,
        "tokens_per_second": stats.tokens_per_second,
        "time_to_first_token": stats.time_to_first_token,
        "seconds": stats.seconds,
        "context_used": stats.context_used,
        "context_size": stats.context_size,
        "notices": list(notices),
    }


@dataclass(frozen=True, slots=True)
class WholeReply:
    """A complete reply."""

    end: Completed
    thinking: str = ""
    calls: Sequence[ToolCall] = ()


class OpenAIChatEncoder:
    """Encodes replies of ``/v1/chat/completions``."""

    def __init__(self, head: ChunkHeader, *, usage: bool, index: int = 0) -> None:
        """``usage``: whether a stream reports it. ``index``: number of the choice in the chunks."""
        self._head, self._wants_usage, self._index = head, usage, index
        self._text, self._thought = (
            _ChunkTemplate(self._chunk({name: ""})) for name in ("content", "reasoning_content")
        )
        self._calls = 0

    def first(self) -> list[bytes]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, event: Event) -> list[bytes]:
        """Return the chunk for an event; none if the API cannot express it within a stream."""
        match event:
            case TextDelta(text):
                return [self._text.of(text)]
            case ThinkingDelta(text):
                return [self._thought.of(text)]
            case ToolCall():
                index, self._calls = self._calls, self._calls + 1
                call = {"index": index, **encode_tool_call(well_formed_call(event))}
                return [self._chunk({"tool_calls": [call]})]
        return []

    def last(self, end: Completed, notices: Sequence[str]) -> list[bytes]:
        return [self._chunk({}, finish_reason(end.reason), {"bitnet_chat": details(end, notices)})]

    def usage(self, ends: Sequence[Completed]) -> list[bytes]:
        """Return the chunk with the usage of all choices, if the stream reports it."""
        usage = common_usage([end.stats for end in ends])
        return [event({**self._head.of("chat.completion.chunk", []), "usage": usage})] if self._wants_usage else []

    def _chunk(self, delta: object, finish: str | None = None, more: Mapping[str, object] | None = None) -> bytes:
        choice = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._wants_usage else {}
        return event({**self._head.of("chat.completion.chunk", [choice]), **usage, **(more or {})})

    def whole(self, replies: Sequence[WholeReply], notices: Sequence[str]) -> dict[str, object]:
        ends = [each.end for each in replies]
        return {
            **self._head.of("chat.completion", [_message(index, each) for index, each in enumerate(replies)]),
            "usage": common_usage([end.stats for end in ends]),
            "bitnet_chat": details(ends[0], notices),
        }


def _message(index: int, reply: WholeReply) -> dict[str, object]:
    message: dict[str, object] = {
        "role": "assistant",
        "content": None if reply.calls and not reply.end.text else reply.end.text,
        "refusal": None,
    }
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.calls:
        message["tool_calls"] = [encode_tool_call(well_formed_call(call)) for call in reply.calls]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason(reply.end.reason)}


class OpenAICompletionEncoder:
    """Encodes replies of ``/v1/completions``, which has no thoughts and tools."""

    def __init__(self, head: ChunkHeader, *, usage: bool, index: int = 0) -> None:
        self._head, self._wants_usage, self._index = head, usage, index
        self._text = _ChunkTemplate(self._chunk(""))

    def first(self) -> list[bytes]:
        return []

    def piece(self, event: Event) -> list[bytes]:
        return [self._text.of(event.text)] if isinstance(event, TextDelta) else []

    def last(self, end: Completed, notices: Sequence[str]) -> list[bytes]:
        return [self._chunk("", finish_reason(end.reason), {"bitnet_chat": details(end, notices)})]

    def usage(self, ends: Sequence[Completed]) -> list[bytes]:
        usage = common_usage([end.stats for end in ends])
        return [event({**self._head.of("text_completion", []), "usage": usage})] if self._wants_usage else []

    def _chunk(self, text: str, finish: str | None = None, more: Mapping[str, object] | None = None) -> bytes:
        usage = {"usage": None} if self._wants_usage else {}
        return event(
            {**self._head.of("text_completion", [_choice(self._index, text, finish)]), **usage, **(more or {})}
        )

    def whole(self, replies: Sequence[WholeReply], notices: Sequence[str]) -> dict[str, object]:
        ends = [each.end for each in replies]
        choices = [_choice(index, end.text, finish_reason(end.reason)) for index, end in enumerate(ends)]
        return {
            **self._head.of("text_completion", choices),
            "usage": common_usage([end.stats for end in ends]),
            "bitnet_chat": details(ends[0], notices),
        }


def _choice(index: int, text: str, finish: str | None) -> dict[str, object]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
