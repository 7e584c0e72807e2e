"""The processors that this program, and therefore an engine, may use: by affinity and control groups.

On Linux only files of the kernel are read; elsewhere psutil is used if it is installed. A control group of version 2
has its limit in ``cpu.max`` ("150000 100000": microseconds in a period), one of version 1 in ``cpu.cfs_quota_us`` and
``cpu.cfs_period_us``. The limits of all parent groups apply too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bitnet_chat.engine.threads import Processors

_PROC = Path("/proc/self")
_CPUS = Path("/sys/devices/system/cpu")
_FAST = Path("/sys/devices/cpu_core/cpus")
"""On an Intel processor with two kinds of cores: the numbers of the fast ones, such as ``0-15``."""


def usable() -> int:
    """Return the number of usable processors."""
    return allowed().count


def allowed() -> Processors:
    """Determine the usable processors and their physical cores."""
    machine = os.cpu_count() or 1
    numbers = _affinity()
    return Processors(
        machine=machine,
        affinity=len(numbers) if numbers is not None else machine,
        quota=_quota(_PROC) if sys.platform == "linux" else None,
        cores=_cores(numbers),
    )


def _affinity() -> frozenset[int] | None:
    """Return the numbers of the processors in the affinity mask of this process; None if unknown."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        try:
            import psutil
        except ImportError:
            return None
        try:
            ask = getattr(psutil.Process(), "cpu_affinity", None)  # on Windows and FreeBSD
            return frozenset(ask()) if ask is not None else None
        except (psutil.Error, OSError):
            return None


def _quota(proc: Path) -> float | None:
    """Return the lowest limit of all control groups, in processors; None without a limit."""
    found: list[float] = []
    for group in groups(_read(proc / "cgroup"), _read(proc / "mountinfo")):
        texts = {name: _read(Path(group.folder / name)) for name in FILES[group.version]}
        limit = quota(group, texts)
        if limit is not None:
            found.append(limit)
    return min(found, default=None)


def _cores(numbers: frozenset[int] | None) -> int | None:
    """Count the physical cores of the processors ``numbers``, without the slow cores of a processor with two kinds.
    None if unknown.
    """
    if sys.platform == "linux":
        numbers = numbers or frozenset()
        fast = numbers & _numbers(_read(_FAST)) or numbers
        siblings = [_read(_CPUS / f"cpu{number}" / "topology" / "thread_siblings_list").strip() for number in fast]
        return len(set(siblings)) if siblings and all(siblings) else None
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        try:
            import psutil

            return psutil.cpu_count(logical=False)
        except (ImportError, OSError):
            return None


def _numbers(text: str) -> frozenset[int]:
    """Parse a list of processors such as ``0-3,8``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found.update(range(int(first), int(last if last.isdecimal() else first) + 1))
    return frozenset(found)


def _read(path: Path | PurePosixPath) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class CgroupQuota:
    """The folder of a control group, which may have a limit. ``version``: 1 or 2."""

    folder: PurePosixPath
    version: int


def groups(memberships: str, mounts: str) -> Iterator[CgroupQuota]:
    """Yield the control groups of a process and their parents, as far as they are mounted. ``memberships``, ``mounts``:
    contents of ``/proc/self/cgroup`` and ``/proc/self/mountinfo``.
    """
    paths = dict(_memberships(memberships))
    for root, place, version in _mounts(mounts):
        if version not in paths:
            continue
        path = PurePosixPath(paths[version])
        # In a container, the mounted folder may be the group itself, while the path is that on the host.
        below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        folder = place if ".." in below.parts else place / below
        while True:
            yield CgroupQuota(folder, version)
            if folder == place:
                break
            folder = folder.parent


def quota(group: CgroupQuota, texts: dict[str, str]) -> float | None:
    """Return the limit of a group in processors; None: no limit. ``texts``: contents of its :data:`FILES` by name."""
    if group.version == 2:
        limit, period = [*texts.get("cpu.max", "").split(), "", ""][:2]
    else:
        limit, period = texts.get("cpu.cfs_quota_us", "").strip(), texts.get("cpu.cfs_period_us", "").strip()
    if not limit.isdecimal() or not period.isdecimal() or int(period) == 0:  # "max", -1, nothing
        return None
    return int(limit) / int(period)


FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}
"""The files of a control group with its limit, by version."""


def _memberships(text: str) -> Iterator[tuple[int, str]]:
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(text: str) -> Iterator[tuple[PurePosixPath, PurePosixPath, int]]:
    """Yield the root, mount point and version of each mounted hierarchy that may limit processors."""
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
