"""The engine in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.doctor import prebuilt
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.discovery import INSTALL, candidates
from bitnet_chat.engine.install import manifest, packages
from bitnet_chat.errors import BitnetChatError

_GROUP = "engine"


def look(engine: str, configured: str, limit: float | None = None) -> tuple[list[Finding], EngineBinary | None]:
    """The engines found, and the one that a conversation would use."""
    findings: list[Finding] = []
    problems: list[str] = []
    winner: EngineBinary | None = None
    source = ""
    others: list[str] = []
    try:
        for candidate in candidates(engine or None, configured or None, limit=limit):
            binary = candidate.binary
            if binary is None:
                problems.append(f"{candidate.path}: {candidate.problem}")
            elif winner is None and binary.can_chat:
                winner, source = binary, candidate.source
            elif binary.can_chat:
                others.append(binary.dialect.value)
    except BitnetChatError as error:  # nothing in a place that was named, or no such place
        findings.append(broken(_GROUP, "found", error.what, error.remedy or INSTALL))
    else:
        if winner is None:
            findings.append(broken(_GROUP, "found", "no engine was found", INSTALL, problems=problems))
        elif problems:
            findings.append(warn(_GROUP, "others", f"not usable: {'; '.join(problems)}", "remove it, or rebuild it"))
    if winner is not None:
        seen = f"{winner.path.name}, {winner.dialect.value}, {winner.label} ({source}: {winner.path.parent})"
        if winner.dialect is Dialect.MODERN:
            seen += "; it keeps its own history, which after a restart is sent in the system prompt"
        facts = {"path": str(winner.path), "dialect": winner.dialect.value, "version": winner.version}
        facts["make"] = winner.make.value
        findings.insert(0, ok(_GROUP, "found", seen, **facts, source=source, others=others))
    findings += _of_other_computers(winner)
    findings += prebuilt.look(needed=winner is None)
    return findings, winner


def _of_other_computers(winner: EngineBinary | None) -> Iterator[Finding]:
    """Engines in the data directory that the search skips silently."""
    try:
        folders = [each for each in paths.engine_home().iterdir() if not each.name.startswith(".") and each.is_dir()]
    except (OSError, BitnetChatError):  # no folder, or no place for one
        return
    for folder in sorted(folders):
        if manifest.installed(folder) or packages.is_package(folder):
            continue
        what = _what_is_wrong(folder)
        status = warn if winner is not None else broken
        yield status(
            _GROUP,
            "installed",
            f"{folder} {what}, and is not used",
            "bitnet-chat engine install --build compiles it again",
        )


def _what_is_wrong(folder: Path) -> str:
    found = manifest.read(folder)
    if found is None:
        return "has no manifest"
    if found.cpu != manifest.cpu_fingerprint():
        return f"was built for another processor ({found.cpu_name})"
    return "is incomplete"
