"""The protocol of the native engine: requests to the child and messages from it, as lines of JSON. Pure.

A line is ASCII and ends in a newline. Bytes that are not UTF-8 are lone surrogates, as everywhere in this program.
``id`` identifies a request; a child with several sequences processes several requests at once, and their messages
alternate.

Messages that follow a request::

    Complete              Prefill*, Token*, then NativeReplyEnded or NativeFailed; so for each of ``count`` ids
    Tokenize, Detokenize  Tokens, DetokenizedText, or NativeFailed
    Embed                 Embedding or NativeFailed
    Save, Restore         Saved, Restored, or NativeFailed
    Stop                  the end of the request that it names: NativeReplyEnded("interrupted")

While it loads, the child sends Loading, then NativeReady once. NativeFailed with the id None is its last message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from bitnet_chat.errors import NativeFailureKind, NativeProtocolError

__all__ = [
    "MOST_VARIANTS",
    "Complete",
    "Detokenize",
    "DetokenizedText",
    "Embed",
    "Embedding",
    "Loading",
    "Message",
    "NativeFailed",
    "NativeProtocolError",
    "NativeReady",
    "NativeReplyEnded",
    "Piece",
    "Prefill",
    "Request",
    "Restore",
    "Restored",
    "Save",
    "Saved",
    "Stop",
    "Token",
    "Tokenize",
    "Tokens",
    "decode_message",
    "decode_request",
    "encode",
]

MOST_VARIANTS = 8
"""Maximum number of replies from one evaluation of a prompt."""
EndReason = Literal["stop", "length", "stop_text", "interrupted", "context_full"]

Piece = tuple[str, bool]
"""A part of a prompt: its text, and whether special tokens in it are parsed. Each piece is tokenized separately, so a
boundary of two pieces should be at a special token. No BOS token is added.
"""


@dataclass(frozen=True, slots=True)
class Complete:
    """Request to continue a prompt, which is either ``prompt`` or ``tokens``. Tokens at its beginning that the sequence
    has already evaluated are not evaluated again.
    """

    kind: ClassVar[str] = "complete"
    id: int
    count: int = field(default=1, kw_only=True)
    """Number of replies (variants) from one evaluation of the prompt. They have the ids ``id``, ``id + 1``, …, and a
    seed is increased by 1 for each. They share one context window.
    """
    prompt: tuple[Piece, ...] = ()
    tokens: tuple[int, ...] = ()
    max_tokens: int | None = None
    """None: up to the end of the window. A reply of exactly this length is complete if the next token would end it."""
    sampling: dict[str, float] = field(default_factory=dict)
    """Values by the names in :class:`bitnet_chat.backend.Sampling`; others have the default of the library."""
    stop: tuple[str, ...] = ()
    """Texts before which the reply ends. No part of them is sent."""
    grammar: str = ""
    """A grammar for the reply, in GBNF."""
    schema: dict[str, Any] | None = None
    """A JSON schema for the reply; ``{}`` allows any JSON object."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Request to end the request or variant ``id`` after the current token. Without effect if it has ended. A request
    that has not begun is ended as a whole.
    """

    kind: ClassVar[str] = "stop"
    id: int


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Request for the tokens of a prompt."""

    kind: ClassVar[str] = "tokenize"
    id: int
    prompt: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Detokenize:
    """Request for the text of tokens."""

    kind: ClassVar[str] = "detokenize"
    id: int
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Embed:
    """Request for the embedding of a text. To a single piece, the tokens that the model has at the beginning and end of
    a text are added.
    """

    kind: ClassVar[str] = "embed"
    id: int
    prompt: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Save:
    """Request to write the state of the sequence used last to ``file``, a name in ``--state-folder``. Only a child with
    the same model, library and number of sequences can read it.
    """

    kind: ClassVar[str] = "save"
    id: int
    file: str = ""


@dataclass(frozen=True, slots=True)
class Restore:
    """Request to read a state that was saved, for the next reply."""

    kind: ClassVar[str] = "restore"
    id: int
    file: str = ""


Request = Complete | Stop | Tokenize | Detokenize | Embed | Save | Restore


@dataclass(frozen=True, slots=True)
class Loading:
    """Progress of loading. ``done``: from 0 to 1."""

    kind: ClassVar[str] = "loading"
    done: float = 0.0


@dataclass(frozen=True, slots=True)
class NativeReady:
    """The model is loaded. ``context_size``: tokens of one sequence. ``sequences``: number of parallel requests.
    ``can``: supported features besides replies: ``grammar``, ``schema``, ``embed``, ``state``, ``variants``.
    """

    kind: ClassVar[str] = "ready"
    library: str = ""
    version: str = ""
    context_size: int = 0
    sequences: int = 1
    can: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefill:
    """Progress of the prefill: ``done`` of ``total`` tokens are evaluated, ``cached`` of them before this request."""

    kind: ClassVar[str] = "prefill"
    id: int
    done: int = 0
    total: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """Complete characters of the reply. ``tokens``: their tokens, if the library reports them."""

    kind: ClassVar[str] = "token"
    id: int
    text: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NativeReplyEnded:
    """The end of a reply. ``reason``: ``stop``: a token of the model; ``stop_text``: a text of ``Complete.stop``;
    ``context_full``: the end of the window.

    Numbers of tokens: ``prompt_tokens``: evaluated for this request; ``prompt_size``: of the whole prompt; ``tokens``:
    of the reply, without the one that ended it; ``context_used``: in the context now. ``prefill_seconds`` and
    ``reply_seconds``: durations.
    """

    kind: ClassVar[str] = "ended"
    id: int
    reason: EndReason = "stop"
    prompt_tokens: int = 0
    prompt_size: int = 0
    tokens: int = 0
    context_used: int = 0
    prefill_seconds: float = 0.0
    reply_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Response to Tokenize."""

    kind: ClassVar[str] = "tokens"
    id: int
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DetokenizedText:
    """Response to Detokenize."""

    kind: ClassVar[str] = "text"
    id: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Embedding:
    """Response to Embed. ``values``: a vector of length 1. ``tokens``: number of tokens of the text."""

    kind: ClassVar[str] = "embedding"
    id: int
    values: tuple[float, ...] = ()
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """Response to Save. ``tokens``: number of tokens in the state."""

    kind: ClassVar[str] = "saved"
    id: int
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """Response to Restore. ``tokens``: number of tokens in the state."""

    kind: ClassVar[str] = "restored"
    id: int
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class NativeFailed:
    """A failed request; with ``id`` None the end of the child. ``why``: ``usage``: the request is invalid;
    ``unsupported``: the library does not support it; ``context_full``: the prompt does not fit into the window;
    ``model``: the model cannot be loaded; ``failed``: any other reason.
    """

    kind: ClassVar[str] = "failed"
    id: int | None = None
    why: NativeFailureKind = "failed"
    what: str = ""


Message = (
    Loading
    | NativeReady
    | Prefill
    | Token
    | NativeReplyEnded
    | Tokens
    | DetokenizedText
    | Embedding
    | Saved
    | Restored
    | NativeFailed
)

_REQUESTS: dict[str, type[Any]] = {
    each.kind: each for each in (Complete, Stop, Tokenize, Detokenize, Embed, Save, Restore)
}
_MESSAGES: dict[str, type[Any]] = {
    each.kind: each
    for each in (
        Loading,
        NativeReady,
        Prefill,
        Token,
        NativeReplyEnded,
        Tokens,
        DetokenizedText,
        Embedding,
        Saved,
        Restored,
        NativeFailed,
    )
}


def encode(message: Request | Message) -> bytes:
    """Return a request or message as one line."""
    content = {"kind": message.kind, **asdict(message)}
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def decode_request(line: bytes) -> Request:
    """Parse a line to the child. Types of fields are not checked, see :func:`problem`. Raises NativeProtocolError."""
    request: Request = _decoded(line, _REQUESTS)
    return request


def decode_message(line: bytes | str) -> Message:
    """Parse a line from the child. Raises NativeProtocolError."""
    message: Message = _decoded(line, _MESSAGES)
    return message


def _decoded(line: bytes | str, kinds: dict[str, type[Any]]) -> Any:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NativeProtocolError(f"not a line of this protocol: {error}") from None
    id = content.get("id") if isinstance(content, dict) else None
    try:
        made = kinds[content.pop("kind")]
        return made(**{name: _frozen(value) for name, value in content.items()})
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        known = id if isinstance(id, int) and not isinstance(id, bool) else None
        raise NativeProtocolError(f"not a line of this protocol: {error}", known) from None


def _frozen(value: Any) -> Any:
    """Convert lists to tuples, which the dataclasses have."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def variants(request: Complete) -> list[Complete]:
    """Return the request of each variant, without its seed."""
    return [replace(request, id=request.id + number, count=1) for number in range(request.count)]


def known_fields(kind: str) -> tuple[str, ...]:
    """Return the names of the fields of a request or message. ``kind``: the value of its field ``kind``."""
    return tuple(each.name for each in fields((_REQUESTS | _MESSAGES)[kind]))


SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""The names in :class:`bitnet_chat.backend.Sampling`, which the child does not import. A test compares them."""
_WHOLE = ("top_k", "seed")


def problem(request: Request) -> str:
    """Check the types of the fields of a request. Returns the error; empty if it is valid."""
    for each in fields(request):
        is_right, expected = _FIELDS[each.name]
        if not is_right(getattr(request, each.name)):
            return f"{each.name} of the request {request.kind!r} must be {expected}"
    return ""


def is_id(value: Any) -> bool:
    """Return whether a value is a valid request id."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return is_id(value) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_prompt(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(piece, tuple) and len(piece) == 2 and _is_text(piece[0]) and isinstance(piece[1], bool)
        for piece in value
    )


def _are_tokens(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_count, value))


def _is_sampling(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in SAMPLING and _is_number(number) and (name not in _WHOLE or number == int(number))
        for name, number in value.items()
    )


def _are_stops(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _is_file(value: Any) -> bool:
    return _is_text(value) and bool(value) and value.lstrip(".") == value and not set(value) & set('/\\:*?"<>|\0')


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (is_id, "an integer"),
    "count": (lambda value: _is_count(value) and 1 <= value <= MOST_VARIANTS, f"an integer from 1 to {MOST_VARIANTS}"),
    "prompt": (_is_prompt, "a list of [text, whether special tokens are read]"),
    "tokens": (_are_tokens, "a list of tokens"),
    "max_tokens": (lambda value: value is None or _is_count(value), "null or an integer of at least 0"),
    "sampling": (_is_sampling, f"numbers by the names {', '.join(SAMPLING)}"),
    "stop": (_are_stops, "a list of texts"),
    "grammar": (_is_text, "a text in GBNF"),
    "schema": (lambda value: value is None or isinstance(value, dict), "null or a JSON schema"),
    "file": (_is_file, "the name of a file, without a folder"),
}
