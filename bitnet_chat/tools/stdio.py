"""Standard streams of a tool function: empty input, captured output.

A function runs in a thread, and may continue after its call was abandoned. Neither the function nor a program that it
starts may read the keyboard, or write into answers that are written to a file.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

_LIMIT = 400_000
"""Maximum number of bytes of captured output."""


class CapturedOutput:
    """The output of a function to stdout and stderr, up to a limit. After ``close`` further output is ignored."""

    def __init__(self) -> None:
        self._kept = _SavedStreams()
        self.stream = io.TextIOWrapper(
            cast(Any, self._kept), encoding="utf-8", errors="surrogateescape", newline="\n", write_through=True
        )
        self.nothing = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        """Its empty input."""

    def close(self) -> str:
        """The whole output."""
        self._kept.is_open = False
        return self._kept.data.decode("utf-8", "replace")


class _SavedStreams(io.RawIOBase):
    def __init__(self) -> None:
        self.data = bytearray()
        self.is_open = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        if self.is_open and len(self.data) < _LIMIT:
            self.data += bytes(data[: _LIMIT - len(self.data)])
        return size


class _SplitStream:
    """A stream that is one object for its creating thread, and another for all others."""

    def __init__(self, ours: TextIO, theirs: TextIO) -> None:
        self.ours, self.theirs = ours, theirs
        self._thread = threading.get_ident()

    def _meant(self) -> TextIO:
        return self.ours if threading.get_ident() == self._thread else self.theirs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meant(), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._meant())

    def __next__(self) -> str:
        return next(self._meant())


_left_behind: list[Callable[[], bool]] = []
"""For each abandoned call: a function that returns whether it still runs."""


@contextlib.contextmanager
def isolated_stdio(is_running: Callable[[], bool]) -> Iterator[CapturedOutput]:
    """Isolate one call of a function in another thread, one call at a time. ``is_running``: whether the function runs;
    it stays isolated if it continues after its call."""
    printed = CapturedOutput()
    streams = {"stdin": printed.nothing, "stdout": printed.stream, "stderr": printed.stream}
    for name, theirs in streams.items():
        before = getattr(sys, name)
        if isinstance(before, _SplitStream):  # an abandoned call still runs
            before.theirs = theirs
        else:
            setattr(sys, name, _SplitStream(before, theirs))
    try:
        with _programs_apart():
            yield printed
    finally:
        printed.close()
        _left_behind[:] = [each for each in (*_left_behind, is_running) if each()]
        for name in streams if not _left_behind else ():
            now = getattr(sys, name)
            if isinstance(now, _SplitStream):
                setattr(sys, name, now.ours)


@contextlib.contextmanager
def _programs_apart() -> Iterator[None]:
    """Give started programs an empty input, and stderr as output unless stdout is a terminal."""
    with contextlib.ExitStack() as changed:
        if sys.platform != "win32":  # there the console of a process is one of its standard handles
            with contextlib.suppress(OSError):  # closed streams, or too many open files
                null = os.open(os.devnull, os.O_RDONLY)
                changed.callback(os.close, null)
                _put(null, 0, changed)
                if not os.isatty(1):
                    if (stdout := getattr(sys.stdout, "ours", None)) is not None:
                        stdout.flush()  # of text from before the call
                    _put(2, 1, changed)
        yield


def _put(source: int, target: int, changed: contextlib.ExitStack) -> None:
    """Make the descriptor ``target`` a copy of ``source`` until ``changed`` is closed."""
    kept = os.dup(target)
    changed.callback(os.close, kept)
    os.dup2(source, target)
    changed.callback(os.dup2, kept, target)


def keep_the_keyboard() -> None:
    """Move stdin to a descriptor of its own, which calls do not replace. To be called before the first read."""
    stdin = sys.stdin
    if sys.platform != "win32" and stdin is not None and not isinstance(stdin, _SplitStream):
        with contextlib.suppress(OSError, ValueError):  # closed, or without a descriptor
            if stdin.fileno() == 0:
                sys.stdin = os.fdopen(os.dup(0), encoding=stdin.encoding, errors=stdin.errors)
