"""Which engine runs a model, of those at hand. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_chat.engine.binary import Dialect, EngineBinary

_CLEARLY = 1.05
"""An engine that is faster by less stays behind one that was found before it."""
_PROMPT = 200
_REPLY = 100
"""Tokens of the exchange for which engines are compared."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second."""

    prefill: float
    decode: float

    @property
    def seconds(self) -> float:
        """For a usual exchange."""
        return _PROMPT / self.prefill + _REPLY / self.decode


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine and what is known of it and one model."""

    engine: EngineBinary
    source: str
    """Where it was found."""
    obstacle: str = ""
    """Why it cannot run the model."""
    converts: bool = False
    """It runs the model after a conversion."""
    speed: Speed | None = None
    """With weights of this type, measured on this computer."""

    @property
    def name(self) -> str:
        name = self.engine.path.name
        return name.rpartition("-")[0] or name if self.engine.dialect is Dialect.NATIVE else name


@dataclass(frozen=True, slots=True)
class Choice:
    contender: Contender
    reason: str = ""
    """One line; empty where it is the first that was found."""


def choose(contenders: Sequence[Contender]) -> Choice | None:
    """``contenders``: in the order in which they were found. The first that can run the model, or one that was measured
    to be faster than it; None where none can."""
    able = [each for each in contenders if not each.obstacle]
    if not able:
        return None
    first = taken = able[0]
    for other in able[1:]:
        if other.speed and taken.speed and other.speed.seconds * _CLEARLY < taken.speed.seconds:
            taken = other
    if taken is not first:
        assert taken.speed and first.speed
        factor = first.speed.seconds / taken.speed.seconds
        return Choice(taken, f"{taken.name} answers: with this model it is {factor:.1f} times as fast as {first.name}")
    if taken is not contenders[0]:
        return Choice(taken, f"{taken.name} answers: {contenders[0].name} cannot run this model"
                             f" ({contenders[0].obstacle})")  # fmt: skip
    return Choice(taken)
