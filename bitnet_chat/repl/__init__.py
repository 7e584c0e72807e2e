"""The interactive front end: a prompt, streamed replies and slash commands.

:func:`run` selects one of two user interfaces: prompt_toolkit on a terminal that can move its cursor, plain lines
everywhere else. Both pass each line to a :class:`bitnet_chat.repl.controller.ReplController`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from bitnet_chat import terminal
from bitnet_chat.backend import Backend
from bitnet_chat.repl.interfaces import ReplSettings
from bitnet_chat.version import __version__

if TYPE_CHECKING:
    from bitnet_chat.attachments import Attachment
    from bitnet_chat.journal import JournalStore, StoredConversation

__all__ = ["ReplSettings", "run"]


async def run(
    backend: Backend,
    settings: ReplSettings,
    *,
    notices: Sequence[str] = (),
    switch_model: Callable[[str], Backend] | None = None,
    journal: JournalStore | None = None,
    resumed: StoredConversation | None = None,
    attached: Sequence[Attachment] = (),
) -> int:
    """Run a conversation until the user exits. Returns the exit code of the process.

    ``backend`` must not be started yet: it is started after the prompt is drawn. The backend in use at the end is
    closed. ``notices``: lines to show first. ``switch_model`` creates a backend, not started, for the model that
    ``/model`` names; the user sees the BitnetChatError that it raises. ``journal`` stores the conversation; None
    stores nothing. ``resumed``: a stored conversation to continue. ``attached``: attachments of the first message.
    """
    colour = settings.colour
    if colour is None:
        colour = terminal.shows_colours(sys.stdout)
    notices = (f"bitnet-chat {__version__}, {settings.model}. /help lists the commands.", *notices)
    if settings.toolbox is not None:
        from bitnet_chat.tools.stdio import keep_the_keyboard

        keep_the_keyboard()
    if _is_prompt_toolkit_usable():
        from bitnet_chat.repl.terminal_ui import TerminalUI

        return await TerminalUI(backend, settings, colour, switch_model, journal, attached).run(notices, resumed)
    from bitnet_chat.repl.plain_ui import PlainUI

    return await PlainUI(backend, settings, colour, switch_model, journal, attached).run(notices, resumed)


def _is_prompt_toolkit_usable() -> bool:
    """Return whether stdin and stdout are a terminal that can move its cursor, and prompt_toolkit can be used."""
    if not (sys.stdin.isatty() and terminal.draws(sys.stdout)):
        return False
    # prompt_toolkit can be imported without these modules; it fails later, when it opens the keyboard.
    needed = () if sys.platform == "win32" else ("termios", "tty", "fcntl")
    try:
        for name in (*needed, "prompt_toolkit"):
            import_module(name)
    except ImportError:
        return False
    return True
