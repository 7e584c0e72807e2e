"""A lock on a file that the kernel releases when its holder dies in any way.

Standard library only: the scripts in ``bin/`` use it before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_RETRY_SECONDS = 0.25

# Windows forbids reading locked bytes, and waiting processes read the process number of the holder: lock a byte far
# after it.
_LOCKED_BYTE = 1 << 20


@contextlib.contextmanager
def held(path: Path, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Hold the lock at ``path`` during the block, after waiting for other processes.

    ``on_wait`` is called repeatedly while waiting, with the process number of the holder ("" while it is unknown).
    """
    descriptor = _acquire(path, on_wait)
    try:
        yield
    finally:
        # Removed while still held; a waiting process sees that its file is no longer the one at the path. Windows does
        # not remove an open file: it stays there, and does no harm.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[str], None]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not try_lock(descriptor):
                on_wait(_holder(path))
                time.sleep(_RETRY_SECONDS)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if text.isdigit() else ""


def try_lock(descriptor: int) -> bool:
    """Lock the open file until it is closed; False if it is locked. Raises OSError if the file system has no locks."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
