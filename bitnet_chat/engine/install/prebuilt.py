"""Installing a prebuilt engine: one pinned wheel from the package index, checked, unpacked and tried.

All of it happens beside the place that it gets at the end by one rename, so there is never half an engine::

    <home>/bitnet-0.1.5/                    the library, package.json, LICENSE
    <home>/install-bitnet.log               what pip said
    <home>/.install-bitnet-0.1.5/           while it is installed: the wheel; kept when it is interrupted
    <home>/.new-bitnet-0.1.5-…/             while it is unpacked
    <home>/.bitnet-0.1.5.lock               one installation at a time
"""

from __future__ import annotations

import errno
import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from bitnet_chat import paths
from bitnet_chat.engine.install import packages, publish, wheels
from bitnet_chat.engine.install.import_check import check
from bitnet_chat.engine.install.packages import EnginePackage
from bitnet_chat.errors import BuildError
from bitnet_chat.util import file_lock, pip, subprocess_errors, subprocess_log
from bitnet_chat.util.progress import Progress, ProgressClock, size

_CHUNK = 1 << 20
_MARGIN = 20_000_000


def installed(package: EnginePackage, home: Path | None = None) -> Path | None:
    """The folder of its pinned version, if complete."""
    folder = packages.folder_of(package, home)
    record = packages.read(folder)
    whole = record is not None and record.version == package.version and packages.is_whole(folder, record)
    return folder if whole else None


def install(
    package: EnginePackage,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    home: Path | None = None,
    computer: wheels.Platform | None = None,
    try_it: Callable[[EnginePackage, Path], None] = check,
) -> Path:
    """Install an engine unless it is installed, and return its folder. Blocks, a few seconds with a near index.

    ``computer``: the target; this one by default. ``try_it`` raises for a library that does not work.

    Ctrl-C, SIGTERM and SIGHUP end it; the next call reuses the download.

    :raises BuildError: the installation failed; the message has the reason and the remedy.
    """
    home = (home or paths.engine_home()).expanduser().absolute()
    try:
        if (folder := installed(package, home)) is not None:
            return folder
        wheel = wheels.choose(package, computer or wheels.here())
        home.mkdir(parents=True, exist_ok=True)
        clock = ProgressClock(on_progress)
        with (
            subprocess_log.signals_end_us(),
            file_lock.held(home / f".{package.folder_name}.lock", lambda who: _waiting(clock, who)),
        ):
            if (folder := installed(package, home)) is not None:  # another process has installed it meanwhile
                return folder
            return _install(package, wheel, home, clock, try_it)
    except OSError as error:
        raise explained(error, home) from error


def _waiting(clock: ProgressClock, holder: str) -> None:
    clock.step("Waiting for another installation" + (f" (process {holder})" if holder else ""))


def _install(
    package: EnginePackage,
    wheel: wheels.Wheel,
    home: Path,
    clock: ProgressClock,
    try_it: Callable[[EnginePackage, Path], None],
) -> Path:
    target = packages.folder_of(package, home)
    work = home / f".install-{package.folder_name}"
    publish.sweep(target)
    have = (work / wheel.pin.file).is_file()
    _require_space(home, package, wheel.unpacked + (0 if have else 2 * wheel.pin.size))  # pip may keep a copy, too
    what = f"the engine {package.name}"
    clock.step(f"Downloading {what} ({size(wheel.pin.size)})")
    archive = pip.fetch(
        wheel.pin,
        work,
        purpose=f"download {what} ({package.project} {package.version}, {size(wheel.pin.size)})",
        log=home / f"install-{package.name}.log",
        on_bytes=lambda count: clock.arrived(count, wheel.pin.size),
    )
    clock.step(f"Unpacking {what}")
    new = publish.beside(target, "new")
    try:
        files = unpack(archive, new, lambda count: clock.at(count, wheel.unpacked))
        record = packages.PackageRecord(
            name=package.name,
            version=package.version,
            file=wheel.pin.file,
            sha256=wheel.pin.sha256,
            installed=datetime.now(UTC).isoformat(timespec="seconds"),
            files=files,
        )
        record.write(new)
        clock.step(f"Testing {what}")
        try_it(package, new)
        publish.place(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _sweep_old(package, home)
    shutil.rmtree(work, ignore_errors=True)
    return target


def _require_space(home: Path, package: EnginePackage, needed: int) -> None:
    free = shutil.disk_usage(home).free
    if free < needed + _MARGIN:
        raise BuildError(
            f"{home} has too little free space for the engine {package.name}: {size(needed + _MARGIN)} are needed, "
            f"{size(free)} are free.",
            remedy="Free some space, or choose another place with BITNET_CHAT_DATA=FOLDER.",
        )


def unpack(archive: Path, folder: Path, on_bytes: Callable[[int], None] = lambda count: None) -> dict[str, int]:
    """Write the needed files of a wheel below ``folder``: files into ``site/``, the licence to ``LICENSE``. Returns the
    size of each file, by its path below the folder.

    :raises BuildError: the archive is damaged, or contains a name outside its folder.
    """
    sizes: dict[str, int] = {}
    count = 0
    try:
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist():
                inside = _inside(archive.name, member)
                if member.is_dir() or not wheels.needs(member.filename):
                    continue
                is_licence = "licenses" in inside.parts
                place = PurePosixPath("LICENSE") if is_licence else PurePosixPath(packages.SITE, inside)
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as packed, target.open("wb") as file:
                    while chunk := packed.read(_CHUNK):
                        file.write(chunk)
                        count += len(chunk)
                        on_bytes(count)
                # pip would set this: a zip made on Windows says nothing of it.
                target.chmod(0o755 if "bin" in inside.parts else 0o644)
                sizes[str(place)] = target.stat().st_size
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise subprocess_errors.unsafe_archive(archive.name, f"is damaged ({error})") from error
    if not any(name != "LICENSE" for name in sizes):
        raise subprocess_errors.unsafe_archive(archive.name, "contains no known library")
    return sizes


def _inside(archive: str, member: zipfile.ZipInfo) -> PurePosixPath:
    name = member.filename
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name or "\0" in member.orig_filename:
        raise subprocess_errors.unsafe_archive(archive, f"contains an unsafe file name, {name!r}")
    if member.external_attr >> 28 == 0xA:  # S_IFLNK
        raise subprocess_errors.unsafe_archive(archive, f"contains a member that is not a plain file, {name!r}")
    return PurePosixPath(name)


def _sweep_old(package: EnginePackage, home: Path) -> None:
    """Remove other versions of it. One that is in use remains on Windows, until the next time."""
    for folder in home.glob(f"{package.name}-*"):
        record = packages.read(folder)
        if record is not None and record.name == package.name and folder.name != package.folder_name:
            shutil.rmtree(folder, ignore_errors=True)


def explained(error: OSError, home: Path, what: str = "install") -> BuildError:
    """An error of the operating system with a remedy. ``what``: install or build."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return subprocess_errors.no_space(home)
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return BuildError(
            f"Cannot write to {error.filename or home}: {error.strerror}.",
            remedy="Choose a folder that you can write to with BITNET_CHAT_DATA=FOLDER.",
        )
    return BuildError(
        f"Cannot {what} the engine in {home}: {error}.", remedy="BITNET_CHAT_DATA=FOLDER chooses another place."
    )
