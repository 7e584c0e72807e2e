"""Processor instructions, cores, memory and disk space.

An engine lists the instructions of its build in its log: ``system_info: … | AVX2 = 1 | …``. Builds since 2025 omit
unused ones; older builds write ``= 0``, and do not list newer instructions. These are compared with those of the
processor.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.models import memory as need_of
from bitnet_chat.models.info import ModelInfo
from bitnet_chat.util import resources
from bitnet_chat.util.progress import size

_SYSCTL_SECONDS = 5.0
# macOS: names in machdep.cpu (Intel) and keys of hw.optional (Apple silicon), with the names in /proc/cpuinfo of Linux.
_INTEL = {"sse3": "pni", "avx1.0": "avx", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}
_APPLE = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.neon": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SME": "sme",
}
# Windows: PF_…_INSTRUCTIONS_AVAILABLE in winnt.h. Only these have numbers; the others remain unknown.
_WINDOWS = {13: "pni", 36: "ssse3", 39: "avx", 40: "avx2", 19: "asimd", 43: "asimddp"}


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> ProcessorInstructions | None:
    """Return the instructions of the processor; None if the platform does not report them."""
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        some = frozenset(word for number, word in _WINDOWS.items() if present(number))
        return ProcessorInstructions(some, frozenset(_WINDOWS.values()))
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        found = of_sysctl(_sysctl()) if platform.system() == "Darwin" else of_cpuinfo(_read(cpuinfo))
        return ProcessorInstructions(found) if found else None


def of_cpuinfo(text: str) -> frozenset[str] | None:
    """Read the instructions from a ``/proc/cpuinfo``: ``flags`` (x86) or ``Features`` (ARM) of the first processor.
    None without such a line.
    """
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = frozenset(value.split())
            return found | {"asimd"} if "neon" in found else found
    return None


def of_sysctl(text: str) -> frozenset[str] | None:
    """Read the instructions from the output of ``sysctl machdep.cpu hw.optional``, under their names on Linux. None
    without any.
    """
    found: set[str] = set()
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        if key.startswith("machdep.cpu.") and key.endswith("features"):
            found.update(_INTEL.get(word, word) for word in value.lower().split())
        elif key in _APPLE and value.strip() == "1":
            found.add(_APPLE[key])
    return frozenset(found) or None


def cores() -> tuple[int, int]:
    """Return the numbers of physical and logical cores."""
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
    """Return the model name of the processor; the architecture if it is unknown."""
    from bitnet_chat.engine.install.manifest import cpu_name

    return cpu_name() or platform.machine()


_GROUP, _NAME = "engine", "instructions"
_PAIR = re.compile(r"\b([A-Z][A-Z0-9_]+) = (\d+)")

# Names in llama.cpp (ggml-cpu.cpp), with the names in /proc/cpuinfo that are all required. AVX512 means these five.
NEEDS: dict[str, tuple[str, ...]] = {
    "SSE3": ("pni",),
    "SSSE3": ("ssse3",),
    "AVX": ("avx",),
    "AVX2": ("avx2",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX512": ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_INT8": ("amx_int8",),
    "NEON": ("asimd",),
    "FP16_VA": ("asimdhp",),
    "DOTPROD": ("asimddp",),
    "MATMUL_INT8": ("i8mm",),
    "SVE": ("sve",),
    "SME": ("sme",),
}
# Instructions that accelerate ternary and integer products. Builds without the other ones were not measurably slower.
ACCELERATING = ("AVX", "AVX2", "FMA", "F16C", "AVX_VNNI", "AVX512", "AVX512_VNNI", "NEON", "DOTPROD", "MATMUL_INT8")


@dataclass(frozen=True, slots=True)
class BuildInstructions:
    """The instructions of a build, by their names in llama.cpp. ``complete``: whether the log would list other used
    ones, so that the build does not use them.
    """

    used: frozenset[str]
    complete: bool


def build_of(log: str) -> BuildInstructions | None:
    """Read the instructions of a build from the log of an engine; None if the log has no ``system_info``."""
    line = next((line for line in log.split("\n") if "system_info:" in line), "")
    pairs = _PAIR.findall(line)
    if not pairs:
        return None
    return BuildInstructions(
        frozenset(name for name, value in pairs if value != "0"), all(value != "0" for _, value in pairs)
    )


@dataclass(frozen=True, slots=True)
class ProcessorInstructions:
    """The instructions of a processor, by their names in /proc/cpuinfo (``words``). ``reportable``: those that the
    platform can report; None: all.
    """

    words: frozenset[str]
    reportable: frozenset[str] | None = None

    def names(self) -> frozenset[str]:
        """Return the instructions by their names in llama.cpp."""
        return frozenset(name for name, needed in NEEDS.items() if self.words.issuperset(needed))

    def knows(self, name: str) -> bool:
        """Return whether the platform can report the instruction ``name`` of llama.cpp."""
        return self.reportable is None or self.reportable.issuperset(NEEDS[name])


def judge_instructions(build: BuildInstructions | None, processor: ProcessorInstructions | None) -> Finding:
    """Compare the instructions of a build and a processor. ``build``, ``processor``: None if unknown. Pure."""
    if build is None:
        return ok(_GROUP, _NAME, "the engine does not report the instructions of its build")
    used = build.used & NEEDS.keys()
    listed = ", ".join(sorted(used)) or "only the basic ones"
    if processor is None:
        return ok(_GROUP, _NAME, f"the build uses {listed}; this platform does not report those of the CPU")
    can = processor.names()
    used = frozenset(name for name in used if processor.knows(name))
    too_much = sorted(used - can)
    facts: dict[str, object] = {"cpu": sorted(can), "build": sorted(used)}
    if too_much:
        return broken(
            _GROUP,
            _NAME,
            f"the build uses {', '.join(too_much)}, which this CPU does not have: it can crash at any moment",
            "bitnet-chat engine install --build compiles one for this CPU",
            **facts,
        )
    missed = [name for name in ACCELERATING if name in can - used and build.complete]
    if missed:
        return warn(
            _GROUP,
            _NAME,
            f"this CPU has {', '.join(missed)}, which the build does not use: replies are slower than necessary",
            "bitnet-chat engine install --build compiles one for this CPU",
            **facts,
        )
    return ok(_GROUP, _NAME, f"the build uses the instructions of this CPU ({listed})", **facts)


_LITTLE_ROOM = 100_000_000
"""Free disk space in bytes below which a warning is given. A journal of years takes as much; a build of an engine takes
five times as much.
"""


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Memory of the computer in bytes."""

    total: int
    available: int
    swap: int
    swap_used: int


def memory() -> MemoryFacts | None:
    """Return the memory of the computer; None if the platform does not report it."""
    try:
        import psutil
    except ImportError:  # psutil is not available on every platform
        return None
    try:
        whole, swap = psutil.virtual_memory(), psutil.swap_memory()
    except (psutil.Error, OSError, RuntimeError):
        return None
    available = resources.available()
    return MemoryFacts(
        int(whole.total), int(whole.available) if available is None else available, swap.total, swap.used
    )


def judge_memory(has: MemoryFacts | None, needed: int | None) -> Finding:
    """Judge the free memory. ``needed``: bytes for the model with its context; None without a model. Pure."""
    group, name = "memory", "memory"
    if has is None:
        return ok(group, name, "this platform does not report its memory")
    facts: dict[str, object] = {"total": has.total, "available": has.available, "swap_used": has.swap_used}
    seen = f"{size(has.available)} of {size(has.total)} are free"
    if has.swap:
        seen += f", {size(has.swap_used)} of {size(has.swap)} swap in use"
    if needed is None:
        return ok(group, name, seen, **facts)
    facts["needed"] = needed
    seen += f"; the model with its context takes up to {size(needed)}"
    if needed > has.total:
        return warn(group, name, f"{seen}: more than the total", "use a smaller model, or a smaller --ctx", **facts)
    if needed > has.available:
        return warn(
            group, name, f"{seen}: more than the free memory", "close other programs, or use a smaller --ctx", **facts
        )
    return ok(group, name, seen, **facts)


def needed(info: ModelInfo, context: int) -> int:
    """Return the memory in bytes that a model needs with its context. ``context``: tokens; 0: the default."""
    return need_of.need(info.header.size, info.shape, need_of.context_for(info.header.context_length, context))


def disk() -> Iterator[Finding]:
    """Check the free space for the data directory."""
    group, name = "memory", "disk"
    folder = paths.data_dir()
    place = _present(folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield warn(group, name, f"{place} does not report its free space ({error.strerror})", "check the disk")
        return
    seen = f"{size(free)} are free for {folder}"
    if free < _LITTLE_ROOM:
        yield warn(
            group, name, seen, "free disk space, or choose another place with BITNET_CHAT_DATA=FOLDER", free=free
        )
    else:
        yield ok(group, name, seen, free=free)


def _present(folder: Path) -> Path:
    """Return ``folder`` or its nearest existing parent."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path.cwd())
