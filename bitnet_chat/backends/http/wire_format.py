"""The common part of the wire formats: requests, and parsers of responses. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.engine_output import Frame, ReplyText, ThinkingText
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import PromptProgress, Stats
from bitnet_chat.filters.continuation import KnownReplyRemover, OverlapRemover, paragraph_break
from bitnet_chat.filters.thinking import DuplicatePrefixFilter, ThinkingSplitter
from bitnet_chat.filters.tool_call_repair import InvalidToolCall
from bitnet_chat.filters.tool_calls import arguments_of
from bitnet_chat.text.utf8 import TextBuffer

_TAGS = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Delta:
    """The next characters of the reply, or of the thoughts."""

    text: str
    thinking: bool = False


class ResponseParser(Protocol):
    """Parses one reply from bytes that are cut anywhere."""

    done: bool
    """The stream is complete."""
    finish: FinishReason | None
    """The finish reason, once the server has sent it."""
    error: str
    """An error during the reply, in the server's words."""
    usage: Usage
    speech: DeltaSplitter
    call_size: int
    """Characters of all tool calls so far, complete or not."""

    def feed(self, data: bytes) -> list[Delta]:
        """The content of ``data``. Raises ValueError for bytes of another format."""

    def end(self) -> list[Delta]:
        """The rest of the content, at the end of the stream. Raises ValueError as :meth:`feed` does."""

    def whole(self, content: Any) -> list[Delta]:
        """The content of a reply that is not streamed. Raises ValueError for another value."""

    def calls(self) -> list[ToolCall | InvalidToolCall]:
        """The tool calls of a complete reply."""


class WireFormat(Protocol):
    """The requests of one API, and the parsers of its responses."""

    path: str

    def refusal(self, options: ReplyOptions) -> tuple[str, str] | None:
        """The name of an unsupported option, and the reason."""

    def body(self, model: str, messages: Sequence[Message], options: ReplyOptions, *, stream: bool) -> dict[str, Any]:
        """The body of a request."""

    def without(self, field: str) -> WireFormat:
        """The format without ``field``, one of ``optional``."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The names of fields that may be left out."""

    @property
    def depends_on_request(self) -> bool:
        """Whether a field is left out whose value is that of a request: the server may accept another value."""

    def reader(self, options: ReplyOptions | None = None) -> ResponseParser:
        """A parser for the response. ``options``: those of :meth:`body`."""


@dataclass(slots=True)
class ToolCallParts:
    """The parts of a tool call that have arrived."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def made(self, fallback_id: str) -> ToolCall | InvalidToolCall:
        """The call of these parts."""
        id, text = self.id or fallback_id, "".join(self.arguments).strip()
        try:
            text = text if arguments_of(text) else "{}"
        except ValueError as error:
            return InvalidToolCall.of(id, self.name, str(error))
        return ToolCall(id, self.name, text) if self.name else InvalidToolCall.of(id, "", "it has no name", text)


class DeltaSplitter:
    """Collects text and thoughts as they arrive. ``tagged``: thoughts may be between tags in the text, for a server
    that does not separate them."""

    def __init__(self, *, tagged: bool) -> None:
        self.pieces = 0
        self._said: list[Delta] = []
        self._text, self._thoughts = _SurrogateJoiner(), _SurrogateJoiner()
        self._splitter = ThinkingSplitter(_TAGS, is_open=False) if tagged else None

    def think(self, text: object) -> None:
        if text and isinstance(text, str):
            self.pieces += 1
            self._splitter = None  # the server separates thoughts
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
        """Release the text that was held back, at the end of the stream."""
        if self._splitter is not None:
            self._split(self._splitter.flush())
            self._splitter = None

    def take(self) -> list[Delta]:
        """Take the new content; consecutive pieces of one kind are joined."""
        said, self._said = self._said, []
        return said

    def _split(self, frames: Sequence[Frame]) -> None:
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
    """Joins the two surrogates of a character that a server sends as escapes in two pieces."""

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


# The content of one reply from a server, with its times and token counts.


@dataclass(frozen=True, slots=True)
class Usage:
    """The server's token counts; None: not counted."""

    prompt: int | None = None
    """Tokens of the whole prompt."""
    cached: int = 0
    """Tokens of the prompt that were in the cache."""
    completion: int | None = None
    is_estimate: bool = False
    """Whether the server reports its counts as estimates."""
    beyond: int = 0
    """Tokens of ``completion`` that are known not to be text: the token that ended the reply, or a stop text."""


class ResponseAccumulator:
    """Collects the content of one reply. ``sent``: monotonic time of the request, in seconds."""

    def __init__(self, sent: float) -> None:
        self._sent = sent
        self._first: float | None = None
        self._ended: float | None = None
        self._said, self._thoughts = TextBuffer(), TextBuffer()
        self._told = 0
        """Number of pieces of text."""
        self._retelling = DuplicatePrefixFilter("")
        self._seams: tuple[OverlapRemover, ...] = ()
        self._known, self._known_tokens = KnownReplyRemover(""), 0
        self._before: Stats | None = None
        """The figures of the earlier answers of this reply; None: this is the first."""
        self._said_before = 0
        """Number of pieces of text of the earlier answers."""
        self._apart = False
        """Whether the next text begins a paragraph."""
        self.pieces = 0
        """Number of pieces of this answer: the estimated number of tokens, for a server that does not count."""
        self.usage = Usage()
        self.prompt_estimate: Callable[[], int] = int
        """The estimated tokens of the prompt, for a server that does not count."""

    @property
    def text(self) -> str:
        """The reply so far."""
        return self._said.text

    @property
    def is_empty(self) -> bool:
        """Whether the reply has no text yet."""
        return not self._told

    @property
    def is_fresh(self) -> bool:
        """Whether the present answer has no text yet."""
        return self._told == self._said_before

    @property
    def differs(self) -> bool:
        """Whether another reply is generated than the known one."""
        return self._known.differs

    @property
    def repeated(self) -> PromptProgress | None:
        """How much of the known reply was generated again. None: all of it, or none is known."""
        return self._known.progress(self._known_tokens) if self._known.is_within else None

    def was_shown(self, thinking: str) -> None:
        """Note thoughts that are not shown again."""
        self._thoughts.add(thinking)

    def go_on(self) -> None:
        """Begin another answer within the same reply."""
        self._before = self.stats(None)
        self._said_before = self._told
        self._apart = True
        self._thoughts, self._ended, self.usage = TextBuffer(), None, Usage()

    def begin(self, *ends: str, known: Message | None = None, known_tokens: int = 0) -> None:
        """Begin another attempt. ``ends``: texts that it may repeat at its beginning, in this order. ``known``: the
        beginning of the reply, which is generated again and is neither shown nor counted; ``known_tokens``: its
        tokens."""
        self._known = KnownReplyRemover(known.content, known.thinking) if known is not None else KnownReplyRemover("")
        self._known_tokens = known_tokens
        self._seams = tuple(OverlapRemover(end) for end in ends if end)
        self._retelling = DuplicatePrefixFilter(self._thoughts.text)
        self.pieces = 0

    def said(self, text: str) -> str:
        """Add text of the reply. Returns the part of it that is new."""
        if self._known.is_within and not (text := self._known.said(text)):
            return ""
        if self._first is None:
            self._first = time.monotonic()
        for seam in self._seams:
            text = seam.feed(text)
        if self._apart and (text := text.lstrip()):
            self._apart = False
            text = paragraph_break(self.text) + text
        if text:
            self._said.add(text)
            self._told += 1
        return text

    def thought(self, text: str) -> str:
        """Add thoughts. Returns the part of them that is new: a second attempt repeats much of the first."""
        if self._known.is_within and not (text := self._known.thought(text)):
            return ""
        if self._first is None:
            self._first = time.monotonic()
        text = self._retelling.feed(text)
        self._thoughts.add(text)
        return text

    def asked(self) -> None:
        """Note that a piece of a tool call has arrived."""
        if self._first is None:
            self._first = time.monotonic()

    def over(self) -> None:
        """Note the end of the answer."""
        self._ended = time.monotonic()

    def stats(self, context_size: int | None) -> Stats:
        usage = self.usage
        made = self.pieces if usage.completion is None else usage.completion
        tokens = max(0, made - usage.beyond - self._known_tokens)
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
        # The times are those of the whole reply already.
        whole = self._before + stats
        return replace(whole, time_to_first_token=stats.time_to_first_token, seconds=stats.seconds)


# The body of a request.


@dataclass(frozen=True, slots=True)
class RequestBody:
    """``content``: the JSON object. ``changed``: number of special tokens that were made text."""

    content: dict[str, Any]
    changed: int


def sent(
    wire: WireFormat, question: RequestMessages, options: ReplyOptions, fit: ServerContextWindow, target: RequestTarget
) -> RequestBody:
    """The body of a request for a streamed reply."""
    messages, changed = target.specials.protect_messages(fit.messages(question))
    tools, more = target.specials.protect_tools(options.tools)
    body = wire.body(target.model, messages, replace(options, tools=tools), stream=True)
    return RequestBody(body, changed + more)
