"""Supervision of an engine process until it is ready for input, with the limits of
:mod:`bitnet_chat.engine.timeouts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bitnet_chat.engine.process_faults import EngineFault, not_ready
from bitnet_chat.engine.timeouts import BUSY, ProcessWork, PromptTimeout

_LOOKS = 8
"""Number of checks of a process within the limit."""
_INTERVAL = 0.05, 5.0
"""Minimum and maximum time between two checks, in seconds."""


class LoadingWatch:
    """Checks the process ``pid`` between :meth:`begin` and :meth:`end`, and calls ``on_fault`` once if it exceeds the
    limit. ``limit``: seconds, see :mod:`bitnet_chat.engine.timeouts`; 0: no limit. ``missed``: what the process then
    has not done, a predicate for the message.
    """

    def __init__(self, pid: int, limit: float, missed: str, on_fault: Callable[[EngineFault], None]) -> None:
        self._pid, self._limit, self._missed, self._on_fault = pid, limit, missed, on_fault
        self._loop = asyncio.get_running_loop()
        self._prompt_timeout: PromptTimeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def begin(self) -> None:
        """Begin a wait, in place of the current one."""
        self.end()
        if self._limit > 0:
            self._prompt_timeout = PromptTimeout(self._limit, self._loop.time())
            self._arm()

    def heard(self) -> None:
        """Record that output or a line of the log has arrived."""
        if self._prompt_timeout is not None:
            self._prompt_timeout.heard(self._loop.time())

    def end(self) -> None:
        """End the wait."""
        self._prompt_timeout = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        shortest, longest = _INTERVAL
        delay = min(max(self._limit / _LOOKS, shortest), longest)
        self._due = self._loop.time() + delay
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        timeout, now = self._prompt_timeout, self._loop.time()
        if timeout is None:
            return
        if now - self._due > self._limit / 2:
            timeout.slept(now)
        timeout.seen(work_of(self._pid), now)
        if not timeout.is_over(now):
            self._arm()
            return
        worked = timeout.has_only_worked(now)
        self.end()
        self._on_fault(not_ready(self._missed, self._limit * BUSY if worked else self._limit, worked=worked))


def work_of(pid: int) -> ProcessWork | None:
    """Return the work of a process and its descendants, because ``pid`` may be a wrapper script; None if unknown."""
    try:
        import psutil
    except ImportError:  # psutil is not available on every platform
        return None
    computed, read, resident = 0.0, 0, 0
    try:
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            try:
                times = process.cpu_times()
                computed += times.user + times.system
                resident += process.memory_info().rss
                if hasattr(process, "io_counters"):  # missing on macOS
                    read += process.io_counters().read_bytes
            except (psutil.Error, OSError, RuntimeError):  # RuntimeError: an empty file in /proc
                continue
    except (psutil.Error, OSError, RuntimeError):
        return None
    return ProcessWork(computed, read, resident)
