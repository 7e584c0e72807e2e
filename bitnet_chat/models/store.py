"""The directory of installed models: ``NAME.gguf``, or the parts ``NAME-00001-of-00003.gguf`` etc., and ``NAME.json``
with the origin."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bitnet_chat import paths
from bitnet_chat.errors import UsageError
from bitnet_chat.models.names import part, stem_of, suffix
from bitnet_chat.models.registry import CONVERTED, is_name


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The contents of ``NAME.json``, written when a model is pulled."""

    origin: str
    """``hf:user/repo/file`` or a URL, without secrets."""
    size: int
    sha256: str
    """Hash of the downloaded file; empty for several files."""
    revision: str = ""
    """Commit on the hub, or version of the wheel."""
    license: str = ""
    pulled: str = ""
    """Time of the pull, ISO 8601 in UTC."""
    parts: tuple[str, ...] = ()
    """SHA-256 of each part, if there are several."""
    converted: str = ""
    """Tensor type of a converted file; size and sha256 are then those of the converted file."""

    @property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each file."""
        return self.parts or ((self.sha256,) if self.sha256 else ())


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on this computer."""

    name: str
    path: Path
    """The file for an engine; for a model in parts the first one."""
    size: int
    """Bytes of all existing files."""
    record: ModelRecord | None
    missing: str = ""
    """A message about missing parts; empty for a complete model."""
    program: str = ""
    """The other program that owns the file; empty for an own model."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files in order, existing or not."""
        found = part(self.path.name)
        return tuple(map(self.path.with_name, found.all())) if found is not None else (self.path,)


def path_of(name: str) -> Path:
    """Return the path of a model with this name, existing or not. Raises UsageError for an invalid name."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} is not a valid name for a model", remedy="a name is letters, digits, '.', '_' and '-'"
        )
    return paths.models_dir() / f"{name}.gguf"


def paths_of(name: str, count: int) -> tuple[Path, ...]:
    """Return the paths of a model with ``count`` parts, existing or not. Raises UsageError for an invalid name."""
    path = path_of(name)
    return (path,) if count == 1 else _parts_of(path, count)


def _parts_of(path: Path, count: int) -> tuple[Path, ...]:
    """Return the paths of the parts of a model. ``path``: that of the model as one file."""
    return tuple(path.with_name(f"{path.stem}{suffix(number, count)}.gguf") for number in range(1, count + 1))


def installed() -> list[InstalledModel]:
    """List all installed models, by name."""
    try:
        names = sorted({stem_of(each.name) for each in paths.models_dir().iterdir() if each.suffix == ".gguf"})
    except OSError:
        return []
    return [found for name in names if (found := find(name)) is not None]


def find(name: str) -> InstalledModel | None:
    """Return the installed model with exactly this name; None without one."""
    if not is_name(name):
        return None
    path = path_of(name)
    record = _record(record_path(path))
    try:
        if path.is_file():
            return InstalledModel(name, path, path.stat().st_size, record)
        counts = {found.count for each in _pieces(path) if (found := part(each.name)) and found.end == ".gguf"}
        return max(
            (_in_parts(path, count, record) for count in counts), key=lambda each: not each.missing, default=None
        )
    except OSError:
        return None


def origin_of(path: Path) -> str:
    """Return the origin of a model file in the model directory; empty if unknown."""
    if path.parent != paths.models_dir():
        return ""
    record = _record(path.with_name(f"{stem_of(path.name)}.json"))
    return record.origin if record is not None else ""


def _in_parts(path: Path, count: int, record: ModelRecord | None) -> InstalledModel:
    """Examine a model in ``count`` parts. Raises OSError."""
    files = _parts_of(path, count)
    here = [number for number, each in enumerate(files, 1) if each.is_file()]
    missing = [str(number) for number in range(1, count + 1) if number not in here]
    size = sum(files[number - 1].stat().st_size for number in here)
    some, verb = ("part", "is") if len(missing) == 1 else ("parts", "are")
    message = f"{some} {', '.join(missing[:8])} of {count} {verb} missing"
    return InstalledModel(path.stem, files[0], size, record, message if missing else "")


def _pieces(path: Path) -> list[Path]:
    """List the parts of a model and of unfinished pulls. ``path``: that of the model as one file."""
    return sorted(path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].gguf*"))


def write_record(path: Path, record: ModelRecord) -> None:
    """Write the record of the model at ``path``. Raises OSError."""
    write_json(record_path(path), asdict(record))


def write_json(target: Path, content: dict[str, Any]) -> None:
    """Write a JSON file completely or not at all. Raises OSError."""
    part = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def remove(name: str) -> int:
    """Remove a model, its record and unfinished pulls; return the freed bytes. If the model is a link, only the link is
    removed.

    Raises UsageError for an invalid name, or OSError.
    """
    path = path_of(name)
    freed = 0
    converted = [path.with_name(f"{name}{CONVERTED}{end}") for end in (".gguf", ".json")]
    for each in dict.fromkeys((path, *_pieces(path), *leftovers(name), record_path(path), *converted)):
        with contextlib.suppress(FileNotFoundError):
            size = each.lstat().st_size
            each.unlink()
            freed += size
    return freed


def leftovers(name: str) -> list[Path]:
    """List the files of an interrupted pull of a model."""
    path = path_of(name)
    pieces = [each for each in _pieces(path) if each.suffix != ".gguf"]
    return [*pieces, *(each for each in (part_path(path), state_path(path)) if each.exists())]


def unfinished() -> Iterator[tuple[str, int]]:
    """Yield name and received bytes of each interrupted pull."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for path in sorted(paths.models_dir().iterdir()):
            file = path.name.removesuffix(".part")
            name = stem_of(file)
            if file != path.name and file.endswith(".gguf") and is_name(name):
                sizes[name] = sizes.get(name, 0) + path.stat().st_size
    yield from sizes.items()


def part_path(path: Path) -> Path:
    """Return the path of the part file during a download."""
    return path.with_name(f"{path.name}.part")


def state_path(path: Path) -> Path:
    """Return the path of the metadata of the part file."""
    return path.with_name(f"{path.name}.part.json")


def record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _record(path: Path) -> ModelRecord | None:
    """Read a record; None if it is missing or invalid, since a record is optional."""
    try:
        content = json.loads(path.read_text("utf-8"))
        record = ModelRecord(**content)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(record.parts, list | tuple) or type(record.size) is not int:
        return None
    texts = (record.origin, record.sha256, record.revision, record.license, record.pulled, record.converted)
    return (
        replace(record, parts=tuple(record.parts))
        if all(isinstance(each, str) for each in (*texts, *record.parts))
        else None
    )
