"""Signals that reach a REPL, on every platform."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """Run ``callback`` in the loop for each SIGINT, instead of cancelling the main task."""
    loop = asyncio.get_running_loop()

    def handler(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    try:
        before = signal.getsignal(signal.SIGINT)
        try:
            loop.add_signal_handler(signal.SIGINT, callback)
        except NotImplementedError:  # Windows
            signal.signal(signal.SIGINT, handler)
    except (ValueError, RuntimeError):  # not the main thread, which alone receives signals
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
    """Run ``callback`` in the loop when a suspended process continues. No effect on a platform without that signal."""
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
