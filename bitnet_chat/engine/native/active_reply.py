"""A running reply: its text, its end, and its figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from bitnet_chat.engine.native.library import Outcome
from bitnet_chat.engine.native.protocol import Complete, EndReason, Message, NativeReplyEnded, Prefill, Token
from bitnet_chat.filters.stop_texts import StopTextScanner
from bitnet_chat.text.utf8 import Utf8Decoder

_ENDS: dict[Outcome, EndReason] = {"stop": "stop", "length": "length", "context_full": "context_full"}


class RunningReply:
    """A reply in progress; see :class:`bitnet_chat.engine.native.library.ReplySink`."""

    def __init__(self, request: Complete, send: Callable[[Message], None]) -> None:
        self._request, self._send = request, send
        self._text = ReplyTextDecoder(request.stop)
        self._lock = threading.Lock()
        self._is_stopped = False
        self._is_beyond = False
        """Whether there is a token beyond the limit: it may be the one that ends the reply, and is left out."""
        self._callback: Callable[[], None] | None = None
        self._size = self._done = self._cached = 0
        self._begun = self._first = time.perf_counter()

    @property
    def is_cut(self) -> bool:
        return self._is_stopped or self._text.has_ended

    def stop(self) -> None:
        """End the reply at the request of the parent."""
        with self._lock:
            self._is_stopped = True
            callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def when_stopped(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._is_stopped:
                self._callback = callback
                return
        callback()

    def begin(self, tokens: tuple[int, ...]) -> None:
        """Begin the evaluation of the prompt."""
        self._size = len(tokens)
        self._begun = self._first = time.perf_counter()

    def prefill(self, done: int, total: int, cached: int) -> bool:
        self._done, self._cached, self._first = done, cached, time.perf_counter()
        self._send(Prefill(self._request.id, done, total, cached))
        return self._is_stopped

    def token(self, token: int | None, piece: bytes, count: int = 1) -> bool:
        if self._request.max_tokens == 0:
            return True
        if not self._text.count:
            self._first = time.perf_counter()
        if self._request.max_tokens is not None and self._text.count + count > self._request.max_tokens:
            self._is_beyond = True
            return self.is_cut
        text, tokens = self._text.add(token, piece, count)
        if text:
            self._send(Token(self._request.id, text, tokens))
        return self.is_cut

    def ended(self, outcome: Outcome) -> NativeReplyEnded:
        """Send held text, before the message that is returned."""
        text, tokens = self._text.end(by_token=outcome == "stop" and not self._is_beyond)
        if text or tokens:
            self._send(Token(self._request.id, text, tokens))
        return NativeReplyEnded(
            id=self._request.id,
            reason=self._reason(outcome),
            prompt_tokens=self._done - self._cached,
            prompt_size=self._size,
            tokens=self._text.count,
            context_used=self._done + self._text.count,
            prefill_seconds=round(self._first - self._begun, 6),
            reply_seconds=round(time.perf_counter() - self._first, 6),
        )

    def _reason(self, outcome: Outcome) -> EndReason:
        if self._text.has_ended:
            return "stop_text"
        if outcome != "cut":
            return _ENDS[outcome]
        return "interrupted" if self._is_stopped else "length"


def never_begun(id: int) -> NativeReplyEnded:
    """End of a request that was still waiting."""
    return NativeReplyEnded(id=id, reason="interrupted")


# The text of a reply from the bytes of its tokens: whole characters, and no part of a text that ends it. Pure.


class ReplyTextDecoder:
    """Text of a reply: ``add`` tokens as they arrive; the returned text can be sent."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder, self._scanner = Utf8Decoder(), StopTextScanner(stops)
        self._held: list[int | None] = []
        self.count = 0
        """Number of added tokens."""

    @property
    def has_ended(self) -> bool:
        """Whether a stop text was found."""
        return bool(self._scanner.found)

    def add(self, token: int | None, piece: bytes, count: int = 1) -> tuple[str, tuple[int, ...]]:
        """The characters that are known now, and the tokens that they came from: none where not all are known."""
        self.count += count
        self._held.append(token)
        text = self._scanner.feed(self._decoder.decode(piece))
        return (text, self._released()) if text else ("", ())

    def end(self, *, by_token: bool) -> tuple[str, tuple[int, ...]]:
        """Held text, at the end of the reply. ``by_token``: the last token ended the reply and is not part
        of it."""
        if by_token:
            self.count -= 1
            self._held = self._held[:-1]
        if self.has_ended:
            return "", ()
        text = self._scanner.feed(self._decoder.flush())
        # The last bytes, as surrogates, may have completed a stop text; without that all that was held is text.
        text += "" if self.has_ended else self._scanner.flush()
        return text, self._released()

    def _released(self) -> tuple[int, ...]:
        tokens = tuple(token for token in self._held if token is not None)
        is_whole = len(tokens) == len(self._held)
        self._held.clear()
        return tokens if is_whole else ()
