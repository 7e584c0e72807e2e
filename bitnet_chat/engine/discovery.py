"""Search for engines: the places, their order and the choice."""

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

# In a directory the classic binary comes first: it gives full control of the history.
NAMES = ("llama-completion", "llama-cli", "main")
SERVER = "llama-server"
_FOLDERS = ("", "bin", "build/bin", "build/bin/Release")
"""Where programs lie in a folder that was named: itself, a package, a checkout that was built with make or MSVC."""
_SUFFIX = ".exe" if sys.platform == "win32" else ""
INSTALL = "bitnet-chat engine install installs one (at most 34 MB)"
INSTALL_SERVER = "bitnet-chat engine install --build --with server compiles one (about 5 minutes)"
_REMEDY = f"{INSTALL}; or give one with --engine PATH"
_REMEDY_SERVER = f"{INSTALL_SERVER}; or name its folder with --engine PATH"


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """A file found in a searched place. ``binary`` is None for a file that is not an engine; ``problem`` has the
    reason."""

    source: str
    path: Path
    binary: EngineBinary | None = None
    problem: str = ""
    remedy: str = ""

    @property
    def holds_history(self) -> bool:
        """Whether it accepts a conversation unchanged."""
        return self.binary is not None and self.binary.dialect in (Dialect.CLASSIC, Dialect.NATIVE)


@dataclass(frozen=True, slots=True)
class _SearchPlace:
    source: str
    path: Path
    named: bool
    """Named by the user: a problem with it is an error, and the search does not continue."""


def places(engine: str | None, configured: str | None) -> Iterator[_SearchPlace]:
    """In search order. ``engine``: the flag; ``configured``: the config file's value."""
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
    # Last: an engine that was built or installed by hand is preferred.
    for binary in packages.installed():
        yield _SearchPlace("prebuilt", binary.path, False)


def named(written: str) -> Path:
    """The absolute path of an engine that a user wrote, links unresolved. A bare name is a file or folder in the
    working directory, or else a prebuilt engine of that name, or else a program on PATH. Raises EngineNotFoundError
    where that directory was removed, and for a prebuilt engine that is not installed."""
    path = paths.expand(written)
    try:
        here = path.absolute()
    except OSError:
        raise EngineNotFoundError(
            f"{written} is a relative path, and the current folder was removed", remedy="give an absolute path"
        ) from None
    if here.name == written and not _is_there(here):
        if (package := packages.by_name(written)) is not None:
            return _prebuilt(package)
        if found := shutil.which(written):
            return Path(found).absolute()
    with_suffix = here.with_name(here.name + _SUFFIX)
    return with_suffix if not _is_there(here) and _is_there(with_suffix) else here


def _prebuilt(package: packages.EnginePackage) -> Path:
    folder = packages.folder_of(package)
    if packages.at(folder) is None:
        state = "is damaged" if folder.is_dir() else "is not installed"
        raise EngineNotFoundError(
            f"the prebuilt engine {package.name} {state}",
            remedy=f"bitnet-chat engine install {package.name} fetches it",
        )
    return folder


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _compiled() -> Iterator[_SearchPlace]:
    """The engines of the data directory that were compiled: those of llama.cpp first, the newest of each."""
    home = paths.engine_home()
    found: list[tuple[bool, list[int], Path]] = []
    with contextlib.suppress(OSError):
        for folder in home.iterdir():
            # An engine built for another processor would die of an illegal instruction in the middle of a reply.
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
    """Everything that was found, best first within a place, and those that take a history exactly first among places of
    one kind. ``limit``: see :func:`probe`. Raises EngineNotFoundError for a named place with nothing."""
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
        if real in seen and real.name == path.name:  # a link of another name may be another program
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
    what = f"{place.source}: the prebuilt engine in {place.path} is not whole"
    remedy = "bitnet-chat engine install installs it anew"
    if place.named:
        raise EngineNotFoundError(what, remedy=remedy)
    return EngineCandidate(place.source, place.path, problem=what, remedy=remedy)


def _folders_of(place: _SearchPlace) -> Iterator[Path]:
    for inside in _FOLDERS if place.named else _FOLDERS[:1]:
        if (folder := place.path / inside).is_dir():
            yield folder


def _binaries_in(place: _SearchPlace) -> list[Path]:
    """The programs of the first folder that has any."""
    try:
        if not place.path.is_dir():
            return [place.path] if place.path.exists() else []
        for folder in _folders_of(place):
            # "main" is too common a name to be run because it lies on PATH.
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
    """The engine to use: the first that can chat, in the requested dialect if any. Raises EngineNotFoundError without
    one.
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
    """The llama-servers in the places where engines are looked for, beside an engine that is named by its file."""
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
    """The first of :func:`servers`. Raises EngineNotFoundError without one."""
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
