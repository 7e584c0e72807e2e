"""Keys of the prompt beyond those that prompt_toolkit brings."""

from __future__ import annotations

from collections.abc import Callable

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from bitnet_chat.repl.typeahead import ESCAPE


def bindings(open_editor: Callable[[Buffer], None], hint: Callable[[str], None]) -> KeyBindings:
    """``open_editor``: lets the user edit a buffer elsewhere. ``hint``: a few words for the bar."""
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
            hint("Ctrl-D or /exit leaves")
        event.app.current_buffer.reset()

    @keys.add("c-x", "c-e", filter=writing)
    def _(event: KeyPressEvent) -> None:
        open_editor(event.current_buffer)

    return keys


def forget_escape(app: Application[str]) -> None:
    """A lone Esc does nothing, and does not take the next key with it: prompt_toolkit waits 1.5 s for the rest of an
    Alt key, in which the slash of a command would be lost. The bytes of a real Alt key come together."""
    app.ttimeoutlen = ESCAPE
    keys = app.key_processor
    usual = app.timeoutlen

    def look(_: object) -> None:
        alone = [key.key for key in keys.key_buffer] == [Keys.Escape]
        # If nothing was read behind it, the wait for what may belong to it is over already.
        app.timeoutlen = 0.0 if alone else usual

    keys.after_key_press += look
