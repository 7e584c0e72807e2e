"""The pinned wheels of prebuilt engines, and the choice of one for a platform. Pure, except for :func:`here`."""

from __future__ import annotations

import platform
import sys
import sysconfig
from dataclasses import dataclass

from bitnet_chat.engine.install.packages import EnginePackage
from bitnet_chat.errors import BuildError
from bitnet_chat.util.pip import Pin

_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}
_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}


@dataclass(frozen=True, slots=True)
class Platform:
    """The system, and the Python that loads a library: the properties that decide which wheel can be used."""

    system: str
    """As in ``sys.platform``."""
    machine: str
    """Architecture of the Python: ``x86_64``, ``arm64``, or another value."""
    libc: tuple[int, ...] = ()
    """Version of glibc on Linux; empty for another C library."""
    release: tuple[int, ...] = ()
    """Version of macOS."""
    python: str = "CPython"
    has_gil: bool = True
    bits: int = 64

    @property
    def label(self) -> str:
        """Description for messages."""
        system = _SYSTEMS.get(self.system, self.system)
        if self.system == "linux" and not self.libc:
            system += " without glibc (musl)"
        return f"{system}, {self.machine}, {self.bits}-bit Python"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel, and the platforms that it supports."""

    system: str
    machine: str
    oldest: tuple[int, ...]
    """The oldest supported glibc or macOS; empty on Windows."""
    pin: Pin
    unpacked: int
    """Size of its needed files in bytes."""


def _llama(system: str, machine: str, oldest: tuple[int, ...], tag: str, sha256: str, size: int, disk: int) -> Wheel:
    file = f"xllamacpp-2026.10.11549-cp310-abi3-{tag}.whl"
    return Wheel(system, machine, oldest, Pin("xllamacpp", "2026.10.11549", file, sha256, size), disk)


def _ik(system: str, machine: str, oldest: tuple[int, ...], tag: str, sha256: str, size: int, disk: int) -> Wheel:
    # The libraries in it do not use Python, so the wheel for one version works with all.
    file = f"ik_llama_cpp_python-0.1.5-cp313-cp313-{tag}.whl"
    return Wheel(system, machine, oldest, Pin("ik-llama-cpp-python", "0.1.5", file, sha256, size), disk)


WHEELS = {
    "llama.cpp": (
        _llama(
            *("linux", "x86_64", (2, 17), "manylinux2014_x86_64.manylinux_2_17_x86_64"),
            *("c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261", 33_827_498, 106_040_130),
        ),
        _llama(
            *("linux", "arm64", (2, 17), "manylinux2014_aarch64.manylinux_2_17_aarch64"),
            *("e2a3e79e775515de4ad197e667f874070446ef9ac9cf2044bc9866bc4c72289e", 32_870_844, 104_308_178),
        ),
        _llama(
            *("darwin", "arm64", (13, 0), "macosx_13_0_arm64"),
            *("4ecda27a308b2403aa13c9d04b270befab95edc556c24ed00b2f8a98bd7f6781", 12_152_949, 32_051_242),
        ),
        _llama(
            *("win32", "x86_64", (), "win_amd64"),
            *("1b76730ab9af47ec8d05a3d55154305fa92642f694dd9ad87d9e5a5e9956a59d", 8_733_245, 16_921_155),
        ),
    ),
    "bitnet": (
        _ik(
            *("linux", "x86_64", (2, 28), "manylinux_2_28_x86_64"),
            *("092c9469cdb25594110145ab3459948f9023aa0413e69a7fab04eb6c727a5062", 25_007_021, 34_992_302),
        ),
        _ik(
            *("linux", "arm64", (2, 28), "manylinux_2_28_aarch64"),
            *("6919062437d2927ffdda52dc73cdb4157735e3a75642ce3a80046d7e23f740c0", 23_379_752, 27_885_350),
        ),
        _ik(
            *("darwin", "arm64", (11, 0), "macosx_11_0_arm64"),
            *("7e1ab9b54b5a189b6a4b14dce54961a12dc47716607bfb35fe53e2c6c7a73aae", 28_023_102, 44_582_738),
        ),
        _ik(
            *("win32", "x86_64", (), "win_amd64"),
            *("bc4eed49e8819fa4406f6ea94d66b848e93d4d1333f2666958d20e2b6e7aee65", 10_365_317, 36_637_495),
        ),
    ),
}
"""The wheels by the name of the engine."""

_NEEDED = (
    *("xllamacpp/*.py", "xllamacpp/xllamacpp.*"),
    *("ik_llama_cpp/lib/*", "ik_llama_cpp/bin/*", "ik_llama_cpp_python.libs/*"),
    *("*.dist-info/METADATA", "*.dist-info/licenses/*"),
)
_NOT_NEEDED = ("ik_llama_cpp/lib/libggml.so",)
"""On Linux this is a second copy (27 MB) of the library in ``ik_llama_cpp_python.libs``, which is the one that is
loaded.
"""


def needs(name: str) -> bool:
    """Return whether an engine needs the file ``name`` of a wheel. (35 of 94 MB of ik_llama.cpp are needed.)"""
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, each) for each in _NEEDED) and name not in _NOT_NEEDED


def choose(package: EnginePackage, computer: Platform) -> Wheel:
    """Return the wheel of a prebuilt engine for a platform. Raises BuildError, with the reason, if none exists."""
    if package.name == "llama.cpp" and (computer.python != "CPython" or not computer.has_gil):
        python = computer.python if computer.python != "CPython" else "a free-threaded CPython"
        raise BuildError(
            f"The prebuilt engine {package.name} cannot be loaded by this Python, which is {python}.",
            remedy=f"Run bitnet-chat with an ordinary CPython, or {_compiled(package)}",
        )
    fitting = [
        wheel
        for wheel in WHEELS[package.name]
        if (wheel.system, wheel.machine, 64) == (computer.system, computer.machine, computer.bits)
        and (computer.system != "linux" or computer.libc)
    ]
    if not fitting:
        raise BuildError(
            f"A prebuilt engine {package.name} does not exist for this computer ({computer.label}).",
            remedy=f"{_compiled(package).capitalize()}",
        )
    wheel = fitting[0]
    version = computer.libc if computer.system == "linux" else computer.release
    if version < wheel.oldest:
        system = "glibc" if computer.system == "linux" else "macOS"
        found, needed = (".".join(map(str, each)) for each in (version, wheel.oldest))
        raise BuildError(
            f"The prebuilt engine {package.name} needs {system} {needed} or later, this computer has {found}.",
            remedy=f"{_compiled(package).capitalize()}",
        )
    return wheel


def _compiled(package: EnginePackage) -> str:
    return f"compile it: bitnet-chat engine install {package.name} --build (needs a C++ compiler, about 5 minutes)"


def here() -> Platform:
    """Return the platform of this computer and this Python."""
    # The architecture of the Python, not of the computer: an x86-64 Python runs on Windows for ARM, and loads libraries
    # for x86-64.
    machine = sysconfig.get_platform().removeprefix("win-") if sys.platform == "win32" else platform.machine()
    libc = platform.libc_ver() if sys.platform == "linux" else ("", "")
    return Platform(
        system=sys.platform,
        machine=_MACHINES.get(machine.lower(), machine.lower()),
        libc=_numbers(libc[1]) if libc[0] == "glibc" else (),
        release=_numbers(platform.mac_ver()[0]),
        python=platform.python_implementation(),
        has_gil=not sysconfig.get_config_var("Py_GIL_DISABLED"),
        bits=64 if sys.maxsize > 1 << 32 else 32,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
