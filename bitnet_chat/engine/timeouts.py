"""Limits of the wait for an engine's prompt. Pure.

What counts is not the time but whether anything happens, as a large model on a cold disk loads for minutes:

- bytes read from the disk, or memory that grows: it loads, without a limit;
- output, lines of the log or processor time, and none of the above: ten times the limit, as for the first token of a
  reply: it may read a long history, but it may also wait for itself for ever;
- none of all this: the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 10
"""So many times the limit for an engine that only computes or logs."""
_READ = 1
_GROWN = 1 << 20  # bytes; a process that waits moves some pages
_COMPUTED = 0.1  # seconds; a process that waits wakes up now and then


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Work of a process and its descendants so far: seconds of processor time, bytes read from a disk, bytes of
    memory."""

    computed: float = 0.0
    read: int = 0
    resident: int = 0


class PromptTimeout:
    """Limit of one wait. Times in seconds of any clock."""

    def __init__(self, limit: float, now: float) -> None:
        """Begin a wait. ``limit``: seconds, more than 0."""
        self.limit = limit
        self._loaded_at = self._alive_at = now
        self._work: WaitingFor | None = None

    def heard(self, now: float) -> None:
        """Output or log."""
        self._alive_at = now

    def slept(self, now: float) -> None:
        """The computer slept, or this program was stopped: the time without a look does not count."""
        self._loaded_at = self._alive_at = now

    def seen(self, work: WaitingFor | None, now: float) -> None:
        """Record the work so far. ``work``: None if the platform does not report it."""
        before, self._work = self._work, work or self._work
        if work is None:
            self._alive_at = now
        elif before is None:
            return
        elif work.read - before.read >= _READ or work.resident - before.resident >= _GROWN:
            self._loaded_at = self._alive_at = now
        elif abs(work.computed - before.computed) >= _COMPUTED:  # less: a child of it has ended
            self._alive_at = now
        else:
            self._work = before  # small amounts add up

    def is_over(self, now: float) -> bool:
        return now - self._alive_at >= self.limit or self.has_only_worked(now)

    def has_only_worked(self, now: float) -> bool:
        return now - self._loaded_at >= self.limit * BUSY and now - self._alive_at < self.limit
