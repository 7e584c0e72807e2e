"""What a command asks of the front end: things that need a file, a terminal or the journal. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ExportFormat = Literal["md", "json", "jsonl", "html"]
ThinkingMode = Literal["show", "fold", "hide"]
FORMATS: tuple[ExportFormat, ...] = ("md", "json", "jsonl", "html")


@dataclass(frozen=True, slots=True)
class SwitchModel:
    name: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with another conversation of the journal. None: let the user pick one."""

    id: int | None


@dataclass(frozen=True, slots=True)
class Rename:
    title: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Go on in a copy of the conversation; the one before stays as it is."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Let the user edit this text, the last message, and ask it in place of that."""

    text: str


@dataclass(frozen=True, slots=True)
class Write:
    """The conversation into a file. ``path`` empty: a name made of the title."""

    format: ExportFormat
    path: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """``text`` into the clipboard of the user's terminal; ``what`` it is."""

    text: str
    what: str


@dataclass(frozen=True, slots=True)
class Attach:
    """These files go with the next message. None at all: say which do; ``-`` alone: none any more."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShowThoughts:
    """Of the last reply. ``mode``: how those to come are shown, unless None."""

    text: str
    mode: ThinkingMode | None = None


Errand = SwitchModel | Resume | Rename | Fork | Edit | Write | Copy | Attach | ShowThoughts
