"""Request handling of the child: each sequence of the library has a thread, which processes one request after
another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from bitnet_chat.engine.native import protocol
from bitnet_chat.engine.native.active_reply import RunningReply, never_begun
from bitnet_chat.engine.native.grammar import of_schema
from bitnet_chat.engine.native.library import GenerationRequest, Library
from bitnet_chat.engine.native.protocol import (
    Complete,
    Detokenize,
    DetokenizedText,
    Embed,
    Embedding,
    Message,
    NativeFailed,
    NativeReplyEnded,
    Piece,
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
from bitnet_chat.errors import GrammarSchemaError, NativeFailureKind, NativeProtocolError, NativeRequestError
from bitnet_chat.text.utf8 import Utf8Decoder

_Job = Complete | Embed | Save | Restore
"""Requests that need a sequence, and wait for a free one."""


class NativeServer:
    """Handles the requests of the parent. ``sequences``: number of requests that are processed at the same time.
    ``send``: sends a message to the parent; may be called on any thread.
    """

    def __init__(self, library: Library, sequences: int, send: Callable[[Message], None]) -> None:
        self._library, self._send = library, send
        self._pieces, self._tokenizing = PieceCache(library.tokenize), threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._running: dict[int, RunningReply] = {}
        self._changed = threading.Condition()
        for number in range(sequences):
            threading.Thread(target=self._work, name=f"sequence {number}", daemon=True).start()

    def take(self, line: bytes) -> None:
        """Handle a line, or queue it. An invalid request fails with a message. Raises NativeProtocolError if the line
        has no valid request id, so that no message could name it.
        """
        try:
            request = decode_request(line)
        except NativeProtocolError as error:
            if error.id is None:
                raise
            self._send(NativeFailed(error.id, "usage", str(error)))
            return
        if problem := protocol.problem(request):
            if not protocol.is_id(request.id):
                raise NativeProtocolError(problem)
            self._send(NativeFailed(request.id, "usage", problem))
        elif isinstance(request, Stop):
            self._stop(request.id)
        elif isinstance(request, Tokenize | Detokenize):
            self._attempt(request)
        else:
            self._queue(request)

    def _queue(self, request: _Job) -> None:
        with self._changed:
            busy = {*self._running, *(id for each in self._jobs for id in _ids(each))}
            if taken := busy.intersection(_ids(request)):
                self._send(NativeFailed(request.id, "usage", f"the request {min(taken)} has not ended"))
                return
            self._jobs.append(request)
            self._changed.notify()

    def _stop(self, id: int) -> None:
        with self._changed:
            waiting = next((each for each in self._jobs if id in _ids(each)), None)
            if waiting is not None:
                self._jobs.remove(waiting)
            running = self._running.get(id)
        for each in _ids(waiting) if waiting is not None else ():
            self._send(never_begun(each))
        if running is not None:
            running.stop()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                request = self._jobs.popleft()
                if isinstance(request, Complete):
                    self._running |= {each.id: RunningReply(each, self._send) for each in protocol.variants(request)}
            self._attempt(request)

    def _attempt(self, request: Request) -> None:
        """Process a request and send its last messages. Exceptions become messages too, and the child continues."""
        try:
            if isinstance(request, Complete):
                self._complete(request)
            else:
                self._send(self._answer(request))
        except NativeRequestError as error:
            self._fail(request, error.why, str(error))
        except Exception as error:
            self._fail(request, "failed", f"{type(error).__name__}: {error}")

    def _fail(self, request: Request, why: NativeFailureKind, what: str) -> None:
        """Send the last messages of a request, or of those of its variants that have not ended."""
        for id in _ids(request):
            if not isinstance(request, Complete) or id in self._running:
                self._end(NativeFailed(id, why, what))

    def _end(self, message: NativeFailed | NativeReplyEnded) -> None:
        with self._changed:
            self._running.pop(message.id or 0, None)
        self._send(message)

    def _answer(self, request: Request) -> Message:
        library = self._library
        match request:
            case Tokenize():
                return Tokens(request.id, self._tokens(request.prompt))
            case Detokenize():
                decoder = Utf8Decoder()
                return DetokenizedText(request.id, decoder.decode(library.detokenize(request.tokens)) + decoder.flush())
            case Embed():
                self._require("embed")
                tokens = self._fitting(self._text_tokens(request.prompt))
                return Embedding(request.id, library.embed(tokens), len(tokens))
            case Save():
                self._require("state")
                return Saved(request.id, library.save(request.file))
            case Restore():
                self._require("state")
                return Restored(request.id, library.restore(request.file))
            case Complete() | Stop():
                raise AssertionError("handled before")

    def _complete(self, request: Complete) -> None:
        grammar, schema = request.grammar, request.schema
        if grammar and schema is not None:
            raise NativeRequestError("usage", "a grammar and a schema were given; a reply can have one of them")
        if schema is not None:
            grammar, schema = self._grammar(schema)
        if request.prompt and request.tokens:
            raise NativeRequestError("usage", "prompt and tokens were given; a reply continues one of them")
        tokens = self._fitting(request.tokens or self._tokens(request.prompt))
        replies = [self._running[id] for id in _ids(request)]
        for each in replies:
            each.begin(tokens)
        # One token more than requested shows whether a reply of exactly this length is complete.
        most = request.max_tokens + 1 if request.max_tokens else request.max_tokens
        generation = GenerationRequest(tokens, most, request.sampling, grammar, schema)
        if all(each.is_cut for each in replies):
            for each in replies:
                self._end(each.ended("cut"))
        elif len(replies) == 1:
            self._end(replies[0].ended(self._library.complete(generation, replies[0])))
        else:
            self._require("variants")
            self._library.complete_variants(
                generation, replies, lambda number, outcome: self._end(replies[number].ended(outcome))
            )

    def _grammar(self, schema: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        """Return the grammar of a schema; or no grammar and the schema, if the library supports keywords that
        :mod:`bitnet_chat.engine.native.grammar` does not. Raises NativeRequestError for other keywords: the library
        would ignore them without an error.
        """
        try:
            try:
                return of_schema(schema), None
            except GrammarSchemaError:
                of_schema(schema, self._library.schema_keywords)
                return "", schema
        except GrammarSchemaError as error:
            raise NativeRequestError("unsupported", str(error)) from None

    def _tokens(self, prompt: tuple[Piece, ...]) -> tuple[int, ...]:
        with self._tokenizing:
            return self._pieces.tokens(prompt)

    def _text_tokens(self, prompt: tuple[Piece, ...]) -> tuple[int, ...]:
        """Tokenize a text to embed. A single piece is a complete text, to which the model adds its first and last
        token; several are tokenized as given.
        """
        if len(prompt) == 1 and prompt[0][0]:
            return self._library.tokenize(prompt[0], whole=True)
        return self._tokens(prompt)

    def _fitting(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``tokens``. Raises NativeRequestError if they are empty or do not fit into the context window."""
        size = self._library.context_size
        if not tokens:
            raise NativeRequestError("usage", "the prompt is empty")
        if len(tokens) >= size:
            raise NativeRequestError("context_full", f"the prompt has {len(tokens)} tokens, and the window {size}")
        return tokens

    def _require(self, ability: str) -> None:
        if ability not in self._library.can:
            raise NativeRequestError("unsupported", f"this library cannot do it as it was started: {ability}")


def _ids(request: Request) -> range:
    """Return the ids of a request: one for each variant."""
    return range(request.id, request.id + (request.count if isinstance(request, Complete) else 1))


_CACHE_LIMIT = 1 << 22
"""Maximum number of characters in the cache."""


class PieceCache:
    """A cache of the tokens of prompt pieces: each request has the whole prompt, most of which is unchanged. The least
    recently used pieces are removed. Not thread-safe.
    """

    def __init__(self, tokenize: Callable[[Piece], tuple[int, ...]], limit: int = _CACHE_LIMIT) -> None:
        """Create an empty cache. ``tokenize``: returns the tokens of a piece. ``limit``: characters."""
        self._tokenize, self._limit = tokenize, limit
        self._known: dict[Piece, tuple[int, ...]] = {}
        self._size = 0

    def tokens(self, pieces: Iterable[Piece]) -> tuple[int, ...]:
        """Return the tokens of ``pieces``, one after the other. Raises the errors of ``tokenize``."""
        return tuple(token for piece in pieces if piece[0] for token in self._tokens_of(piece))

    def _tokens_of(self, piece: Piece) -> tuple[int, ...]:
        tokens = self._known.pop(piece, None)
        if tokens is None:
            tokens = self._tokenize(piece)
            self._size += len(piece[0])
        self._known[piece] = tokens  # at the end of the order: used last
        while self._size > self._limit:
            oldest = next(iter(self._known))
            self._size -= len(oldest[0])
            del self._known[oldest]
        return tokens
