"""The interface between the child and a library, and what the adapters of both libraries share.

:class:`Library` and :class:`ReplySink` are the interface; :func:`batch_size`, :class:`Sequences` and :func:`mean` are
pure helpers.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bitnet_chat.engine.native.protocol import MOST_VARIANTS, Piece

Outcome = Literal["stop", "length", "context_full", "cut"]
"""The reason why a library ended a reply: a token that ends it, ``max_tokens``, the end of the context window, or
a request of the :class:`ReplySink` (``cut``).
"""


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """The command line of the child. ``context_size``: tokens of one sequence. ``variants``: maximum number of replies
    from one prompt. 0: the default of the library, or of :func:`batch_size`.
    """

    folder: Path
    model: Path
    context_size: int = 0
    threads: int = 0
    batch_size: int = 0
    sequences: int = 1
    variants: int = MOST_VARIANTS
    embeddings: bool = False
    state_folder: Path | None = None
    overrides: tuple[str, ...] = ()

    def batch(self, least: int) -> int:
        """Return ``batch_size``, or a size for the model and the threads that is at least ``least``."""
        if self.batch_size:
            return self.batch_size
        size = self.model.stat().st_size if self.model.is_file() else 0
        return batch_size(self.model.name, size, self.threads or os.cpu_count() or 1, least)


class ReplySink(Protocol):
    """Receives one reply, on any thread. ``prefill`` and ``token`` return True to end the reply."""

    def prefill(self, done: int, total: int, cached: int) -> bool:
        """Receive progress: ``done`` of ``total`` tokens of the prompt are in the cache, ``cached`` of them from
        before.
        """

    def token(self, token: int | None, piece: bytes, count: int = 1) -> bool:
        """Receive ``count`` tokens with the bytes ``piece``. ``token``: the last of them; None if it is unknown."""

    @property
    def is_cut(self) -> bool:
        """Whether the reply must end, because of a request or its text."""

    def when_stopped(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, on any thread, when a request stops the reply; at once if that has happened."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The request of a reply. The sink handles stop texts. ``max_tokens``: None: up to the end of the window."""

    tokens: tuple[int, ...]
    max_tokens: int | None
    sampling: dict[str, float]
    grammar: str
    schema: dict[str, object] | None
    """A JSON schema with keywords of :attr:`Library.schema_keywords`; None: none, or ``grammar`` has its rules."""


class Library(Protocol):
    """A library with a loaded model. Methods are called on several threads at once, :meth:`complete` on at most as many
    as there are sequences. Each raises NativeRequestError if the request cannot be processed.
    """

    @property
    def version(self) -> str:
        """Name and version of the package of the library."""

    @property
    def context_size(self) -> int:
        """Tokens of one sequence."""

    @property
    def can(self) -> tuple[str, ...]:
        """See :class:`bitnet_chat.engine.native.protocol.NativeReady`."""

    @property
    def schema_keywords(self) -> tuple[str, ...]:
        """Keywords of JSON schemas that the library supports, but :mod:`bitnet_chat.engine.native.grammar` does not."""

    def tokenize(self, piece: Piece, whole: bool = False) -> tuple[int, ...]:
        """Return the tokens of a piece. ``whole``: with the tokens that the model has at the beginning and end of a
        text.
        """

    def detokenize(self, tokens: tuple[int, ...]) -> bytes:
        """Return the bytes of tokens, including the texts of special tokens."""

    def complete(self, generation: GenerationRequest, sink: ReplySink) -> Outcome:
        """Generate a reply, and return after its end. The sink also receives the token that ended it."""

    def complete_variants(
        self, generation: GenerationRequest, sinks: Sequence[ReplySink], ended: Callable[[int, Outcome], None]
    ) -> None:
        """Generate a reply for each sink from one evaluation of the prompt, and return after the end of all. A seed is
        increased by the number of the sink. They share the context window: a reply also ends where it is full.
        ``ended``: called with the number of a sink at the end of its reply.
        """

    def embed(self, tokens: tuple[int, ...]) -> tuple[float, ...]:
        """Return the embedding of a text, a vector of length 1."""

    def save(self, file: str) -> int:
        """Write the state of the sequence used last to ``file``. Returns its number of tokens."""

    def restore(self, file: str) -> int:
        """Read a state from ``file``, for the next reply. Returns its number of tokens."""


MAX_BATCH = 512
_RATE = 6.5e9
"""Size of a model in bytes, times the tokens of a prompt that one thread evaluates in 0.45 s: the smallest value that
was measured.
"""
_TILE = 64
"""Tokens from which on llama.cpp computes flash attention in tiles: half of them take about as long."""
MIN_BATCH = 16
"""Minimum batch size: llama.cpp is slower with smaller batches."""
_PARTS = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def batch_size(file_name: str, file_size: int, threads: int, least: int = MIN_BATCH) -> int:
    """Return the number of prompt tokens that are evaluated at once: ``least``, or a power of two from :data:`_TILE` to
    :data:`MAX_BATCH`. ``file_size``: bytes of the model, or of its first part.

    A batch should take less than 0.5 s at the beginning of the window: between two batches progress is reported, and a
    prefill of llama.cpp can be stopped. After 6,000 tokens it takes three times as long. Measured with SmolLM2-135M in
    Q4_1, one thread, in batches of 16, 32, 64 and 128: 97, 98, 148 and 153 tokens/s; after 3,500 tokens in batches of
    32 and 64: 36 and 93. A model with the shape of BitNet 2B4T in TQ2_0 evaluates 21.8 tokens/s in
    batches of 16 and 22.1 in batches of 128. ik_llama.cpp evaluates 2B4T in IQ2_BN as fast in batches of 32 as of 256.
    """
    parts = _PARTS.search(file_name)
    size = max(file_size, 1) * (int(parts[1]) if parts else 1)
    wanted = int(_RATE * threads / size)
    if wanted < _TILE // 2:
        return least
    return max(least, _TILE, min(MAX_BATCH, 1 << ((wanted // 2).bit_length() - 1)))


def prefill_slices(start: int, size: int, batch: int) -> Iterator[int]:
    """Yield the ends of the slices in which a prompt is evaluated, without the last one. ``start``: tokens that are in
    the cache. ``size``: tokens of the prompt. ``batch``: maximum tokens of a slice.

    What remains behind whole batches takes longer than a tile of :data:`_TILE` if it has more than half its tokens.
    """
    at = start
    while size - at > batch:
        at += batch
        yield at
    if at > start and _TILE // 2 < size - at < _TILE:
        yield at + _TILE // 2


class Sequences:
    """The evaluated tokens of each sequence of a library, by which a sequence for a prompt is chosen. A sequence is
    busy while a reply uses it. Pure; not thread-safe.
    """

    def __init__(self, count: int) -> None:
        self._evaluated: list[tuple[int, ...]] = [()] * count
        self._order = list(range(count))  # least recently used first
        self._busy: set[int] = set()

    @property
    def last(self) -> int:
        """Number of the sequence used last."""
        return self._order[-1]

    def evaluated(self, number: int) -> tuple[int, ...]:
        """Return the evaluated tokens of a sequence."""
        return self._evaluated[number]

    def take(self, prompt: Sequence[int], wanted: int | None = None) -> int:
        """Choose a free sequence for a prompt, and make it busy: ``wanted`` if it is free, else the one with the
        longest common beginning, else the least recently used. At least one must be free.
        """
        free = [number for number in self._order if number not in self._busy]
        chosen = max(free, key=lambda number: (number == wanted, common(self._evaluated[number], prompt)))
        self._busy.add(chosen)
        self._order.remove(chosen)
        self._order.append(chosen)
        return chosen

    def put(self, number: int, evaluated: tuple[int, ...]) -> None:
        """Set the evaluated tokens of a sequence."""
        self._evaluated[number] = evaluated

    def release(self, number: int) -> None:
        """Make a sequence free."""
        self._busy.discard(number)

    def donor(self, prompt: Sequence[int]) -> int:
        """Return the sequence, busy or free, with the longest common beginning with a prompt."""
        return max(self._order, key=lambda number: common(self._evaluated[number], prompt))


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of equal tokens at the beginning of two sequences."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))


def mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the embedding of a text from those of its tokens: the mean of ``rows``, scaled to length 1. A library that
    pools the tokens itself provides a single row.
    """
    sums = [math.fsum(column) for column in zip(*rows, strict=True)]
    length = math.sqrt(math.fsum(value * value for value in sums)) or 1.0
    return tuple(value / length for value in sums)
