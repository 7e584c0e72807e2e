"""Models in several files, ``NAME-00001-of-00003.gguf`` and so on, as ``llama-gguf-split`` names them. Pure.

An engine is given the first part and looks for the others beside it, under these names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf.*)?", re.DOTALL)
_MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class ModelPart:
    stem: str
    number: int
    """Counted from 1."""
    count: int
    end: str
    """The rest of the name: ``.gguf``, or empty."""

    def all(self) -> tuple[str, ...]:
        """The names of all parts, in order."""
        return tuple(f"{self.stem}{suffix(number, self.count)}{self.end}" for number in range(1, self.count + 1))


def part(name: str) -> ModelPart | None:
    """The part that a file name states, with or without ``.gguf`` and a suffix; None for a whole file."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    number, count = int(match["number"]), int(match["count"])
    return ModelPart(match["stem"], number, count, match["end"] or "") if 1 <= number <= count <= _MAX_PARTS else None


def suffix(number: int, count: int) -> str:
    return f"-{number:05}-of-{count:05}"


def stem_of(name: str) -> str:
    """A file name without ``.gguf`` and without the number of a part: the name of its model."""
    stem = name.removesuffix(".gguf")
    found = part(stem)
    return found.stem if found is not None else stem
