"""A model that the library of ik_llama.cpp has loaded, and its vocabulary."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from bitnet_chat.engine.native import ik_api
from bitnet_chat.engine.native.library import LibrarySettings
from bitnet_chat.errors import NativeLoadError, NativeRequestError
from bitnet_chat.text.utf8 import well_formed

_STEP = 0.05
"""Share of the file between two progress reports."""


class IkModel:
    """A loaded model. Thread-safe, because the library does not change it."""

    def __init__(self, library: Any, settings: LibrarySettings, progress: Callable[[float], None]) -> None:
        """Load the model. ``progress``: called with the loaded share, from 0 to 1. Raises NativeLoadError."""
        self.library = library
        log = _ErrorLog()
        library.llama_log_set(log.callback, None)
        parameters = library.llama_model_default_params()
        parameters.n_gpu_layers = 0  # CPU only: known answers and the abort callback do not cover GPUs
        parameters.kv_overrides = overrides = ik_api.overrides(settings.overrides)
        reported = 0.0

        def report(done: float, _: int | None) -> bool:
            nonlocal reported
            if done >= reported + _STEP:
                reported = done
                progress(round(done, 2))
            return True

        parameters.progress_callback = ik_api.ProgressCallback(report)
        self.pointer = library.llama_model_load_from_file(os.fsencode(settings.model), parameters)
        del overrides  # must exist until here, because the library reads it while it loads
        library.llama_log_set(None, None)
        if not self.pointer:
            raise NativeLoadError(log.reason or "the library reports no reason")
        self.vocabulary = library.llama_model_get_vocab(self.pointer)
        self.size = int(library.llama_n_vocab(self.pointer))
        self.trained_context = int(library.llama_n_ctx_train(self.pointer))
        self.width = int(library.llama_model_n_embd(self.pointer))

    def tokenize(self, text: str, *, special: bool, whole: bool) -> tuple[int, ...]:
        """Return the tokens of a text. ``special``: special tokens in the text are parsed. ``whole``: add the tokens
        that the model has at the beginning and end of a text. Raises NativeRequestError.
        """
        # The library aborts at malformed UTF-8.
        data = well_formed(text).encode("utf-8")
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self.library.llama_tokenize(self.pointer, data, len(data), tokens, room, whole, special)
        if count < 0:
            raise NativeRequestError("failed", f"a text of {len(data)} bytes is not tokenized: {count}")
        return tuple(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of a token; without ``special`` empty for a special token."""
        room = 64
        while True:
            data = ctypes.create_string_buffer(room)
            length = self.library.llama_token_to_piece(self.pointer, token, data, room, 0, special)
            if length >= 0:
                return data.raw[:length]
            room = -length

    def ends(self, token: int) -> bool:
        """Return whether a token ends a reply."""
        return bool(self.library.llama_token_is_eog(self.pointer, token))

    def check(self, tokens: tuple[int, ...]) -> None:
        """Raise NativeRequestError for a token outside of the vocabulary, at which the library would abort."""
        if max(tokens, default=0) >= self.size:
            raise NativeRequestError("usage", f"the token {max(tokens)} is not in the vocabulary of {self.size}")


class _ErrorLog:
    """Forwards the log of the library to stderr, and stores its errors."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self.callback = ik_api.LogCallback(self._log)

    @property
    def reason(self) -> str:
        return "; ".join(self._errors[:2])

    def _log(self, level: int, text: bytes | None, _: int | None) -> None:
        if text:
            os.write(2, text)
            if level == ik_api.ERROR_LEVEL and (line := text.decode("utf-8", "replace").strip()):
                self._errors.append(line)
