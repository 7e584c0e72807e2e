"""Compilation of an engine for this processor from a pinned source archive.

Without further features, only the program that a conversation needs is compiled. The build directory remains after an
interruption, and the next build continues in it. The finished programs get their final place by one rename, so an
engine is never incomplete::

    <home>/llama.cpp-11434.0.0-compiled/    the programs, manifest.json, LICENSE of llama.cpp
    <home>/build-llama.cpp.log              output of pip, cmake and ninja
    <home>/.build-llama.cpp-11434.0.0/      during the build: archive, source, tools, tree-<key>, scratch
    <home>/.build-llama.cpp-11434.0.0.lock  held during the build
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine import processors
from bitnet_chat.engine.install import manifest, publish, source, toolchain
from bitnet_chat.engine.install.prebuilt import explained
from bitnet_chat.engine.install.source import DEFAULT
from bitnet_chat.errors import BuildError
from bitnet_chat.util import file_lock, pip, subprocess_errors, subprocess_log
from bitnet_chat.util.progress import Progress, ProgressClock, ninja_counter, size

__all__ = ["DEFAULT", "Progress", "install", "installed"]

_NAMES = {"ggml-rpc-server": "rpc-server"}
"""Names under which targets are installed, if they differ. llama.cpp has renamed this one; documentation and users
still have the previous name.
"""

# A build takes at most about 340 MB of disk space, measured on Linux x86-64: at its end, with all programs (archive 37,
# tools 87, source 55, tree 118, new engine 47). Before that, pip unpacks the whole archive (37 and 179, and the size of
# the archive again in its cache). The rest is a margin.
NEEDED_BYTES = 600_000_000
"""Free disk space in bytes that a new build requires."""
_NEEDED_TO_RESUME = 250_000_000
"""Free disk space in bytes that a resumed build requires in any case."""

_VERSION_SECONDS = 60.0
_EXE = ".exe" if sys.platform == "win32" else ""


def installed(name: str = DEFAULT, home: Path | None = None) -> Path | None:
    """Return the folder of the compiled engine ``name`` if it is complete, of the pinned source, and for this CPU."""
    folder = (home or paths.engine_home()) / source.known(name).folder_name
    return folder if manifest.installed(folder) else None


def install(
    name: str = DEFAULT,
    *,
    features: Collection[str] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    home: Path | None = None,
) -> Path:
    """Compile the engine unless it is installed, and return the folder of its programs. Blocks for minutes.

    ``features``: keys of :data:`manifest.FEATURES`; those of an installed engine are added to them. An installed engine
    remains until the new one replaces it. Ctrl-C, SIGTERM and SIGHUP end the compilers; the next call resumes the
    build.

    Raises BuildError if the build fails, with the reason and the remedy.
    """
    origin = source.known(name)
    home = (home or paths.engine_home()).expanduser().absolute()
    if unknown := set(features) - set(origin.extras):
        raise BuildError(
            f"The engine {name} cannot be compiled with {', '.join(sorted(unknown))}.",
            remedy=f"Available: {', '.join(origin.extras)}.",
        )
    wanted = tuple(feature for feature in origin.extras if feature in {*features, *_features_in(home, name)})
    build = _Build(origin, wanted, home, ProgressClock(on_progress))
    try:
        return build.run()
    except OSError as error:
        raise explained(error, home, "compile") from error


class _Build:
    def __init__(
        self, origin: source.SourceArchive, features: tuple[str, ...], home: Path, clock: ProgressClock
    ) -> None:
        self.origin = origin
        self.features = features
        self.targets = (*origin.programs, *(origin.extras[name] for name in features))
        self.programs = {_NAMES.get(target, target) + _EXE: target + _EXE for target in self.targets}
        """File names of the built programs by their installed names."""
        self.home = home
        self.clock = clock
        self.target = home / origin.folder_name
        self.work = home / f".build-{origin.name}-{origin.version}"
        self.scratch = self.work / "scratch"
        self.log = home / f"build-{origin.name}.log"

    def run(self) -> Path:
        if self._ready():
            return self.target
        self.clock.step("Checking the compiler")
        compilers = toolchain.check_compilers(os.environ)
        self.home.mkdir(parents=True, exist_ok=True)
        with (
            subprocess_log.signals_end_us(),
            file_lock.held(self.work.with_name(f"{self.work.name}.lock"), self._waiting),
        ):
            if self._ready():  # another process has built it while this one waited for the lock
                return self.target
            self._prepare(compilers)
            archive = self._fetch()
            with self._scratch():
                tools = self._tools()
            folder = self._unpack(archive)
            with self._scratch():
                tree, flags = self._compile(folder, tools, compilers)
            self.clock.step("Installing the engine")
            self._publish(tree, folder, compilers, flags)
            self._sweep_old()
            shutil.rmtree(self.work, ignore_errors=True)
        return self.target

    def _ready(self) -> bool:
        if installed(self.origin.name, self.home) is None:
            return False
        found = manifest.read(self.target)
        return found is not None and self.programs.keys() <= found.files.keys()

    def _waiting(self, holder: str) -> None:
        self.clock.step(f"Waiting for another build (process {holder})" if holder else "Waiting for another build")

    def _prepare(self, compilers: toolchain.Compilers) -> None:
        resumed = self.work.is_dir()
        needed = max(NEEDED_BYTES - _bytes_below(self.work), _NEEDED_TO_RESUME) if resumed else NEEDED_BYTES
        free = shutil.disk_usage(self.home).free
        if free < needed:
            raise BuildError(
                f"{self.home} has too little free space to build the engine: {size(needed)} are needed, "
                f"{size(free)} are free.",
                remedy="Free some space, or choose another place with BITNET_CHAT_DATA=FOLDER.",
            )
        publish.sweep(self.target)
        subprocess_log.end_orphans(toolchain.MARK, str(self.work))
        self.work.mkdir(exist_ok=True)
        with self.log.open("a" if resumed else "w", encoding="utf-8") as log:
            log.write(
                f"{_now()} building {self.origin.name} {self.origin.version} {self.targets} with {compilers.version}\n"
            )

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[None]:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _fetch(self) -> Path:
        pin = self.origin.pin
        self.clock.step(f"Downloading the source of {self.origin.name}")
        return pip.fetch(
            pin,
            self.work,
            purpose=f"download the source of {self.origin.name} ({pin.project} {pin.version}, {size(pin.size)})",
            log=self.log,
            on_bytes=lambda count: self.clock.arrived(count, pin.size),
        )

    def _tools(self) -> toolchain.BuildTools:
        self.clock.step("Getting cmake and ninja")
        return toolchain.fetch_tools(self.work / "tools", scratch=self.scratch, log=self.log, on_tick=self.clock.tick)

    def _unpack(self, archive: Path) -> Path:
        self.clock.step("Unpacking the source")
        return source.unpack(archive, self.work / "source", self.origin, self.clock.at)

    def _compile(
        self, folder: Path, tools: toolchain.BuildTools, compilers: toolchain.Compilers
    ) -> tuple[Path, list[str]]:
        unity = self.work / "unity.cmake"
        unity.write_text(toolchain.unity_script(self.origin), encoding="utf-8")
        flags = toolchain.cmake_flags(
            self.origin,
            cxx=compilers.cxx,
            cpu=manifest.cpu_fingerprint(),
            unity=unity if self.origin.unity else None,
        )
        # Objects of another CPU, compiler or set of flags must not be reused: each has its own tree.
        key = "\n".join([manifest.cpu_fingerprint(), compilers.c, compilers.cxx, compilers.version, *flags])
        tree = self.work / f"tree-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        tree.mkdir(exist_ok=True)
        env = toolchain.build_environment(compilers, os.environ, work=self.work, scratch=self.scratch)
        flags = [*flags, *toolchain.feature_flags(self.features)]
        configure = [tools.cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", *flags]
        self._execute("Configuring the build", [*configure, "-S", str(folder), "-B", str(tree)], tree, env)
        jobs = toolchain.parallel_jobs(
            processors.usable(), _free_memory(), os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL")
        )
        self._execute(
            f"Compiling {self.origin.name}", [tools.ninja, "-C", str(tree), "-j", str(jobs), *self.targets], tree, env
        )
        return tree, flags

    def _execute(self, step: str, argv: list[str], cwd: Path, env: dict[str, str]) -> None:
        def read(line: str) -> None:
            counter = ninja_counter(line)
            if counter is not None:
                self.clock.at(*counter)

        self.clock.step(step)
        offset = subprocess_log.size(self.log)
        status = subprocess_log.run(argv, log=self.log, cwd=cwd, env=env, on_line=read, on_tick=self.clock.tick)
        if status != 0:
            raise subprocess_errors.of_build(
                subprocess_log.text_since(self.log, offset), step=step, status=status, log=self.log
            )

    def _publish(self, tree: Path, folder: Path, compilers: toolchain.Compilers, flags: list[str]) -> None:
        programs = {name: tree / "bin" / built for name, built in self.programs.items()}
        for program in programs.values():
            self._try(program)
        record = manifest.Manifest(
            name=self.origin.name,
            version=self.origin.version,
            source_sha256=self.origin.pin.sha256,
            commit=self.origin.commit,
            cpu=manifest.cpu_fingerprint(),
            cpu_name=manifest.cpu_name(),
            compiler=compilers.version,
            flags=flags,
            built=_now(),
            seconds=round(self.clock.seconds, 1),
            files={name: program.stat().st_size for name, program in programs.items()},
        )
        publish.publish(programs | {"LICENSE": folder / "LICENSE"}, record, self.target)

    def _sweep_old(self) -> None:
        """Remove other versions of the engine, which this one replaces."""
        for folder, _ in _compiled_engines(self.home, self.origin.name):
            if folder != self.target:
                shutil.rmtree(folder, ignore_errors=True)

    def _try(self, program: Path) -> None:
        """Run a built program with ``--version``. Of those that do not know this flag, rpc-server ends with status 0,
        and llama-quantize with 1.

        Raises BuildError if it does not start.
        """
        expected = 1 if program.stem == "llama-quantize" else 0
        try:
            done = subprocess.run(
                [str(program), "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_SECONDS
            )
            problem = f"status {done.returncode}" if done.returncode != expected else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem:
            raise BuildError(
                f"The engine was built, but {program.name} --version fails: {problem}.",
                remedy=f"The log is {self.log}.",
            )


def _compiled_engines(home: Path, name: str) -> Iterator[tuple[Path, manifest.Manifest]]:
    """Yield the compiled engines of this name, of any version and CPU, with their manifests."""
    try:
        folders = [folder for folder in home.iterdir() if not folder.name.startswith(".")]
    except OSError:
        return
    for folder in folders:
        if (found := manifest.read(folder)) is not None and found.name == name:
            yield folder, found


def _features_in(home: Path, name: str) -> set[str]:
    """Return the features of all installed versions of an engine: a feature that was requested once is kept."""
    return {feature for _, found in _compiled_engines(home, name) for feature in found.features}


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
