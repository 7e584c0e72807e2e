"""The result of a check. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class FindingStatus(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """It works, but slower than possible, or with a risk."""
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """An observation about one subject. ``group`` and ``name`` identify the check; ``seen`` is the observation, one
    sentence; ``remedy`` is what to do, empty if nothing.
    """

    group: str
    name: str
    status: FindingStatus
    seen: str
    remedy: str = ""
    facts: dict[str, object] = field(default_factory=dict)
    """The observation as values, for the JSON output."""

    def as_json(self) -> dict[str, object]:
        """Return the finding as a JSON object."""
        return asdict(self)


def ok(group: str, name: str, seen: str, **facts: object) -> Finding:
    """Return a finding without a fault."""
    return Finding(group, name, FindingStatus.OK, seen, "", facts)


def warn(group: str, name: str, seen: str, remedy: str, **facts: object) -> Finding:
    """Return a warning."""
    return Finding(group, name, FindingStatus.WARN, seen, remedy, facts)


def broken(group: str, name: str, seen: str, remedy: str, **facts: object) -> Finding:
    """Return a failed check."""
    return Finding(group, name, FindingStatus.BROKEN, seen, remedy, facts)


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """Count findings by the value of their status, zeros included."""
    counts = Counter(finding.status for finding in findings)
    return {status.value: counts[status] for status in FindingStatus}
