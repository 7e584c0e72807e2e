"""The tools of a build: an installed compiler, cmake and ninja of the package index, and their flags."""

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

# Ranges instead of pinned versions: llama.cpp requires cmake 3.14 and supports the policies of 3.28; cmake 4 and ninja
# 1.11 to 1.13 build it too. Only wheels are used, because cmake takes longer to compile than the engine.
_PACKAGES = ("cmake>=3.26,<5", "ninja>=1.11,<2")

_CXX_PROBE = "#include <filesystem>\n#include <thread>\nint main() { return 0; }\n"
_C_PROBE = "#include <stdio.h>\nint main(void) { return 0; }\n"
_PROBE_SECONDS = 120.0

_BYTES_PER_JOB = 700_000_000
"""Memory of one compiler process. The largest resident size measured was 632 MB (g++ 12, code of the server)."""

_UNITY_FILES = 8
"""Number of source files of a target that are compiled as one."""
_LOWER = '"$<$<CXX_COMPILER_ID:GNU,Clang,AppleClang>:-O1>"'
"""The optimization flag for code outside of the library. Visual C++ uses /O1 differently and is excluded."""


@dataclass(frozen=True, slots=True)
class Compilers:
    """The C and C++ compilers as command lines, as in ``$CC`` and ``$CXX``: a program and optional arguments."""

    c: str
    cxx: str
    version: str
    """First line of the version output of the C++ compiler."""


@dataclass(frozen=True, slots=True)
class BuildTools:
    """Paths of the build programs."""

    cmake: str
    ninja: str


def find_compilers(env: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> tuple[str, str]:
    """Return the command lines of the C and the C++ compiler: ``$CC`` and ``$CXX``, else the first pair on PATH.

    Raises BuildError if a compiler is missing.
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
    """Find the compilers and compile a small program with each. A compiler without headers is common (clang on Debian),
    and so is a stub that only offers an installation (macOS).

    Raises BuildError if a compiler is missing or does not work.
    """
    c, cxx = find_compilers(env)
    if "cl" in Path(_words(cxx)[0]).stem.lower().split("-"):  # Visual C++ has other flags, and always has its headers
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
    """Return cmake and ninja: those in ``folder``, installed there from the package index if necessary, else those on
    PATH.

    Raises BuildError if neither is available.
    """
    tools = _tools_in(folder)
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
    tools = _tools_in(folder)
    if tools is None:
        raise BuildError("The packages cmake and ninja contain no programs for this computer.", remedy=f"Log: {log}")
    return tools


def _tools_in(folder: Path) -> BuildTools | None:
    """Return the programs of the packages in ``folder``, or None. Not the ``cmake`` script in ``bin``, which works only
    if the folder is on the Python path.
    """
    exe = ".exe" if sys.platform == "win32" else ""
    cmake = folder / "cmake" / "data" / "bin" / f"cmake{exe}"
    ninjas = [folder / place / f"ninja{exe}" for place in ("bin", "Scripts")]
    ninja = next((path for path in ninjas if path.is_file()), None)
    return BuildTools(str(cmake), str(ninja)) if cmake.is_file() and ninja else None


def cmake_flags(
    source: SourceArchive, *, platform: str = sys.platform, cxx: str = "c++", cpu: str = "", unity: Path | None = None
) -> list[str]:
    """Return the cmake flags of a release build: static programs without downloads, plug-ins and web pages.

    ``cpu``: the result of :func:`bitnet_chat.engine.install.manifest.cpu_fingerprint`. ``unity``: a file that contains
    :func:`unity_script`.
    """
    switches = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "OFF",
        "LLAMA_BUILD_SERVER": "ON",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_ALL_WARNINGS": "OFF",
        "GGML_OPENMP": "OFF",  # the program would need a shared library at run time
        "GGML_CCACHE": "OFF",
        "GGML_NATIVE": "ON",
        "LLAMA_BUILD_COMMIT": source.commit,  # cmake would read it from git, but the archive has no repository
        "LLAMA_BUILD_NUMBER": str(source.number),
        **source.flags,
    }
    if unity is not None:
        switches["CMAKE_PROJECT_llama.cpp_INCLUDE"] = unity.as_posix()
    flags = [f"-D{name}={value}" for name, value in switches.items()]
    if "amx_tile" in cpu.split():
        # Some virtual machines report AMX but do not save its tiles. There, SIGSEGV, SIGILL and wrong results were
        # observed.
        flags.append("-DCMAKE_CXX_FLAGS=-mno-amx-tile -mno-amx-int8 -mno-amx-bf16")
    if platform == "linux":
        flags.append("-DCMAKE_EXE_LINKER_FLAGS=-static-libgcc -static-libstdc++")
    elif platform == "win32" and cxx.endswith("g++"):
        flags.append("-DCMAKE_EXE_LINKER_FLAGS=-static")
    return flags


def unity_script(source: SourceArchive) -> str:
    """Return a cmake script that makes a build faster: source files of some targets are compiled together (unity build)
    and with less optimization. These targets parse, render and serve; the library and its kernels are fully optimized.

    llama-common takes 180 s of processor time unchanged, 105 s with unity, and 65 s with both (g++ 12). The calls are
    deferred to the end of the project, because the script is read before the targets exist.
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
    """Return the cmake flags for features, which are keys of :data:`manifest.FEATURES`. They are separate from
    :func:`cmake_flags` because most objects compiled without a feature can be reused with it.
    """
    # RDMA is off because the program would need a shared library at run time.
    return ["-DGGML_RPC=ON", "-DGGML_RPC_RDMA=OFF"] if "rpc" in features else ["-DGGML_RPC=OFF"]


MARK = "BITNET_CHAT_BUILD"
"""Environment variable by which the processes of a build are found; its value is the build directory."""


def build_environment(compilers: Compilers, base: Mapping[str, str], *, work: Path, scratch: Path) -> dict[str, str]:
    """Return the environment of cmake and ninja for a build in ``work``, with temporary files in ``scratch``."""
    env = dict(base) | {"CC": compilers.c, "CXX": compilers.cxx, MARK: str(work)}
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    env["NINJA_STATUS"] = NINJA_STATUS
    env["LC_ALL"] = "C"  # failures are recognized by their English messages
    # cmake asks git for the version; it must not find a repository that contains the build directory.
    env["GIT_CEILING_DIRECTORIES"] = str(work)
    return env


def parallel_jobs(cpus: int, memory: int | None, wish: str | None = None) -> int:
    """Return the number of parallel compiler processes: one per CPU, as far as ``memory`` (free bytes) allows.
    ``wish``: the value of ``$CMAKE_BUILD_PARALLEL_LEVEL``, which takes precedence if it is a positive number.
    """
    if wish and wish.isdigit() and int(wish) > 0:
        return int(wish)
    fit = cpus if memory is None else memory // _BYTES_PER_JOB
    return max(1, min(cpus, fit))
