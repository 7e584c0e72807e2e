"""End a process when this program ends, kill -9 included, where the kernel does not do so by itself.

Linux has a signal for that; elsewhere a second, small process waits at the end of a pipe that only this program can
close.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

# A byte before the end of the input: the process has ended already, and its number may be that of another process.
_WATCH = """
import os, signal, sys
if not sys.stdin.buffer.read(1):
    try:
        if sys.platform == "win32":
            os.kill(int(sys.argv[1]), signal.SIGTERM)
        else:
            os.killpg(int(sys.argv[1]), signal.SIGKILL)
    except OSError:
        pass
"""


class ParentDeathWatchdog:
    """Watchdog of a process ``pid`` that leads its own group. Does nothing if no Python can be started."""

    def __init__(self, pid: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if sys.executable:
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WATCH, str(pid)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for this program
                    cwd=Path(sys.executable).anchor,  # it holds no folder
                )

    def dismiss(self) -> None:
        """The process is gone."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(b".")
                process.stdin.close()
            process.wait()
