"""What the controller needs from a user interface (editor, questions, clipboard), and the settings of a session."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from bitnet_chat.backend import ReplyOptions

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalEntry
    from bitnet_chat.repl.branches import TreeLine
    from bitnet_chat.tools import Toolbox


CLIPBOARD_LIMIT = 74_994
"""Maximum number of bytes to copy. xterm accepts escape sequences of 100,000 characters, and base64 turns 3 bytes into
4 characters; other terminals accept at least as much.
"""


Verdict = Literal["yes", "no", "always"]
"""The answer to the question whether a tool may be called. ``always``: without a question from now on."""


class UserInterface(Protocol):
    """The operations of a user interface that the controller calls."""

    async def edit(self, text: str) -> str:
        """Let the user edit ``text`` in an external editor. Raises UsageError if an editor is missing or fails."""

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        """Let the user choose a conversation. Returns its id, or None if the choice is cancelled."""

    async def pick_message(self, lines: Sequence[TreeLine], current: int | None) -> int | None:
        """Let the user choose a message. ``current``: the one at the cursor first. Returns its row, or None if the
        choice is cancelled.
        """

    async def decide(self, question: str) -> Verdict | None:
        """Ask whether a tool may be called. Keys typed before the question are ignored. Returns None if the user stops
        the reply, and ``no`` without a terminal.
        """

    async def choose(self, question: str, count: int, enter: str, escape: str) -> int | None:
        """Let the user choose one of ``count`` replies. Keys typed before the question are ignored. Returns its number,
        from 1; 0 for Enter; None for Esc, and without a terminal. ``enter``, ``escape``: what these keys mean.
        """

    async def confirm(self, question: str) -> bool:
        """Ask for a confirmation. Without a terminal the question is shown, and the answer is yes."""

    def complain(self, text: str) -> None:
        """Show a line about a failure in the background."""

    def copy(self, text: str) -> bool:
        """Copy ``text`` to the clipboard. Returns False if that is not possible."""


def clipboard_sequence(text: str) -> str:
    """Return the escape sequence (OSC 52) with which a terminal, local or remote, copies ``text`` to its clipboard."""
    data = text.encode("utf-8", "surrogateescape")
    return f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"


@dataclass(frozen=True, slots=True)
class ReplSettings:
    """The settings of a session, fixed at its start."""

    model: str
    """Label of the model, for the greeting; later names come from the status of the backend."""
    system: str = ""
    options: ReplyOptions = field(default_factory=ReplyOptions)
    typing_speed: float | None = None
    """Grapheme clusters per second for a backend whose output arrives in bursts; None or 0 shows text at once."""
    history_file: Path | None = None
    """File of the input history; None keeps it in memory."""
    spare: bool = False
    """Keep the previous backend loaded after a switch of models: switching back is then immediate."""
    markdown: Literal["auto", "on", "off"] = "auto"
    """Whether replies are styled; never without a terminal. auto: if colours are available."""
    thinking: Literal["show", "fold", "hide"] = "show"
    """The display of thoughts: the whole text, one line with the time and token count, or nothing."""
    overflow: Literal["drop-oldest", "summarize", "stop"] = "drop-oldest"
    """The policy for a full context window, for the warning in the status bar."""
    toolbox: Toolbox | None = None
    """The tools that can be called; ``options.tools`` are the same."""
    allowed_tools: tuple[str, ...] = ()
    """Tools that are called without confirmation."""
    colour: bool | None = None
    """None: colours on a terminal unless ``NO_COLOR`` is set."""
