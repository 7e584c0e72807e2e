"""Prebuilt libraries that a native engine runs: which there are, and those that are installed.

Each lies in a folder of its own in the data directory, as pip's wheel has it, with a record beside it::

    <engine home>/llama.cpp-2026.10.11549/    package.json, site/xllamacpp/…
    <engine home>/bitnet-0.1.5/               package.json, site/ik_llama_cpp/…
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary, Make
from bitnet_chat.engine.options import Options

RECORD = "package.json"
SITE = "site"


@dataclass(frozen=True, slots=True)
class Package:
    """A project of the package index whose wheel holds a library. ``name``: what users call the engine."""

    name: str
    project: str
    version: str
    make: Make

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.version}"


PACKAGES = (
    Package("llama.cpp", "xllamacpp", "2026.10.11549", Make.LLAMA),
    Package("bitnet", "ik-llama-cpp-python", "0.1.5", Make.IK),
)


def installed(home: Path | None = None) -> Iterator[EngineBinary]:
    """The native engines of the data directory, those of :data:`PACKAGES` that are whole. Raises nothing."""
    for package in PACKAGES:
        folder = (home or paths.engine_home()) / package.folder_name
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads((folder / RECORD).read_text("utf-8"))
            if record["version"] == package.version and (folder / SITE).is_dir():
                yield native_engine(package, folder)


def native_engine(package: Package, folder: Path) -> EngineBinary:
    """As the other engines; its path is the folder."""
    version = f"{package.project} {package.version}"
    return EngineBinary(path=folder, dialect=Dialect.NATIVE, version=version, options=Options(), make=package.make)
