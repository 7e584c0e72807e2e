"""The prebuilt libraries of native engines: those that exist, and those that are installed.

Each library has a folder in the data directory with the contents of its wheel and a record::

    <engine home>/llama.cpp-2026.10.11549/    package.json, LICENSE, site/xllamacpp/…
    <engine home>/bitnet-0.1.5/               package.json, LICENSE, site/ik_llama_cpp/…

The folder can be moved, or copied to a computer with the same system and architecture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, HelpOptions

RECORD = "package.json"
"""Name of the record in the folder of a library."""
SITE = "site"
"""Name of the folder with the files of the wheel."""


@dataclass(frozen=True, slots=True)
class EnginePackage:
    """A prebuilt engine: a project of the package index whose wheel contains the library. ``name``: the name of the
    engine for users.
    """

    name: str
    project: str
    version: str
    make: EngineVariant
    ternary: tuple[str, ...]
    """The ternary tensor types that the library computes."""

    @property
    def folder_name(self) -> str:
        """Name of the folder of the pinned version."""
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
    """File name of the wheel, which contains the platform."""
    sha256: str
    """SHA-256 of the wheel."""
    installed: str
    """Time of the installation, ISO 8601 in UTC."""
    files: Mapping[str, int]
    """Size in bytes of each file, by its path below the folder."""

    def write(self, folder: Path) -> None:
        """Write the record to ``folder``. Raises OSError."""
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def by_name(name: str) -> EnginePackage | None:
    """Return the prebuilt engine with this name, or None."""
    return next((package for package in PACKAGES if package.name == name), None)


def folder_of(package: EnginePackage, home: Path | None = None) -> Path:
    """Return the folder of the pinned version, which may not exist."""
    return (home or paths.engine_home()) / package.folder_name


def read(folder: Path) -> PackageRecord | None:
    """Read the record of a folder. Returns None if it is missing or invalid. Raises nothing."""
    try:
        record = PackageRecord(**json.loads((folder / RECORD).read_text("utf-8")))
        sound = by_name(record.name) is not None and bool(record.files)
        sound = sound and all(isinstance(size, int) for size in record.files.values())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return record if sound else None


def is_package(folder: Path) -> bool:
    """Return whether a folder contains a prebuilt engine, complete or not. Raises nothing."""
    try:
        return (folder / RECORD).is_file() and (folder / SITE).is_dir()
    except OSError:
        return False


def is_whole(folder: Path, record: PackageRecord) -> bool:
    """Return whether every file exists with the size in the record."""
    try:
        return all((folder / name).stat().st_size == size for name, size in record.files.items())
    except (OSError, ValueError):
        return False


def at(folder: Path) -> EngineBinary | None:
    """Return the native engine in ``folder``, which may be anywhere and have any version; None if it is incomplete or
    not one. Raises nothing.
    """
    record = read(folder)
    package = by_name(record.name) if record is not None else None
    if record is None or package is None or not is_whole(folder, record):
        return None
    return _engine(package, record.version, folder)


def installed(home: Path | None = None) -> Iterator[EngineBinary]:
    """Yield the complete native engines of :data:`PACKAGES` in the data directory. Raises nothing."""
    for package in PACKAGES:
        folder = folder_of(package, home)
        if (found := at(folder)) is not None and found.version == _version(package, package.version):
            yield found


def name_of(engine: EngineBinary) -> str:
    """Return the name of an engine for users: that of a prebuilt engine, else the file name of the program."""
    packaged = [package.name for package in PACKAGES if package.make is engine.make]
    return packaged[0] if engine.dialect is Dialect.NATIVE and packaged else engine.path.name


def native_engine(package: EnginePackage, folder: Path) -> EngineBinary:
    """Return the engine of the pinned version in ``folder``, unchecked. The path of the EngineBinary is the folder."""
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
