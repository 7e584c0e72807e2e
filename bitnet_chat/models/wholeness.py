"""Whether a file is all of a model: a model in parts is given by its first, with all others beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.models.parts import part

_TOLD = 3
"""Names of missing parts that are told."""


@dataclass(frozen=True, slots=True)
class Lack:
    """``what``: goes on from the name of the file."""

    what: str
    remedy: str


def lack(path: Path, split: tuple[int, int] | None) -> Lack | None:
    """``split``: the how-manieth of how many files ``path`` is; None for a whole model, which lacks nothing."""
    if split is None:
        return None
    number, count = split
    named = part(path.name)
    paths = [path.with_name(name) for name in named.all()] if named is not None and named.count == count else []
    if number != 1:
        first = f": {paths[0]}" if paths and paths[0].is_file() else ", with all others beside it under their own names"
        return Lack(f"is part {number} of {count}", f"give part 1{first}")
    if not paths:
        return Lack(
            f"is part 1 of {count}, and its name does not say so: an engine finds the others by it",
            f"give the parts back their names, this one NAME-00001-of-{count:05}.gguf",
        )
    missing = [each.name for each in paths if not each.is_file()]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    told = ", ".join(missing[:_TOLD]) + ", …" * (len(missing) > _TOLD)
    return Lack(
        f"is part 1 of {count}, and {len(missing)} of the others {verb} missing: {told}",
        "put all parts into one folder under their own names, or download the model again",
    )
