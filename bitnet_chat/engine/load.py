"""Memory and CPU of a process, through psutil where that works."""

from __future__ import annotations


class Load:
    """Of one process at a time."""

    def __init__(self) -> None:
        self._process: object | None = None
        self._pid = 0

    def of(self, pid: int) -> tuple[int | None, float | None]:
        """Resident bytes, and percent of one core since the last look."""
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
        """Resident bytes; the pages of the model's file count in each process that has them."""
        try:
            import psutil

            return int(psutil.Process(pid).memory_info().rss)
        except (ImportError, psutil.Error):
            return None

    def leaves_room_for_another(self, pid: int) -> bool:
        """Whether as much memory as a process has is free once more. It needs less: the weights are shared."""
        from bitnet_chat.models.memory import available

        free, taken = available(), self.memory_of(pid)
        return free is not None and taken is not None and free > taken
