"""The side of the parent: the command line of the child, and a synchronous client on pipes.

The client is for known answers, measurements and tests. Conversations use :class:`bitnet_chat.engine.session.Session`,
which needs an event loop.

The child is started with the Python of the parent, and imports the same ``bitnet_chat``: from a checkout, installed
packages, or a zip. It is isolated (``-I -S``), so that no other package can interfere.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bitnet_chat.engine.binary import EngineBinary, EngineVariant
from bitnet_chat.engine.install.packages import SITE
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
from bitnet_chat.errors import NativeClientError

LIBRARIES = {EngineVariant.LLAMA: "llama.cpp", EngineVariant.IK: "ik_llama.cpp"}
"""The value of ``--library`` for a variant of llama.cpp."""

_ROOT = Path(__file__).parents[3]
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bitnet_chat.engine.native.__main__ import run; run()"


def command(
    engine: EngineBinary,
    model: Path,
    *,
    context_size: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    sequences: int | None = None,
    embeddings: bool = False,
    state_folder: Path | None = None,
    variants: int | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return the command line of a child. ``engine``: has the dialect NATIVE. ``context_size``: tokens of one sequence.
    ``overrides``: metadata of the model as ``KEY=TYPE:VALUE``, as for ``--override-kv`` of llama.cpp. An argument that
    is None is left to the child.
    """
    options = {
        "--library": LIBRARIES[engine.make],
        "--folder": engine.path / SITE,
        "--model": model,
        "--ctx-size": context_size,
        "--threads": threads,
        "--batch-size": batch_size,
        "--parallel": sequences,
        "--state-folder": state_folder,
        "--variants": variants,
    }
    words = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    words += [word for override in overrides for word in ("--override", override)]
    python = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(_ROOT)]
    return [*python, *words, *(["--embeddings"] if embeddings else [])]


Prompt = str | Sequence[int] | Sequence[Piece]
"""A prompt: text without special tokens, token ids, or pieces."""


@dataclass(frozen=True, slots=True)
class NativeReply:
    """A complete reply. ``prefill``: the progress reports. ``ended``: the last message, with the finish reason and the
    figures.
    """

    text: str
    tokens: tuple[int, ...]
    prefill: tuple[Prefill, ...]
    ended: NativeReplyEnded


class NativeClient:
    """A running child, as a context manager. The constructor returns when the model is loaded, or raises
    NativeClientError.
    """

    def __init__(self, argv: Sequence[str], *, timeout: float = 600.0) -> None:
        """Start a child. ``argv``: see :func:`command`. ``timeout``: maximum seconds between two messages."""
        self._timeout = timeout
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  # closed with the client
        # In a new session, so that Ctrl-C reaches only this program.
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
        """Process id of the child."""
        return self._process.pid

    def log(self) -> str:
        """Return the stderr of the child so far."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def close(self) -> None:
        """End the child, and wait for its end."""
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
        """Wait until the child ends by itself. Returns its exit status. Raises subprocess.TimeoutExpired."""
        return self._process.wait(self._timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def new_id(self, number: int = 1) -> int:
        """Return the first of ``number`` unused request ids."""
        first, *_ = (next(self._ids) for _ in range(number))
        return first

    def send(self, request: Request) -> None:
        """Send a request."""
        self.send_line(encode(request))

    def send_line(self, line: bytes) -> None:
        """Send a line, which may be invalid."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its last message has the reason
            self._process.stdin.write(line)

    def messages(self, id: int | None) -> Iterator[Message]:
        """Yield the messages of one request up to its last one; messages of other requests are stored for them. ``id``
        None: messages about the child itself. Raises NativeClientError if the child ends.
        """
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
        """Send a request and return its last message. Raises NativeClientError if the request fails."""
        self.send(request)
        message = list(self.messages(request.id))[-1]
        if isinstance(message, NativeFailed):
            raise NativeClientError(message.what, message.why, self.log())
        return message

    def begin(self, prompt: Prompt, **fields: Any) -> int:
        """Send a :class:`Complete` with these fields. Returns its (first) id, for :meth:`reply` and :meth:`stop`."""
        variants = fields.get("count", 1)
        id = self.new_id(variants if isinstance(variants, int) and variants > 0 else 1)
        request = Complete(id=id, **_prompt(prompt), **fields)
        self.send(request)
        return request.id

    def stop(self, id: int) -> None:
        """Stop the request ``id``."""
        self.send(Stop(id=id))

    def reply(self, id: int) -> NativeReply:
        """Wait for the end of the reply ``id``, and return it. Raises NativeClientError if the request fails."""
        messages = list(self.messages(id))
        last = messages[-1]
        if not isinstance(last, NativeReplyEnded):
            what = last.what if isinstance(last, NativeFailed) else f"an unexpected message: {last}"
            raise NativeClientError(what, last.why if isinstance(last, NativeFailed) else "", self.log())
        tokens = [each for each in messages if isinstance(each, Token)]
        return NativeReply(
            text="".join(each.text for each in tokens),
            tokens=tuple(token for each in tokens for token in each.tokens),
            prefill=tuple(each for each in messages if isinstance(each, Prefill)),
            ended=last,
        )

    def complete(self, prompt: Prompt, **fields: Any) -> NativeReply:
        """Request a reply and wait for it. ``fields``: further fields of :class:`Complete`."""
        return self.reply(self.begin(prompt, **fields))

    def tokenize(self, prompt: str | Sequence[Piece]) -> tuple[int, ...]:
        """Return the tokens of a prompt."""
        answer = self.answer(Tokenize(id=self.new_id(), prompt=_pieces(prompt)))
        assert isinstance(answer, Tokens)
        return answer.tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        answer = self.answer(Detokenize(id=self.new_id(), tokens=tuple(tokens)))
        assert isinstance(answer, DetokenizedText)
        return answer.text

    def embed(self, prompt: str | Sequence[Piece]) -> tuple[float, ...]:
        """Return the embedding of a text, a vector of length 1."""
        answer = self.answer(Embed(id=self.new_id(), prompt=_pieces(prompt)))
        assert isinstance(answer, Embedding)
        return answer.values

    def save(self, file: str) -> int:
        """Write the state of the sequence used last to ``file``. Returns its number of tokens."""
        answer = self.answer(Save(id=self.new_id(), file=file))
        assert isinstance(answer, Saved)
        return answer.tokens

    def restore(self, file: str) -> int:
        """Read a state from ``file``. Returns its number of tokens."""
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
                    raise NativeClientError(message.what, message.why, self.log())
        raise NativeClientError("the first message of the child is not Ready", log=self.log())

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
            raise NativeClientError(f"the child sent nothing for {self._timeout:g} s", log=self.log()) from None
        if not line:
            self._lines.put(b"")
            status = self._process.wait(self._timeout)
            raise NativeClientError(f"the child ended with status {status}", log=self.log())
        message = decode_message(line)
        if isinstance(message, NativeFailed) and message.id is None:
            raise NativeClientError(message.what, message.why, self.log())
        return message


def _pieces(prompt: str | Sequence[Piece]) -> tuple[Piece, ...]:
    return ((prompt, False),) if isinstance(prompt, str) else tuple(prompt)


def _prompt(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": _pieces(prompt)}
    whole: tuple[Any, ...] = tuple(prompt)
    return {"tokens": whole} if whole and isinstance(whole[0], int) else {"prompt": whole}
