"""The record of a saved state: JSON beside the file of the engine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from bitnet_chat.errors import StateRecordError
from bitnet_chat.prompt_cache import names
from bitnet_chat.prompt_cache.key import FORMAT, StateIdentity
from bitnet_chat.prompt_cache.names import StateOwner, digest_of

MAX_BYTES = 1 << 22
"""Maximum size of a record: one of 95,000 messages."""
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class PendingState:
    """A state to be written by an engine: into ``path``, an existing empty file."""

    path: Path
    identity: StateIdentity
    digests: tuple[str, ...]
    stem: str


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state that an engine can restore from ``path``. The file never changes, but may be removed at any time."""

    path: Path
    identity: StateIdentity
    digests: tuple[str, ...]
    """The digests of all boundaries of its conversation, see :func:`bitnet_chat.prompt_cache.key.prefix_digests`. An
    engine that has restored it can drop the tokens after any of them."""
    tokens: int
    bytes: int
    crc32: int
    seconds: float
    """Time that the engine took to evaluate the tokens."""
    created: float
    """Seconds since the epoch."""
    owner: StateOwner | None
    """The owner at the commit."""
    stem: str

    @property
    def is_present(self) -> bool:
        """Whether its file has not been removed."""
        return os.path.exists(self.path)  # noqa: PTH110  # a path raises an error where its folder cannot be read

    @property
    def key(self) -> str:
        """The digests of what it was made with and of its conversation. A later state of the same key replaces it."""
        return names.key(self.identity.digest, self.digests[-1])

    @property
    def is_prompt(self) -> bool:
        """Whether it is that of a system prompt with its tools, which conversations share and none owns."""
        return self.owner is None and len(self.digests) == 1


def encode(state: SavedState) -> bytes:
    """The content of a record."""
    values = {"format": FORMAT, "identity": asdict(state.identity), "digests": state.digests, "tokens": state.tokens}
    values |= {"bytes": state.bytes, "crc32": state.crc32, "seconds": state.seconds, "created": state.created}
    return json.dumps(values).encode("ascii")


def decode(content: bytes, path: Path, stem: str, owner: StateOwner | None) -> SavedState:
    """Parse a record. ``path``, ``stem`` and ``owner``: those of the state. Raises StateRecordError."""
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise StateRecordError(f"its record has the format {values['format']!r}")
        state = SavedState(
            path=path,
            identity=_identity(values["identity"]),
            digests=_digests(values["digests"]),
            tokens=_number(values["tokens"], int),
            bytes=_number(values["bytes"], int),
            crc32=_number(values["crc32"], int),
            seconds=_number(values["seconds"], float),
            created=_number(values["created"], float),
            owner=owner,
            stem=stem,
        )
        if state.digests[-1] != digest_of(stem):
            raise StateRecordError("its record is of another conversation")
        return state
    except StateRecordError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateRecordError(f"its record is damaged ({type(error).__name__})") from None


def _identity(values: Mapping[str, Any]) -> StateIdentity:
    whole = {"sequences", "context", "format"}
    checked: dict[str, Any] = {}
    for name in (each.name for each in fields(StateIdentity)):
        if name == "flags":
            checked[name] = tuple(_text(each) for each in values[name])
        else:
            checked[name] = _number(values[name], int) if name in whole else _text(values[name])
    return StateIdentity(**checked)


def _digests(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise TypeError
    return tuple(map(_text, values))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object, kind: type[Number]) -> Number:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)) or not value >= 0:
        raise TypeError
    return kind(value)
