"""What an engine binary is and can do, as its own ``--help`` tells it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_FLAG = re.compile(r"(?<![\w-])(--?[A-Za-z][A-Za-z0-9-]*)")
_VERSION = re.compile(r"^version: *(.+)$", re.MULTILINE)


class Dialect(StrEnum):
    """How a binary talks. ``CLASSIC`` gives full control of the history, so it is wanted first."""

    CLASSIC = "classic"
    MODERN = "modern"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """A binary that was asked and answered."""

    path: Path
    dialect: Dialect
    version: str
    flags: frozenset[str]
    colour_takes_value: bool
    """``--color on`` instead of ``--color``: builds since late 2025."""

    @property
    def can_chat(self) -> bool:
        return self.dialect is not Dialect.SERVER

    def has(self, flag: str) -> bool:
        return flag in self.flags


def recognise(path: Path, help_text: str, version_text: str) -> EngineBinary | None:
    """What the output of ``--help`` and ``--version`` says; None for something that is no engine."""
    flags = frozenset(_FLAG.findall(help_text))
    if not {"--model", "--ctx-size"} <= flags:
        return None
    if {"--in-prefix", "--in-suffix", "--simple-io", "--interactive-first"} <= flags:
        dialect = Dialect.CLASSIC
    elif {"--system-prompt", "--simple-io", "--single-turn"} <= flags:
        dialect = Dialect.MODERN
    elif {"--host", "--port"} <= flags:
        dialect = Dialect.SERVER
    else:
        return None
    version = _VERSION.search(version_text)
    return EngineBinary(
        path=path,
        dialect=dialect,
        version=version.group(1).strip() if version else "unknown",
        flags=flags,
        colour_takes_value=bool(re.search(r"--color +\[", help_text)),
    )
