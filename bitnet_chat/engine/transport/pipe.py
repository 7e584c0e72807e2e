"""A child on pipes, without a pseudo-terminal: on Windows, or with ``--io pipe``.

Threads read and write, since Windows cannot wait for a pipe in an event loop; what they read is delivered there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bitnet_chat.engine.transport import TransportListener, environment
from bitnet_chat.engine.transport.descendants import end_marked, new_mark

_CHUNK = 1 << 16
_LAG, _LONG_LAG = 0.001, 0.05


class PipeTransport:
    """Transport on pipes; see :class:`bitnet_chat.engine.transport.Transport`."""

    is_terminal = False
    log_lag = 0.01  # two threads read; what the engine wrote first may be delivered second

    def __init__(
        self, argv: Sequence[str], sink: TransportListener, loop: asyncio.AbstractEventLoop, cwd: Path | None
    ) -> None:
        self._sink, self._loop = sink, loop
        self._mark = new_mark()
        flags, prepare, command = 0, None, list[str | bytes](argv)
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            from bitnet_chat.engine.transport.preexec import as_bytes, make_preexec

            prepare, command = make_preexec(), as_bytes(argv)
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            cwd=cwd,
            env=environment() | self._mark,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            creationflags=flags,
            preexec_fn=prepare,
        )
        self.pid = self._process.pid
        self._input: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._open = True
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        self._stdout, self._reading = stdout.fileno(), threading.Lock()
        readers = [
            self._thread("output", self._read_output, stdout.fileno()),
            self._thread("log", self._read, stderr.fileno(), self._sink.logged, threading.Lock()),
        ]
        self._thread("input", self._write, stdin.fileno())
        self._thread("wait", self._wait, readers)

    @property
    def can_interrupt(self) -> bool:
        # Windows has console events, but a process without a console does not get them.
        return sys.platform != "win32"

    def write(self, data: bytes) -> None:
        self._input.put(data)

    def interrupt(self) -> None:
        if sys.platform != "win32" and self._open:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGINT)

    def has_output(self) -> bool:
        return True  # the end of a pipe is told

    def drain_log(self) -> None:
        """Nothing to do: the thread reads at once and delivers."""

    def kill(self) -> None:
        if self._open:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if sys.platform == "win32":
                    self._process.kill()
                else:
                    os.killpg(self.pid, signal.SIGKILL)

    def _thread(self, name: str, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name=f"{name}-{self.pid}", daemon=True)
        thread.start()
        return thread

    def _deliver(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed and reads nothing
            self._loop.call_soon_threadsafe(function, *args)

    def after_output(self, callback: Callable[[], None]) -> None:
        if not self._open:
            self._loop.call_soon(callback)
        elif (left := self._left()) is None:
            self._loop.call_later(_LONG_LAG, callback)
        elif left:
            self._loop.call_later(_LAG, self.after_output, callback)
        else:
            self._loop.call_soon(callback)

    def _left(self) -> int | None:
        """Bytes in the output's pipe while no others are between it and the loop; None where that cannot be asked, as
        on Windows."""
        if sys.platform == "win32":
            return None
        else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
            try:
                import fcntl
                import termios
            except ImportError:
                return None
            with self._reading:
                left = bytearray(4)
                fcntl.ioctl(self._stdout, termios.FIONREAD, left)
                return int.from_bytes(left, sys.byteorder)

    def _read_output(self, descriptor: int) -> None:
        self._read(descriptor, self._sink.output, self._reading)
        self._deliver(self._hung_up)

    def _hung_up(self) -> None:
        if self._open:
            self._sink.closed()

    def _read(self, descriptor: int, deliver: Callable[[bytes], None], reading: threading.Lock) -> None:
        """Read and deliver. ``reading`` is held from before the read of a piece until its delivery is scheduled."""
        wait = _readiness(descriptor)
        with contextlib.suppress(OSError):
            while True:
                wait()
                with reading:
                    data = os.read(descriptor, _CHUNK)
                    if not data:
                        return
                    if sys.platform == "win32":
                        data = data.replace(b"\r\n", b"\n")  # its C library writes text
                    self._deliver(deliver, data)

    def _write(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # it is gone: exited() tells
            while (data := self._input.get()) is not None:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]

    def _wait(self, readers: list[threading.Thread]) -> None:
        code = self._process.wait()
        end_marked(self._mark)
        for reader in readers:
            reader.join(1.0)  # a process it left behind may hold the pipe open for ever
        self._input.put(None)
        self._deliver(self._ended, code)

    def _ended(self, code: int) -> None:
        self._open = False
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._sink.exited(code)


def _readiness(descriptor: int) -> Callable[[], object]:
    """A function that waits until there is something to read. On Windows reading does that itself."""
    if sys.platform == "win32":
        return lambda: None
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
        poll = select.poll()  # and not select(), which knows no descriptor beyond 1023
        poll.register(descriptor, select.POLLIN)
        return poll.poll
