"""Prebuilt libraries that a native engine runs: which there are, and those that are installed.

Each has a folder of its own in the data directory, as pip's wheel has it, with a record beside it::

    <engine home>/llama.cpp-2026.10.11549/    package.json, LICENSE, site/xllamacpp/…
    <engine home>/bitnet-0.1.5/               package.json, LICENSE, site/ik_llama_cpp/…

Such a folder may be moved, or copied to a computer of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, HelpOptions

RECORD = "package.json"
SITE = "site"


@dataclass(frozen=True, slots=True)
class EnginePackage:
    """A project of the package index with a library in its wheel. ``name``: the name of the engine for users."""

    name: str
    project: str
    version: str
    make: EngineVariant
    ternary: tuple[str, ...]
    """The types of ternary weights that it loads and computes."""

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.version}"


PACKAGES = (
    EnginePackage("llama.cpp", "xllamacpp", "2026.10.11549", EngineVariant.LLAMA, ("TQ1_0", "TQ2_0")),
    EnginePackage("bitnet", "ik-llama-cpp-python", "0.1.5", EngineVariant.IK, ("IQ1_BN", "IQ2_BN", "IQ2_BN_R4")),
)


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """The record of an installed library."""

    name: str
    version: str
    file: str
    """Its wheel, whose name shows the platform."""
    sha256: str
    """Of that wheel."""
    installed: str
    """Time of the installation, ISO 8601 in UTC."""
    files: Mapping[str, int]
    """Size in bytes of each file, by its path below the folder."""

    def write(self, folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def by_name(name: str) -> EnginePackage | None:
    return next((package for package in PACKAGES if package.name == name), None)


def folder_of(package: EnginePackage, home: Path | None = None) -> Path:
    """The folder of its pinned version, existing or not."""
    return (home or paths.engine_home()) / package.folder_name


def read(folder: Path) -> PackageRecord | None:
    """The record of a folder; None if it is missing or invalid. Raises nothing."""
    try:
        record = PackageRecord(**json.loads((folder / RECORD).read_text("utf-8")))
        sound = by_name(record.name) is not None and bool(record.files)
        sound = sound and all(isinstance(size, int) for size in record.files.values())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return record if sound else None


def is_package(folder: Path) -> bool:
    """Whether a folder holds or held a prebuilt engine. Raises nothing."""
    try:
        return (folder / RECORD).is_file() and (folder / SITE).is_dir()
    except OSError:
        return False


def is_whole(folder: Path, record: PackageRecord) -> bool:
    """Whether every file exists with its size."""
    try:
        return all((folder / name).stat().st_size == size for name, size in record.files.items())
    except (OSError, ValueError):
        return False


def at(folder: Path) -> EngineBinary | None:
    """The native engine of a folder, at any place and of any version; None for an incomplete one, and for anything
    else. Raises nothing.
    """
    record = read(folder)
    package = by_name(record.name) if record is not None else None
    if record is None or package is None or not is_whole(folder, record):
        return None
    return _engine(package, record.version, folder)


def installed(home: Path | None = None) -> Iterator[EngineBinary]:
    """The complete native engines of :data:`PACKAGES` in the data directory. Raises nothing."""
    for package in PACKAGES:
        folder = folder_of(package, home)
        if (found := at(folder)) is not None and found.version == _version(package, package.version):
            yield found


def name_of(engine: EngineBinary) -> str:
    """The name of an engine for users: that of a package, or that of its program."""
    packaged = [package.name for package in PACKAGES if package.make is engine.make]
    return packaged[0] if engine.dialect is Dialect.NATIVE and packaged else engine.path.name


def native_engine(package: EnginePackage, folder: Path) -> EngineBinary:
    """The engine as an EngineBinary; its path is the folder."""
    return _engine(package, package.version, folder)


def _engine(package: EnginePackage, version: str, folder: Path) -> EngineBinary:
    return EngineBinary(
        path=folder,
        dialect=Dialect.NATIVE,
        version=_version(package, version),
        options=HelpOptions(),
        make=package.make,
    )


def _version(package: EnginePackage, version: str) -> str:
    return f"{package.project} {version}"
