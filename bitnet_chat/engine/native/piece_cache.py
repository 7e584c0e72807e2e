"""Cache of the tokens of prompt pieces: each message has the whole prompt, most of which is unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bitnet_chat.engine.native.protocol import Piece

_LIMIT = 1 << 22


class PieceCache:
    """Least recently used cache. Not thread-safe."""

    def __init__(self, tokenize: Callable[[Piece], tuple[int, ...]], limit: int = _LIMIT) -> None:
        """``limit``: characters that are remembered."""
        self._tokenize, self._limit = tokenize, limit
        self._known: dict[Piece, tuple[int, ...]] = {}
        self._size = 0

    def tokens(self, pieces: Iterable[Piece]) -> tuple[int, ...]:
        """The tokens of all pieces. Raises the errors of ``tokenize``."""
        return tuple(token for piece in pieces if piece[0] for token in self._of(piece))

    def _of(self, piece: Piece) -> tuple[int, ...]:
        tokens = self._known.pop(piece, None)
        if tokens is None:
            tokens = self._tokenize(piece)
            self._size += len(piece[0])
        self._known[piece] = tokens  # at the end: used last
        while self._size > self._limit:
            oldest = next(iter(self._known))
            self._size -= len(oldest[0])
            del self._known[oldest]
        return tokens
