"""The manifest of a compiled engine, which records for which CPU it was compiled.

An engine is compiled with ``-march=native``: on another CPU it may crash with an illegal instruction. An engine with
the manifest of another CPU therefore counts as not installed. Each search for an engine imports this module, so it
imports little itself.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "manifest.json"

DEFAULT_NAME = "llama.cpp"
"""The engine that is compiled by default, and the name of a manifest that has none."""

FEATURES = {
    DEFAULT_NAME: {"server": "llama-server", "cli": "llama-cli", "rpc": "rpc-server"},
    "bitnet": {"server": "llama-server"},
}
"""Optional features of each engine: the program that a feature adds, by the name of the feature."""

# Flags of x86 in /proc/cpuinfo that change the code a compiler generates. The other flags (mitigations, virtualization,
# power) depend on the kernel.
_INSTRUCTIONS = re.compile(
    r"(sse|ssse|pni|avx|amx|fma|f16c|bmi|abm|lzcnt|popcnt|movbe|aes|vaes|pclmul|vpclmul|sha|gfni|adx|xop|tbm|3dnow|cx16"
    r"|movdir|rdrand|rdseed).*"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record of a build, stored in the folder of the engine."""

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
    """Duration of the last run of the build, in seconds."""
    files: dict[str, int]
    """Size in bytes of each program."""
    name: str = DEFAULT_NAME
    """Name of the engine; missing in the manifests of earlier versions."""

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the build: keys of :data:`FEATURES` whose programs exist."""
        programs = {name.removesuffix(".exe") for name in self.files}
        return tuple(name for name, program in FEATURES.get(self.name, {}).items() if program in programs)

    def write(self, folder: Path) -> None:
        """Write the manifest to ``folder``. Raises OSError."""
        (folder / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest | None:
    """Read the manifest of a folder. Returns None if it is missing or invalid."""
    try:
        fields = json.loads((folder / NAME).read_text(encoding="utf-8"))
        manifest = Manifest(**fields)
        sound = isinstance(manifest.files, dict) and all(isinstance(size, int) for size in manifest.files.values())
        sound = sound and isinstance(manifest.flags, list) and isinstance(manifest.name, str)
    except (OSError, ValueError, TypeError):
        return None
    return manifest if sound else None


def installed(folder: Path) -> bool:
    """Return whether the folder contains a complete engine that was compiled for this CPU."""
    manifest = read(folder)
    return manifest is not None and manifest.cpu == cpu_fingerprint() and is_whole(folder, manifest)


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Return whether every program exists with the size in the manifest."""
    try:
        return all((folder / name).stat().st_size == size for name, size in manifest.files.items())
    except OSError:
        return False


def instructions(flags: str) -> list[str]:
    """Return the words of an x86 ``flags`` line that name instructions which a compiler may use."""
    return [word for word in flags.split() if _INSTRUCTIONS.fullmatch(word)]


def cpu_fingerprint(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return a text that identifies the instruction set: the architecture, and the sorted names of the instructions."""
    facts = _cpu_facts(cpuinfo)
    if "flags" in facts:
        words = instructions(facts["flags"])
    elif "Features" in facts:  # ARM
        words = facts["Features"].split()
    else:  # RISC-V has a line "isa"; without any of these the name of the processor is used
        words = [facts.get("isa") or platform.processor()]
    return " ".join([platform.machine(), *sorted(set(words))])


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model name of the processor; the architecture if it is unknown."""
    facts = _cpu_facts(cpuinfo)
    return facts.get("model name") or platform.processor() or platform.machine()


def _cpu_facts(cpuinfo: Path) -> dict[str, str]:
    """Return the lines of the first processor as a dictionary."""
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
