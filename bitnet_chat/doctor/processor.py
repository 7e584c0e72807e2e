"""The instructions of this computer's processor, in the words of Linux."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from bitnet_chat.doctor.instructions import Instructions

_SYSCTL_SECONDS = 5.0
# macOS: words of machdep.cpu (Intel) and keys of hw.optional (Apple silicon), where they differ from those of Linux.
_INTEL = {"sse3": "pni", "avx1.0": "avx", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}
_APPLE = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.neon": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SME": "sme",
}
# Windows: winnt.h, PF_…_INSTRUCTIONS_AVAILABLE. It has numbers for a few only, so that nothing is known of the others.
_WINDOWS = {13: "pni", 36: "ssse3", 39: "avx", 40: "avx2", 19: "asimd", 43: "asimddp"}


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> Instructions | None:
    """None where this platform tells nothing."""
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        some = frozenset(word for number, word in _WINDOWS.items() if present(number))
        return Instructions(some, frozenset(_WINDOWS.values()))
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
        found = of_sysctl(_sysctl()) if platform.system() == "Darwin" else of_cpuinfo(_read(cpuinfo))
        return Instructions(found) if found else None


def of_cpuinfo(text: str) -> frozenset[str] | None:
    """From the first processor in a /proc/cpuinfo: ``flags`` on x86, ``Features`` on ARM."""
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = frozenset(value.split())
            return found | {"asimd"} if "neon" in found else found
    return None


def of_sysctl(text: str) -> frozenset[str] | None:
    """From ``sysctl machdep.cpu hw.optional``."""
    found: set[str] = set()
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        if key.startswith("machdep.cpu.") and key.endswith("features"):
            found.update(_INTEL.get(word, word) for word in value.lower().split())
        elif key in _APPLE and value.strip() == "1":
            found.add(_APPLE[key])
    return frozenset(found) or None


def cores() -> tuple[int, int]:
    """Physical and logical ones."""
    import os

    logical = os.cpu_count() or 1
    try:
        import psutil

        return psutil.cpu_count(logical=False) or logical, logical
    except (ImportError, OSError):
        return logical, logical


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _sysctl() -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SYSCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def name() -> str:
    """What people call it."""
    from bitnet_chat.engine.install.manifest import cpu_name

    return cpu_name() or platform.machine()
