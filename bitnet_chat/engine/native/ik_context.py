"""A context of the library of ik_llama.cpp: the KV cache of its sequences, and the evaluation of tokens."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import POINTER, c_int8, c_int32
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_chat.engine.native import ik_api
from bitnet_chat.engine.native.ik_model import IkModel
from bitnet_chat.errors import ContextFullError, NativeLoadError

_CACHE_FULL = 1
_NO_POOLING = 0


@dataclass(frozen=True, slots=True)
class BatchPart:
    """The tokens of one sequence in a batch, which begin at ``position`` of the sequence. ``outputs``: number of last
    tokens for which logits or an embedding are calculated.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int


class IkContext:
    """A context. Only :meth:`abort` may be called on another thread."""

    def __init__(
        self, model: IkModel, *, size: int, batch: int, sequences: int, threads: int, embeddings: bool = False
    ) -> None:
        """Create a context. ``size``: tokens of all sequences together. ``batch``: maximum tokens of a batch. Raises
        NativeLoadError.
        """
        self._model, self._library = model, model.library
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = size, sequences
        parameters.n_batch = parameters.n_ubatch = batch
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = embeddings
        self._is_shared = sequences > 1
        # With flash attention, a kernel aborts the process if all cells of a block belong to other sequences.
        parameters.flash_attn = not self._is_shared
        self.pointer = self._library.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise NativeLoadError(f"a context of {size} tokens cannot be created; the log of the engine has the reason")
        self.size = int(self._library.llama_n_ctx(self.pointer))
        self._flag = ctypes.create_string_buffer(b"", 2)
        # The library calls the abort callback for each operation of a graph, so a C function is used: strlen() of a
        # buffer that is empty until the evaluation is to end.
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
        """Reset an earlier :meth:`abort`."""
        self._flag.value = b""

    def abort(self) -> None:
        """End :meth:`evaluate` at its next operation. May be called on another thread."""
        self._flag.value = b"1"

    def evaluate(self, parts: Sequence[BatchPart]) -> list[int] | None:
        """Evaluate a batch. Returns the positions of the requested outputs in the batch, in order, for :meth:`logits`;
        None after an abort. After an abort or an error none of the tokens are in the cache. Raises ContextFullError or
        RuntimeError.
        """
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
        if status == _CACHE_FULL:
            raise ContextFullError
        if status != 0:
            raise RuntimeError(f"the library does not evaluate a batch of {at} tokens: {status}")
        return None

    def logits(self, place: int) -> int:
        """Return the address of the logits of an output: one float32 for each token of the vocabulary."""
        return int(self._library.llama_get_logits_ith(self.pointer, place))

    def remove(self, sequence: int, position: int) -> int:
        """Remove the tokens of a sequence from ``position`` on. Returns the number of tokens that remain: 0 for a model
        whose state cannot be restored to an earlier position.
        """
        if self._library.llama_kv_cache_seq_rm(self.pointer, sequence, position, -1):
            return position
        self._library.llama_kv_cache_seq_rm(self.pointer, sequence, -1, -1)
        return 0

    def compact(self) -> None:
        """Close the gaps that :meth:`remove` has left in the cache. The library examines only each 32nd cell to find
        the last used one, and could miss cells after a gap. A single sequence has no gaps.
        """
        if self._is_shared:
            self.arm()
            self._library.llama_kv_cache_defrag(self.pointer)
            self._library.llama_kv_cache_update(self.pointer)

    def copy(self, source: int, target: int, length: int) -> None:
        """Replace the sequence ``target`` by the first ``length`` tokens of ``source``."""
        self.remove(target, 0)
        self._library.llama_kv_cache_seq_cp(self.pointer, source, target, 0, length)

    def save(self, file: Path, sequence: int, tokens: Sequence[int]) -> bool:
        """Write the state of a sequence with its tokens to ``file``. Returns False if that fails."""
        array = (c_int32 * len(tokens))(*tokens)
        return bool(self._library.llama_state_seq_save_file(self.pointer, bytes(file), sequence, array, len(tokens)))

    def restore(self, file: Path, sequence: int, room: int) -> tuple[int, ...] | None:
        """Read a saved state into a sequence. Returns its tokens; None if it cannot be read. ``room``: maximum number
        of tokens.
        """
        self.remove(sequence, 0)
        tokens, count = (c_int32 * room)(), ctypes.c_size_t()
        if not self._library.llama_state_seq_load_file(
            self.pointer, bytes(file), sequence, tokens, room, ctypes.byref(count)
        ):
            self.remove(sequence, 0)
            return None
        return tuple(tokens[: count.value])

    def embedding(self, tokens: Sequence[int]) -> list[list[float]]:
        """Return the embedding of a text: one row if the model pools its tokens, else one row for each token. Raises
        ContextFullError or RuntimeError.
        """
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
