"""The interactive front end: a prompt, streamed replies and slash commands.

``run`` selects the user interface: prompt_toolkit on a capable terminal, plain lines everywhere else.
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
    """Run a conversation until the user exits; returns the exit code of the process.

    ``backend`` is not started yet: it is started once the prompt is drawn. The backend in use at the end is closed.
    ``notices``: lines to show first. ``switch_model`` makes an unstarted backend for another model, or raises
    BitnetChatError, which is shown. ``journal`` stores the conversation; None stores nothing. ``resumed``: a
    conversation to continue. ``attached``: attachments of the first message.
    """
    colour = settings.colour
    if colour is None:
        colour = terminal.shows_colours(sys.stdout)
    notices = (f"bitnet-chat {__version__}, {settings.model}. /help lists the commands.", *notices)
    if settings.toolbox is not None:
        from bitnet_chat.tools.stdio import keep_the_keyboard

        keep_the_keyboard()
    if _can_draw():
        from bitnet_chat.repl.terminal_ui import TerminalUI

        return await TerminalUI(backend, settings, colour, switch_model, journal, attached).run(notices, resumed)
    from bitnet_chat.repl.plain_ui import PlainUI

    return await PlainUI(backend, settings, colour, switch_model, journal, attached).run(notices, resumed)


def _can_draw() -> bool:
    """True if stdin and stdout are a terminal that can move its cursor, and prompt_toolkit supports it."""
    if not (sys.stdin.isatty() and terminal.draws(sys.stdout)):
        return False
    # prompt_toolkit itself can be imported where these are missing; it fails when it opens the keyboard.
    needed = () if sys.platform == "win32" else ("termios", "tty", "fcntl")
    try:
        for name in (*needed, "prompt_toolkit"):
            import_module(name)
    except ImportError:
        return False
    return True
