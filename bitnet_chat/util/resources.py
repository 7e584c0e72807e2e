"""Memory and CPU of a process, through psutil if available, and the memory that a new process can have."""

from __future__ import annotations

import contextlib
from pathlib import Path


class ProcessUsage:
    """Of one process at a time."""

    def __init__(self) -> None:
        self._process: object | None = None
        self._pid = 0

    def of(self, pid: int) -> tuple[int | None, float | None]:
        """Resident bytes, and percent of one core since the last call."""
        try:
            import psutil
        except ImportError:  # it wants modules that some platforms do not have
            return None, None
        try:
            if self._pid != pid or not isinstance(self._process, psutil.Process):
                self._process, self._pid = psutil.Process(pid), pid
            return int(self._process.memory_info().rss), float(self._process.cpu_percent())
        except psutil.Error:
            return None, None

    def memory_of(self, pid: int) -> int | None:
        """Resident bytes; the pages of the model file count in each process that maps them."""
        try:
            import psutil

            return int(psutil.Process(pid).memory_info().rss)
        except (ImportError, psutil.Error):
            return None

    def leaves_room_for_another(self, pid: int) -> bool:
        """Whether free memory is as large as that of the process. A second one needs less: the weights are shared."""

        free, taken = available(), self.memory_of(pid)
        return free is not None and taken is not None and free > taken


def available() -> int | None:
    """Bytes for a new program without swapping; None if unknown.

    In a container the limit of its cgroup counts too, which the figures of the whole computer do not show.
    """
    try:
        import psutil
    except ImportError:  # it wants modules that some platforms do not have
        return None
    try:
        free = int(psutil.virtual_memory().available)
    except (psutil.Error, OSError):
        return None
    limit = _container_room(Path("/sys/fs/cgroup"))
    return free if limit is None else min(free, limit)


def _container_room(folder: Path) -> int | None:
    """cgroup v2: the rest of the limit, with the reclaimable file cache counted as free."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text("ascii"))
        used = int((folder / "memory.current").read_text("ascii"))
        pairs = (line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        cached = sum(int(value) for key, value in pairs if key in ("inactive_file", "active_file"))
        return max(0, limit - used + cached)
    return None
