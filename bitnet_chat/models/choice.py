"""Which model ``-m auto`` takes: the largest installed one that the engine can run and that fits into free memory.

The largest by the size of its file: of two models that both fit, more bytes hold more of what was learnt, whatever
they are packed in. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_chat.util.progress import size


@dataclass(frozen=True, slots=True)
class Option:
    """An installed model."""

    name: str
    size: int
    """Bytes of the file."""
    need: int
    """Bytes of memory, see :mod:`bitnet_chat.models.memory`."""
    obstacle: str = ""
    """Why it cannot be run here at all."""


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    """Empty: none of them."""
    reason: str
    """One line."""


def choose(options: Sequence[Option], free: int | None, *, smaller: int = 0) -> Choice:
    """``free``: bytes that a new program can have; None: nobody knows, and the smallest is the safest. ``smaller``: how
    many more there are, all smaller than one of the options that will do."""
    if not options:
        return Choice("", "no model is installed (bitnet-chat models list shows what can be pulled)")
    runnable = sorted((each for each in options if not each.obstacle), key=lambda each: (-each.size, each.name))
    refused = {each.name: each.obstacle for each in options if each.obstacle}
    if free is None and runnable:
        least = runnable[-1]
        return Choice(least.name, f"{least.name} ({size(least.size)}), the smallest: free memory is not known here")
    fitting = [each for each in runnable if each.need <= (free or 0)]
    if fitting:
        taken = fitting[0]
        larger = {each.name: f"needs {size(each.need)}" for each in runnable[: runnable.index(taken)]}
        rank = "the largest that fits" if len(options) + smaller > 1 else "the only one installed, and it fits"
        why = f"{taken.name} ({size(taken.size)}), {rank}: it needs {size(taken.need)} of {size(free or 0)} free"
        return Choice(taken.name, why + _others(larger | refused))
    small = {each.name: f"needs {size(each.need)}, {size(free or 0)} are free" for each in runnable}
    return Choice("", f"none of the {len(options)} installed can be used" + _others(small | refused))


def _others(reasons: dict[str, str]) -> str:
    """At most three: the line is to be read."""
    told = [f"{name}: {reason}" for name, reason in list(reasons.items())[:3]]
    if len(reasons) > 3:
        told.append(f"{len(reasons) - 3} more")
    return f" ({'; '.join(told)})" if told else ""
