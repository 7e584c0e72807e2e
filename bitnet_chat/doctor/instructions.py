"""What a processor can do against what an engine was compiled for. Pure.

An engine lists what its build uses in its log, ``system_info: … | AVX2 = 1 | …``. Builds since 2025 leave out what they
do not use; older ones write ``= 0``, and then say nothing about what they do not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitnet_chat.doctor.finding import Finding, broken, ok, warn

_GROUP, _NAME = "engine", "instructions"
_PAIR = re.compile(r"\b([A-Z][A-Z0-9_]+) = (\d+)")

# By the name that llama.cpp gives them (ggml-cpu.cpp): the words of /proc/cpuinfo or of macOS's sysctl that all have to
# be there. What it calls AVX512 is these five together.
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
# Those that make ternary and integer products faster by more than a little. Builds without the others lose nothing
# that was ever measured.
WORTH_IT = ("AVX", "AVX2", "FMA", "F16C", "AVX_VNNI", "AVX512", "AVX512_VNNI", "NEON", "DOTPROD", "MATMUL_INT8")


@dataclass(frozen=True, slots=True)
class Build:
    """``used``: names from a ``system_info``. ``complete``: what is missing there is not used."""

    used: frozenset[str]
    complete: bool


def build_of(log: str) -> Build | None:
    """From the log of an engine that has started; None where it does not tell."""
    line = next((line for line in log.split("\n") if "system_info:" in line), "")
    pairs = _PAIR.findall(line)
    if not pairs:
        return None
    return Build(frozenset(name for name, value in pairs if value != "0"), all(value != "0" for _, value in pairs))


@dataclass(frozen=True, slots=True)
class Instructions:
    """Words of a processor. ``tells``: those that this platform knows of; None: all there are."""

    words: frozenset[str]
    tells: frozenset[str] | None = None

    def names(self) -> frozenset[str]:
        """What it can do, as llama.cpp calls it."""
        return frozenset(name for name, needed in NEEDS.items() if self.words.issuperset(needed))

    def knows(self, name: str) -> bool:
        return self.tells is None or self.tells.issuperset(NEEDS[name])


def judge(build: Build | None, processor: Instructions | None) -> Finding:
    """``processor``: None where this platform does not tell."""
    if build is None:
        return ok(_GROUP, _NAME, "the engine does not tell what its build uses")
    used = build.used & NEEDS.keys()
    listed = ", ".join(sorted(used)) or "none beyond the plainest"
    if processor is None:
        return ok(_GROUP, _NAME, f"the build uses {listed}; this platform does not tell what the CPU has")
    can = processor.names()
    used = frozenset(name for name in used if processor.knows(name))
    too_much = sorted(used - can)
    facts: dict[str, object] = {"cpu": sorted(can), "build": sorted(used)}
    if too_much:
        return broken(
            _GROUP,
            _NAME,
            f"the build uses {', '.join(too_much)}, which this CPU does not have: it can end at any moment",
            "bitnet-chat engine install --build compiles one for this CPU",
            **facts,
        )
    missed = [name for name in WORTH_IT if name in can - used and build.complete]
    if missed:
        return warn(
            _GROUP,
            _NAME,
            f"this CPU has {', '.join(missed)}, and the build does not use it: replies are slower than they could be",
            "bitnet-chat engine install --build compiles one for this CPU",
            **facts,
        )
    return ok(_GROUP, _NAME, f"the build uses what this CPU has ({listed})", **facts)
