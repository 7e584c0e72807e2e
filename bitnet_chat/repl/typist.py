"""Shows paced text when it is due, with one timer of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bitnet_chat.stream.pacer import Pacer


class Typist:
    """Between a reply and a display. ``hurry`` shows all that waits, now and from now on."""

    def __init__(self, show: Callable[[str], None], pace: float) -> None:
        """``pace``: grapheme clusters a second, more than 0."""
        self._show = show
        self._pacer = Pacer(pace)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = False

    def feed(self, text: str) -> None:
        self._pacer.feed(text, self._loop.time())
        self._show_due()

    def hurry(self) -> None:
        self._hurried = True
        self._show_due()

    async def drain(self) -> None:
        """Returns when all text has been shown, which takes less than a second."""
        await self._idle.wait()

    def flush(self) -> None:
        """Shows all that waits; what comes later is paced again."""
        self._out(self._pacer.flush())
        self._schedule()

    def _show_due(self) -> None:
        self._out(self._pacer.flush() if self._hurried else self._pacer.due(self._loop.time()))
        self._schedule()

    def _out(self, text: str) -> None:
        if text:
            self._show(text)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._pacer.next_at(self._loop.time())
        if at is None:
            self._idle.set()
        else:
            self._idle.clear()
            self._timer = self._loop.call_at(at, self._show_due)
