"""The common part of the wire formats: requests, and parsers of responses. No I/O."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.engine_frames import Frame, ReplyText, ThinkingText
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Stats
from bitnet_chat.filters.continuation import OverlapRemover
from bitnet_chat.filters.thinking import DuplicatePrefixFilter, ThinkingSplitter
from bitnet_chat.text.utf8 import TextBuffer

_TAGS = "<think>", "</think>"
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_NAME_LIMIT = 64  # characters of a name, as OpenAI has it


@dataclass(frozen=True, slots=True)
class Delta:
    """The next characters, of the reply or of what the model thinks."""

    text: str
    thinking: bool = False


class ResponseParser(Protocol):
    """One reply, out of bytes that are cut anywhere."""

    done: bool
    """The stream is complete."""
    finish: FinishReason | None
    """The finish reason, where the server has sent it."""
    error: str
    """An error during the reply, in the server's words."""
    usage: Usage
    speech: DeltaSplitter
    call_size: int
    """Characters of the calls of tools so far, whole or not."""

    def feed(self, data: bytes) -> list[Delta]:
        """Raises ValueError for bytes of another format."""

    def end(self) -> list[Delta]:
        """The stream has ended, with all that belongs to it."""

    def whole(self, content: Any) -> list[Delta]:
        """A reply that was not streamed. Raises ValueError for another body."""

    def calls(self) -> list[ToolCall | InvalidToolCall]:
        """The tool calls of a complete reply."""


class WireFormat(Protocol):
    """A format."""

    path: str
    streamed: str
    """Its content type."""

    def refusal(self, options: ReplyOptions) -> tuple[str, str] | None:
        """Name of an option that cannot be honoured, and why."""

    def body(self, model: str, messages: Sequence[Message], options: ReplyOptions, *, stream: bool) -> dict[str, Any]:
        """The request."""

    def without(self, field: str) -> WireFormat:
        """The same without ``field``, one of ``optional``, which was refused."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Fields that :meth:`without` can do without, as they are called in a request."""

    @property
    def depends_on_request(self) -> bool:
        """Whether a field is left out that holds what a client asked for: another value of it may be taken."""

    def reader(self, options: ReplyOptions | None = None) -> ResponseParser:
        """``options``: those that :meth:`body` was given."""


@dataclass(frozen=True, slots=True)
class InvalidToolCall:
    """A call that cannot be made. ``call``: the same in a form that any server takes back. ``why``: for the model."""

    call: ToolCall
    why: str


def invalid_call(id: str, name: str, why: str, arguments: str = "{}") -> InvalidToolCall:
    return InvalidToolCall(ToolCall(id, _NO_NAME.sub("_", name[:_NAME_LIMIT]) or "unnamed", arguments), why)


@dataclass(slots=True)
class ToolCallParts:
    """A tool call whose parts are still coming."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def made(self, fallback_id: str) -> ToolCall | InvalidToolCall:
        """What has become of them."""
        id, text = self.id or fallback_id, "".join(self.arguments).strip() or "{}"
        try:
            arguments = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return invalid_call(id, self.name, f"its arguments are no JSON ({error})")
        if not isinstance(arguments, dict):
            return invalid_call(id, self.name, "its arguments are no JSON object")
        return ToolCall(id, self.name, text) if self.name else invalid_call(id, "", "it has no name", text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


class DeltaSplitter:
    """Text and thoughts as they come, and what of them can be told. ``tagged``: thoughts may come within the text,
    between tags, where the server does not tell them apart by itself."""

    def __init__(self, *, tagged: bool) -> None:
        self.pieces = 0
        self._said: list[Delta] = []
        self._text, self._thoughts = _SurrogateJoiner(), _SurrogateJoiner()
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

    def take(self) -> list[Delta]:
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
        self._said.append(Delta(text, thinking))


class _SurrogateJoiner:
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


# The account of one reply from a server: what arrived, when, and how many tokens it was.


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them; None where it did not."""

    prompt: int | None = None
    """Of the whole prompt."""
    cached: int = 0
    """Of those that it remembered from before."""
    completion: int | None = None
    is_estimate: bool = False
    """Whether the server says that it has not counted but estimated."""
    beyond: int = 0
    """Of ``completion``, those that are known to be no text: the token that ended the reply, or a stop text."""


class ResponseAccumulator:
    """``sent``: the monotonic second at which the message was given to us."""

    def __init__(self, sent: float) -> None:
        self._sent = sent
        self._first: float | None = None
        self._ended: float | None = None
        self._said, self._thoughts = TextBuffer(), TextBuffer()
        self._told = 0
        """Pieces of the text."""
        self._retelling = DuplicatePrefixFilter("")
        self._seams: tuple[OverlapRemover, ...] = ()
        self._before: Stats | None = None
        """Of the answers of which this reply consists, but the last."""
        self._said_before = 0
        """Pieces of the text that are theirs."""
        self._apart = False
        """The next text is another paragraph."""
        self.pieces = 0
        """That arrived: about as many as tokens, where the server does not count."""
        self.usage = Usage()
        self.prompt_estimate: Callable[[], int] = int
        """Tokens of the prompt, for a server that does not count them."""

    @property
    def text(self) -> str:
        """The reply so far."""
        return self._said.text

    @property
    def is_empty(self) -> bool:
        """Nothing of the reply has come."""
        return not self._told

    @property
    def is_fresh(self) -> bool:
        """Nothing has come of the answer that is under way."""
        return self._told == self._said_before

    def go_on(self) -> None:
        """The same reply goes on with another answer of the server."""
        self._before = self.stats(None)
        self._said_before = self._told
        self._apart = True
        self._thoughts, self._ended, self.usage = TextBuffer(), None, Usage()

    def begin(self, *ends: str) -> None:
        """Another attempt begins. ``ends``: what it may repeat before it says anything new, in this order."""
        self._seams = tuple(OverlapRemover(end) for end in ends if end)
        self._retelling = DuplicatePrefixFilter(self._thoughts.text)
        self.pieces = 0

    def said(self, text: str) -> str:
        """The next of the reply came: what of it is to be told."""
        if self._first is None:
            self._first = time.monotonic()
        for seam in self._seams:
            text = seam.feed(text)
        if self._apart and (text := text.lstrip()):
            said, self._apart = self.text, False
            text = ("\n\n"[min(2, len(said) - len(said.rstrip("\n"))) :] if said else "") + text
        if text:
            self._said.add(text)
            self._told += 1
        return text

    def thought(self, text: str) -> str:
        """The same of what the model thinks; a second attempt has much of it in common with the first."""
        if self._first is None:
            self._first = time.monotonic()
        text = self._retelling.feed(text)
        self._thoughts.add(text)
        return text

    def asked(self) -> None:
        """The next of a call of a tool came."""
        if self._first is None:
            self._first = time.monotonic()

    def over(self) -> None:
        self._ended = time.monotonic()

    def stats(self, context_size: int | None) -> Stats:
        usage = self.usage
        made = self.pieces if usage.completion is None else usage.completion
        tokens = made - usage.beyond
        size = usage.prompt
        if size is None and self._first is not None:
            size = self.prompt_estimate() or None
        stats = Stats(
            prompt_tokens=None if size is None else size - usage.cached,
            tokens=tokens,
            time_to_first_token=None if self._first is None else self._first - self._sent,
            seconds=(self._ended or time.monotonic()) - self._sent,
            context_used=None if size is None else size + made,
            context_size=context_size,
            exact=usage.completion is not None and usage.prompt is not None and not usage.is_estimate,
            prompt_size=size,
        )
        if self._before is None:
            return stats
        return replace(
            stats,
            prompt_tokens=self._before.prompt_tokens,
            prompt_size=self._before.prompt_size,
            tokens=self._before.tokens + stats.tokens,
            exact=self._before.exact and stats.exact,
        )


# What is sent to a server for a reply. Pure.


@dataclass(frozen=True, slots=True)
class RequestBody:
    """``content``: the body of a request. ``changed``: special tokens in it that were made text."""

    content: dict[str, Any]
    changed: int


def sent(
    wire: WireFormat, question: RequestMessages, options: ReplyOptions, fit: ServerContextWindow, target: RequestTarget
) -> RequestBody:
    """The request for a streamed reply."""
    messages, changed = target.specials.protect_messages(fit.messages(question))
    tools, more = target.specials.protect_tools(options.tools)
    body = wire.body(target.model, messages, replace(options, tools=tools), stream=True)
    return RequestBody(body, changed + more)
