"""A file lock that the kernel releases when the process that holds it ends, however it ends.

Uses only the standard library, since the scripts in ``bin/`` need it before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_RETRY_SECONDS = 0.25

# Windows forbids reading locked bytes, and waiting processes read the process id of the holder from the file: lock a
# byte far behind it.
_LOCKED_BYTE = 1 << 20


@contextlib.contextmanager
def held(path: Path, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Hold the lock at ``path`` during the block. Waits while another process holds it.

    While waiting, ``on_wait`` is called every 0.25 s with the process id of the holder ("" if unknown).
    """
    descriptor = _acquire(path, on_wait)
    try:
        yield
    finally:
        # Removed while locked: a waiting process then sees that its file is not the one at the path. Windows does not
        # remove an open file, which is harmless.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[str], None]) -> int:
    """Open and lock the file; return its descriptor."""
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
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Process id of the holder; empty if unknown."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if text.isdigit() else ""


def try_lock(descriptor: int) -> bool:
    """Lock the open file until it is closed. Returns False if it is locked. Raises OSError without support for
    locks."""
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
