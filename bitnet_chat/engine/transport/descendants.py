"""End of the processes that a child has started outside its process group: they do not outlive the child.

A script can start an engine in a session of its own, or leave a second process behind: a signal to the child's group
does not reach it, and the kernel does not end it with this program. Each child therefore carries a mark in its
environment, which all that it starts inherit.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_VARIABLE = "BITNET_CHAT_STARTED"
_ROUNDS = 5
"""Number of searches: a process may start another during a search."""


def new_mark() -> dict[str, str]:
    """A variable for the environment of a child."""
    return {_VARIABLE: secrets.token_hex(16)}


def end_marked(mark: Mapping[str, str]) -> None:
    """End all that carry ``mark``, in some milliseconds; for a thread. Linux only: elsewhere nothing is done."""
    words = [f"{name}={value}".encode() for name, value in mark.items()]
    for _ in range(_ROUNDS if sys.platform == "linux" else 0):
        ended = [pid for pid in _processes() if _end(pid, words)]
        if not ended:
            return


def _processes() -> Iterator[int]:
    yield from (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _end(pid: int, words: list[bytes]) -> bool:
    """Send a signal through a descriptor of the process, because its number may be reused meanwhile."""
    if sys.platform == "linux":
        try:
            if not _is_marked(pid, words):
                return False
            descriptor = os.pidfd_open(pid)
        except OSError:  # it belongs to another user, or has ended
            return False
        try:
            if _is_marked(pid, words):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        except OSError:
            pass
        finally:
            os.close(descriptor)
    return False


def _is_marked(pid: int, words: list[bytes]) -> bool:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return all(word in variables for word in words)


def has_terminal(pid: int, terminal: str) -> bool:
    """Whether a process or one below it can write to ``terminal``, as ``/dev/pts/1``: has it open, and not only for its
    input. True if unknown."""
    try:
        import psutil

        first = psutil.Process(pid)
        pids = [pid, *(each.pid for each in first.children(recursive=True))]
    except Exception:  # no psutil, or it has ended
        return True
    return any(_has_open(each, terminal) for each in pids)


def _has_open(pid: int, terminal: str) -> bool:
    try:
        opened = [path for path in Path(f"/proc/{pid}/fd").iterdir() if path.name != "0"]
    except OSError:
        return True
    for path in opened:
        try:
            if str(path.readlink()) in (terminal, "/dev/tty"):
                return True
        except OSError:
            continue
    return False
