"""Memory and CPU usage of a process (through psutil, if available), and the memory available for a new process."""

from __future__ import annotations

import contextlib
from pathlib import Path


class ProcessUsage:
    """Usage of one process at a time."""

    def __init__(self) -> None:
        self._process: object | None = None
        self._pid = 0

    def of(self, pid: int) -> tuple[int | None, float | None]:
        """Return resident bytes and CPU usage since the last call, in percent of one core; None if unknown."""
        try:
            import psutil
        except ImportError:  # psutil is not available on every platform
            return None, None
        try:
            if self._pid != pid or not isinstance(self._process, psutil.Process):
                self._process, self._pid = psutil.Process(pid), pid
            return int(self._process.memory_info().rss), float(self._process.cpu_percent())
        except psutil.Error:
            return None, None

    def memory_of(self, pid: int) -> int | None:
        """Return the resident bytes, which include mapped pages of the model file; None if unknown."""
        try:
            import psutil

            return int(psutil.Process(pid).memory_info().rss)
        except (ImportError, psutil.Error):
            return None

    def leaves_room_for_another(self, pid: int) -> bool:
        """Whether a second process of this size fits in memory. It needs less, because the weights are shared."""

        free, taken = available(), self.memory_of(pid)
        return free is not None and taken is not None and free > taken


def available() -> int | None:
    """Return the bytes that a new program can use without swapping; None if unknown.

    Includes the cgroup limit of a container, which the figures of the whole computer do not show.
    """
    try:
        import psutil
    except ImportError:  # psutil is not available on every platform
        return None
    try:
        free = int(psutil.virtual_memory().available)
    except (psutil.Error, OSError):
        return None
    limit = _container_room(Path("/sys/fs/cgroup"))
    return free if limit is None else min(free, limit)


def _container_room(folder: Path) -> int | None:
    """The rest of the cgroup v2 memory limit in bytes, where reclaimable file cache counts as free; None without a
    limit."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text("ascii"))
        used = int((folder / "memory.current").read_text("ascii"))
        pairs = (line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        cached = sum(int(value) for key, value in pairs if key in ("inactive_file", "active_file"))
        return max(0, limit - used + cached)
    return None
