"""The processors that this program, and so an engine, may use. Standard library, and psutil where it is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath

from bitnet_chat.engine import cgroup
from bitnet_chat.engine.threads import Processors

_PROC = Path("/proc/self")
_CPUS = Path("/sys/devices/system/cpu")
_FAST = Path("/sys/devices/cpu_core/cpus")
"""Of an Intel processor with cores of two kinds: the numbers of the fast ones, such as ``0-15``."""


def usable() -> int:
    return allowed().count


def allowed() -> Processors:
    """How many may be used, by affinity and control groups, and how many cores they are."""
    machine = os.cpu_count() or 1
    numbers = _affinity()
    return Processors(
        machine=machine,
        affinity=len(numbers) if numbers is not None else machine,
        quota=_quota(_PROC) if sys.platform == "linux" else None,
        cores=_cores(numbers),
    )


def _affinity() -> frozenset[int] | None:
    """The numbers of the processors that this process may run on; None where nothing tells."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
        try:
            import psutil
        except ImportError:
            return None
        try:
            ask = getattr(psutil.Process(), "cpu_affinity", None)  # Windows and FreeBSD have it
            return frozenset(ask()) if ask is not None else None
        except (psutil.Error, OSError):
            return None


def _quota(proc: Path) -> float | None:
    """Processors that the tightest control group leaves."""
    found: list[float] = []
    for group in cgroup.groups(_read(proc / "cgroup"), _read(proc / "mountinfo")):
        texts = {name: _read(Path(group.folder / name)) for name in cgroup.FILES[group.version]}
        limit = cgroup.quota(group, texts)
        if limit is not None:
            found.append(limit)
    return min(found, default=None)


def _cores(numbers: frozenset[int] | None) -> int | None:
    """Physical cores among the processors with these numbers, without the slow ones of a mixed processor; None where
    that is not known, or not without starting a program."""
    if sys.platform == "linux":
        numbers = numbers or frozenset()
        fast = numbers & _numbers(_read(_FAST)) or numbers
        siblings = [_read(_CPUS / f"cpu{number}" / "topology" / "thread_siblings_list").strip() for number in fast]
        return len(set(siblings)) if siblings and all(siblings) else None
    else:  # noqa: RET505  # without it the checker takes the rest for dead code on that platform
        try:
            import psutil

            return psutil.cpu_count(logical=False)
        except (ImportError, OSError):
            return None


def _numbers(text: str) -> frozenset[int]:
    """Of ``0-3,8``."""
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
