"""What is written down beside a built engine, and whether that engine fits this computer.

The engine is compiled for the very CPU it is built on (``-march=native``): on another one it may end with an illegal
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
"""The engine that is compiled unless another is named, and that of a manifest that names none."""

FEATURES = {
    DEFAULT_NAME: {"server": "llama-server", "cli": "llama-cli", "rpc": "rpc-server"},
    "bitnet": {"server": "llama-server"},
}
"""What an engine may have been built with beyond what a conversation needs, by its name: the program that tells it."""

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
    """:func:`cpu_fingerprint` of the computer that it was built on."""
    cpu_name: str
    compiler: str
    flags: list[str]
    built: str
    """When, ISO 8601 in UTC."""
    seconds: float
    """How long the last run of the build took."""
    files: dict[str, int]
    """Size in bytes of each program."""
    name: str = DEFAULT_NAME
    """Of the engine; missing in the manifests of earlier versions."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of :data:`FEATURES`. Told from the programs: a manifest of an earlier version says it as well."""
        programs = {name.removesuffix(".exe") for name in self.files}
        return tuple(name for name, program in FEATURES.get(self.name, {}).items() if program in programs)

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest | None:
    """The manifest of a folder; None when there is none that makes sense."""
    try:
        fields = json.loads((folder / NAME).read_text(encoding="utf-8"))
        manifest = Manifest(**fields)
        sound = isinstance(manifest.files, dict) and all(isinstance(size, int) for size in manifest.files.values())
        sound = sound and isinstance(manifest.flags, list) and isinstance(manifest.name, str)
    except (OSError, ValueError, TypeError):
        return None
    return manifest if sound else None


def installed(folder: Path) -> bool:
    """Whether the folder holds a built engine that is whole and was built for this CPU.

    Asked on every start by the search for an engine; so this module imports little.
    """
    manifest = read(folder)
    return manifest is not None and manifest.cpu == cpu_fingerprint() and is_whole(folder, manifest)


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Every program is there with its size."""
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
    """The first processor's lines."""
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
