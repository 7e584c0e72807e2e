"""Long build commands: output goes to a log and to callbacks, and the command ends together with this program.

Uses only the standard library, and psutil if available, since the scripts in ``bin/`` run their steps with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

TICK_SECONDS = 0.5
"""Longest time between two calls of ``on_tick``."""
_TERM_SECONDS = 10.0
"""Seconds between SIGTERM and SIGKILL."""


@contextlib.contextmanager
def signals_end_us() -> Iterator[None]:
    """Raise SystemExit for SIGTERM and SIGHUP in the block, so that commands are ended as for Ctrl-C.

    By default Python would end at once and leave the compilers running.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # keep the effect of nohup
                former[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def run(
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    on_tick: Callable[[], None] = lambda: None,
) -> int:
    """Run a command to its end and return its exit status; negative for the signal that ended it.

    Output is appended to ``log`` as it arrives. ``on_line`` receives each line, ``on_tick`` is called at least every
    half second. Any exception meanwhile, including Ctrl-C, ends the command and its descendants. Raises OSError if the
    command cannot be started or the log cannot be written.
    """
    with log.open("ab") as record:
        record.write(f"\n$ {subprocess.list2cmdline(argv)}\n".encode(errors="replace"))
        record.flush()
        process = _start(argv, cwd, env)
        assert process.stdout is not None
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        try:
            reader.start()
            while True:
                try:
                    line = lines.get(timeout=TICK_SECONDS)
                except queue.Empty:
                    on_tick()
                    continue
                if line is None:
                    break
                record.write(line)
                record.flush()
                on_line(line.decode(errors="replace").rstrip("\r\n"))
                on_tick()
            return process.wait()
        finally:
            if process.poll() is None:
                _end(process)
            reader.join(timeout=1)
            if not reader.is_alive():
                process.stdout.close()


def _start(argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    # A separate process group: Ctrl-C reaches only this program, which then ends the command. ninja starts each
    # compiler in another group, and forwards signals to it.
    group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **group,
    )


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.put(line)
    finally:
        lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the group, on which ninja removes incomplete files; then SIGKILL to the processes that remain."""
    descendants = _descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_TERM_SECONDS)
    except BaseException as error:  # timeout, or a second Ctrl-C
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    finally:
        for end in descendants:
            end()


def _descendants(pid: int) -> list[Callable[[], None]]:
    """Return a function for each descendant of ``pid`` that kills it, unless its process id was reused."""
    try:
        import psutil
    except ImportError:
        return []

    def kill(process: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil compares the start time first, so a reused process id is safe

    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [lambda process=process: kill(process) for process in found]  # type: ignore[misc]


def end_orphans(variable: str, value: str) -> None:
    """Kill the processes with this variable in their environment.

    After ``kill -9`` of this program compilers may still be running; they have inherited the variable, which identifies
    the build.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                process.kill()
                process.wait(_TERM_SECONDS)


def size(log: Path) -> int:
    """Return the size of the log in bytes; 0 if it does not exist."""
    return log.stat().st_size if log.exists() else 0


def text_since(log: Path, offset: int, limit: int = 400_000) -> str:
    """Return the text after ``offset`` in the log, at most its last ``limit`` bytes."""
    with log.open("rb") as record:
        size = record.seek(0, os.SEEK_END)
        record.seek(max(offset, size - limit, 0))
        return record.read().decode(errors="replace")
