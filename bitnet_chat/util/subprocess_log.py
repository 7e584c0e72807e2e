"""A long command of a build: its output goes to a log and line by line to a callback, and it ends with the program.

Standard library only, except that psutil is used if available: the scripts in ``bin/`` run their steps with this.
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
_PATIENCE_SECONDS = 10.0


@contextlib.contextmanager
def signals_end_us() -> Iterator[None]:
    """Raise SystemExit for SIGTERM and SIGHUP in the block, so that commands are ended as by Ctrl-C.

    The default of Python is to die at once, which would leave the compilers running.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
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
    """Run a command to its end and return its exit status (negative: the signal that ended it).

    Output and errors are appended to ``log`` as they arrive; ``on_line`` receives each line as text, ``on_tick`` is
    called at least every half second. Any exception meanwhile (Ctrl-C included) ends the command and all its
    descendants.

    :raises OSError: the command cannot be started, or the log not written.
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
    # A process group of its own: Ctrl-C reaches us alone, and we end the command in good order. ninja puts every
    # compiler in a further group and passes on the signal that it gets.
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
    """SIGTERM to the group, on which ninja removes incomplete files; then SIGKILL to all that remain."""
    descendants = _descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_PATIENCE_SECONDS)
    except BaseException as impatience:  # the time is up, or a second Ctrl-C
        process.kill()
        process.wait()
        if not isinstance(impatience, subprocess.TimeoutExpired):
            raise
    finally:
        for end in descendants:
            end()


def _descendants(pid: int) -> list[Callable[[], None]]:
    """One function for each process below ``pid`` that kills it if it is still the same process."""
    try:
        import psutil
    except ImportError:
        return []

    def kill(process: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil compares the start time first: a reused number is left alone

    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [lambda process=process: kill(process) for process in found]  # type: ignore[misc]


def end_orphans(variable: str, value: str) -> None:
    """Kill the processes that have this variable in their environment.

    After a ``kill -9`` of this program compilers may still be writing; they inherited the variable that marks the
    build.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                process.kill()
                process.wait(_PATIENCE_SECONDS)


def size(log: Path) -> int:
    """Bytes in the log; 0 without one."""
    return log.stat().st_size if log.exists() else 0


def text_since(log: Path, offset: int, limit: int = 400_000) -> str:
    """The text appended to the log after ``offset``, at most the last ``limit`` bytes of it."""
    with log.open("rb") as record:
        size = record.seek(0, os.SEEK_END)
        record.seek(max(offset, size - limit, 0))
        return record.read().decode(errors="replace")
