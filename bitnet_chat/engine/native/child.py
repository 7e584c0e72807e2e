"""Request handling of the child: the library processes requests on threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from bitnet_chat.engine.native import protocol
from bitnet_chat.engine.native.active_reply import RunningReply, never_begun
from bitnet_chat.engine.native.grammar import SchemaError, of_schema
from bitnet_chat.engine.native.library import GenerationRequest, Library, RequestError
from bitnet_chat.engine.native.piece_cache import PieceCache
from bitnet_chat.engine.native.protocol import (
    Complete,
    Detokenize,
    DetokenizedText,
    Embed,
    Embedding,
    Message,
    NativeFailed,
    Piece,
    ProtocolError,
    Request,
    Restore,
    Restored,
    Save,
    Saved,
    Stop,
    Tokenize,
    Tokens,
    decode_request,
)
from bitnet_chat.text.utf8 import Utf8Decoder

_Job = Complete | Embed | Save | Restore
"""Requests that wait for a sequence."""


class NativeServer:
    """Answer requests. As many replies run at once as the library has sequences; the others wait."""

    def __init__(self, library: Library, sequences: int, send: Callable[[Message], None]) -> None:
        self._library, self._send = library, send
        self._pieces, self._tokenizing = PieceCache(library.tokenize), threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._running: dict[int, RunningReply] = {}
        self._changed = threading.Condition()
        for number in range(sequences):
            threading.Thread(target=self._work, name=f"sequence {number}", daemon=True).start()

    def take(self, line: bytes) -> None:
        """Do what a line says, or have it done. Raises ProtocolError for a line that is not of the protocol and names
        no request, so that nothing could answer it."""
        try:
            request = decode_request(line)
        except ProtocolError as error:
            if error.id is None:
                raise
            self._send(NativeFailed(error.id, "usage", str(error)))
            return
        if problem := protocol.problem(request):
            if not protocol.is_id(request.id):
                raise ProtocolError(problem)
            self._send(NativeFailed(request.id, "usage", problem))
        elif isinstance(request, Stop):
            self._stop(request.id)
        elif isinstance(request, Tokenize | Detokenize):
            self._attempt(request)
        else:
            self._queue(request)

    def _queue(self, request: _Job) -> None:
        with self._changed:
            if request.id in self._running or any(each.id == request.id for each in self._jobs):
                self._send(NativeFailed(request.id, "usage", f"the request {request.id} has not ended"))
                return
            self._jobs.append(request)
            self._changed.notify()

    def _stop(self, id: int) -> None:
        with self._changed:
            waiting = next((each for each in self._jobs if each.id == id), None)
            if waiting is not None:
                self._jobs.remove(waiting)
            running = self._running.get(id)
        if waiting is not None:
            self._send(never_begun(id))
        if running is not None:
            running.stop()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                request = self._jobs.popleft()
                if isinstance(request, Complete):
                    self._running[request.id] = RunningReply(request, self._send)
            self._attempt(request)
            with self._changed:
                self._running.pop(request.id, None)

    def _attempt(self, request: Request) -> None:
        """Answer a request in every case, and keep the child running."""
        try:
            self._send(self._answer(request))
        except RequestError as error:
            self._send(NativeFailed(request.id, error.why, str(error)))
        except Exception as error:
            self._send(NativeFailed(request.id, "failed", f"{type(error).__name__}: {error}"))

    def _answer(self, request: Request) -> Message:
        library = self._library
        match request:
            case Tokenize():
                return Tokens(request.id, self._tokens(request.prompt))
            case Detokenize():
                decoder = Utf8Decoder()
                return DetokenizedText(request.id, decoder.decode(library.detokenize(request.tokens)) + decoder.flush())
            case Embed():
                self._needs("embed")
                tokens = self._fitting(self._text_tokens(request.prompt))
                return Embedding(request.id, library.embed(tokens), len(tokens))
            case Save():
                self._needs("state")
                return Saved(request.id, library.save(request.file))
            case Restore():
                self._needs("state")
                return Restored(request.id, library.restore(request.file))
            case Complete():
                return self._complete(request)
            case Stop():
                raise AssertionError("handled before")

    def _complete(self, request: Complete) -> Message:
        grammar, schema = request.grammar, request.schema
        if grammar and schema is not None:
            raise RequestError("usage", "a grammar and a schema were given; a reply obeys one of them")
        if schema is not None:
            grammar, schema = self._grammar(schema)
        if request.prompt and request.tokens:
            raise RequestError("usage", "prompt and tokens were given; a reply continues one of them")
        tokens = self._fitting(request.tokens or self._tokens(request.prompt))
        running = self._running[request.id]
        running.begin(tokens)
        # With one token more it is seen whether a reply of just so many is whole.
        most = request.max_tokens + 1 if request.max_tokens else request.max_tokens
        generation = GenerationRequest(tokens, most, request.sampling, grammar, schema)
        return running.ended("cut" if running.is_cut else self._library.complete(generation, running))

    def _grammar(self, schema: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        """The grammar of a schema, or the schema itself for a library that reads what no grammar here can say. No part
        of a schema is ignored: the library would not report it."""
        try:
            try:
                return of_schema(schema), None
            except SchemaError:
                of_schema(schema, self._library.schema_keywords)
                return "", schema
        except SchemaError as error:
            raise RequestError("unsupported", str(error)) from None

    def _tokens(self, prompt: tuple[Piece, ...]) -> tuple[int, ...]:
        with self._tokenizing:
            return self._pieces.tokens(prompt)

    def _text_tokens(self, prompt: tuple[Piece, ...]) -> tuple[int, ...]:
        """One piece is a whole text; several are tokenized as given."""
        if len(prompt) == 1 and prompt[0][0]:
            return self._library.tokenize(prompt[0], whole=True)
        return self._tokens(prompt)

    def _fitting(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        size = self._library.context_size
        if not tokens:
            raise RequestError("usage", "the prompt is empty")
        if len(tokens) >= size:
            raise RequestError("context_full", f"the prompt has {len(tokens)} tokens, and the window {size}")
        return tokens

    def _needs(self, ability: str) -> None:
        if ability not in self._library.can:
            raise RequestError("unsupported", f"this library cannot do it as it was started: {ability}")
