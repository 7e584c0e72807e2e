"""The transport on a pseudo-terminal: the output of the child is unbuffered, because it writes to a terminal.

The terminal is in raw mode: in canonical mode it cuts lines at 4095 bytes without an error, and ECHO, ISIG, ICRNL, IXON
and OPOST change text (measured). Standard error, the log, is a separate pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bitnet_chat.engine.transport import TransportListener, environment
from bitnet_chat.engine.transport.descendants import end_marked, has_terminal, new_mark
from bitnet_chat.engine.transport.preexec import as_bytes, make_preexec

assert sys.platform != "win32"

from ptyprocess import PtyProcess  # noqa: E402

_CHUNK = 1 << 16
_TIOCGPTN = 0x80045430  # asm-generic/ioctls.h: returns the number of the terminal
_MAX_READ = 1 << 18
"""Maximum bytes per call of a reader, so that large output does not block the event loop."""
_READ_ERRORS = (BlockingIOError, InterruptedError)
_SILENCE = 0.05
"""Seconds without output after which the event loop watches the log again. An engine that logs 500 kB while it loads,
and writes little output, would otherwise wait for a full pipe.
"""


class PtyTransport:
    """Transport on a pseudo-terminal; see :class:`bitnet_chat.engine.transport.Transport`."""

    is_terminal = True
    can_interrupt = True
    log_lag = 0.0

    def __init__(
        self, argv: Sequence[str], sink: TransportListener, loop: asyncio.AbstractEventLoop, cwd: Path | None
    ) -> None:
        self._listener, self._loop = sink, loop
        self._log, log_end = os.pipe()
        self._mark = new_mark()
        prepare = make_preexec(raw_terminal=True)

        def in_child() -> None:
            os.dup2(log_end, 2)
            prepare()

        try:
            # Wide, for engines that wrap their output at the size of the terminal.
            self._process = PtyProcess.spawn(
                as_bytes(argv),
                cwd=cwd,
                env=environment() | self._mark,
                preexec_fn=in_child,
                dimensions=(1000, 1000),
                pass_fds=(log_end,),
            )
        except BaseException:
            os.close(self._log)
            raise
        finally:
            os.close(log_end)
        self.pid: int = self._process.pid
        self._terminal: int = self._process.fd
        self._input = bytearray()
        self._open = True
        for descriptor in (self._terminal, self._log):
            os.set_blocking(descriptor, False)
        loop.add_reader(self._terminal, self._read_output)
        loop.add_reader(self._log, self.drain_log)
        self._log_is_watched = True
        self._had_output = False
        threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()

    def write(self, data: bytes) -> None:
        self._input += data
        self._write_some()

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def has_output(self) -> bool:
        if sys.platform != "linux" or not self._open:
            return True
        else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
            number = fcntl.ioctl(self._terminal, _TIOCGPTN, bytes(4))
            return has_terminal(self.pid, f"/dev/pts/{int.from_bytes(number, sys.byteorder)}")

    def drain_log(self) -> None:
        if not self._open:
            return
        data = self._read(self._log)
        if data is None:
            self._loop.remove_reader(self._log)
        elif data:
            self._listener.logged(data)

    def after_output(self, callback: Callable[[], None]) -> None:
        # On the next iteration of the loop, after callbacks that deliver earlier output.
        self._loop.call_soon(self._deliver_output, callback)

    def _deliver_output(self, callback: Callable[[], None]) -> None:
        while self._open and (data := self._read(self._terminal)):
            self._listener.output(data)
        callback()

    def _signal(self, number: signal.Signals) -> None:
        if self._open:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _read_output(self) -> None:
        data = self._read(self._terminal)
        if data is None:
            self._loop.remove_reader(self._terminal)
            self._listener.closed()
        elif data:
            # An engine that logs every token would cause three wake-ups for each. While output arrives, the log is
            # therefore not watched, but read together with the output.
            if self._log_is_watched:
                self._log_is_watched = False
                self._loop.remove_reader(self._log)
                self._loop.call_later(_SILENCE, self._watch_log)
            self._had_output = True
            self.drain_log()
            self._listener.output(data)

    def _watch_log(self) -> None:
        """Watch the log again after a time without output: an engine that only logs would fill the pipe and block."""
        if not self._open:
            return
        if self._had_output:
            self._had_output = False
            self._loop.call_later(_SILENCE, self._watch_log)
        else:
            self._log_is_watched = True
            self._loop.add_reader(self._log, self.drain_log)

    @staticmethod
    def _read(descriptor: int) -> bytes | None:
        """Read the available bytes, about _MAX_READ at most; None at the end. At the end, a terminal gives EIO on
        Linux, and no bytes elsewhere.
        """
        chunks: list[bytes] = []
        size = 0
        while size < _MAX_READ:
            try:
                chunk = os.read(descriptor, _CHUNK)
            except _READ_ERRORS:
                break
            except OSError:
                chunk = b""
            if not chunk:
                return b"".join(chunks) if chunks else None
            chunks.append(chunk)
            size += len(chunk)
            if len(chunk) < 1024:
                # A few tokens: deliver them without another system call.
                break
        return b"".join(chunks)

    def _write_some(self) -> None:
        if not self._open:
            self._input.clear()
        while self._input:
            try:
                written = os.write(self._terminal, self._input)
            except _READ_ERRORS:
                self._loop.add_writer(self._terminal, self._write_some)
                return
            except OSError:  # the process ends, which exited() will report
                self._input.clear()
                break
            del self._input[:written]
        if self._open:
            self._loop.remove_writer(self._terminal)

    def _wait(self) -> None:
        try:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:  # reaped elsewhere
            code = 0
        end_marked(self._mark)
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        for descriptor, deliver in ((self._log, self._listener.logged), (self._terminal, self._listener.output)):
            while data := self._read(descriptor):
                deliver(data)
        self._open = False
        for descriptor in (self._terminal, self._log):
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        os.close(self._log)
        # Closed through its file object: after os.close() the object would close the same number again when it is
        # collected, and the number may then belong to another child.
        self._process.fileobj.close()
        self._process.closed = True  # else it would send signals to the pid, which may be reused
        self._listener.exited(code)
