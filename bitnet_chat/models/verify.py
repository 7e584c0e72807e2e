"""Whether an installed model is still the file that was pulled, and whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bitnet_chat.errors import ModelError
from bitnet_chat.models.info import read_info
from bitnet_chat.models.registry import Entry
from bitnet_chat.models.source import parse
from bitnet_chat.models.store import Installed

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    problems: tuple[str, ...]
    """Empty: all is well as far as it can be told."""
    sha256: str
    compared_with: str
    """Whose hash it was compared with: ``registry``, ``record``; empty: nobody's, as none is known."""


def verify(
    model: Installed, entries: Mapping[str, Entry], on_bytes: Callable[[int, int], None] = lambda done, total: None
) -> Verdict:
    """Reads the whole file. Raises ModelError for one that cannot be read."""
    expected, whose = _expected(model, entries)
    problems = []
    try:
        info = read_info(model.path)
        if info.is_cut_off:
            problems.append(f"the file is cut off: {info.header.size} of {info.whole_size} bytes")
    except ModelError as error:
        problems.append(error.what)
    digest, done = hashlib.sha256(), 0
    try:
        with model.path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                on_bytes(done, model.size)
    except OSError as error:
        raise ModelError(f"{model.path} cannot be read: {error.strerror}") from None
    if expected and digest.hexdigest() != expected:
        problems.append(f"its sha256 is not that of the {whose}: {digest.hexdigest()} instead of {expected}")
    return Verdict(model.name, tuple(problems), digest.hexdigest(), whose)


def _expected(model: Installed, entries: Mapping[str, Entry]) -> tuple[str, str]:
    """The registry's hash where the file came from what the registry names; else that of the day of the pull."""
    entry = entries.get(model.name)
    if entry is not None and entry.sha256:
        source = parse(entry.name, entries)
        if model.record is None or model.record.origin == source.origin:
            return entry.sha256, "registry"
    return (model.record.sha256, "record") if model.record is not None else ("", "")
