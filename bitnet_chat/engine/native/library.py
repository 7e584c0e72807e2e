"""Interface between the child and a library."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bitnet_chat.engine.native.batch_size import batch_size
from bitnet_chat.engine.native.protocol import FailureKind, Piece

Outcome = Literal["stop", "length", "context_full", "cut"]
"""Reason for the end of a reply: a token that ends one, at ``max_tokens``, at the end of the window, or because a
:class:`ReplySink` asked for it."""


class RequestError(Exception):
    """A request that cannot be done; becomes ``Failed`` with the same message."""

    def __init__(self, why: FailureKind, what: str) -> None:
        super().__init__(what)
        self.why: FailureKind = why


class LoadError(Exception):
    """The model or the library cannot be loaded; ends the child."""

    def __init__(self, what: str, why: FailureKind = "model") -> None:
        super().__init__(what)
        self.why: FailureKind = why


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """The command line. Numbers that are 0 are for the library to choose; ``batch_size`` then is for the adapter."""

    folder: Path
    model: Path
    context_size: int = 0
    threads: int = 0
    batch_size: int = 0
    sequences: int = 1
    embeddings: bool = False
    state_folder: Path | None = None
    overrides: tuple[str, ...] = ()

    def batch(self, least: int) -> int:
        """``batch_size``, or a size that fits the model and the threads."""
        if self.batch_size:
            return self.batch_size
        size = self.model.stat().st_size if self.model.is_file() else 0
        return batch_size(self.model.name, size, self.threads or os.cpu_count() or 1, least)


class ReplySink(Protocol):
    """Receiver of one reply, called on a thread of the library's choice. Each call returns True to end the reply."""

    def prefill(self, done: int, total: int, cached: int) -> bool: ...

    def token(self, token: int | None, piece: bytes, count: int = 1) -> bool:
        """Receive ``count`` tokens with the bytes ``piece``; ``token`` is None if the library does not report it."""

    @property
    def is_cut(self) -> bool:
        """Whether the reply has to end, by a request or by its text."""

    def when_stopped(self, callback: Callable[[], None]) -> None:
        """Register ``callback``: called once, on another thread, when a request stops the reply; at once if it has."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Options of a reply; the sink handles the texts that end it."""

    tokens: tuple[int, ...]
    max_tokens: int | None
    sampling: dict[str, float]
    grammar: str
    schema: dict[str, object] | None
    """One with :attr:`Library.schema_keywords`."""


class Library(Protocol):
    """A loaded model. Calls come from several threads at once, :meth:`complete` from at most ``sequences``.

    All but :meth:`close` raise RequestError.
    """

    @property
    def version(self) -> str: ...

    @property
    def context_size(self) -> int:
        """Tokens of one sequence."""

    @property
    def can(self) -> tuple[str, ...]:
        """See :class:`bitnet_chat.engine.native.protocol.NativeReady`."""

    @property
    def schema_keywords(self) -> tuple[str, ...]:
        """Keywords of JSON schemas that it supports itself, beyond :mod:`bitnet_chat.engine.native.grammar`."""

    def tokenize(self, piece: Piece, whole: bool = False) -> tuple[int, ...]:
        """Tokens of a piece. ``whole``: with the tokens that the model adds at the begin and end of a text."""

    def detokenize(self, tokens: tuple[int, ...]) -> bytes: ...

    def complete(self, generation: GenerationRequest, sink: ReplySink) -> Outcome:
        """Returns when the reply has ended. The token that ended it comes to the sink, too."""

    def embed(self, tokens: tuple[int, ...]) -> tuple[float, ...]: ...

    def save(self, file: str) -> int: ...

    def restore(self, file: str) -> int: ...
