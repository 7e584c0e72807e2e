"""The adapter of ik_llama.cpp (the engine ``bitnet``): its library is called through ctypes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bitnet_chat.engine.native import ik_api
from bitnet_chat.engine.native.ik_batching import IkScheduler
from bitnet_chat.engine.native.ik_context import IkContext
from bitnet_chat.engine.native.ik_model import IkModel
from bitnet_chat.engine.native.library import GenerationRequest, LibrarySettings, Outcome, ReplySink, Sequences, mean
from bitnet_chat.engine.native.protocol import Piece
from bitnet_chat.errors import NativeLoadError, NativeRequestError

_LEAST_BATCH = 64


def load(settings: LibrarySettings, progress: Callable[[float], None]) -> IkLlamaCpp:
    """Load the library and the model. ``progress``: called with the loaded share, 0 to 1. Raises NativeLoadError."""
    library = ik_api.load(settings.folder)
    library.llama_backend_init()
    return IkLlamaCpp(IkModel(library, settings, progress), settings)


class IkLlamaCpp:
    """The library ik_llama.cpp with a model: see :class:`bitnet_chat.engine.native.library.Library`."""

    schema_keywords: tuple[str, ...] = ()

    def __init__(self, model: IkModel, settings: LibrarySettings) -> None:
        threads = settings.threads or os.cpu_count() or 1
        batch = settings.batch(_LEAST_BATCH)
        most = model.trained_context
        size = min(settings.context_size, most) * settings.sequences or most
        context = IkContext(model, size=size, batch=batch, sequences=settings.sequences, threads=threads)
        self._model, self._states = model, settings.state_folder
        self.version = _version(settings.folder)
        self.context_size = context.size // settings.sequences
        self._embedder: IkContext | None = None
        if settings.embeddings:  # a separate context: it has no logits, and evaluates a text in one batch
            size = self.context_size
            self._embedder = IkContext(model, size=size, batch=size, sequences=1, threads=threads, embeddings=True)
        self._embedding = threading.Lock()
        self._scheduler = IkScheduler(
            model, context, window=self.context_size, batch=batch, sequences=settings.sequences
        )
        state = ("state",) if self._states is not None else ()
        self.can = ("grammar", "schema", *state, *(("embed",) if settings.embeddings else ()))

    def tokenize(self, piece: Piece, whole: bool = False) -> tuple[int, ...]:
        text, special = piece
        return self._model.tokenize(text, special=special, whole=whole)

    def detokenize(self, tokens: tuple[int, ...]) -> bytes:
        self._model.check(tokens)
        return b"".join(self._model.piece(token, special=True) for token in tokens)

    def complete(self, generation: GenerationRequest, sink: ReplySink) -> Outcome:
        return self._scheduler.complete(generation, sink)

    def complete_variants(
        self, generation: GenerationRequest, sinks: Sequence[ReplySink], ended: Callable[[int, Outcome], None]
    ) -> None:
        # With flash attention, logits are wrong as soon as the cells of sequences alternate: measured with a small F32
        # model from cell 128 on, in rows that must not see the first cell of a block; correlation with the right ones
        # 0.3. Without it, single replies would be rounded in another way, and their saved states would not be read.
        raise NativeRequestError("unsupported", "this library generates one reply at a time")

    def embed(self, tokens: tuple[int, ...]) -> tuple[float, ...]:
        assert self._embedder is not None
        with self._embedding:
            return mean(self._embedder.embedding(tokens))

    def save(self, file: str) -> int:
        path = self._state(file)

        def work(context: IkContext, sequences: Sequences) -> int:
            tokens = sequences.evaluated(sequences.last)
            if not tokens:
                raise NativeRequestError("failed", "no evaluated tokens to save")
            if not context.save(path, sequences.last, tokens):
                raise NativeRequestError("failed", f"{path} cannot be written; the log of the engine has the reason")
            return len(tokens)

        return self._scheduler.call(work)

    def restore(self, file: str) -> int:
        path = self._state(file)

        def work(context: IkContext, sequences: Sequences) -> int:
            number = sequences.take(())
            try:
                tokens = context.restore(path, number, self.context_size)
                context.compact()
                sequences.put(number, tokens or ())
            finally:
                sequences.release(number)
            if tokens is None:
                raise NativeRequestError(
                    "failed", f"the state {path} cannot be read; the log of the engine has the reason"
                )
            return len(tokens)

        return self._scheduler.call(work)

    def _state(self, file: str) -> Path:
        assert self._states is not None
        return self._states / file


def _version(site: Path) -> str:
    """Return the version of the library: that of its package, because the library itself does not report one."""
    names = [path.name.removesuffix(".dist-info") for path in site.glob("ik_llama_cpp_python-*.dist-info")]
    if not names:
        raise NativeLoadError(f"the folder {site} has no description of its package", "failed")
    return " ".join(names[0].replace("_", "-").rsplit("-", 1))
