"""Limits of the time until an engine is ready for input. Pure.

A large model on a slow disk loads for minutes, so the limit depends on what the engine does:

- It reads from the disk or its memory grows: it is loading, without a limit.
- It only writes output or its log, or uses the processor: :data:`BUSY` times the limit, as for the first token of
  a reply. It may evaluate a long history, or be in an endless loop.
- It does none of this: the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 10
"""Factor of the limit for an engine that only computes or logs."""
_READ = 1
"""Minimum bytes read from the disk that count as loading."""
_GROWN = 1 << 20
"""Minimum growth of memory in bytes that counts as loading: the memory of a waiting process changes by some pages."""
_COMPUTED = 0.1
"""Minimum seconds of processor time that count as work: a waiting process wakes up now and then."""


@dataclass(frozen=True, slots=True)
class ProcessWork:
    """The work of a process and its descendants so far: processor time in seconds, bytes read from the disk, and
    resident memory in bytes.
    """

    computed: float = 0.0
    read: int = 0
    resident: int = 0


class PromptTimeout:
    """The limit of one wait. ``now`` is the time in seconds of any monotonic clock."""

    def __init__(self, limit: float, now: float) -> None:
        """Begin a wait. ``limit``: seconds, greater than 0."""
        self.limit = limit
        self._loaded_at = self._alive_at = now
        self._work: ProcessWork | None = None

    def heard(self, now: float) -> None:
        """Record that output or a line of the log has arrived."""
        self._alive_at = now

    def slept(self, now: float) -> None:
        """Begin the wait again, because the computer was suspended or this program stopped."""
        self._loaded_at = self._alive_at = now

    def seen(self, work: ProcessWork | None, now: float) -> None:
        """Record the work of the process so far. ``work`` None (the platform does not report it) counts as
        computing.
        """
        before, self._work = self._work, work or self._work
        if work is None:
            self._alive_at = now
        elif before is None:
            return
        elif work.read - before.read >= _READ or work.resident - before.resident >= _GROWN:
            self._loaded_at = self._alive_at = now
        elif abs(work.computed - before.computed) >= _COMPUTED:  # negative after the end of a descendant
            self._alive_at = now
        else:
            self._work = before  # small amounts add up

    def is_over(self, now: float) -> bool:
        """Return whether the limit has passed."""
        return now - self._alive_at >= self.limit or self.has_only_worked(now)

    def has_only_worked(self, now: float) -> bool:
        """Return whether the limit has passed for an engine that computes or logs, but does not load."""
        return now - self._loaded_at >= self.limit * BUSY and now - self._alive_at < self.limit
