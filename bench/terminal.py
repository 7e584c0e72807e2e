"""A program on a pseudo-terminal of its own, read as fast as it writes, with the time at which each byte came."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ptyprocess import PtyProcess

PATIENCE = 120.0
"""Seconds after which something that does not come is an error and not slow."""

_ESCAPE = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78D])")
_WHERE = b"\x1b[6n"  # prompt_toolkit asks the terminal where the cursor is
_THERE = b"\x1b[1;1R"


class Terminal:
    """Everything the program writes is kept in ``seen``; ``came_at`` tells when a place in it was reached."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> None:
        self.started = time.perf_counter()
        self._process = PtyProcess.spawn(list(argv), env=dict(environment), cwd=cwd, dimensions=(24, 100))
        self.pid: int = self._process.pid
        self.seen = bytearray()
        self._arrivals: list[tuple[int, float]] = []
        os.set_blocking(self._process.fd, False)

    def send(self, data: bytes) -> float:
        """The time at which it was sent, seconds of the performance counter."""
        now = time.perf_counter()
        os.write(self._process.fd, data)
        return now

    def until(self, condition: Callable[[bytearray], bool]) -> float:
        """Reads until ``condition`` holds for what was seen; the time of the last piece."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.seen):
            self._read(deadline)
        return self._arrivals[-1][1] if self._arrivals else self.started

    def idle(self, seconds: float) -> None:
        """Reads for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._process.fd], [], [], left)[0]:
                self._read(deadline + PATIENCE)

    def came_at(self, offset: int) -> float:
        """When the byte at ``offset`` of ``seen`` came."""
        return next(at for end, at in self._arrivals if end > offset)

    def close(self) -> None:
        self._process.close(force=True)

    def _read(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._process.fd], [], [], left)[0]:
            raise TimeoutError(f"the expected text did not come; the last bytes: {bytes(self.seen[-500:])!r}")
        data = os.read(self._process.fd, 1 << 16)  # EIO: it has ended, which no caller expects
        self.seen += data
        self._arrivals.append((len(self.seen), time.perf_counter()))
        for _ in range(data.count(_WHERE)):
            os.write(self._process.fd, _THERE)


def plain(data: bytes | bytearray) -> bytes:
    """Without escape sequences."""
    return _ESCAPE.sub(b"", bytes(data))
