"""What a REPL is told once, when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bitnet_chat.backend import ReplyOptions

if TYPE_CHECKING:
    from bitnet_chat.tools import Toolbox


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
