"""The terminal between two prompts: output as it arrives, input for the keys that stop a reply."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output


class TerminalOutput:
    """Output of words and remarks to the same screen."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def words(self, text: str) -> None:
        self._output.write_raw(text)
        self._output.flush()

    remarks = words


@contextmanager
def between_prompts(source: Input, output: Output, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` for Ctrl-C and Esc, suspend for Ctrl-Z; all other input, pastes included, is kept for the next
    prompt.
    """

    def suspend() -> None:
        with lent(source, output):
            _stop_this_process_group()

    output.enable_bracketed_paste()
    output.flush()
    try:
        with watch(source, stop, suspend if hasattr(signal, "SIGTSTP") else None):
            yield
    finally:
        output.disable_bracketed_paste()
        output.flush()


@contextmanager
def lent(source: Input, output: Output) -> Iterator[None]:
    """Restore the usual modes of the terminal for another program until the block ends."""
    output.reset_attributes()
    output.disable_bracketed_paste()
    output.flush()
    try:
        with source.cooked_mode():
            yield
    finally:
        output.enable_bracketed_paste()
        output.flush()


def _stop_this_process_group() -> None:
    if sys.platform != "win32":
        os.kill(0, signal.SIGTSTP)


def is_raw(source: Input) -> bool:
    """False if another program, such as a shell after ``fg``, has reset the modes of the terminal."""
    if sys.platform != "win32":
        import termios

        try:
            return not termios.tcgetattr(source.fileno())[3] & termios.ICANON
        except termios.error:
            pass  # no terminal, no modes
    return True


# Keys of the prompt beyond those that prompt_toolkit brings.


def bindings(open_editor: Callable[[Buffer], None], hint: Callable[[str], None]) -> KeyBindings:
    """``open_editor``: edits a buffer in an external editor. ``hint``: a few words for the status bar."""
    keys = KeyBindings()
    writing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=writing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        before = event.previous_key_sequence
        # A pasted text goes as it is, even when it ends in a backslash.
        pasted = bool(before) and before[-1].key is Keys.BracketedPaste
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\") and not pasted:
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        elif buffer.text.strip():
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=writing)
    @keys.add("c-j", filter=writing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c", filter=writing)
    @keys.add(Keys.SIGINT)
    def _(event: KeyPressEvent) -> None:
        if not event.app.current_buffer.text:
            hint("Ctrl-D or /exit exits")
        event.app.current_buffer.reset()

    @keys.add("c-x", "c-e", filter=writing)
    def _(event: KeyPressEvent) -> None:
        open_editor(event.current_buffer)

    return keys


def forget_escape(app: Application[str]) -> None:
    """Drop a lone Esc without dropping the next key: prompt_toolkit waits 1.5 s for the rest of an Alt key, in which
    the slash of a command would be lost. The bytes of a real Alt key arrive together.
    """
    app.ttimeoutlen = ESCAPE
    keys = app.key_processor
    usual = app.timeoutlen

    def look(_: object) -> None:
        alone = [key.key for key in keys.key_buffer] == [Keys.Escape]
        # If nothing was read behind it, the wait for what may belong to it is over already.
        app.timeoutlen = 0.0 if alone else usual

    keys.after_key_press += look


# The keyboard while a reply is under way: Ctrl-C and Esc stop it, all else waits for the next prompt.

ESCAPE = 0.1
"""Seconds after which an ESC is the key and not the beginning of a sequence; slow connections split sequences."""

# Answers of the terminal and reports, no typing.
_DROPPED = {Keys.CPRResponse, Keys.Vt100MouseEvent, Keys.WindowsMouseEvent, Keys.Ignore}


@contextmanager
def watch(source: Input, stop: Callable[[], None], suspend: Callable[[], None] | None = None) -> Iterator[None]:
    """Read keys in raw mode. ``stop`` is called for Ctrl-C and for Esc alone, ``suspend`` for Ctrl-Z."""
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
