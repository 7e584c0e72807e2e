"""Reading of the vocabulary of a model file, and token counts with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.context.tokenizer import KINDS, Tokenizer, Vocabulary
from bitnet_chat.errors import ModelError
from bitnet_chat.models.gguf import I32, STRING, GGUFArray, GGUFReader, header, opened
from bitnet_chat.models.known_faults import repair

# The largest known vocabularies have 262,144 tokens and 3 MB.
_MAX_PIECES, _MAX_BYTES = 1 << 20, 1 << 24
_USER_DEFINED = 4  # LLAMA_TOKEN_TYPE_USER_DEFINED
_MAX_DEFINED = 1 << 14  # Gemma 3 has 6,400 user-defined tokens, most other models a few dozen


class TokenCounter:
    """Counts tokens for one model. Thread-safe.

    The vocabulary is read at the first use: 0.1 to 0.2 s for 128,000 tokens, which take 3 MB.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._tried = False

    def count(self, text: str) -> TokenCount | None:
        """Count the tokens of ``text``; None if the vocabulary is unreadable or of an unsupported kind."""
        tokenizer = self.tokenizer()
        return tokenizer.count(text) if tokenizer is not None else None

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer, which is read once; None if the vocabulary is unreadable or of an unsupported kind."""
        with self._lock:
            if not self._tried:
                self._tried = True
                with contextlib.suppress(ModelError):  # the engine will report it, if it matters
                    self._tokenizer = read_tokenizer(self._model)
            return self._tokenizer


def read_tokenizer(path: Path) -> Tokenizer | None:
    """Read the vocabulary; None for an unsupported kind. Raises ModelError like ``read_header``."""
    with opened(path) as cursor:
        contents = cursor.contents()
        model_header = repair(header(cursor, contents)).header
        kind, pre = model_header.tokenizer, model_header.pre_tokenizer
        pieces = contents.arrays.get("tokenizer.ggml.tokens")
        if kind not in KINDS or pieces is None or pieces.kind != STRING or not 0 < pieces.length <= _MAX_PIECES:
            return None
        vocabulary = Vocabulary(_bounded(cursor.strings(pieces)))
        defined = _defined(cursor, pieces, contents.arrays.get("tokenizer.ggml.token_type"))
        return Tokenizer(vocabulary, kind, pre, defined)


def _defined(cursor: GGUFReader, pieces: GGUFArray, kinds: GGUFArray | None) -> list[str]:
    """The texts of the user-defined tokens."""
    numbers: list[int] = []
    passed = 0
    for part in cursor.numbers(kinds) if kinds is not None and kinds.kind == I32 else ():
        if _USER_DEFINED in part:
            numbers += [passed + index for index, kind in enumerate(part) if kind == _USER_DEFINED]
        passed += len(part)
        if len(numbers) > _MAX_DEFINED:
            raise ValueError(f"more than {_MAX_DEFINED} user-defined tokens")
    return [text.decode("utf-8", "replace") for _, text in cursor.strings_at(pieces, numbers)]


def _bounded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    room = _MAX_BYTES
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            raise ValueError(f"a vocabulary of more than {_MAX_BYTES} bytes")
        yield piece
