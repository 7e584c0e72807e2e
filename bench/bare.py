"""The yardstick: an engine on a bare pty, read by the smallest loop that there can be.

Its standard error is a pipe that is drained as well: an engine whose log is not read would stop.
"""

from __future__ import annotations

import os
import select
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass

from ptyprocess import PtyProcess

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class BareReply:
    """``data``: all bytes of the terminal after the message. Seconds: from sending it to the last byte. ``cpu``:
    seconds of our processor time in between."""

    data: bytes
    log: bytes
    seconds: float
    cpu: float


def converse(argv: Sequence[str], ready: bytes, message: bytes, end: bytes | None = None) -> BareReply:
    """Starts ``argv``, waits for ``ready``, sends ``message`` and reads to ``end``, or where there is none until the
    engine is gone."""
    log, log_end = os.pipe()

    def in_child() -> None:
        os.dup2(log_end, 2)
        tty.setraw(0)

    process = PtyProcess.spawn(list(argv), preexec_fn=in_child, dimensions=(1000, 1000), pass_fds=(log_end,))
    os.close(log_end)
    terminal: int = process.fd
    try:
        seen = b""
        while ready not in seen:
            for descriptor in select.select([terminal, log], [], [])[0]:
                data = os.read(descriptor, _CHUNK)
                if descriptor == terminal:
                    seen += data
        _quiet(log)
        return _read(terminal, log, message, end)
    finally:
        process.close(force=True)
        os.close(log)


def _quiet(log: int) -> None:
    """Until it has said nothing for 0.3 seconds: loading is over."""
    while select.select([log], [], [], 0.3)[0]:
        os.read(log, _CHUNK)


def _read(terminal: int, log: int, message: bytes, end: bytes | None) -> BareReply:
    chunks: list[bytes] = []
    logged: list[bytes] = []
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    poll.register(log, select.POLLIN)
    open_ones = 2
    cpu = time.process_time()
    begun = last = time.perf_counter()
    os.write(terminal, message)
    while open_ones:
        for descriptor, _ in poll.poll():
            try:
                data = os.read(descriptor, _CHUNK)
            except OSError:  # the end of a terminal is EIO on Linux
                data = b""
            if not data:
                poll.unregister(descriptor)
                open_ones -= 1
            elif descriptor == terminal:
                chunks.append(data)
                last = time.perf_counter()
                if end is not None and data.endswith(end):
                    open_ones = 0
            else:
                logged.append(data)
    return BareReply(b"".join(chunks), b"".join(logged), last - begun, time.process_time() - cpu)
