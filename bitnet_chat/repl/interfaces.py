"""The interface of a controller to its user interface: editor, choice, clipboard. Each user interface implements it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from bitnet_chat.backend import ReplyOptions

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalEntry
    from bitnet_chat.tools import Toolbox


CLIPBOARD_LIMIT = 74_994
"""Bytes. xterm accepts a sequence of 100,000 characters, and base64 makes four of three bytes; others accept as much or
more.
"""


Verdict = Literal["yes", "no", "always"]


class UserInterface(Protocol):
    async def edit(self, text: str) -> str:
        """``text`` after editing. Raises UsageError if an editor is missing or fails."""

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        """The id of the chosen conversation, or None."""

    async def decide(self, question: str) -> Verdict | None:
        """The answer to a question. Keys typed before the question are ignored. None: stop. Without a terminal: no."""

    async def confirm(self, question: str) -> bool:
        """Whether the user confirms. Without a terminal the question is shown, and the answer is yes."""

    def complain(self, text: str) -> None:
        """Show a line about a failure in the background."""

    def copy(self, text: str) -> bool:
        """Copy ``text`` to the clipboard; False if that is not possible."""


def clipboard_sequence(text: str) -> str:
    """OSC 52: the terminal, local or remote, copies ``text`` to its clipboard."""
    data = text.encode("utf-8", "surrogateescape")
    return f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"


# What a REPL is told once, when it starts.


@dataclass(frozen=True, slots=True)
class ReplSettings:
    model: str
    """Label of the model, for the greeting; later names come from the status of the backend."""
    system: str = ""
    options: ReplyOptions = field(default_factory=ReplyOptions)
    typing_speed: float | None = None
    """Grapheme clusters per second; None or 0 shows text at once. For a backend with output in bursts."""
    history_file: Path | None = None
    """File of the input history; None keeps it in memory."""
    spare: bool = False
    """Keep the previous backend loaded after a switch of models, so that switching back takes no time."""
    markdown: Literal["auto", "on", "off"] = "auto"
    """Whether replies are styled, on a terminal only. auto: if colours are available."""
    thinking: Literal["show", "fold", "hide"] = "show"
    """The display of thoughts: all, a line with their length, or nothing."""
    overflow: Literal["drop-oldest", "summarize", "stop"] = "drop-oldest"
    """The policy for a full context window, for the warning in the status bar."""
    toolbox: Toolbox | None = None
    """The tools that can be called; ``options`` has the same ones."""
    allowed_tools: tuple[str, ...] = ()
    """Tools that are called without confirmation."""
    colour: bool | None = None
    """None: colours on a terminal unless ``NO_COLOR`` is set."""
