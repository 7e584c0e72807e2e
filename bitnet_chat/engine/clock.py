"""When a long piece of work and its current step began, and how far the step is: told as :class:`Progress`."""

from __future__ import annotations

import time
from collections.abc import Callable

from bitnet_chat.util.progress import Progress, estimate


class Clock:
    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.tell = on_progress
        self._began = self._step_began = time.monotonic()
        self._step = ""
        self._done = self._total = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def step(self, name: str) -> None:
        if name != self._step:
            self._step, self._step_began = name, time.monotonic()
        self.at(0, 0)

    def at(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self.tick()

    def arrived(self, done: int, total: int) -> None:
        """As :meth:`at` for a download, which is not measured before its first byte."""
        if done:
            self.at(done, total)
        else:
            self.tick()

    def tick(self) -> None:
        eta = estimate(self._done, self._total, time.monotonic() - self._step_began)
        self.tell(Progress(self._step, self._done, self._total, self.seconds, eta))
