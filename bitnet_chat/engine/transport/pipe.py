"""The transport on pipes: for Windows, and for ``--io pipe``.

Threads read and write, because asyncio cannot wait for such pipes on Windows. They deliver output on the event loop.
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
_POLL, _FIXED_WAIT = 0.001, 0.05
"""Seconds: between two checks whether output is left in the pipe, and the wait on platforms without that check."""


class PipeTransport:
    """Transport on pipes; see :class:`bitnet_chat.engine.transport.Transport`."""

    is_terminal = False
    log_lag = 0.01  # output and log are read by two threads, and may be delivered in another order

    def __init__(
        self, argv: Sequence[str], sink: TransportListener, loop: asyncio.AbstractEventLoop, cwd: Path | None
    ) -> None:
        self._listener, self._loop = sink, loop
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
            self._thread("log", self._read, stderr.fileno(), self._listener.logged, threading.Lock()),
        ]
        self._thread("input", self._write, stdin.fileno())
        self._thread("wait", self._wait, readers)

    @property
    def can_interrupt(self) -> bool:
        # The console events of Windows do not reach a process without a console.
        return sys.platform != "win32"

    def write(self, data: bytes) -> None:
        self._input.put(data)

    def interrupt(self) -> None:
        if sys.platform != "win32" and self._open:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGINT)

    def has_output(self) -> bool:
        return True  # the end of a pipe is reported by closed()

    def drain_log(self) -> None:
        """Do nothing: the thread delivers the log as it arrives."""

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
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(function, *args)

    def after_output(self, callback: Callable[[], None]) -> None:
        if not self._open:
            self._loop.call_soon(callback)
        elif (left := self._unread_bytes()) is None:
            self._loop.call_later(_FIXED_WAIT, callback)
        elif left:
            self._loop.call_later(_POLL, self.after_output, callback)
        else:
            self._loop.call_soon(callback)

    def _unread_bytes(self) -> int | None:
        """Return the number of unread bytes in the output pipe, after all bytes that were read are scheduled for
        delivery; None on platforms without FIONREAD.
        """
        if sys.platform == "win32":
            return None
        else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
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
        self._read(descriptor, self._listener.output, self._reading)
        self._deliver(self._report_end)

    def _report_end(self) -> None:
        if self._open:
            self._listener.closed()

    def _read(self, descriptor: int, deliver: Callable[[bytes], None], reading: threading.Lock) -> None:
        """Read until the end and deliver each piece. ``reading`` is held from the read of a piece until its delivery is
        scheduled.
        """
        wait = _readiness(descriptor)
        with contextlib.suppress(OSError):
            while True:
                wait()
                with reading:
                    data = os.read(descriptor, _CHUNK)
                    if not data:
                        return
                    if sys.platform == "win32":
                        data = data.replace(b"\r\n", b"\n")  # the C library converts newlines
                    self._deliver(deliver, data)

    def _write(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # the process has ended, which exited() reports
            while (data := self._input.get()) is not None:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]

    def _wait(self, readers: list[threading.Thread]) -> None:
        code = self._process.wait()
        end_marked(self._mark)
        for reader in readers:
            reader.join(1.0)  # with a limit: a background process may keep the pipe open
        self._input.put(None)
        self._deliver(self._ended, code)

    def _ended(self, code: int) -> None:
        self._open = False
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._listener.exited(code)


def _readiness(descriptor: int) -> Callable[[], object]:
    """Return a function that waits until ``descriptor`` can be read. On Windows it returns at once, and the read
    waits.
    """
    if sys.platform == "win32":
        return lambda: None
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        poll = select.poll()  # select() does not support descriptors above 1023
        poll.register(descriptor, select.POLLIN)
        return poll.poll
