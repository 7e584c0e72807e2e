"""Verification that an installed model is complete and still the downloaded file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.errors import ModelError
from bitnet_chat.models.info import read_info
from bitnet_chat.models.names import part
from bitnet_chat.models.registry import RegistryEntry, parse
from bitnet_chat.models.store import InstalledModel

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The result of :func:`verify`."""

    name: str
    problems: tuple[str, ...]
    """One line for each fault; empty without any."""
    sha256: str
    """Empty for several files, see ``parts``."""
    compared_with: str
    """Origin of the expected hash: ``registry`` or ``record``; empty if it is unknown."""
    parts: tuple[str, ...] = ()
    """SHA-256 of each file, if there are several."""


def verify(
    model: InstalledModel,
    entries: Mapping[str, RegistryEntry],
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyResult:
    """Read all files of a model and compare their hashes. ``on_bytes(done, total)`` receives the progress in bytes.

    Raises ModelError for a file that cannot be read.
    """
    expected, compared_with = _expected(model, entries)
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
            problems.append(f"{what} differs from the {compared_with}: {each} instead of {wanted}")
    one = len(found) == 1
    return VerifyResult(
        model.name, tuple(problems), found[0] if one else "", compared_with, () if one else tuple(found)
    )


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
    """The expected hashes and their origin: the registry, if the file comes from there, else the record of the pull."""
    entry = entries.get(model.name)
    if entry is not None and entry.sha256:
        source = parse(entry.name, entries)
        if model.record is None or (model.record.origin == source.origin and not model.record.converted):
            return (entry.sha256,), "registry"
    hashes = model.record.hashes if model.record is not None else ()
    return hashes, "record" if hashes else ""


_MAX_NAMED = 3
"""Maximum number of missing parts that a message names."""


@dataclass(frozen=True, slots=True)
class MissingPart:
    """Why a file is not a complete model. ``what``: a predicate of the file name."""

    what: str
    remedy: str


def lack(path: Path, split: tuple[int, int] | None) -> MissingPart | None:
    """Check that all parts of a model are present; None if so.

    ``path``: the first part. ``split``: number and count of ``path``; None for a whole model.
    """
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
            f"is part 1 of {count}, but its name is not that of a part, so that an engine cannot find the others",
            f"restore the names of the parts (this one is NAME-00001-of-{count:05}.gguf)",
        )
    missing = [each.name for each in paths if not each.is_file()]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    listed = ", ".join(missing[:_MAX_NAMED]) + ", …" * (len(missing) > _MAX_NAMED)
    return MissingPart(
        f"is part 1 of {count}, and {len(missing)} of the others {verb} missing: {listed}",
        "put all parts into one folder under their original names, or download the model again",
    )
