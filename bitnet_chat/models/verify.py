"""Check that an installed model is complete and still the downloaded file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.errors import ModelError
from bitnet_chat.models.info import read_info
from bitnet_chat.models.parts import part
from bitnet_chat.models.registry import RegistryEntry, parse
from bitnet_chat.models.store import InstalledModel

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class VerifyResult:
    name: str
    problems: tuple[str, ...]
    """Empty: no fault was found."""
    sha256: str
    """Empty for several files, see ``parts``."""
    compared_with: str
    """The origin of the expected hash: ``registry``, ``record``; empty: none is known."""
    parts: tuple[str, ...] = ()
    """The sha256 of each file, if there are several."""


def verify(
    model: InstalledModel,
    entries: Mapping[str, RegistryEntry],
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyResult:
    """Read all of it. Raises ModelError for one that cannot be read."""
    expected, whose = _expected(model, entries)
    problems = [model.missing] if model.missing else []
    found = [] if model.missing else _hashes(model, on_bytes)
    try:
        info = read_info(model.path) if not model.missing else None
        if info is not None and info.is_cut_off:
            problems.append(f"the file is cut off: {info.header.size} of {info.whole_size} bytes")
    except ModelError as error:
        problems.append(error.what)
    if found and expected and len(found) != len(expected):
        problems.append(f"it has {len(found)} files instead of {len(expected)}")
    for file, each, wanted in zip(model.files, found, expected, strict=False):
        if each != wanted:
            what = "its sha256" if len(found) == 1 else f"the sha256 of {file.name}"
            problems.append(f"{what} differs from the {whose}: {each} instead of {wanted}")
    one = len(found) == 1
    return VerifyResult(model.name, tuple(problems), found[0] if one else "", whose, () if one else tuple(found))


def _hashes(model: InstalledModel, on_bytes: Callable[[int, int], None]) -> list[str]:
    hashes, done = [], 0
    for path in model.files:
        digest = hashlib.sha256()
        try:
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    on_bytes(done, model.size)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None
        hashes.append(digest.hexdigest())
    return hashes


def _expected(model: InstalledModel, entries: Mapping[str, RegistryEntry]) -> tuple[tuple[str, ...], str]:
    """The hash of the registry if the file has the origin of the registry; else those of the pull."""
    entry = entries.get(model.name)
    if entry is not None and entry.sha256:
        source = parse(entry.name, entries)
        if model.record is None or (model.record.origin == source.origin and not model.record.converted):
            return (entry.sha256,), "registry"
    hashes = model.record.hashes if model.record is not None else ()
    return hashes, "record" if hashes else ""


# Whether a file is all of a model: a model in parts is given by its first, with all others beside it.

_TOLD = 3
"""Maximum number of missing parts in a message."""


@dataclass(frozen=True, slots=True)
class MissingPart:
    """``what``: a predicate for the name of the file."""

    what: str
    remedy: str


def lack(path: Path, split: tuple[int, int] | None) -> MissingPart | None:
    """``split``: number and count of the part ``path``; None for a whole model, which lacks nothing."""
    if split is None:
        return None
    number, count = split
    named = part(path.name)
    paths = [path.with_name(name) for name in named.all()] if named is not None and named.count == count else []
    if number != 1:
        first = f": {paths[0]}" if paths and paths[0].is_file() else ", with all others beside it under their own names"
        return MissingPart(f"is part {number} of {count}", f"use part 1{first}")
    if not paths:
        return MissingPart(
            f"is part 1 of {count}, but its name does not have the form of a part, by which an engine finds the others",
            f"restore the names of the parts, of this one NAME-00001-of-{count:05}.gguf",
        )
    missing = [each.name for each in paths if not each.is_file()]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    told = ", ".join(missing[:_TOLD]) + ", …" * (len(missing) > _TOLD)
    return MissingPart(
        f"is part 1 of {count}, and {len(missing)} of the others {verb} missing: {told}",
        "put all parts into one folder under their original names, or download the model again",
    )
