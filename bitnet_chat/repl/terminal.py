"""The terminal between two prompts: written to as text comes, read for the keys that stop a reply."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.output import Output

from bitnet_chat.repl.typeahead import watch


class TerminalSink:
    """Words and remarks go to the same screen."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def words(self, text: str) -> None:
        self._output.write_raw(text)
        self._output.flush()

    remarks = words


@contextmanager
def between_prompts(source: Input, output: Output, stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and Esc call ``stop``, Ctrl-Z suspends; everything else, pastes included, is kept for the next prompt."""

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
    """The terminal as other programs expect it: they have it until the block ends."""
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
    """False when someone, such as a shell after ``fg``, gave the terminal its usual modes back."""
    if sys.platform != "win32":
        import termios

        try:
            return not termios.tcgetattr(source.fileno())[3] & termios.ICANON
        except termios.error:
            pass  # no terminal, no modes
    return True
