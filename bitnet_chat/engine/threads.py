"""Number of threads for an engine. Pure.

At each layer of a model all threads wait for one another, and spin meanwhile: one more than there are processors, and
replies are many times slower. Measured on one processor of two: the default of llama.cpp gave no token in 100 s, one
thread an answer in 1.7 s. So the number is always given, and is never more than may be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TINY_MODEL = 16_000_000
"""Bytes. There is hardly anything to share in such a model: on two processors a second thread made the bundled one at
most 1.5 times faster, and 10 times slower where another program wanted one."""
_OF_THREADS = """-t --threads -tb --threads-batch -td --threads-draft -tbd --threads-batch-draft --spec-draft-threads
--spec-draft-threads-batch"""
_FLAGS = frozenset(_OF_THREADS.split())


@dataclass(frozen=True, slots=True)
class Processors:
    """Usable processors. ``quota``: of a control group, None for no limit. ``cores``: physical cores within the
    affinity, None if unknown."""

    machine: int
    affinity: int
    quota: float | None = None
    cores: int | None = None

    @property
    def count(self) -> int:
        """That may be used. A part of one would keep all threads waiting for the one that runs on it."""
        whole = self.affinity if self.quota is None else min(self.affinity, int(self.quota))
        return max(1, whole)

    @property
    def default(self) -> int:
        """Threads of a single engine: two on one core share its arithmetic units."""
        return max(1, min(self.count, self.cores or self.count))

    @property
    def origin(self) -> str:
        """Source of :attr:`count`."""
        if self.quota is not None and self.quota < self.affinity:
            return f"a control group allows {self.quota:g} of {self.machine} (cpu.max)"
        if self.affinity < self.machine:
            return f"the affinity of this process is {self.affinity} of {self.machine}"
        return f"the machine has {self.machine}"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Division of the processors among engines that are loaded at the same time. ``engines``: of each model.
    ``models``: that a user may ask one after the other, so that a number of the user's own is not divided by it."""

    engines: int = 1
    models: int = 1


@dataclass(frozen=True, slots=True)
class Threads:
    """Thread flags. ``extra``: the flags after ``--`` to pass on. ``notice``: for the user, empty for none."""

    number: int
    extra: tuple[str, ...] = ()
    notice: str = ""


def threads(
    asked: int,
    extra: Sequence[str],
    has: Processors,
    *,
    tiny: bool = False,
    sharing: Sharing = Sharing(),
) -> Threads:
    """Choose the number of threads. ``asked``: by the user; 0: no choice."""
    most = max(1, has.count // sharing.engines)
    number = min(asked, most) if asked > 0 else 1 if tiny else max(1, has.default // (sharing.engines * sharing.models))
    given = list(extra)
    too_many = [asked] if asked > most else []
    for at, (flag, value) in enumerate(pairwise(extra)):
        if flag in _FLAGS and _is_more(value, most):
            too_many.append(int(value))
            given[at + 1] = str(most)
    return Threads(number, tuple(given), _notice(max(too_many), most, has, sharing) if too_many else "")


def _is_more(value: str, most: int) -> bool:
    try:
        return int(value) > most or int(value) <= 0  # llama.cpp takes those for all processors of the machine
    except ValueError:
        return False


def _notice(asked: int, most: int, has: Processors, sharing: Sharing) -> str:
    place = "1 processor" if has.count == 1 else f"{has.count} processors"
    engines = f" by {sharing.engines} engines" if sharing.engines > 1 else ""
    wanted = str(asked) if asked > 0 else "all"
    return f"the engine gets {most} instead of {wanted} threads: {place} may be used{engines} ({has.origin})"
