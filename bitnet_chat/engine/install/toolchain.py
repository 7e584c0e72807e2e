"""The tools of a build: an installed compiler, cmake and ninja from the package index, and their flags."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.engine.install.source import SourceArchive
from bitnet_chat.errors import BuildError
from bitnet_chat.util import pip
from bitnet_chat.util.progress import NINJA_STATUS

# Ranges, not pins: llama.cpp asks for cmake 3.14 and declares itself tested up to 3.28's policies; cmake 4 and
# ninja 1.11 to 1.13 build it. Wheels only: cmake from source takes longer than the engine.
_PACKAGES = ("cmake>=3.26,<5", "ninja>=1.11,<2")

_CXX_PROBE = "#include <filesystem>\n#include <thread>\nint main() { return 0; }\n"
_C_PROBE = "#include <stdio.h>\nint main(void) { return 0; }\n"
_PROBE_SECONDS = 120.0

# The largest resident size of one compiler process, measured (g++ 12, server code): 632 MB.
_BYTES_PER_JOB = 700_000_000

_UNITY_FILES = 8
"""Number of source files of a target that are compiled as one."""
_LOWER = '"$<$<CXX_COMPILER_ID:GNU,Clang,AppleClang>:-O1>"'
"""The level of optimization for such targets. Visual C++ has a flag of the same name for another purpose."""


@dataclass(frozen=True, slots=True)
class Compilers:
    """Commands as in ``$CC`` and ``$CXX``: a program, perhaps with arguments."""

    c: str
    cxx: str
    version: str
    """First line of the version output of the C++ compiler."""


@dataclass(frozen=True, slots=True)
class BuildTools:
    cmake: str
    ninja: str


def find_compilers(env: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> tuple[str, str]:
    """The C and the C++ compiler to use: ``$CC`` and ``$CXX``, or the first pair on PATH.

    :raises BuildError: a compiler is missing.
    """
    pairs = [("cc", "c++"), ("gcc", "g++"), ("clang", "clang++")]
    if sys.platform == "win32":
        pairs = [("cl", "cl"), ("clang-cl", "clang-cl"), ("gcc", "g++"), ("clang", "clang++")]
    for c, cxx in pairs:
        c, cxx = env.get("CC") or c, env.get("CXX") or cxx
        if all(which(_words(command)[0]) for command in (c, cxx)):
            return c, cxx
    chosen = [f"${name}={env[name]}" for name in ("CC", "CXX") if env.get(name)]
    looked = ", ".join(chosen or [cxx for _, cxx in pairs])
    raise BuildError(f"A C++ compiler was not found (searched: {looked}).", remedy=_install_hint())


def check_compilers(env: Mapping[str, str]) -> Compilers:
    """Find the compilers and compile a tiny program with each: a compiler without its headers is common (clang on
    Debian), and so is a stub that only offers an installation (macOS).

    :raises BuildError: a compiler is missing, or does not work.
    """
    c, cxx = find_compilers(env)
    if "cl" in Path(_words(cxx)[0]).stem.lower().split("-"):  # Visual C++ has other flags; it comes with its headers
        return Compilers(c, cxx, "Visual C++")
    for command, language, probe in ((c, ["-x", "c"], _C_PROBE), (cxx, ["-x", "c++", "-std=c++17"], _CXX_PROBE)):
        argv = [*_words(command), *language, "-fsyntax-only", "-"]
        status, output = _ask(argv, probe)
        if status != 0:
            raise BuildError(
                f"The compiler {command} cannot compile a test program.",
                remedy=_install_hint(),
                detail="\n".join(output.splitlines()[:6]),
            )
    _, said = _ask([*_words(cxx), "--version"])
    return Compilers(c, cxx, (said.strip().splitlines() or [cxx])[0][:200])


def _words(command: str) -> list[str]:
    return shlex.split(command, posix=sys.platform != "win32") or [command]


def _ask(argv: list[str], text: str = "") -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout


_INSTALL = (
    ("apt-get", "apt-get install g++"),
    ("dnf", "dnf install gcc-c++"),
    ("pacman", "pacman -S gcc"),
    ("zypper", "zypper install gcc-c++"),
    ("apk", "apk add build-base linux-headers"),
)


def _install_hint() -> str:
    if sys.platform == "darwin":
        how = "Run `xcode-select --install`"
    elif sys.platform == "win32":
        how = "Install the Visual Studio Build Tools (C++ workload) and start from their developer prompt"
    else:
        command = next((command for manager, command in _INSTALL if shutil.which(manager)), "")
        how = f"Run `{command}` as root" if command else "Install g++ or clang++"
    return f"{how}, then try again; or select an installed engine with --engine PATH."


def fetch_tools(folder: Path, *, scratch: Path, log: Path, on_tick: Callable[[], None]) -> BuildTools:
    """cmake and ninja from ``folder``, installed there from the package index, or else those on PATH.

    :raises BuildError: neither is available.
    """
    tools = _inside(folder)
    if tools is not None:
        return tools
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        pip.run(
            ["install", "--no-deps", "--only-binary", ":all:", "--target", str(part), *_PACKAGES],
            purpose="get cmake and ninja",
            log=log,
            folder=scratch,
            on_tick=on_tick,
        )
    except BuildError:
        cmake, ninja = shutil.which("cmake"), shutil.which("ninja") or shutil.which("ninja-build")
        if cmake and ninja:
            return BuildTools(cmake, ninja)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    tools = _inside(folder)
    if tools is None:
        raise BuildError("The packages cmake and ninja hold no programs for this computer.", remedy=f"Log: {log}")
    return tools


def _inside(folder: Path) -> BuildTools | None:
    """The programs themselves: the ``cmake`` script that pip puts into ``bin`` needs the folder on the
    path of Python.
    """
    exe = ".exe" if sys.platform == "win32" else ""
    cmake = folder / "cmake" / "data" / "bin" / f"cmake{exe}"
    ninjas = [folder / place / f"ninja{exe}" for place in ("bin", "Scripts")]
    ninja = next((path for path in ninjas if path.is_file()), None)
    return BuildTools(str(cmake), str(ninja)) if cmake.is_file() and ninja else None


def cmake_flags(
    source: SourceArchive, *, platform: str = sys.platform, cxx: str = "c++", cpu: str = "", unity: Path | None = None
) -> list[str]:
    """Flags for a release build of static programs without downloads, plug-ins and web pages.

    ``cpu``: the result of :func:`bitnet_chat.engine.install.manifest.cpu_fingerprint`, with the names of its features.
    ``unity``: a file with :func:`unity_script`.
    """
    switches = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "OFF",
        "LLAMA_BUILD_SERVER": "ON",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_ALL_WARNINGS": "OFF",
        "GGML_OPENMP": "OFF",  # a shared library that the binary would need at run time
        "GGML_CCACHE": "OFF",
        "GGML_NATIVE": "ON",
        "LLAMA_BUILD_COMMIT": source.commit,  # the source comes without the git history that cmake asks
        "LLAMA_BUILD_NUMBER": str(source.number),
        **source.flags,
    }
    if unity is not None:
        switches["CMAKE_PROJECT_llama.cpp_INCLUDE"] = unity.as_posix()
    flags = [f"-D{name}={value}" for name, value in switches.items()]
    if "amx_tile" in cpu.split():
        # Measured in a virtual machine that offers AMX and does not keep its tiles: SIGSEGV, SIGILL or other numbers.
        flags.append("-DCMAKE_CXX_FLAGS=-mno-amx-tile -mno-amx-int8 -mno-amx-bf16")
    if platform == "linux":
        flags.append("-DCMAKE_EXE_LINKER_FLAGS=-static-libgcc -static-libstdc++")
    elif platform == "win32" and cxx.endswith("g++"):
        flags.append("-DCMAKE_EXE_LINKER_FLAGS=-static")
    return flags


def unity_script(source: SourceArchive) -> str:
    """A cmake script that compiles the sources of some targets together, and with less optimization: they parse, render
    and serve, while the library and its kernels keep their level. llama-common took 180 s of processor time
    unchanged, 105 s together, and 65 s with the lower level, too (g++ 12). Deferred to the end of the project, since
    the file is read before the targets exist.
    """
    together = f"PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE {_UNITY_FILES}"
    calls = [f"set_target_properties {target} {together}" for target in source.unity]
    calls += [f"target_compile_options {target} PRIVATE {_LOWER}" for target in source.unity]
    for files_of, properties in (
        (source.alone, "SKIP_UNITY_BUILD_INCLUSION ON"),
        (source.lower, f"COMPILE_OPTIONS {_LOWER}"),
    ):
        for target, files in files_of.items():
            words = " ".join(f'"${{CMAKE_SOURCE_DIR}}/{file}"' for file in files)
            calls.append(f"set_source_files_properties {words} TARGET_DIRECTORY {target} PROPERTIES {properties}")
    return "".join(f'cmake_language(DEFER DIRECTORY "${{CMAKE_SOURCE_DIR}}" CALL {call})\n' for call in calls)


def feature_flags(features: Collection[str]) -> list[str]:
    """Flags of cmake for optional features; see :data:`manifest.FEATURES`.

    Apart from :func:`cmake_flags`: most objects compiled without a feature can be reused with it.
    """
    # The second: with it a shared library that the binary would need at run time.
    return ["-DGGML_RPC=ON", "-DGGML_RPC_RDMA=OFF"] if "rpc" in features else ["-DGGML_RPC=OFF"]


# Marks the processes of a build, with its folder as the value.
MARK = "BITNET_CHAT_BUILD"


def build_environment(compilers: Compilers, base: Mapping[str, str], *, work: Path, scratch: Path) -> dict[str, str]:
    """The environment of cmake and ninja for a build in ``work``."""
    env = dict(base) | {"CC": compilers.c, "CXX": compilers.cxx, MARK: str(work)}
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    env["NINJA_STATUS"] = NINJA_STATUS
    env["LC_ALL"] = "C"  # failures are told apart by their English messages
    # cmake asks git for a version: not from the repository that the user's home may be in.
    env["GIT_CEILING_DIRECTORIES"] = str(work)
    return env


def parallel_jobs(cpus: int, memory: int | None, wish: str | None = None) -> int:
    """Number of parallel compilers: one per CPU, limited by free ``memory`` (bytes), or the wish of the user.

    ``wish`` is ``$CMAKE_BUILD_PARALLEL_LEVEL``, the variable of cmake for this.
    """
    if wish and wish.isdigit() and int(wish) > 0:
        return int(wish)
    fit = cpus if memory is None else memory // _BYTES_PER_JOB
    return max(1, min(cpus, fit))
