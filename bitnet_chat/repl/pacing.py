"""Pacing: text that arrives in bursts is written at a steady pace, one grapheme cluster after the other.

:class:`OutputPacer` is pure: the caller provides the time, in seconds of any monotonic clock. :class:`PacedWriter`
drives it with a timer of the event loop.

No text waits longer than :data:`BEHIND` seconds. When text is added, the pace becomes at least ``waiting / DRAIN``
clusters per second, and it is not reduced before the queue is empty: the text added last is written within DRAIN
seconds, and so is all text before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from wcwidth import iter_graphemes

BEHIND = 1.0
"""Maximum delay of text in seconds: HOLD + DRAIN + FRAME, and a margin for a late timer."""
HOLD = 0.15
"""Seconds that the last cluster waits for a combining mark or a joiner that would extend it."""
DRAIN = 0.7
"""Seconds within which all waiting text is written."""
FRAME = 1 / 60
"""Minimum time between two wake-ups in seconds: a faster pace writes several clusters at a time."""


class OutputPacer:
    """A queue of text. ``feed`` adds text, ``due`` returns what to write now, ``next_at`` the time of the next
    call, and ``flush`` everything.
    """

    def __init__(self, pace: float | None) -> None:
        """Create a pacer. ``pace``: clusters per second; None or 0: everything is due at once."""
        self._pace = pace if pace and pace > 0 else 0.0
        self._rate = self._pace
        self._queue: deque[Sequence[str]] = deque()
        """Sequences of clusters. ASCII text is stored as a string: each of its characters is a cluster."""
        self._offset = 0
        """Number of clusters of the first sequence that have been written."""
        self._waiting = 0
        """Number of clusters in the queue."""
        self._slot = float("-inf")
        """The time at which the next cluster may be written."""
        self._seen = float("-inf")
        """The time of the last call of ``due``."""
        self._tail = ""
        """The last cluster, which following text may extend."""
        self._tail_since = 0.0

    def feed(self, text: str, now: float) -> None:
        """Add text."""
        if not text:
            return
        since = self._tail_since if self._tail else now
        clusters = _clusters(self._tail + text)
        self._tail = clusters[-1]
        self._tail_since = since if len(clusters) == 1 else now
        self._add(clusters[:-1], now)

    def due(self, now: float) -> str:
        """Remove and return the text to write now."""
        if not self._pace:
            return self.flush()
        if self._tail and now >= self._tail_since + HOLD:
            tail, self._tail = self._tail, ""
            self._add([tail], now)
        self._seen = now
        if not self._waiting or now < self._slot:
            return ""
        count = min(self._waiting, int((now - self._slot) * self._rate) + 1)
        self._slot += count / self._rate
        return self._take(count)

    def next_at(self, now: float) -> float | None:
        """Return the time at which ``due`` will return text, at least ``now``; None if the queue is empty."""
        times = []
        if self._waiting:
            times.append(max(self._slot, self._seen + FRAME) if self._rate * FRAME > 1 else self._slot)
        if self._tail:
            times.append(self._tail_since + HOLD if self._pace else now)
        return max(now, min(times)) if times else None

    def flush(self) -> str:
        """Remove and return all waiting text."""
        return self._take(self._waiting) + self._drop_tail()

    def _drop_tail(self) -> str:
        tail, self._tail = self._tail, ""
        return tail

    def _add(self, clusters: Sequence[str], now: float) -> None:
        if not clusters:
            return
        if not self._waiting:
            self._rate = self._pace
            self._slot = max(self._slot, now)
        self._queue.append(clusters)
        self._waiting += len(clusters)
        self._rate = max(self._rate, self._waiting / DRAIN)
        # A slot calculated for a slower pace would delay text that must be written faster now.
        self._slot = min(self._slot, now + 1 / self._rate) if self._rate else now

    def _take(self, count: int) -> str:
        self._waiting -= count
        shown: list[str] = []
        while count:
            run = self._queue[0]
            part = run[self._offset : self._offset + count]
            shown.append(part if isinstance(part, str) else "".join(part))
            count -= len(part)
            self._offset += len(part)
            if self._offset == len(run):
                self._queue.popleft()
                self._offset = 0
        return "".join(shown)


def _clusters(text: str) -> Sequence[str]:
    """Split ``text``, which is not empty, into grapheme clusters."""
    if text.isascii() and "\r" not in text:
        return text
    return list(iter_graphemes(text))


class PacedWriter:
    """Calls ``show`` with paced text when it is due."""

    def __init__(self, show: Callable[[str], None], pace: float) -> None:
        """Create a writer on the running event loop. ``pace``: grapheme clusters per second, more than 0."""
        self._show = show
        self._output_pacer = OutputPacer(pace)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = False

    def feed(self, text: str) -> None:
        """Add text."""
        self._output_pacer.feed(text, self._loop.time())
        self._show_due()

    def hurry(self) -> None:
        """Write all waiting text now, and later text without pacing."""
        self._hurried = True
        self._show_due()

    async def drain(self) -> None:
        """Wait until all text has been written: less than BEHIND seconds."""
        await self._idle.wait()

    def flush(self) -> None:
        """Write all waiting text now; later text is paced again."""
        self._out(self._output_pacer.flush())
        self._schedule()

    def _show_due(self) -> None:
        self._out(self._output_pacer.flush() if self._hurried else self._output_pacer.due(self._loop.time()))
        self._schedule()

    def _out(self, text: str) -> None:
        if text:
            self._show(text)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._output_pacer.next_at(self._loop.time())
        if at is None:
            self._idle.set()
        else:
            self._idle.clear()
            self._timer = self._loop.call_at(at, self._show_due)
