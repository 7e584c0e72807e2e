"""The source of the engine: one pinned archive from the package index, checked, and the part of it that is compiled."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bitnet_chat.engine import diagnosis, pip
from bitnet_chat.errors import BuildError


@dataclass(frozen=True, slots=True)
class Source:
    """An sdist that carries llama.cpp in ``vendor/llama.cpp``."""

    project: str
    version: str
    sha256: str
    size: int
    """Bytes of the archive: what a download is measured against."""
    commit: str
    """The llama.cpp commit inside, from ``.git/modules/vendor/llama.cpp/HEAD`` of the archive."""

    @property
    def archive(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}.tar.gz"

    @property
    def prefix(self) -> PurePosixPath:
        return PurePosixPath(f"{self.project.replace('-', '_')}-{self.version}", "vendor", "llama.cpp")


DEFAULT = "0.3.36"
SOURCES = {
    DEFAULT: Source(
        project="llama-cpp-python",
        version=DEFAULT,
        sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        size=76_589_250,
        commit="0c1e570",
    )
}

# What the three targets are compiled from: 50 MB of the 213 MB in vendor/llama.cpp. The rest is test vocabularies,
# documentation, converters, and a git directory whose work tree is elsewhere.
_NEEDED = frozenset(
    ("CMakeLists.txt", "LICENSE", "cmake", "common", "ggml", "include", "scripts", "src", "tools", "vendor")
)

_CHUNK = 1 << 20


def known(version: str) -> Source:
    """:raises BuildError: no source is pinned for this version."""
    if version not in SOURCES:
        raise BuildError(
            f"There is no engine version {version!r}.", remedy=f"This bitnet-chat builds {', '.join(SOURCES)}."
        )
    return SOURCES[version]


def fetch(source: Source, folder: Path, *, scratch: Path, log: Path, on_bytes: Callable[[int], None]) -> Path:
    """The verified archive in ``folder``: the one that is there, or a new download.

    ``on_bytes`` is told about twice a second how many bytes of ``source.size`` have come.
    """
    archive = folder / source.archive
    if archive.is_file() and sha256(archive) == source.sha256:
        return archive
    scratch.mkdir(parents=True, exist_ok=True)
    requirement = scratch / "source.txt"
    requirement.write_text(f"{source.project}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    came = scratch / "came"
    pip.run(
        [
            *("download", "--no-deps", f"--no-binary={source.project}"),
            *("--require-hashes", f"--dest={came}", f"--requirement={requirement}"),
        ],
        purpose=f"download the llama.cpp source ({source.project} {source.version}, {source.size // 1_000_000} MB)",
        log=log,
        folder=scratch,
        on_tick=lambda: on_bytes(_arrived(scratch, source.archive)),
    )
    verify(came / source.archive, source)
    folder.mkdir(parents=True, exist_ok=True)
    (came / source.archive).replace(archive)
    return archive


def _arrived(scratch: Path, name: str) -> int:
    """Bytes of a download that pip has not finished: it grows under its final name in a temporary folder."""
    sizes = []
    for path in scratch.glob(f"pip-*/{name}"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip has just moved it
            continue
    return max(sizes, default=0)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify(archive: Path, source: Source) -> None:
    """pip has compared the hash already; this holds also for a pip that was told not to, or is not what it seems.

    :raises BuildError: the archive is missing or is not the pinned one.
    """
    if not archive.is_file():
        raise BuildError(
            f"pip reported success but left no {source.archive}.", remedy="Check pip's settings (`pip config list`)."
        )
    found = sha256(archive)
    if found != source.sha256:
        raise diagnosis.wrong_archive(source.archive, found, source.sha256)


def wanted(member: tarfile.TarInfo, source: Source) -> PurePosixPath | None:
    """Where in the source folder a member of the archive belongs; None: not needed.

    Written out instead of tarfile's data filter, which Debian 12's Python 3.11.2 does not have; it is stricter too:
    nothing but plain files and folders.

    :raises BuildError: a member that would land outside, or a link or device among the needed ones.
    """
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or ":" in member.name or "\0" in member.name:
        raise diagnosis.unsafe_archive(source.archive, f"holds an unsafe file name, {member.name!r}")
    path = PurePosixPath(member.name)
    if not path.is_relative_to(source.prefix):
        return None
    inside = path.relative_to(source.prefix)
    if not inside.parts or inside.parts[0] not in _NEEDED:
        return None
    if not (member.isfile() or member.isdir()):
        raise diagnosis.unsafe_archive(source.archive, f"holds something that is no plain file, {member.name!r}")
    return inside


def unpack(archive: Path, folder: Path, source: Source, on_bytes: Callable[[int, int], None]) -> Path:
    """Writes the needed files below ``folder``, all of them or none; a folder that is there is complete.

    ``on_bytes`` gets the position in the archive and the archive's size.
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
            assert content is not None  # a plain file, says wanted()
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
            target.chmod(0o755 if member.mode & 0o100 else 0o644)
            os.utime(target, (member.mtime, member.mtime))  # older than any object, also when unpacked once more
    if not (part / "CMakeLists.txt").is_file():
        raise diagnosis.unsafe_archive(source.archive, f"holds no llama.cpp source under {source.prefix}")
    part.rename(folder)
    return folder
