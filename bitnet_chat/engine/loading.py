"""Watch of a process from its start to its first prompt, with the limits of :mod:`bitnet_chat.engine.timeouts`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bitnet_chat.engine.process_faults import EngineFault, not_ready
from bitnet_chat.engine.timeouts import BUSY, PromptTimeout, WaitingFor

_LOOKS = 8
"""Number of checks of the process within the limit."""
_BETWEEN = 0.05, 5.0
"""Seconds between two checks, at least and at most."""


class LoadingWatch:
    """Between :meth:`begin` and :meth:`end`. ``limit``: seconds, see :mod:`bitnet_chat.engine.timeouts`; 0: none.
    ``missed``: what the process did not do, for words."""

    def __init__(self, pid: int, limit: float, missed: str, on_fault: Callable[[EngineFault], None]) -> None:
        self._pid, self._limit, self._missed, self._on_fault = pid, limit, missed, on_fault
        self._loop = asyncio.get_running_loop()
        self._prompt_timeout: PromptTimeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def begin(self) -> None:
        self.end()
        if self._limit > 0:
            self._prompt_timeout = PromptTimeout(self._limit, self._loop.time())
            self._arm()

    def heard(self) -> None:
        if self._prompt_timeout is not None:
            self._prompt_timeout.heard(self._loop.time())

    def end(self) -> None:
        self._prompt_timeout = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        shortest, longest = _BETWEEN
        delay = min(max(self._limit / _LOOKS, shortest), longest)
        self._due = self._loop.time() + delay
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        patience, now = self._prompt_timeout, self._loop.time()
        if patience is None:
            return
        if now - self._due > self._limit / 2:
            patience.slept(now)
        patience.seen(work_of(self._pid), now)
        if not patience.is_over(now):
            self._arm()
            return
        worked = patience.has_only_worked(now)
        self.end()
        self._on_fault(not_ready(self._missed, self._limit * BUSY if worked else self._limit, worked=worked))


def work_of(pid: int) -> WaitingFor | None:
    """Work of a process and its descendants, since a wrapper script does nothing itself; None if unknown."""
    try:
        import psutil
    except ImportError:  # it needs modules that some platforms do not have
        return None
    computed, read, resident = 0.0, 0, 0
    try:
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            try:
                times = process.cpu_times()
                computed += times.user + times.system
                resident += process.memory_info().rss
                if hasattr(process, "io_counters"):  # not on macOS
                    read += process.io_counters().read_bytes
            except (psutil.Error, OSError, RuntimeError):  # a file of /proc that is empty is a RuntimeError
                continue
    except (psutil.Error, OSError, RuntimeError):
        return None
    return WaitingFor(computed, read, resident)
