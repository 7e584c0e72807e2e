"""Values of the columns of a row, each checked when it is read. Pure.

A journal is untrusted data: SQLite keeps a value of any type in any column, and any program may have written the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bitnet_chat.journal.codec import decode_text, is_whole

LATEST = 253_402_041_600.0
"""Seconds since the epoch. The last time but some days that a calendar of four digits can show."""


class Columns:
    """The values of one row by name. ``damage`` names those that were asked for and cannot be used."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self.damage: list[str] = []

    def text(self, name: str) -> str:
        """The readable part of a text; empty for a value that is not text."""
        value = self._values[name]
        if not is_whole(value):
            self.damage.append(f"its {name} is not {'UTF-8' if isinstance(value, bytes | str) else 'text'}")
        return decode_text(value)

    def optional(self, name: str) -> str | None:
        """A text, or None for NULL."""
        return None if self._values[name] is None else self.text(name)

    def seconds(self, name: str) -> float:
        """A time; 0 for an invalid value."""
        value = self._values[name]
        if isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= LATEST:
            return float(value)
        self.damage.append(f"{name!r} is not a time")
        return 0.0

    def count(self, name: str) -> int:
        """A number that is not negative; 0 for an invalid value."""
        value = number(self._values[name])
        if value is None or value < 0:
            self.damage.append(f"its count of {name} is not a number")
            return 0
        return value

    def row(self, name: str) -> int | None:
        """The number of a row; None for NULL and for an invalid value."""
        value = self._values[name]
        if value is not None and number(value) is None:
            self.damage.append(f"{name!r} is not a row number")
        return number(value)

    def facts(self, name: str) -> dict[str, Any]:
        """A JSON object; empty for an invalid value."""
        text = self.text(name)
        try:
            value = json.loads(text, parse_constant=_refused, parse_float=_finite)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        self.damage.append(f"its {name} are not a JSON object")
        return {}


def number(value: object) -> int | None:
    """A whole number; None for other values."""
    return value if isinstance(value, int) else None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _refused(name: str) -> float:
    raise ValueError(name)  # NaN and infinity, which JSON does not have
