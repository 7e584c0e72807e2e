"""A context of ik_llama.cpp's library: the cache of its sequences, and the evaluation of tokens."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from ctypes import POINTER, c_int8, c_int32
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_chat.engine.native import ik_api
from bitnet_chat.engine.native.ik_model import IkModel
from bitnet_chat.engine.native.library import LoadError

_NO_ROOM = 1
_NO_POOLING = 0


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Tokens of one sequence in a batch, from ``position`` on. ``outputs``: how many of the last ones have logits or an
    embedding."""

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int


class IkContext:
    """A context. Not thread-safe, except :meth:`abort`."""

    def __init__(
        self, model: IkModel, *, size: int, batch: int, sequences: int, threads: int, embeddings: bool = False
    ) -> None:
        """Create a context. ``size``: tokens in all. ``batch``: tokens that are evaluated at once. Raises LoadError."""
        self._model, self._library = model, model.library
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = size, sequences
        parameters.n_batch = parameters.n_ubatch = batch
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = embeddings
        self._is_shared = sequences > 1
        # Its kernels for that end the process where all cells of a block belong to other sequences.
        parameters.flash_attn = not self._is_shared
        self.pointer = self._library.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise LoadError(f"a context of {size} tokens cannot be made; the engine's log says why")
        self.size = int(self._library.llama_n_ctx(self.pointer))
        self._flag = ctypes.create_string_buffer(b"", 2)
        # Asked for each operation of a graph, so it is C: the length of a text, which is empty until it is to end.
        libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self._library.llama_set_abort_callback(
            self.pointer, ctypes.cast(libc.strlen, ctypes.c_void_p), ctypes.addressof(self._flag)
        )
        self._tokens, self._positions, self._owners = (c_int32 * batch)(), (c_int32 * batch)(), (c_int32 * batch)()
        self._counts, self._wanted = (c_int32 * batch)(*[1] * batch), (c_int8 * batch)()
        start, step = ctypes.addressof(self._owners), ctypes.sizeof(c_int32)
        pointers = [ctypes.cast(start + step * at, POINTER(c_int32)) for at in range(batch)]
        self._owner_pointers = (POINTER(c_int32) * batch)(*pointers)

    def arm(self) -> None:
        """Make :meth:`abort` effective from now on."""
        self._flag.value = b""

    def abort(self) -> None:
        """End :meth:`evaluate`, on another thread, at its next operation."""
        self._flag.value = b"1"

    def evaluate(self, parts: Sequence[BatchPart]) -> list[int] | None:
        """The places of the outputs that are wanted, in order; see :meth:`logits`. None: aborted. Their evaluated
        tokens are then not in the cache. Raises ContextFullError, RuntimeError."""
        at, places = 0, list[int]()
        for part in parts:
            end = at + len(part.tokens)
            self._tokens[at:end] = list(part.tokens)
            self._positions[at:end] = list(range(part.position, part.position + len(part.tokens)))
            self._owners[at:end] = [part.sequence] * len(part.tokens)
            self._wanted[at:end] = [*[0] * (len(part.tokens) - part.outputs), *[1] * part.outputs]
            places += range(end - part.outputs, end)
            at = end
        status = self._library.llama_decode(self.pointer, self._batch(at))
        if status == 0 and not self._flag.value:
            return places
        for part in parts:
            self.remove(part.sequence, part.position)
        if status == _NO_ROOM:
            raise ContextFullError
        if status != 0:
            raise RuntimeError(f"the library does not evaluate a batch of {at} tokens: {status}")
        return None

    def logits(self, place: int) -> int:
        """Their address."""
        return int(self._library.llama_get_logits_ith(self.pointer, place))

    def remove(self, sequence: int, position: int) -> int:
        """Forget a sequence from a position on. How many tokens are left: a model with a state that cannot be taken
        back forgets all."""
        if self._library.llama_kv_cache_seq_rm(self.pointer, sequence, position, -1):
            return position
        self._library.llama_kv_cache_seq_rm(self.pointer, sequence, -1, -1)
        return 0

    def compact(self) -> None:
        """Close the gaps that :meth:`remove` left between sequences: what is behind one may be overlooked, since the
        library looks at each 32nd cell to find the last that is in use. One sequence never has a gap."""
        if self._is_shared:
            self.arm()
            self._library.llama_kv_cache_defrag(self.pointer)
            self._library.llama_kv_cache_update(self.pointer)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first ``length`` tokens of a sequence become those of another."""
        self.remove(target, 0)
        self._library.llama_kv_cache_seq_cp(self.pointer, source, target, 0, length)

    def save(self, file: Path, sequence: int, tokens: Sequence[int]) -> bool:
        array = (c_int32 * len(tokens))(*tokens)
        return bool(self._library.llama_state_seq_save_file(self.pointer, bytes(file), sequence, array, len(tokens)))

    def restore(self, file: Path, sequence: int, room: int) -> tuple[int, ...] | None:
        """The tokens of a state that was saved; None where it cannot be read."""
        self.remove(sequence, 0)
        tokens, count = (c_int32 * room)(), ctypes.c_size_t()
        if not self._library.llama_state_seq_load_file(
            self.pointer, bytes(file), sequence, tokens, room, ctypes.byref(count)
        ):
            self.remove(sequence, 0)
            return None
        return tuple(tokens[: count.value])

    def embedding(self, tokens: Sequence[int]) -> list[list[float]]:
        """One row for all of them where the model pools them, else one for each. Raises RuntimeError."""
        width, library = self._model.width, self._library
        library.llama_kv_cache_clear(self.pointer)
        places = self.evaluate([BatchPart(0, 0, tokens, len(tokens))]) or ()
        if library.llama_pooling_type(self.pointer) == _NO_POOLING:
            return [library.llama_get_embeddings_ith(self.pointer, place)[:width] for place in places]
        return [library.llama_get_embeddings_seq(self.pointer, 0)[:width]]

    def _batch(self, count: int) -> Any:
        return ik_api.Batch(
            count, self._tokens, None, self._positions, self._counts, self._owner_pointers, self._wanted, 0, 0, 0
        )


class ContextFullError(Exception):
    """The cache has no free place that is long enough for a batch."""


# One vector for a text from those of its tokens. Pure.


def mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Mean of vectors, with length 1. A library that pools the tokens itself, as a model of embeddings asks for, gives
    a single row."""
    sums = [math.fsum(column) for column in zip(*rows, strict=True)]
    length = math.sqrt(math.fsum(value * value for value in sums)) or 1.0
    return tuple(value / length for value in sums)
