"""Keyboard and terminal modes: the key bindings of the prompt, and the keys that stop a reply between two prompts.

The terminal stays in raw mode while a reply is shown, so keys are neither echoed nor turned into signals. Keys that do
not stop the reply are kept for the next prompt.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
    """An :class:`bitnet_chat.repl.screen.Output` that writes to the terminal of prompt_toolkit without buffering."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def words(self, text: str) -> None:
        self._output.write_raw(text)
        self._output.flush()

    remarks = words


@contextmanager
def between_prompts(
    source: Input, output: Output, stop: Callable[[], None], refuse: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Call ``stop`` for Ctrl-C and Esc, ``refuse`` for Alt-Left and Alt-Right, and suspend the process for Ctrl-Z,
    until the block ends. All other input, pastes included, is kept for the next prompt.
    """

    def suspend() -> None:
        with cooked_terminal(source, output):
            _suspend_process_group()

    output.enable_bracketed_paste()
    output.flush()
    try:
        with watch(source, stop, suspend if hasattr(signal, "SIGTSTP") else None, refuse):
            yield
    finally:
        output.disable_bracketed_paste()
        output.flush()


@contextmanager
def cooked_terminal(source: Input, output: Output) -> Iterator[None]:
    """Set the terminal to cooked mode, without bracketed paste, for another program until the block ends."""
    output.reset_attributes()
    output.disable_bracketed_paste()
    output.flush()
    try:
        with source.cooked_mode():
            yield
    finally:
        output.enable_bracketed_paste()
        output.flush()


def _suspend_process_group() -> None:
    if sys.platform != "win32":
        os.kill(0, signal.SIGTSTP)


def is_raw(source: Input) -> bool:
    """Return False if another program, such as a shell after ``fg``, has reset the terminal to cooked mode."""
    if sys.platform != "win32":
        import termios

        try:
            return not termios.tcgetattr(source.fileno())[3] & termios.ICANON
        except termios.error:
            pass  # not a terminal
    return True


def bindings(
    open_editor: Callable[[Buffer], None], hint: Callable[[str], None], step: Callable[[int], None]
) -> KeyBindings:
    """Return the key bindings of the prompt that prompt_toolkit does not have. ``open_editor`` edits a buffer in an
    external editor; ``hint`` shows a text in the status bar; ``step`` switches to the next (1) or previous (-1) variant
    of the last reply.
    """
    keys = KeyBindings()
    writing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=writing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        before = event.previous_key_sequence
        # A pasted text is sent unchanged, even if it ends in a backslash.
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

    @keys.add("escape", "left", filter=writing)
    def _(event: KeyPressEvent) -> None:
        step(-1)

    @keys.add("escape", "right", filter=writing)
    def _(event: KeyPressEvent) -> None:
        step(1)

    return keys


def shorten_escape_wait(app: Application[str]) -> None:
    """Make ``app`` ignore a single Esc at once. prompt_toolkit waits 1.5 s after it for the second part of an Alt key,
    and a key typed in this time (the slash of a command) would be lost. The bytes of a real Alt key arrive together.
    """
    app.ttimeoutlen = ESCAPE
    keys = app.key_processor
    usual = app.timeoutlen

    def set_timeout(_: object) -> None:
        alone = [key.key for key in keys.key_buffer] == [Keys.Escape]
        app.timeoutlen = 0.0 if alone else usual

    keys.after_key_press += set_timeout


ESCAPE = 0.1
"""Seconds after which ESC is the key and not the beginning of an escape sequence; slow connections split sequences."""

# Reports of the terminal, which are not typed.
_ARROWS = {Keys.Left, Keys.Right}
_DROPPED = {Keys.CPRResponse, Keys.Vt100MouseEvent, Keys.WindowsMouseEvent, Keys.Ignore}


@dataclass(frozen=True, slots=True)
class _KeySorter:
    """Calls the functions of keys, see :func:`watch`, and keeps all other keys."""

    stop: Callable[[], None]
    suspend: Callable[[], None] | None
    refuse: Callable[[], None]
    kept: list[KeyPress] = field(default_factory=list)

    def sort(self, keys: list[KeyPress], alone: bool) -> None:
        """``alone``: no other key arrived together with these."""
        for key in keys:
            # An ESC that was read together with other keys is an Alt key.
            if key.key is Keys.ControlC or (alone and key.key is Keys.Escape):
                self.stop()
            elif key.key is Keys.ControlZ and self.suspend is not None:
                self.suspend()
            elif key.key in _ARROWS and self.kept and self.kept[-1].key is Keys.Escape:
                self.kept.pop()
                self.refuse()
            elif key.key not in _DROPPED:
                self.kept.append(key)


@contextmanager
def watch(
    source: Input,
    stop: Callable[[], None],
    suspend: Callable[[], None] | None = None,
    refuse: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Read keys in raw mode until the block ends. Calls ``stop`` for Ctrl-C, for Esc without another key and at the end
    of the input, ``suspend`` for Ctrl-Z, and ``refuse`` for Alt-Left and Alt-Right. All other keys become typeahead of
    the next prompt.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    keys = _KeySorter(stop, suspend, refuse)
    sort, kept = keys.sort, keys.kept

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

    # Keys that were typed before the prompt had ended may contain the Ctrl-C for this reply. They are handled once the
    # reply has begun, before later keys.
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
            begin()  # in case the reply ended without suspending
            if timer is not None:
                timer.cancel()
                # An Esc just before the end was meant to stop the reply, which has ended.
                kept.extend(key for key in source.flush_keys() if key.key is not Keys.Escape)
            store_typeahead(source, kept)
