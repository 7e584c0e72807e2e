"""What a talk needs of the place where it happens: an editor, a choice, a clipboard. Each loop has its own."""

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
"""Bytes. xterm takes a sequence of 100,000 characters, and base64 makes four of three bytes; others take as much or
more."""


Verdict = Literal["yes", "no", "always"]


class UserInterface(Protocol):
    async def edit(self, text: str) -> str:
        """``text`` as the user leaves it. Raises UsageError where there is no editor or it fails."""

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        """The id of the conversation that the user picks, or None."""

    async def decide(self, question: str) -> Verdict | None:
        """What the user says to a question. Keys that were typed before it was asked are no answer. None: he wants to
        stop. Without a terminal to ask on: no."""

    async def confirm(self, question: str) -> bool:
        """Whether the user says yes. Without a terminal to ask on, the question is shown and taken as yes."""

    def complain(self, text: str) -> None:
        """A line about something that has gone wrong in the background."""

    def copy(self, text: str) -> bool:
        """``text`` into the clipboard; False where nothing can take it there."""


def clipboard_sequence(text: str) -> str:
    """OSC 52: the terminal, be it on another computer, puts ``text`` into its clipboard."""
    data = text.encode("utf-8", "surrogateescape")
    return f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"


# What a REPL is told once, when it starts.


@dataclass(frozen=True, slots=True)
class ReplSettings:
    model: str
    """Label of the model, for the greeting; later names come from the backend's status."""
    system: str = ""
    options: ReplyOptions = field(default_factory=ReplyOptions)
    typing_speed: float | None = None
    """Grapheme clusters a second; None or 0 shows text the moment it is there. For a backend that says that its
    words come in bursts."""
    history_file: Path | None = None
    """Where typed lines are kept; None keeps them in memory."""
    spare: bool = False
    """Keep the backend before a change of models, loaded, so that changing back takes no time."""
    markdown: Literal["auto", "on", "off"] = "auto"
    """Whether replies are styled; only ever on a terminal. auto: where there are colours."""
    thinking: Literal["show", "fold", "hide"] = "show"
    """What is seen of thoughts: all, a line with their length, or nothing."""
    overflow: Literal["drop-oldest", "summarize", "stop"] = "drop-oldest"
    """What happens when the context is full; the bar warns of it."""
    toolbox: Toolbox | None = None
    """What calls of the model are made with; ``options`` has the same tools."""
    allowed_tools: tuple[str, ...] = ()
    """Tools that are called without a question."""
    colour: bool | None = None
    """None: colours on a terminal unless ``NO_COLOR`` is set."""
