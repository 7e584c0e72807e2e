"""End of a child process when this program ends in any way, including ``kill -9``, on platforms other than Linux.

On Linux the kernel does that (:mod:`bitnet_chat.engine.transport.preexec`). Elsewhere a small Python process reads a
pipe whose other end only this program has, and kills the child at the end of the input.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

# A byte before the end of the input means that the child has ended: its number may be that of another process now.
_PROGRAM = """
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
    """Watches this program for the child ``pid``, which must lead a process group. Without effect if Python cannot be
    started.
    """

    def __init__(self, pid: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if sys.executable:
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM, str(pid)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C must not end it
                    cwd=Path(sys.executable).anchor,  # the current folder could not be removed on Windows
                )

    def dismiss(self) -> None:
        """End the watchdog, because the child has ended."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(b".")
                process.stdin.close()
            process.wait()
