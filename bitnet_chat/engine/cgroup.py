"""What a control group of Linux leaves of the processors, as the kernel tells it in files. Pure: texts in, numbers out.

Version 2 has ``cpu.max`` ("150000 100000": microseconds in a period), version 1 ``cpu.cfs_quota_us`` and
``cpu.cfs_period_us``. The group counts and each one above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Group:
    """A folder that may hold a limit. ``version``: 1 or 2."""

    folder: PurePosixPath
    version: int


def groups(memberships: str, mounts: str) -> Iterator[Group]:
    """The groups of a process and those above it, as far as they can be seen, from ``/proc/self/cgroup`` and
    ``/proc/self/mountinfo``."""
    paths = dict(_memberships(memberships))
    for root, place, version in _mounts(mounts):
        if version not in paths:
            continue
        path = PurePosixPath(paths[version])
        # In a container the folder that is mounted may be its own group, whose path names that on the host.
        below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        folder = place if ".." in below.parts else place / below
        while True:
            yield Group(folder, version)
            if folder == place:
                break
            folder = folder.parent


def quota(group: Group, texts: dict[str, str]) -> float | None:
    """Processors that a group may use; None: no limit. ``texts``: contents of its files by name."""
    if group.version == 2:
        limit, period = [*texts.get("cpu.max", "").split(), "", ""][:2]
    else:
        limit, period = texts.get("cpu.cfs_quota_us", "").strip(), texts.get("cpu.cfs_period_us", "").strip()
    if not limit.isdecimal() or not period.isdecimal() or int(period) == 0:  # "max", -1, nothing
        return None
    return int(limit) / int(period)


FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}
"""That :func:`quota` reads, by version."""


def _memberships(text: str) -> Iterator[tuple[int, str]]:
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(text: str) -> Iterator[tuple[PurePosixPath, PurePosixPath, int]]:
    """Root, place and version of each mount of a hierarchy that may limit processors."""
    for line in text.splitlines():
        first, separator, second = line.partition(" - ")
        fields, kind = first.split(" "), second.split(" ")
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        root, place = (PurePosixPath(_unescaped(each)) for each in fields[3:5])
        if kind[0] == "cgroup2":
            yield root, place, 2
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield root, place, 1


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
