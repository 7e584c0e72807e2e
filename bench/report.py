"""Figures of several runs, and how they are printed: a median with the least and the most beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured several times. The median is quoted: one slow or one lucky run must not move it."""

    name: str
    unit: str
    samples: tuple[float, ...]

    @classmethod
    def of(cls, name: str, unit: str, samples: Iterable[float]) -> Figure:
        return cls(name, unit, tuple(samples))

    @property
    def median(self) -> float:
        return statistics.median(self.samples) if self.samples else math.nan

    def __str__(self) -> str:
        if not self.samples:
            return f"{self.name:<58} not measured"
        spread = f"{number(min(self.samples))} – {number(max(self.samples))}"
        return f"{self.name:<58} {number(self.median):>10} {self.unit:<9} {spread}"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that has to reach a limit. ``at_least``: more is better."""

    what: str
    value: float
    unit: str
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        verdict = "met    " if self.met else "not met"
        bound = "at least" if self.at_least else "at most"
        return f"{verdict}  {self.what}: {number(self.value)} {self.unit} (goal: {bound} {number(self.limit)})"


@dataclass(slots=True)
class Section:
    """One table: its title, lines that say how it was measured, figures and goals."""

    title: str
    notes: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.title, "-" * len(self.title), *self.notes, *map(str, self.figures)]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "notes": self.notes,
            "figures": [
                {"name": each.name, "unit": each.unit, "median": each.median, "samples": list(each.samples)}
                for each in self.figures
            ],
            "goals": [
                {
                    "what": each.what,
                    "value": each.value,
                    "unit": each.unit,
                    "limit": each.limit,
                    "at_least": each.at_least,
                    "met": each.met,
                }
                for each in self.goals
            ],
        }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Pair by pair, in percent: neighbours in time share the machine's mood."""
    return [100 * a / b for a, b in zip(ours, theirs, strict=True)]


def number(value: float) -> str:
    """Three or four digits that matter, thousands with a comma."""
    if not math.isfinite(value):
        return "?"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
