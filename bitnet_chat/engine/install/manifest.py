"""The manifest of a compiled engine, and whether that engine fits this computer.

The engine is compiled for the CPU of the build (``-march=native``): on another one it may crash with an illegal
instruction. So the manifest records the CPU, and an engine of another CPU counts as not installed.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "manifest.json"

DEFAULT_NAME = "llama.cpp"
"""The engine to compile by default, and that of a manifest without a name."""

FEATURES = {
    DEFAULT_NAME: {"server": "llama-server", "cli": "llama-cli", "rpc": "rpc-server"},
    "bitnet": {"server": "llama-server"},
}
"""Optional features of a build, by name: the program that shows it."""

# The flags of an x86 in /proc/cpuinfo that change what a compiler emits. The others (mitigations, virtualization,
# power) differ between kernels on the same CPU.
_INSTRUCTIONS = re.compile(
    r"(sse|ssse|pni|avx|amx|fma|f16c|bmi|abm|lzcnt|popcnt|movbe|aes|vaes|pclmul|vpclmul|sha|gfni|adx|xop|tbm|3dnow|cx16"
    r"|movdir|rdrand|rdseed).*"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    version: str
    source_sha256: str
    commit: str
    cpu: str
    """:func:`cpu_fingerprint` of the computer of the build."""
    cpu_name: str
    compiler: str
    flags: list[str]
    built: str
    """Time of the build, ISO 8601 in UTC."""
    seconds: float
    """Duration of the last run of the build."""
    files: dict[str, int]
    """Size in bytes of each program."""
    name: str = DEFAULT_NAME
    """Name of the engine; missing in the manifests of earlier versions."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of :data:`FEATURES`, by the programs: a manifest of an earlier version shows them as well."""
        programs = {name.removesuffix(".exe") for name in self.files}
        return tuple(name for name, program in FEATURES.get(self.name, {}).items() if program in programs)

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it is missing or invalid."""
    try:
        fields = json.loads((folder / NAME).read_text(encoding="utf-8"))
        manifest = Manifest(**fields)
        sound = isinstance(manifest.files, dict) and all(isinstance(size, int) for size in manifest.files.values())
        sound = sound and isinstance(manifest.flags, list) and isinstance(manifest.name, str)
    except (OSError, ValueError, TypeError):
        return None
    return manifest if sound else None


def installed(folder: Path) -> bool:
    """Whether the folder holds a complete engine that was compiled for this CPU.

    Called at every start by the search for an engine; so this module imports little.
    """
    manifest = read(folder)
    return manifest is not None and manifest.cpu == cpu_fingerprint() and is_whole(folder, manifest)


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every program exists with its size."""
    try:
        return all((folder / name).stat().st_size == size for name, size in manifest.files.items())
    except OSError:
        return False


def instructions(flags: str) -> list[str]:
    """The words of an x86 ``flags`` line that name instructions a compiler may use."""
    return [word for word in flags.split() if _INSTRUCTIONS.fullmatch(word)]


def cpu_fingerprint(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The architecture and, sorted, the words that describe its instructions."""
    facts = _cpu_facts(cpuinfo)
    if "flags" in facts:
        words = instructions(facts["flags"])
    elif "Features" in facts:  # ARM
        words = facts["Features"].split()
    else:  # RISC-V says "isa"; elsewhere the name of the processor must do
        words = [facts.get("isa") or platform.processor()]
    return " ".join([platform.machine(), *sorted(set(words))])


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    facts = _cpu_facts(cpuinfo)
    return facts.get("model name") or platform.processor() or platform.machine()


def _cpu_facts(cpuinfo: Path) -> dict[str, str]:
    """The lines of the first processor."""
    facts: dict[str, str] = {}
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip() and facts:
                    break
                key, _, value = line.partition(":")
                facts[key.strip()] = value.strip()
    except OSError:
        pass
    return facts
