"""The program of the native child: ``python -m bitnet_chat.engine.native --help``."""

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
from bitnet_chat.engine.native.library import Library, LibrarySettings, LoadError
from bitnet_chat.engine.native.output import OutputWriter
from bitnet_chat.engine.native.protocol import Loading, NativeFailed, NativeReady, ProtocolError

_ADAPTERS = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp"}
_FLUSH = 5.0
"""Seconds that a parent has to read the last messages."""


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """End the process without unloading the library, which could wait for a reply."""
    name, settings = arguments(argv)
    input, output = _streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has heard it as well, and decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(input, lines.put), name="input", daemon=True).start()
    messages = OutputWriter(output)
    status = _serve(name, settings, lines.get, messages)
    messages.close(_FLUSH)
    sys.stderr.flush()
    os._exit(status)


def arguments(argv: Sequence[str] | None) -> tuple[str, LibrarySettings]:
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
    add(
        "--parallel", type=_count, default=1, metavar="N", help="sequences, which are replies made at once (default: 1)"
    )
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
        embeddings=given.embeddings,
        state_folder=given.state_folder,
        overrides=tuple(given.override),
    )
    return given.library, settings


def _serve(name: str, settings: LibrarySettings, next_line: Callable[[], bytes], output: OutputWriter) -> int:
    """Run until a line is not one of the protocol; returns the exit status."""
    output.send_first(Loading())
    try:
        library = _load(name, settings, output)
    except LoadError as error:
        output.send(NativeFailed(None, error.why, str(error)))
        return 1
    except Exception as error:  # a package that is not what it was
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
    except ProtocolError as error:
        output.send(NativeFailed(None, "usage", str(error)))
        return 2


def _load(name: str, settings: LibrarySettings, output: OutputWriter) -> Library:
    # An abort would start a debugger; ik_llama.cpp does not ask, so it must not find one.
    os.environ |= {"GGML_NO_BACKTRACE": "1", "PATH": os.devnull}
    adapter = import_module(f"bitnet_chat.engine.native.{_ADAPTERS[name]}")
    library: Library = adapter.load(settings, lambda done: output.send(Loading(done)))
    return library


def _streams() -> tuple[int, int]:
    """Descriptors for the protocol alone: the library's output goes to stderr, and its input is empty."""
    input, output = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return input, output


def _read(descriptor: int, put: Callable[[bytes], None]) -> NoReturn:
    """Lines as they arrive. The child ends at once at the end of the input."""
    rest = bytearray()
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:  # the end of a terminal
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
