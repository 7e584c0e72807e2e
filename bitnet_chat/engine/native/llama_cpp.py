"""llama.cpp in the package xllamacpp: its server inside this process.

Replies come by a call with a callback for each token; the server's own loopback port, closed to others by a random key,
serves requests without a call: tokens, text, saved states.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from bitnet_chat.engine.native.batch_size import LEAST
from bitnet_chat.engine.native.ik_context import mean
from bitnet_chat.engine.native.library import (
    GenerationRequest,
    LibrarySettings,
    LoadError,
    Outcome,
    ReplySink,
    RequestError,
)
from bitnet_chat.engine.native.protocol import FailureKind, Piece
from bitnet_chat.engine.native.sequences import Sequences
from bitnet_chat.text.utf8 import well_formed

_WHY: dict[str, FailureKind] = {
    "invalid_request_error": "usage",
    "exceed_context_size_error": "context_full",
    "not_supported_error": "unsupported",
}
_EMBEDDED = 8192
_LAST = "exiting due to"
_WAITS, _WAIT = 100, 0.01
_SEEDS = 1 << 32


def load(settings: LibrarySettings, progress: Callable[[float], None]) -> LlamaCpp:
    """Raises LoadError."""
    sys.path.append(str(settings.folder))
    try:
        library = importlib.import_module("xllamacpp")
    except (ImportError, OSError) as error:
        raise LoadError(f"the library in {settings.folder} cannot be used: {error}", "failed") from None
    if settings.overrides:
        raise LoadError("this library takes no metadata of the model from outside: --override", "unsupported")
    key = secrets.token_urlsafe()
    parameters = _parameters(library, settings, key)
    try:
        server = library.Server(parameters)
    except RuntimeError as error:
        raise LoadError(_reason(lambda: library.Server(parameters)) or str(error)) from None
    return LlamaCpp(library, server, key, settings)


def _parameters(library: Any, settings: LibrarySettings, key: str) -> Any:
    given = library.CommonParams()
    given.model.path = str(settings.model)
    given.n_ctx = settings.context_size * settings.sequences
    given.n_parallel = settings.sequences
    # A text is embedded in one batch.
    whole = (settings.context_size or _EMBEDDED) if settings.embeddings else 0
    given.n_batch = given.n_ubatch = whole or settings.batch(LEAST)
    if settings.threads:
        given.cpuparams.n_threads = given.cpuparams_batch.n_threads = settings.threads
    given.api_keys = [key]
    given.ui = given.endpoint_slots = given.endpoint_props = given.endpoint_metrics = False
    given.warmup = given.ctx_shift = given.fit_params = False
    given.cache_ram_mib = 0
    given.embedding = settings.embeddings
    if settings.state_folder is not None:
        given.slot_save_path = os.path.join(settings.state_folder, "")  # noqa: PTH118  # the library appends a name
    return given


class LlamaCpp:
    """Library llama.cpp; see :class:`bitnet_chat.engine.native.library.Library`. A sequence is a slot of the server."""

    schema_keywords = ("pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "prefixItems")

    def __init__(self, library: Any, server: Any, key: str, settings: LibrarySettings) -> None:
        self._server, self._key = server, key
        self._address = server.listening_address.removeprefix("http://")
        self._slots, self._lock = Sequences(settings.sequences), threading.Lock()
        self._restored: int | None = None
        self.version = f"xllamacpp {library.__version__}"
        self.context_size = int(self._http("GET", "/props")["default_generation_settings"]["n_ctx"])
        self._vocabulary = int(self._http("GET", "/v1/models")["data"][0]["meta"]["n_vocab"])
        state = ("state",) if settings.state_folder is not None else ()
        self.can = ("grammar", "schema", *state, *(("embed",) if settings.embeddings else ()))

    def tokenize(self, piece: Piece, whole: bool = False) -> tuple[int, ...]:
        text, special = piece
        body = {"content": well_formed(text), "add_special": whole, "parse_special": special}
        return tuple(self._http("POST", "/tokenize", body)["tokens"])

    def detokenize(self, tokens: tuple[int, ...]) -> bytes:
        """The server answers in JSON, with U+FFFD for what is not UTF-8."""
        if max(tokens, default=0) >= self._vocabulary:
            raise RequestError("usage", f"the token {max(tokens)} is not in the vocabulary of {self._vocabulary}")
        content: str = self._http("POST", "/detokenize", {"tokens": tokens})["content"]
        return content.encode("utf-8", "surrogateescape")

    def complete(self, generation: GenerationRequest, sink: ReplySink) -> Outcome:
        with self._lock:  # what was restored is for the reply that follows: the server does not tell its tokens
            slot = self._slots.take(generation.tokens, self._restored)
            self._restored = None
        reading = _CompletionStream(sink, len(generation.tokens))
        try:
            self._server.handle_completions(json.dumps(_request(generation, slot)), reading.take)
        finally:
            with self._lock:
                self._slots.put(slot, (*generation.tokens[: reading.done], *reading.tokens))
                self._slots.release(slot)
        return reading.outcome(generation.max_tokens)

    def embed(self, tokens: tuple[int, ...]) -> tuple[float, ...]:
        rows = self._http("POST", "/embeddings", {"input": [tokens]})[0]["embedding"]
        return mean(rows)

    def save(self, file: str) -> int:
        with self._lock:
            slot = self._slots.last
        saved = int(self._state("save", slot, file)["n_saved"])
        if not saved:
            raise RequestError("failed", "no evaluated tokens to save")
        return saved

    def restore(self, file: str) -> int:
        with self._lock:
            slot = self._slots.take(())
        try:
            restored = int(self._state("restore", slot, file)["n_restored"])
        finally:
            with self._lock:
                self._slots.put(slot, ())
                self._slots.release(slot)
        self._restored = slot
        return restored

    def _state(self, action: str, slot: int, file: str) -> Any:
        return self._http("POST", f"/slots/{slot}?action={action}", {"filename": file})

    def _http(self, method: str, path: str, body: Any = None) -> Any:
        with contextlib.closing(http.client.HTTPConnection(self._address)) as connection:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return _checked(json.loads(connection.getresponse().read()))


class _CompletionStream:
    """Chunks of one completion, as JSON texts."""

    def __init__(self, sink: ReplySink, size: int) -> None:
        self._sink, self._size = sink, size
        self.done = self._count = 0
        self.tokens: list[int] = []
        self._finish = ""
        self._error: Any = None

    def take(self, chunk: str) -> bool:
        """Handle a chunk; True ends the completion."""
        content = json.loads(chunk)
        if "error" in content:
            self._error = content
            return True
        choice = content["choices"][0]
        if progress := content.get("prompt_progress"):
            self.done = progress["processed"]
            return self._sink.prefill(self.done, progress["total"], progress["cache"])
        self.done = self._size
        self._finish = choice["finish_reason"] or self._finish
        # The server reports tokens that end within a character only after one completes it; but it counts them.
        count = content["timings"]["predicted_n"] - self._count
        self._count += count
        if not count:
            return self._sink.is_cut
        pieces = (choice["logprobs"] or {}).get("content", ())
        self.tokens += [each["id"] for each in pieces]
        piece = b"".join(bytes(each["bytes"]) for each in pieces)
        return self._sink.token(self.tokens[-1] if count == len(pieces) else None, piece, count)

    def outcome(self, max_tokens: int | None) -> Outcome:
        if self._error is not None:
            _checked(self._error)
        if self._sink.is_cut or not self._finish:
            return "cut"
        if self._finish == "stop":
            return "stop"
        return "context_full" if max_tokens is None or self._count < max_tokens else "length"


def _request(generation: GenerationRequest, slot: int) -> dict[str, Any]:
    sampling = {name: value for name, value in generation.sampling.items() if name != "seed"}
    if (seed := generation.sampling.get("seed")) is not None:
        sampling["seed"] = int(seed) % _SEEDS
    return {
        "prompt": generation.tokens,
        "n_predict": -1 if generation.max_tokens is None else max(1, generation.max_tokens),
        "id_slot": slot,
        "cache_prompt": True,
        "stream": True,
        "return_progress": True,
        # The bytes of each token; a chunk's text has them as characters, and what is none of one as U+FFFD.
        "logprobs": 1,
        "post_sampling_probs": True,
        "timings_per_token": True,
        **sampling,
        **({"grammar": generation.grammar} if generation.grammar else {}),
        **({"json_schema": generation.schema} if generation.schema is not None else {}),
    }


def _checked(answer: Any) -> Any:
    """Raises RequestError for a request that the server refused."""
    if isinstance(answer, dict) and (error := answer.get("error")):
        raise RequestError(_WHY.get(error.get("type", ""), "failed"), str(error.get("message", error)))
    return answer


def _reason(load: Callable[[], object]) -> str:
    """Reason for a failed load, from the library's log. It is loaded once more for that: a log that was read here while
    it loads, which it does without letting another thread run, would be lost where the process dies of it."""
    import tempfile

    with tempfile.TemporaryFile() as log:
        terminal = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            with contextlib.suppress(RuntimeError):
                load()
            lines = _last_lines(log)
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    errors = [line.partition(" E ")[2].strip() for line in lines if " E " in line]
    return "; ".join(errors[:2])


def _last_lines(log: IO[bytes]) -> list[str]:
    """All lines of a log that another thread is still writing: its last one says that the server ends."""
    for _ in range(_WAITS):
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
        if _LAST in text:
            break
        time.sleep(_WAIT)
    return text.splitlines()
