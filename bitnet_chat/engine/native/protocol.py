"""The protocol of the native engine: requests to the child, messages from it, one line of JSON for each. Pure.

A line is ASCII and ends in ``\n``. A byte that is not UTF-8 stands as a lone surrogate, as everywhere in this program.
``id`` names a request; a child with several sequences works on several requests at once, and their messages mix.

What follows a request::

    Complete              Prefill*, Token*, then Ended or Failed
    Tokenize, Detokenize  Tokens, Text, or Failed
    Embed                 Embedding or Failed
    Save, Restore         Saved, Restored, or Failed
    Stop                  the end of the request that it names: Ended("interrupted")

The child says Loading while it loads and Ready once; Failed with the id None is the last that it says before it ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

__all__ = [
    "Complete",
    "Detokenize",
    "DetokenizedText",
    "Embed",
    "Embedding",
    "Loading",
    "Message",
    "NativeFailed",
    "NativeReady",
    "NativeReplyEnded",
    "Piece",
    "Prefill",
    "ProtocolError",
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

EndReason = Literal["stop", "length", "stop_text", "interrupted", "context_full"]
FailureKind = Literal["usage", "unsupported", "context_full", "model", "failed"]

Piece = tuple[str, bool]
"""A part of a prompt: its text, and whether special tokens are read in it. Pieces are tokenized each by itself, so they
meet beside a special token. No BOS token is added."""


class ProtocolError(ValueError):
    """A line that is not one of this protocol. ``id``: of the request or message, where it can be read."""

    def __init__(self, what: str, id: int | None = None) -> None:
        super().__init__(what)
        self.id = id


@dataclass(frozen=True, slots=True)
class Complete:
    """Continue a prompt, which is ``prompt`` or else ``tokens``. Tokens that the sequence has evaluated already, from
    the beginning on, are not evaluated again."""

    kind: ClassVar[str] = "complete"
    id: int
    prompt: tuple[Piece, ...] = ()
    tokens: tuple[int, ...] = ()
    max_tokens: int | None = None
    """None: up to the end of the window. A reply of just so many is whole where the next token would end it."""
    sampling: dict[str, float] = field(default_factory=dict)
    """Values by the names of :class:`bitnet_chat.backend.Sampling`; the library's default for others."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply where they would begin; no part of one is ever sent."""
    grammar: str = ""
    """GBNF."""
    schema: dict[str, Any] | None = None
    """A JSON schema for the reply; ``{}`` allows any JSON object."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the request ``id`` within a token. No effect on a request that has ended."""

    kind: ClassVar[str] = "stop"
    id: int


@dataclass(frozen=True, slots=True)
class Tokenize:
    kind: ClassVar[str] = "tokenize"
    id: int
    prompt: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Detokenize:
    kind: ClassVar[str] = "detokenize"
    id: int
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Embed:
    """A single piece is a whole text, and gets the tokens that the model begins and ends one with."""

    kind: ClassVar[str] = "embed"
    id: int
    prompt: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Save:
    """Write what the last sequence that was used has evaluated into ``file``, a name in the folder of states.

    It is for a child with the same model, library and number of sequences."""

    kind: ClassVar[str] = "save"
    id: int
    file: str = ""


@dataclass(frozen=True, slots=True)
class Restore:
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
    """The model is loaded. ``context_size``: tokens of one sequence. ``sequences``: parallel requests. ``can``: what
    this library can beyond completing: ``grammar``, ``schema``, ``embed``, ``state``."""

    kind: ClassVar[str] = "ready"
    library: str = ""
    version: str = ""
    context_size: int = 0
    sequences: int = 1
    can: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefill:
    """Progress of prefill: ``done`` of ``total`` tokens are evaluated; ``cached`` of them were before."""

    kind: ClassVar[str] = "prefill"
    id: int
    done: int = 0
    total: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """Whole characters of the reply. ``tokens``: their tokens, if the library reports them."""

    kind: ClassVar[str] = "token"
    id: int
    text: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NativeReplyEnded:
    """End of a reply. ``stop``: the model ended it. ``stop_text``: a text of the request did. ``context_full``: the
    window did.

    ``prompt_tokens``: evaluated anew; ``prompt_size``: of the whole prompt; ``tokens``: of the reply, without the one
    that ended it; ``context_used``: in the window now. Seconds: of the prefill and of the reply.
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
    kind: ClassVar[str] = "tokens"
    id: int
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DetokenizedText:
    kind: ClassVar[str] = "text"
    id: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Embedding:
    kind: ClassVar[str] = "embedding"
    id: int
    values: tuple[float, ...] = ()
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    kind: ClassVar[str] = "saved"
    id: int
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    kind: ClassVar[str] = "restored"
    id: int
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class NativeFailed:
    """A failed request. ``context_full``: the prompt is longer than the window. ``unsupported``: this library cannot do
    it. ``model``: the model cannot be loaded."""

    kind: ClassVar[str] = "failed"
    id: int | None = None
    why: FailureKind = "failed"
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
    """One line."""
    content = {"kind": message.kind, **asdict(message)}
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises ProtocolError."""
    request: Request = _decoded(line, _REQUESTS)
    return request


def decode_message(line: bytes | str) -> Message:
    """Raises ProtocolError."""
    message: Message = _decoded(line, _MESSAGES)
    return message


def _decoded(line: bytes | str, kinds: dict[str, type[Any]]) -> Any:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a line of this protocol: {error}") from None
    id = content.get("id") if isinstance(content, dict) else None
    try:
        made = kinds[content.pop("kind")]
        return made(**{name: _frozen(value) for name, value in content.items()})
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        known = id if isinstance(id, int) and not isinstance(id, bool) else None
        raise ProtocolError(f"not a line of this protocol: {error}", known) from None


def _frozen(value: Any) -> Any:
    """Convert lists to tuples, as in the dataclasses."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def known_fields(kind: str) -> tuple[str, ...]:
    """The fields of a request or a message, for errors and the documentation."""
    return tuple(each.name for each in fields((_REQUESTS | _MESSAGES)[kind]))


# Whether the fields of a request are of the types that the protocol names. Pure.

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
"""The names of :class:`bitnet_chat.backend.Sampling`, which a test compares."""
_WHOLE = ("top_k", "seed")


def problem(request: Request) -> str:
    """The error of a request; empty for a valid one."""
    for each in fields(request):
        is_right, expected = _FIELDS[each.name]
        if not is_right(getattr(request, each.name)):
            return f"{each.name} of the request {request.kind!r} must be {expected}"
    return ""


def is_id(value: Any) -> bool:
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
    "id": (is_id, "a whole number"),
    "prompt": (_is_prompt, "a list of [text, whether special tokens are read]"),
    "tokens": (_are_tokens, "a list of tokens"),
    "max_tokens": (lambda value: value is None or _is_count(value), "null or a whole number from 0 on"),
    "sampling": (_is_sampling, f"numbers by the names {', '.join(SAMPLING)}"),
    "stop": (_are_stops, "a list of texts"),
    "grammar": (_is_text, "a text in GBNF"),
    "schema": (lambda value: value is None or isinstance(value, dict), "null or a JSON schema"),
    "file": (_is_file, "the name of a file, without a folder"),
}
