"""Handlers of signals on the event loop, on every platform."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on the event loop for each SIGINT until the block ends; asyncio does not cancel the main task.
    Without effect outside of the main thread.
    """
    loop = asyncio.get_running_loop()

    def handler(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    try:
        before = signal.getsignal(signal.SIGINT)
        try:
            loop.add_signal_handler(signal.SIGINT, callback)
        except NotImplementedError:  # Windows
            signal.signal(signal.SIGINT, handler)
    except (ValueError, RuntimeError):  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)


@contextmanager
def on_continue(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on the event loop when the suspended process continues (SIGCONT), until the block ends. Without
    effect on platforms without this signal and outside of the main thread.
    """
    number = getattr(signal, "SIGCONT", None)
    if number is None:
        yield
        return
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, callback)
    except (ValueError, RuntimeError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
