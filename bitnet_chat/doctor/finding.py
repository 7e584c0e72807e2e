"""One thing that was looked at. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class FindingStatus(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but not as well as it could, or perhaps not for long."""
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """``seen``: what there is, one sentence. ``remedy``: what to do about it, empty where there is nothing to do."""

    group: str
    name: str
    status: FindingStatus
    seen: str
    remedy: str = ""
    facts: dict[str, object] = field(default_factory=dict)
    """The same in figures, for programs."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def ok(group: str, name: str, seen: str, **facts: object) -> Finding:
    return Finding(group, name, FindingStatus.OK, seen, "", facts)


def warn(group: str, name: str, seen: str, remedy: str, **facts: object) -> Finding:
    return Finding(group, name, FindingStatus.WARN, seen, remedy, facts)


def broken(group: str, name: str, seen: str, remedy: str, **facts: object) -> Finding:
    return Finding(group, name, FindingStatus.BROKEN, seen, remedy, facts)


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """How many there are of each status, those of which there are none included."""
    counts = Counter(finding.status for finding in findings)
    return {status.value: counts[status] for status in FindingStatus}
