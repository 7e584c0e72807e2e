"""Who writes a reply, and whether that program still runs.

A writer is ``pid:start``, the start in seconds since the epoch as psutil tells it: a process number alone is soon
somebody else's.
"""

from __future__ import annotations

import os

_TOLERANCE = 5.0  # seconds; a start is computed from the time of boot, which moves when the clock is set


def this_writer() -> str:
    """This process."""
    start = _start(os.getpid())
    return f"{os.getpid()}:{start or 0:.2f}"


def is_alive(writer: str) -> bool:
    """Whether the program that ``writer`` names still runs."""
    pid, _, start = writer.partition(":")
    try:
        number, began = int(pid), float(start)
    except ValueError:
        return False
    now = _start(number)
    return now is not None and abs(now - began) <= _TOLERANCE


def _start(pid: int) -> float | None:
    try:
        import psutil
    except ImportError:  # it wants modules that some platforms do not have; then every other writer is dead
        return 0.0 if pid == os.getpid() else None
    try:
        process = psutil.Process(pid)
        # A zombie has written its last word.
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None
