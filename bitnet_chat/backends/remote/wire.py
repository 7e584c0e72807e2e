"""What the wire formats have in common: how a reply is asked for, and what is read out of its bytes. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.backends.remote.account import Usage
from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.filters.thinking import ThinkingSplitter
from bitnet_chat.frames import Frame, ReplyText, ThinkingText

_TAGS = "<think>", "</think>"
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_NAME_LIMIT = 64  # characters of a name, as OpenAI has it


@dataclass(frozen=True, slots=True)
class Said:
    """The next characters, of the reply or of what the model thinks."""

    text: str
    thinking: bool = False


class Reader(Protocol):
    """One reply, out of bytes that are cut anywhere."""

    done: bool
    """Nothing more is to come."""
    finish: FinishReason | None
    """Why it ended, as far as the server has said."""
    error: str
    """What went wrong in its middle, in the server's words."""
    usage: Usage
    speech: Speech
    call_size: int
    """Characters of the calls of tools so far, whole or not."""

    def feed(self, data: bytes) -> list[Said]:
        """Raises ValueError for what is no such stream."""

    def end(self) -> list[Said]:
        """The stream has ended, with all that belongs to it."""

    def whole(self, content: Any) -> list[Said]:
        """A reply that was not streamed. Raises ValueError for what is no reply."""

    def calls(self) -> list[ToolCall | Fault]:
        """What a reply that has come to its own end asks for."""


class Wire(Protocol):
    """A format."""

    path: str
    streamed: str
    """Its content type."""

    def refusal(self, options: ReplyOptions) -> tuple[str, str] | None:
        """Name of an option that cannot be honoured, and why."""

    def body(self, model: str, messages: Sequence[Message], options: ReplyOptions, *, stream: bool) -> dict[str, Any]:
        """The request."""

    def without(self, field: str) -> Wire:
        """The same without ``field``, one of ``optional``, which was refused."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Fields that :meth:`without` can do without, as they are called in a request."""

    @property
    def depends_on_request(self) -> bool:
        """Whether a field is left out that holds what a client asked for: another value of it may be taken."""

    def reader(self, options: ReplyOptions | None = None) -> Reader:
        """``options``: those that :meth:`body` was given."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that cannot be made. ``call``: the same in a form that any server takes back. ``why``: for the model."""

    call: ToolCall
    why: str


def fault(id: str, name: str, why: str, arguments: str = "{}") -> Fault:
    return Fault(ToolCall(id, _NO_NAME.sub("_", name[:_NAME_LIMIT]) or "unnamed", arguments), why)


@dataclass(slots=True)
class CallParts:
    """A tool call whose parts are still coming."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def made(self, fallback_id: str) -> ToolCall | Fault:
        """What has become of them."""
        id, text = self.id or fallback_id, "".join(self.arguments).strip() or "{}"
        try:
            arguments = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return fault(id, self.name, f"its arguments are no JSON ({error})")
        if not isinstance(arguments, dict):
            return fault(id, self.name, "its arguments are no JSON object")
        return ToolCall(id, self.name, text) if self.name else fault(id, "", "it has no name", text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


class Speech:
    """Text and thoughts as they come, and what of them can be told. ``tagged``: thoughts may come within the text,
    between tags, where the server does not tell them apart by itself."""

    def __init__(self, *, tagged: bool) -> None:
        self.pieces = 0
        self._said: list[Said] = []
        self._text, self._thoughts = _Joiner(), _Joiner()
        self._splitter = ThinkingSplitter(_TAGS, is_open=False) if tagged else None

    def think(self, text: object) -> None:
        if text and isinstance(text, str):
            self.pieces += 1
            self._splitter = None  # so it does tell them apart
            self._add(self._thoughts.feed(text), thinking=True)

    def say(self, text: object) -> None:
        if text and isinstance(text, str):
            self.pieces += 1
            text = self._text.feed(text)
            if self._splitter is None:
                self._add(text)
            else:
                self._split(self._splitter.feed(text))

    def end(self) -> None:
        """Nothing more comes: what was held back is told."""
        if self._splitter is not None:
            self._split(self._splitter.flush())
            self._splitter = None

    def take(self) -> list[Said]:
        """What has not been taken yet: of what came in one chunk, one piece of a kind."""
        said, self._said = self._said, []
        return said

    def _split(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, ThinkingText | ReplyText):
                self._add(frame.text, thinking=isinstance(frame, ThinkingText))

    def _add(self, text: str, *, thinking: bool = False) -> None:
        if not text:
            return
        if self._said and self._said[-1].thinking is thinking:
            text = self._said.pop().text + text
        self._said.append(Said(text, thinking))


class _Joiner:
    """Joins the halves of a character that a server has sent in two pieces, each as an escape of its own."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, text: str) -> str:
        if self._half:
            text, self._half = self._half + text, ""
            if "\ud800" <= text[0] <= "\udbff" and "\udc00" <= text[1:2] <= "\udfff":
                text = text[:2].encode("utf-16", "surrogatepass").decode("utf-16") + text[2:]
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text
