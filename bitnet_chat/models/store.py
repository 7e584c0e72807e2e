"""The folder of installed models: ``NAME.gguf``, and beside it ``NAME.json``, what is known of where it came from.

A file that somebody put there by hand is a model as good as any; it only has no record.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitnet_chat import paths
from bitnet_chat.errors import UsageError
from bitnet_chat.models.registry import is_name


@dataclass(frozen=True, slots=True)
class Record:
    """Written when a model is pulled."""

    origin: str
    """``hf:user/repo/file`` or an address; without what is secret in it."""
    size: int
    sha256: str
    """Of the file as it came."""
    revision: str = ""
    """The hub's commit."""
    license: str = ""
    pulled: str = ""
    """When, ISO 8601 in UTC."""


@dataclass(frozen=True, slots=True)
class Installed:
    name: str
    path: Path
    size: int
    record: Record | None


def path_of(name: str) -> Path:
    """Where a model of this name lies, or would lie. Raises UsageError for what is no name."""
    if not is_name(name):
        raise UsageError(f"{name!r} is no name for a model", remedy="a name is letters, digits, '.', '_' and '-'")
    return paths.models_dir() / f"{name}.gguf"


def installed() -> list[Installed]:
    """All that is there, by name."""
    try:
        names = sorted(each.stem for each in paths.models_dir().iterdir() if each.suffix == ".gguf")
    except OSError:
        return []
    return [found for name in names if (found := find(name)) is not None]


def find(name: str) -> Installed | None:
    if not is_name(name):
        return None
    path = path_of(name)
    try:
        size = path.stat().st_size
    except OSError:
        return None
    return Installed(name, path, size, _record(_record_path(path))) if path.is_file() else None


def write_record(path: Path, record: Record) -> None:
    """The record of the model at ``path``. Raises OSError."""
    write_json(_record_path(path), asdict(record))


def write_json(target: Path, content: dict[str, Any]) -> None:
    """All of it or nothing. Raises OSError."""
    part = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def remove(name: str) -> int:
    """Removes a model, its record and what a pull of it left; gives the bytes that this frees. Raises OSError.

    A model that is a link goes, what it points to stays.
    """
    path = path_of(name)
    freed = 0
    for each in (path, *leftovers(name), _record_path(path)):
        with contextlib.suppress(FileNotFoundError):
            size = each.lstat().st_size
            each.unlink()
            freed += size
    return freed


def leftovers(name: str) -> list[Path]:
    """What a pull that was interrupted has left of a model."""
    path = path_of(name)
    return [each for each in (part_path(path), state_path(path)) if each.exists()]


def unfinished() -> Iterator[tuple[str, int]]:
    """Names and bytes so far of pulls that were interrupted."""
    with contextlib.suppress(OSError):
        for path in sorted(paths.models_dir().iterdir()):
            name = path.name.removesuffix(".gguf.part")
            if name != path.name and is_name(name):
                yield name, path.stat().st_size


def part_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def state_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _record(path: Path) -> Record | None:
    """None where there is none that makes sense: it is a note, not something to fail for."""
    try:
        content = json.loads(path.read_text("utf-8"))
        record = Record(**content)
    except (OSError, ValueError, TypeError):
        return None
    texts = (record.origin, record.sha256, record.revision, record.license, record.pulled)
    return record if type(record.size) is int and all(isinstance(each, str) for each in texts) else None
