"""The keyboard while a reply is under way: Ctrl-C and Esc stop it, all else waits for the next prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

ESCAPE = 0.1
"""Seconds after which an ESC is the key and not the beginning of a sequence; slow links split those."""

# Answers of the terminal and reports, no typing.
_DROPPED = {Keys.CPRResponse, Keys.Vt100MouseEvent, Keys.WindowsMouseEvent, Keys.Ignore}


@contextmanager
def watch(source: Input, stop: Callable[[], None], suspend: Callable[[], None] | None = None) -> Iterator[None]:
    """Reads keys in raw mode. ``stop`` is called for Ctrl-C and for Esc alone, ``suspend`` for Ctrl-Z."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    kept: list[KeyPress] = []

    def sort(keys: list[KeyPress], alone: bool) -> None:
        for key in keys:
            # An ESC that came together with other keys is Alt held down.
            if key.key is Keys.ControlC or (alone and key.key is Keys.Escape):
                stop()
            elif key.key is Keys.ControlZ and suspend is not None:
                suspend()
            elif key.key not in _DROPPED:
                kept.append(key)

    def ready() -> None:
        nonlocal timer
        if timer is not None:
            timer.cancel()
        sort(source.read_keys(), alone=False)
        if source.closed:
            stop()
        else:
            timer = loop.call_later(ESCAPE, flush)

    def flush() -> None:
        nonlocal timer
        timer = None
        sort(source.flush_keys(), alone=True)

    # What was typed faster than the prompt could end may hold the Ctrl-C that is meant for the reply. It is looked at
    # when the reply has begun, and whatever follows it after that.
    early = get_typeahead(source)

    def begin() -> None:
        sort(early, alone=False)
        early.clear()

    soon = loop.call_soon(begin)
    with source.attach(ready):
        try:
            yield
        finally:
            soon.cancel()
            begin()  # where the reply ended without a wait
            if timer is not None:
                timer.cancel()
                # An Esc just before the end wanted to stop what has ended by itself.
                kept.extend(key for key in source.flush_keys() if key.key is not Keys.Escape)
            store_typeahead(source, kept)
