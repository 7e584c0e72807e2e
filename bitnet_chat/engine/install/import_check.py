"""Check in a process of its own that an unpacked library can be loaded on this computer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bitnet_chat.engine.install.packages import SITE, EnginePackage
from bitnet_chat.errors import BuildError

_SECONDS = 120.0

# The folder of the package is the first argument. The second library of ik_llama.cpp is found by its name once the
# first is loaded: on macOS neither contains the path of the other.
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
    """:raises BuildError: the library does not load, with the reason."""
    argv = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _PROGRAMS[package.name], str(folder / SITE)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _error(package, str(error), "") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise _error(package, (said.splitlines() or [ended(done.returncode)])[-1], said)


def ended(status: int) -> str:
    if status == -4:  # SIGILL
        return "it uses instructions that this processor does not have"
    return f"signal {-status}" if status < 0 else f"status {status}"


def _error(package: EnginePackage, why: str, said: str) -> BuildError:
    return BuildError(
        f"The prebuilt engine {package.name} does not load on this computer: {why}",
        remedy=f"Compile it for this computer: bitnet-chat engine install {package.name} --build",
        detail="\n".join(said.splitlines()[-6:-1]),
    )
