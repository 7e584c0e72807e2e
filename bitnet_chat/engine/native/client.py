"""A synchronous client of the native child, on pipes: for known answers, measurements and tests.

Conversations go through :class:`bitnet_chat.engine.session.Session`, which needs an event loop.
"""

from __future__ import annotations

import queue
import subprocess
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Self

from bitnet_chat.engine.native.protocol import (
    Complete,
    Detokenize,
    DetokenizedText,
    Embed,
    Embedding,
    Loading,
    Message,
    NativeFailed,
    NativeReady,
    NativeReplyEnded,
    Piece,
    Prefill,
    Request,
    Restore,
    Restored,
    Save,
    Saved,
    Stop,
    Token,
    Tokenize,
    Tokens,
    decode_message,
    encode,
)

Prompt = str | Sequence[int] | Sequence[Piece]
"""Plain text (no special tokens are read in it), tokens, or pieces."""


class NativeClientError(Exception):
    """The child refused a request or ended. ``failed``: its message, if any; ``log``: its stderr."""

    def __init__(self, what: str, failed: NativeFailed | None = None, log: str = "") -> None:
        super().__init__(what)
        self.failed, self.log = failed, log


@dataclass(frozen=True, slots=True)
class NativeReply:
    """A whole reply. ``ended`` has its reason and figures."""

    text: str
    tokens: tuple[int, ...]
    prefill: tuple[Prefill, ...]
    ended: NativeReplyEnded


class NativeClient:
    """A running child; a context manager. Starting it returns when the model is loaded, or raises NativeClientError."""

    def __init__(self, argv: Sequence[str], *, timeout: float = 600.0) -> None:
        """Start a child. ``argv``: see :func:`bitnet_chat.engine.native.command.command`. ``timeout``: seconds without
        a message."""
        self._timeout = timeout
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  # closed with the client
        # Not this program's group: a Ctrl-C of the user's is for this program to handle.
        self._process = subprocess.Popen(
            argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
        )
        self._ids = count(1)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting: defaultdict[int | None, deque[Message]] = defaultdict(deque)
        self._reader = threading.Thread(target=self._read, name="native client", daemon=True)
        self._reader.start()
        self.loading: list[Loading] = []
        try:
            self.ready = self._wait_for_ready()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """The library's stderr so far."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def close(self) -> None:
        """End the child. Returns when it has ended."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def wait(self) -> int:
        """The exit status of a child that has ended by itself."""
        return self._process.wait(self._timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def new_id(self) -> int:
        return next(self._ids)

    def send(self, request: Request) -> None:
        self.send_line(encode(request))

    def send_line(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # why it ended is read from its output
            self._process.stdin.write(line)

    def messages(self, id: int | None) -> Iterator[Message]:
        """Messages of one request, up to its last one; messages of other requests are kept. Raises
        NativeClientError when the child ends."""
        while True:
            message = self._waiting[id].popleft() if self._waiting[id] else self._next()
            owner = getattr(message, "id", None)
            if owner != id:
                self._waiting[owner].append(message)
                continue
            yield message
            if not isinstance(message, Loading | Prefill | Token):
                return

    def answer(self, request: Request) -> Message:
        """The last message that follows a request. Raises NativeClientError for Failed."""
        self.send(request)
        message = list(self.messages(request.id))[-1]
        if isinstance(message, NativeFailed):
            raise NativeClientError(message.what, message, self.log())
        return message

    def begin(self, prompt: Prompt, **fields: Any) -> int:
        """Send a Complete; ``fields``: those of it. Its id, for :meth:`reply` and :meth:`stop`."""
        request = Complete(id=self.new_id(), **_prompt(prompt), **fields)
        self.send(request)
        return request.id

    def stop(self, id: int) -> None:
        self.send(Stop(id=id))

    def reply(self, id: int) -> NativeReply:
        """The rest of a reply. Raises NativeClientError for Failed."""
        messages = list(self.messages(id))
        last = messages[-1]
        if not isinstance(last, NativeReplyEnded):
            what = last.what if isinstance(last, NativeFailed) else f"an unexpected message: {last}"
            raise NativeClientError(what, last if isinstance(last, NativeFailed) else None, self.log())
        tokens = [each for each in messages if isinstance(each, Token)]
        return NativeReply(
            text="".join(each.text for each in tokens),
            tokens=tuple(token for each in tokens for token in each.tokens),
            prefill=tuple(each for each in messages if isinstance(each, Prefill)),
            ended=last,
        )

    def complete(self, prompt: Prompt, **fields: Any) -> NativeReply:
        """A reply, whole."""
        return self.reply(self.begin(prompt, **fields))

    def tokenize(self, prompt: str | Sequence[Piece]) -> tuple[int, ...]:
        answer = self.answer(Tokenize(id=self.new_id(), prompt=_pieces(prompt)))
        assert isinstance(answer, Tokens)
        return answer.tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        answer = self.answer(Detokenize(id=self.new_id(), tokens=tuple(tokens)))
        assert isinstance(answer, DetokenizedText)
        return answer.text

    def embed(self, prompt: str | Sequence[Piece]) -> tuple[float, ...]:
        answer = self.answer(Embed(id=self.new_id(), prompt=_pieces(prompt)))
        assert isinstance(answer, Embedding)
        return answer.values

    def save(self, file: str) -> int:
        """Tokens of the state that was written."""
        answer = self.answer(Save(id=self.new_id(), file=file))
        assert isinstance(answer, Saved)
        return answer.tokens

    def restore(self, file: str) -> int:
        """Tokens of the state that was read."""
        answer = self.answer(Restore(id=self.new_id(), file=file))
        assert isinstance(answer, Restored)
        return answer.tokens

    def _wait_for_ready(self) -> NativeReady:
        for message in self.messages(None):
            match message:
                case Loading():
                    self.loading.append(message)
                case NativeReady():
                    return message
                case NativeFailed():
                    raise NativeClientError(message.what, message, self.log())
        raise NativeClientError("the child said something else than Ready", log=self.log())

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _next(self) -> Message:
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            self._process.kill()
            raise NativeClientError(f"the child said nothing for {self._timeout:g} s", log=self.log()) from None
        if not line:
            self._lines.put(b"")
            status = self._process.wait(self._timeout)
            raise NativeClientError(f"the child ended with status {status}", log=self.log())
        message = decode_message(line)
        if isinstance(message, NativeFailed) and message.id is None:
            raise NativeClientError(message.what, message, self.log())
        return message


def _pieces(prompt: str | Sequence[Piece]) -> tuple[Piece, ...]:
    return ((prompt, False),) if isinstance(prompt, str) else tuple(prompt)


def _prompt(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": _pieces(prompt)}
    whole: tuple[Any, ...] = tuple(prompt)
    return {"tokens": whole} if whole and isinstance(whole[0], int) else {"prompt": whole}
