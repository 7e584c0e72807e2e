"""How often an engine may be restarted before it is given up. Pure; the clock is the caller's."""

from __future__ import annotations

from collections import deque


class RestartBudget:
    """At most ``limit`` restarts in any ``window`` seconds."""

    def __init__(self, limit: int = 3, window: float = 60.0) -> None:
        self.limit, self.window = limit, window
        self.spent = 0
        """All that were ever taken."""
        self._times: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Take one restart; False when there is none left."""
        while self._times and now - self._times[0] >= self.window:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        self.spent += 1
        return True
