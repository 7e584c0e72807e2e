"""The identity of a process, and whether it still runs.

An identity is ``pid:start``, the start in seconds since the epoch from psutil: a process id alone is soon reused.
"""

from __future__ import annotations

import os

_TOLERANCE = 5.0  # seconds; a start is computed from the time of boot, which moves when the clock is set


def this_process() -> str:
    """The identity of this process."""
    start = _start(os.getpid())
    return f"{os.getpid()}:{start or 0:.2f}"


def is_alive(identity: str) -> bool:
    """Whether the process with this identity still runs; False for a text of another form."""
    pid, _, start = identity.partition(":")
    try:
        number, began = int(pid), float(start)
    except ValueError:
        return False
    now = _start(number)
    return now is not None and abs(now - began) <= _TOLERANCE


def _start(pid: int) -> float | None:
    try:
        import psutil
    except ImportError:  # it needs modules that some platforms lack; then every other process counts as ended
        return 0.0 if pid == os.getpid() else None
    try:
        process = psutil.Process(pid)
        # A zombie process does not write any more.
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None
