"""The search for engines: where it looks, in which order, and what it finds.

A place that the user names (``--engine``, ``$BITNET_CHAT_ENGINE``, the settings file) is the only one. Otherwise: the
checkout, compiled engines of the data directory, PATH, BitNet checkouts, prebuilt engines.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.install import manifest, packages
from bitnet_chat.engine.probe import probe
from bitnet_chat.errors import EngineNotFoundError

# The classic program comes first in a folder, because it reproduces a history exactly.
NAMES = ("llama-completion", "llama-cli", "main")
SERVER = "llama-server"
_FOLDERS = ("", "bin", "build/bin", "build/bin/Release")
"""Folders with programs below a folder that the user names: itself, a package, a checkout built with make or MSVC."""
_SUFFIX = ".exe" if sys.platform == "win32" else ""
INSTALL = "bitnet-chat engine install installs one (at most 34 MB)"
INSTALL_SERVER = "bitnet-chat engine install --build --with server compiles one (about 5 minutes)"
_REMEDY = f"{INSTALL}; or give one with --engine PATH"
_REMEDY_SERVER = f"{INSTALL_SERVER}; or name its folder with --engine PATH"


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """A file that the search has found. ``source``: the kind of place. ``binary``: None if it is not a usable engine;
    ``problem`` and ``remedy`` then have the reason and what to do.
    """

    source: str
    path: Path
    binary: EngineBinary | None = None
    problem: str = ""
    remedy: str = ""

    @property
    def holds_history(self) -> bool:
        """Whether the engine reproduces the history of a conversation exactly."""
        return self.binary is not None and self.binary.dialect in (Dialect.CLASSIC, Dialect.NATIVE)


@dataclass(frozen=True, slots=True)
class _SearchPlace:
    source: str
    path: Path
    named: bool
    """Whether the user has named it: a problem is then an error, and the search does not continue."""


def places(engine: str | None, configured: str | None) -> Iterator[_SearchPlace]:
    """Yield the places to search, in order. ``engine``: the flag; ``configured``: the value of the settings file."""
    if engine:
        yield _SearchPlace("--engine", named(engine), True)
        return
    variable = os.environ.get("BITNET_CHAT_ENGINE")
    if variable:
        yield _SearchPlace("$BITNET_CHAT_ENGINE", named(variable), True)
        return
    if configured:
        yield _SearchPlace("config file", named(configured), True)
        return
    root = paths.checkout()
    if root is not None:
        yield _SearchPlace("bin/ of the checkout", root / "bin", False)
    yield from _compiled()
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder:
            yield _SearchPlace("PATH", Path(folder), False)
    for base in _bitnet_checkouts(root):
        yield _SearchPlace("BitNet checkout", base / "build" / "bin", False)
    # Last, because an engine that the user has built or installed is preferred.
    for binary in packages.installed():
        yield _SearchPlace("prebuilt", binary.path, False)


def named(written: str) -> Path:
    """Return the absolute path of an engine that the user has named, without resolving links. A name without a folder
    is a file or folder in the current directory, else a prebuilt engine, else a program on PATH. Raises
    EngineNotFoundError if the current directory was removed, or the prebuilt engine is not installed.
    """
    path = paths.expand(written)
    try:
        here = path.absolute()
    except OSError:
        raise EngineNotFoundError(
            f"{written} is a relative path, and the current folder was removed", remedy="give an absolute path"
        ) from None
    if here.name == written and not _exists(here):
        if (package := packages.by_name(written)) is not None:
            return _prebuilt(package)
        if found := shutil.which(written):
            return Path(found).absolute()
    with_suffix = here.with_name(here.name + _SUFFIX)
    return with_suffix if not _exists(here) and _exists(with_suffix) else here


def _prebuilt(package: packages.EnginePackage) -> Path:
    folder = packages.folder_of(package)
    if packages.at(folder) is None:
        state = "is damaged" if folder.is_dir() else "is not installed"
        raise EngineNotFoundError(
            f"the prebuilt engine {package.name} {state}",
            remedy=f"bitnet-chat engine install {package.name} fetches it",
        )
    return folder


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _compiled() -> Iterator[_SearchPlace]:
    """Yield the compiled engines of the data directory: llama.cpp first, and of each the newest version first."""
    home = paths.engine_home()
    found: list[tuple[bool, list[int], Path]] = []
    with contextlib.suppress(OSError):
        for folder in home.iterdir():
            # An engine for another processor is skipped: it would crash with an illegal instruction during a reply.
            if not folder.name.startswith(".") and manifest.installed(folder):
                record = manifest.read(folder)
                name, version = (record.name, record.version) if record else (manifest.DEFAULT_NAME, "")
                numbers = [int(part) for part in version.split(".") if part.isdigit()]
                found.append((name == manifest.DEFAULT_NAME, numbers, folder))
    for _, _, folder in sorted(found, reverse=True):
        yield _SearchPlace("data directory", folder, False)


def _bitnet_checkouts(root: Path | None) -> Iterator[Path]:
    seen = set()
    bases = []
    with contextlib.suppress(OSError):  # the current folder was removed
        bases += [Path.cwd(), Path.cwd() / "BitNet"]
    bases += [above / "BitNet" for above in (paths.home(), root and root.parent) if above is not None]
    for base in bases:
        if base not in seen and (base / "build" / "bin").is_dir():
            seen.add(base)
            yield base


def candidates(
    engine: str | None = None, configured: str | None = None, *, limit: float | None = None
) -> Iterator[EngineCandidate]:
    """Yield all files found, in search order; among places of the same kind, engines that reproduce a history exactly
    come first. ``limit``: see :func:`bitnet_chat.engine.probe.probe`. Raises EngineNotFoundError if a place that the
    user has named contains no engine.
    """
    seen: set[Path] = set()
    for _, group in groupby(places(engine, configured), key=lambda place: place.source):
        found = [candidate for place in group for candidate in _in_place(place, seen, limit)]
        yield from sorted(found, key=lambda candidate: not candidate.holds_history)


def _in_place(place: _SearchPlace, seen: set[Path], limit: float | None) -> Iterator[EngineCandidate]:
    if packages.is_package(place.path):
        yield _package_in(place)
        return
    files = list(_binaries_in(place))
    if place.named and not files:
        what = "has none of " + ", ".join(NAMES) if place.path.is_dir() else "does not exist"
        raise EngineNotFoundError(f"{place.source}: {place.path} {what}", remedy=_REMEDY)
    for path in files:
        real = path.resolve()
        if real in seen and real.name == path.name:  # a link with another name may behave as another program
            continue
        seen.add(real)
        try:
            binary = probe(path, limit=limit)
        except EngineNotFoundError as error:
            if place.named and len(files) == 1:
                raise
            yield EngineCandidate(place.source, path, problem=error.what, remedy=error.remedy)
            continue
        yield EngineCandidate(place.source, path, binary)


def _package_in(place: _SearchPlace) -> EngineCandidate:
    binary = packages.at(place.path)
    if binary is not None:
        return EngineCandidate(place.source, place.path, binary)
    what = f"{place.source}: the prebuilt engine in {place.path} is incomplete"
    remedy = "bitnet-chat engine install reinstalls it"
    if place.named:
        raise EngineNotFoundError(what, remedy=remedy)
    return EngineCandidate(place.source, place.path, problem=what, remedy=remedy)


def _folders_of(place: _SearchPlace) -> Iterator[Path]:
    for inside in _FOLDERS if place.named else _FOLDERS[:1]:
        if (folder := place.path / inside).is_dir():
            yield folder


def _binaries_in(place: _SearchPlace) -> list[Path]:
    """Return the programs in the first folder that contains any."""
    try:
        if not place.path.is_dir():
            return [place.path] if place.path.exists() else []
        for folder in _folders_of(place):
            # "main" on PATH may be any program, and is not run.
            names = [name for name in NAMES if not (name == "main" and place.source == "PATH")]
            if found := [path for name in names if (path := folder / (name + _SUFFIX)).is_file()]:
                return found
    except OSError:
        pass
    return []


def find(
    engine: str | None = None,
    configured: str | None = None,
    *,
    dialect: Dialect | None = None,
    limit: float | None = None,
) -> EngineBinary:
    """Return the first engine that can chat. ``dialect``: the required dialect; None: any. Raises EngineNotFoundError
    if there is none.
    """
    problems = []
    remedies = set()
    for candidate in candidates(engine, configured, limit=limit):
        binary = candidate.binary
        if binary is not None and binary.can_chat and dialect in (None, binary.dialect):
            return binary
        if candidate.problem:
            problems.append(candidate.problem)
            remedies.add(candidate.remedy)
        elif binary is not None and not binary.can_chat:
            problems.append(f"{candidate.path}: a server, which has no chat on a terminal")
    wanted = f"{dialect.value} engine" if dialect else "engine"
    remedy = remedies.pop() if len(remedies) == 1 and (engine or configured) else _REMEDY
    raise EngineNotFoundError(f"no {wanted} was found", remedy=remedy, detail="\n".join(problems))


def servers(
    engine: str | None = None, configured: str | None = None, *, limit: float | None = None
) -> Iterator[EngineCandidate]:
    """Yield the llama-servers in the search places. If the user has named the file of another engine, the server is
    expected in the same folder.
    """
    for place in places(engine, configured):
        path = _server_in(place)
        if not path.is_file():
            continue
        try:
            binary = probe(path, limit=limit)
        except EngineNotFoundError as error:
            yield EngineCandidate(place.source, path, problem=error.what, remedy=error.remedy)
            continue
        is_server = binary.dialect is Dialect.SERVER
        yield (
            EngineCandidate(place.source, path, binary)
            if is_server
            else EngineCandidate(place.source, path, problem=f"{path}: not a server", remedy=_REMEDY_SERVER)
        )


def find_server(
    engine: str | None = None, configured: str | None = None, *, limit: float | None = None
) -> EngineBinary:
    """Return the first llama-server of :func:`servers`. Raises EngineNotFoundError if there is none."""
    problems = []
    for candidate in servers(engine, configured, limit=limit):
        if candidate.binary is not None:
            return candidate.binary
        problems.append(candidate)
    place = next(places(engine, configured), None)
    if place is not None and place.named:
        if problems:
            raise EngineNotFoundError(problems[0].problem, remedy=problems[0].remedy)
        what = f"{place.source}: {SERVER} was not found at {_server_in(place)}"
        raise EngineNotFoundError(what, remedy=_REMEDY_SERVER)
    detail = "\n".join(each.problem for each in problems)
    raise EngineNotFoundError(f"no {SERVER} was found", remedy=_REMEDY_SERVER, detail=detail)


def _server_in(place: _SearchPlace) -> Path:
    name = SERVER + _SUFFIX
    if place.path.is_dir():
        return next((path for folder in _folders_of(place) if (path := folder / name).is_file()), place.path / name)
    if place.path.is_file() and not place.path.name.startswith(SERVER):
        return place.path.with_name(name)
    return place.path
