"""What a REPL is told once, when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bitnet_chat.backends import ReplyOptions


@dataclass(frozen=True, slots=True)
class ReplSettings:
    model: str
    """Label of the model, for the greeting; later names come from the backend's status."""
    system: str = ""
    options: ReplyOptions = field(default_factory=ReplyOptions)
    typing_speed: float | None = None
    """Grapheme clusters a second; None or 0 shows text the moment it is there. For transports that come in bursts."""
    history_file: Path | None = None
    """Where typed lines are kept; None keeps them in memory."""
    colour: bool | None = None
    """None: colours on a terminal unless ``NO_COLOR`` is set."""
