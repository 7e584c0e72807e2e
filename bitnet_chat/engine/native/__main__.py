"""The program of the child process: ``python -m bitnet_chat.engine.native --help``.

Three threads besides those of the library: one reads lines from the parent, the main thread handles them, and one
writes messages, so that a reply does not wait for a parent that is slow to read.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from bitnet_chat.engine.native.child import NativeServer
from bitnet_chat.engine.native.library import Library, LibrarySettings
from bitnet_chat.engine.native.protocol import MOST_VARIANTS, Loading, Message, NativeFailed, NativeReady, encode
from bitnet_chat.errors import NativeLoadError, NativeProtocolError

_ADAPTERS = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp"}
_FLUSH = 5.0
"""Seconds that the parent has to read the last messages before the process ends."""


class OutputWriter:
    """Writes messages to the parent in a thread. The queue cannot grow without limit: a reply ends at the end of the
    context window, and only the parent sends requests.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Queue a message. Does not block."""
        self._lines.put(encode(message))

    def send_first(self, message: Message) -> None:
        """Write a message at once, before any call of :meth:`send`: the threads do not run while a library loads the
        model without releasing the GIL.
        """
        self._put(encode(message))

    def close(self, timeout: float) -> None:
        """Write the queued lines, for at most ``timeout`` seconds."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._put(line)

    def _put(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:  # the parent has ended
            os._exit(0)


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the child until its input ends, and exit. The library is not unloaded, which could wait for a reply."""
    name, settings = arguments(argv)
    input, output = _streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which stops the reply
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(input, lines.put), name="input", daemon=True).start()
    messages = OutputWriter(output)
    status = _serve(name, settings, lines.get, messages)
    messages.close(_FLUSH)
    sys.stderr.flush()
    os._exit(status)


def arguments(argv: Sequence[str] | None) -> tuple[str, LibrarySettings]:
    """Parse the command line. Returns the name of the library and its settings."""
    parser = argparse.ArgumentParser(
        prog="bitnet_chat.engine.native",
        description="Resident child around a prebuilt library: requests on stdin, messages on stdout, its log on "
        "stderr. One line of JSON each; see bitnet_chat/engine/native/protocol.py.",
    )
    add = parser.add_argument
    add("--library", required=True, choices=_ADAPTERS, help="library in the folder")
    add("--folder", required=True, type=Path, metavar="DIR", help="folder with the unpacked package of the library")
    add("--model", required=True, type=Path, metavar="FILE", help="GGUF file")
    add("--ctx-size", type=_count, default=0, metavar="N", help="tokens of one sequence (default: the model's in all)")
    add("--threads", type=_count, default=0, metavar="N", help="threads (default: the physical cores)")
    add("--batch-size", type=_count, default=0, metavar="N", help="tokens of a prompt evaluated at once")
    add("--parallel", type=_count, default=1, metavar="N", help="sequences: number of parallel replies (default: 1)")
    add("--variants", type=_count, default=MOST_VARIANTS, metavar="N", help="most replies from one prompt (default: 8)")
    add("--embeddings", action="store_true", help="embeddings instead of replies")
    add("--state-folder", type=Path, metavar="DIR", help="folder of saved states")
    add("--override", action="append", default=[], metavar="KEY=TYPE:VALUE", help="metadata of the model; repeatable")
    given = parser.parse_args(argv)
    settings = LibrarySettings(
        folder=given.folder,
        model=given.model,
        context_size=given.ctx_size,
        threads=given.threads,
        batch_size=given.batch_size,
        sequences=max(1, given.parallel),
        variants=min(given.variants, MOST_VARIANTS),
        embeddings=given.embeddings,
        state_folder=given.state_folder,
        overrides=tuple(given.override),
    )
    return given.library, settings


def _serve(name: str, settings: LibrarySettings, next_line: Callable[[], bytes], output: OutputWriter) -> int:
    """Load the library and handle lines until one is not a request of the protocol. Returns the exit status."""
    output.send_first(Loading())
    try:
        library = _load(name, settings, output)
    except NativeLoadError as error:
        output.send(NativeFailed(None, error.why, str(error)))
        return 1
    except Exception as error:  # such as a damaged package
        output.send(NativeFailed(None, "failed", f"{type(error).__name__}: {error}"))
        return 1
    child = NativeServer(library, settings.sequences, output.send)
    output.send(
        NativeReady(
            library=name,
            version=library.version,
            context_size=library.context_size,
            sequences=settings.sequences,
            can=library.can,
        )
    )
    try:
        while True:
            child.take(next_line())
    except NativeProtocolError as error:
        output.send(NativeFailed(None, "usage", str(error)))
        return 2


def _load(name: str, settings: LibrarySettings, output: OutputWriter) -> Library:
    # A library that aborts starts a debugger. llama.cpp reads the variable; ik_llama.cpp does not, and finds no
    # debugger on an empty PATH.
    os.environ |= {"GGML_NO_BACKTRACE": "1", "PATH": os.devnull}
    adapter = import_module(f"bitnet_chat.engine.native.{_ADAPTERS[name]}")
    library: Library = adapter.load(settings, lambda done: output.send(Loading(done)))
    return library


def _streams() -> tuple[int, int]:
    """Return descriptors of stdin and stdout for the protocol. What the library writes to stdout goes to stderr, and
    its stdin is empty.
    """
    input, output = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return input, output


def _read(descriptor: int, put: Callable[[bytes], None]) -> NoReturn:
    """Read lines and pass each to ``put``. At the end of the input the process exits at once."""
    rest = bytearray()
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:  # EIO at the end of a terminal
            data = b""
        if not data:
            os._exit(0)
        rest += data
        if b"\n" in data:
            *whole, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in whole:
                put(bytes(line))


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


if __name__ == "__main__":
    run()
