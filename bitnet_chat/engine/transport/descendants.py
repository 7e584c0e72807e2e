"""Descendants of a child process: they are ended with it, even outside of its process group.

A wrapper script can start an engine in a new session, or leave a background process. A signal to the process group does
not reach these, and the kernel does not end them with this program. Each child therefore has a mark in its environment,
which its descendants inherit, and by which they are found.
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
"""Maximum number of searches. A search is repeated because a process may have started another one during it."""


def new_mark() -> dict[str, str]:
    """Return an environment variable with a unique value, for one child."""
    return {_VARIABLE: secrets.token_hex(16)}


def end_marked(mark: Mapping[str, str]) -> None:
    """Kill all processes whose environment contains ``mark``. Blocks for some milliseconds. Without effect on platforms
    other than Linux.
    """
    words = [f"{name}={value}".encode() for name, value in mark.items()]
    for _ in range(_ROUNDS if sys.platform == "linux" else 0):
        ended = [pid for pid in _processes() if _end(pid, words)]
        if not ended:
            return


def _processes() -> Iterator[int]:
    yield from (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _end(pid: int, words: list[bytes]) -> bool:
    """Kill the process ``pid`` if it has the mark. Returns whether it was killed. The signal is sent through a pidfd,
    because the number may be reused by another process in the meantime.
    """
    if sys.platform == "linux":
        try:
            if not _is_marked(pid, words):
                return False
            descriptor = os.pidfd_open(pid)
        except OSError:  # a process of another user, or one that has ended
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
    """Return whether the process ``pid`` or a descendant has ``terminal`` (such as ``/dev/pts/1``) open on a descriptor
    other than stdin. True if that is unknown.
    """
    try:
        import psutil

        first = psutil.Process(pid)
        pids = [pid, *(each.pid for each in first.children(recursive=True))]
    except Exception:  # psutil is missing, or the process has ended
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
