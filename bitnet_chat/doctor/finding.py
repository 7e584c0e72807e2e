"""The result of one check. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class FindingStatus(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but not optimally, or with a risk."""
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """``seen``: the observation, one sentence. ``remedy``: what to do about it, or empty."""

    group: str
    name: str
    status: FindingStatus
    seen: str
    remedy: str = ""
    facts: dict[str, object] = field(default_factory=dict)
    """The same as values, for programs."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def ok(group: str, name: str, seen: str, **facts: object) -> Finding:
    return Finding(group, name, FindingStatus.OK, seen, "", facts)


def warn(group: str, name: str, seen: str, remedy: str, **facts: object) -> Finding:
    return Finding(group, name, FindingStatus.WARN, seen, remedy, facts)


def broken(group: str, name: str, seen: str, remedy: str, **facts: object) -> Finding:
    return Finding(group, name, FindingStatus.BROKEN, seen, remedy, facts)


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """Number of findings by status, zeros included."""
    counts = Counter(finding.status for finding in findings)
    return {status.value: counts[status] for status in FindingStatus}
