"""The number of threads of an engine. Pure.

At each layer of a model, all threads wait for each other in a busy loop: with one thread more than usable processors,
replies are many times slower. Measured with one usable processor of two: with its default number of threads, llama.cpp
generated no token in 100 s; with one thread it answered in 1.7 s. The number is therefore always passed to the engine,
and limited to the usable processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TINY_MODEL = 16_000_000
"""Size of a model file in bytes below which one thread is used. With two processors, a second thread made the bundled
model at most 1.5 times faster, and 10 times slower while another program used a processor.
"""
_THREAD_FLAGS = """-t --threads -tb --threads-batch -td --threads-draft -tbd --threads-batch-draft --spec-draft-threads
--spec-draft-threads-batch"""
_FLAGS = frozenset(_THREAD_FLAGS.split())


@dataclass(frozen=True, slots=True)
class Processors:
    """The processors of the machine, and those that this process may use. ``affinity``: number in the affinity mask.
    ``quota``: limit of a control group in processors; None: no limit. ``cores``: physical cores in the affinity mask;
    None if unknown.
    """

    machine: int
    affinity: int
    quota: float | None = None
    cores: int | None = None

    @property
    def count(self) -> int:
        """Number of processors that may be used. A quota is rounded down: all threads would wait for the one with a
        part of a processor.
        """
        whole = self.affinity if self.quota is None else min(self.affinity, int(self.quota))
        return max(1, whole)

    @property
    def default(self) -> int:
        """Default threads of a single engine: one per physical core, whose arithmetic units two threads would share."""
        return max(1, min(self.count, self.cores or self.count))

    @property
    def origin(self) -> str:
        """The reason for :attr:`count`, for messages."""
        if self.quota is not None and self.quota < self.affinity:
            return f"a control group allows {self.quota:g} of {self.machine} (cpu.max)"
        if self.affinity < self.machine:
            return f"the affinity of this process is {self.affinity} of {self.machine}"
        return f"the machine has {self.machine}"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Division of the processors among engines that are loaded at the same time. ``engines``: number of engines of each
    model, which may generate at the same time. ``models``: number of models; they usually generate one after the other,
    so a number of threads that the user has chosen is not divided by it.
    """

    engines: int = 1
    models: int = 1


@dataclass(frozen=True, slots=True)
class Threads:
    """The number of threads, and engine flags. ``extra``: the flags after ``--``, with limited thread numbers.
    ``notice``: a message for the user; empty if nothing was limited.
    """

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
    """Choose the number of threads of an engine. ``asked``: the setting; 0: the default. ``extra``: engine flags after
    ``--``. ``tiny``: the model is smaller than :data:`TINY_MODEL`.
    """
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
        return int(value) > most or int(value) <= 0  # 0 and less mean all processors of the machine in llama.cpp
    except ValueError:
        return False


def _notice(asked: int, most: int, has: Processors, sharing: Sharing) -> str:
    place = "1 processor" if has.count == 1 else f"{has.count} processors"
    engines = f" by {sharing.engines} engines" if sharing.engines > 1 else ""
    wanted = str(asked) if asked > 0 else "all"
    return f"the engine gets {most} instead of {wanted} threads: {place} may be used{engines} ({has.origin})"
