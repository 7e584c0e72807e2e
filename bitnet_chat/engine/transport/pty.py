"""A child on a pseudo-terminal: its output is unbuffered, because it writes to a terminal.

The line discipline is raw. A canonical one cuts lines at 4095 bytes without an error, and ECHO, ISIG, ICRNL, IXON and
OPOST change text (measured). Standard error is a pipe of its own: it carries the log.
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
_TIOCGPTN = 0x80045430  # asm-generic/ioctls.h: the number of the terminal
_ONE_TURN = 1 << 18  # bytes taken in one go, so that a flood does not keep the loop from anything else
_READ_ERRORS = (BlockingIOError, InterruptedError)
# Seconds without output after which the log is watched again. Otherwise an engine that logs 500 kB while it loads and
# prints some output now and then would wait for this program.
_SILENCE = 0.05


class PtyTransport:
    """Transport on a pseudo-terminal; see :class:`bitnet_chat.engine.transport.Transport`."""

    is_terminal = True
    can_interrupt = True
    log_lag = 0.0

    def __init__(
        self, argv: Sequence[str], sink: TransportListener, loop: asyncio.AbstractEventLoop, cwd: Path | None
    ) -> None:
        self._sink, self._loop = sink, loop
        self._log, log_end = os.pipe()
        self._mark = new_mark()
        prepare = make_preexec(raw_terminal=True)

        def in_child() -> None:
            os.dup2(log_end, 2)
            prepare()

        try:
            # No message is wider than this terminal, for an engine that asks.
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
        self._spoke = False
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
        else:  # noqa: RET505  # without it the checker takes the rest for dead code on other platforms
            number = fcntl.ioctl(self._terminal, _TIOCGPTN, bytes(4))
            return has_terminal(self.pid, f"/dev/pts/{int.from_bytes(number, sys.byteorder)}")

    def drain_log(self) -> None:
        if not self._open:
            return
        data = self._read(self._log)
        if data is None:
            self._loop.remove_reader(self._log)
        elif data:
            self._sink.logged(data)

    def after_output(self, callback: Callable[[], None]) -> None:
        # Not at once: output that was read before the log may be on its way.
        self._loop.call_soon(self._deliver_output, callback)

    def _deliver_output(self, callback: Callable[[], None]) -> None:
        while self._open and (data := self._read(self._terminal)):
            self._sink.output(data)
        callback()

    def _signal(self, number: signal.Signals) -> None:
        if self._open:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _read_output(self) -> None:
        data = self._read(self._terminal)
        if data is None:
            self._loop.remove_reader(self._terminal)
            self._sink.closed()
        elif data:
            # An engine that logs every token would cause three wake-ups for each: while words come, the
            # log is read along with them and not watched.
            if self._log_is_watched:
                self._log_is_watched = False
                self._loop.remove_reader(self._log)
                self._loop.call_later(_SILENCE, self._watch_log)
            self._spoke = True
            self.drain_log()
            self._sink.output(data)

    def _watch_log(self) -> None:
        """Watch the log again: otherwise an engine that only logs would fill the pipe and then wait forever."""
        if not self._open:
            return
        if self._spoke:
            self._spoke = False
            self._loop.call_later(_SILENCE, self._watch_log)
        else:
            self._log_is_watched = True
            self._loop.add_reader(self._log, self.drain_log)

    @staticmethod
    def _read(descriptor: int) -> bytes | None:
        """All available bytes; None at the end. The end of a terminal is EIO on Linux, no bytes elsewhere."""
        chunks: list[bytes] = []
        size = 0
        while size < _ONE_TURN:
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
                # A token or two: show it now instead of asking for more with another system call.
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
            except OSError:  # it is dying: exited() tells
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
        with contextlib.suppress(RuntimeError):  # the loop is closed and reads nothing
            self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        for descriptor, deliver in ((self._log, self._sink.logged), (self._terminal, self._sink.output)):
            while data := self._read(descriptor):
                deliver(data)
        self._open = False
        for descriptor in (self._terminal, self._log):
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        os.close(self._log)
        # Through the object that owns the terminal: closed by number, it would be closed once more when that object is
        # collected, and by then the number may be another child's.
        self._process.fileobj.close()
        self._process.closed = True  # or it would send signals to a number that may be another process's
        self._sink.exited(code)
