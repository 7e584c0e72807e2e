"""Prebuilt libraries that a native engine runs: which there are, and those that are installed.

Each lies in a folder of its own in the data directory, as pip's wheel has it, with a record beside it::

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
    """A project of the package index whose wheel holds a library. ``name``: what users call the engine."""

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
    """What is written down beside an installed library."""

    name: str
    version: str
    file: str
    """The wheel that it comes from, which says for which platform it is."""
    sha256: str
    """Of that wheel."""
    installed: str
    """When, ISO 8601 in UTC."""
    files: Mapping[str, int]
    """Size in bytes of each file, by its path below the folder."""

    def write(self, folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def by_name(name: str) -> EnginePackage | None:
    return next((package for package in PACKAGES if package.name == name), None)


def folder_of(package: EnginePackage, home: Path | None = None) -> Path:
    """Where its pinned version is or will be."""
    return (home or paths.engine_home()) / package.folder_name


def read(folder: Path) -> PackageRecord | None:
    """The record of a folder; None where there is none that makes sense. Raises nothing."""
    try:
        record = PackageRecord(**json.loads((folder / RECORD).read_text("utf-8")))
        sound = by_name(record.name) is not None and bool(record.files)
        sound = sound and all(isinstance(size, int) for size in record.files.values())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return record if sound else None


def is_package(folder: Path) -> bool:
    """Whether a prebuilt engine is or was in a folder. Raises nothing."""
    try:
        return (folder / RECORD).is_file() and (folder / SITE).is_dir()
    except OSError:
        return False


def is_whole(folder: Path, record: PackageRecord) -> bool:
    """Every file is there with its size."""
    try:
        return all((folder / name).stat().st_size == size for name, size in record.files.items())
    except (OSError, ValueError):
        return False


def at(folder: Path) -> EngineBinary | None:
    """The native engine of a folder, wherever it lies and of whatever version; None for one that is not whole, and for
    anything else. Raises nothing."""
    record = read(folder)
    package = by_name(record.name) if record is not None else None
    if record is None or package is None or not is_whole(folder, record):
        return None
    return _engine(package, record.version, folder)


def installed(home: Path | None = None) -> Iterator[EngineBinary]:
    """The native engines of the data directory, those of :data:`PACKAGES` that are whole. Raises nothing."""
    for package in PACKAGES:
        folder = folder_of(package, home)
        if (found := at(folder)) is not None and found.version == _version(package, package.version):
            yield found


def name_of(engine: EngineBinary) -> str:
    """What users call an engine: a package by its name, any other by that of its program."""
    packaged = [package.name for package in PACKAGES if package.make is engine.make]
    return packaged[0] if engine.dialect is Dialect.NATIVE and packaged else engine.path.name


def native_engine(package: EnginePackage, folder: Path) -> EngineBinary:
    """As the other engines; its path is the folder."""
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
