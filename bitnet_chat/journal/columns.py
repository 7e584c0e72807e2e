"""Validated access to the columns of a row. Pure.

A journal is untrusted data: SQLite stores a value of any type in any column, and any program may have written the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bitnet_chat.journal.codec import decode_text, is_valid_text

LATEST = 253_402_041_600.0
"""The largest accepted time, in seconds since the epoch: some days before the end of the year 9999, so that it can be
shown in every time zone."""


class Columns:
    """The values of one row by column name. ``damage`` collects a line for each invalid value that was read."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self.damage: list[str] = []

    def text(self, name: str) -> str:
        """Return a text; invalid UTF-8 becomes surrogates, and a value of another type an empty text."""
        value = self._values[name]
        if not is_valid_text(value):
            self.damage.append(f"its {name} is not {'UTF-8' if isinstance(value, bytes | str) else 'text'}")
        return decode_text(value)

    def optional(self, name: str) -> str | None:
        """Return a text, or None for NULL."""
        return None if self._values[name] is None else self.text(name)

    def seconds(self, name: str) -> float:
        """Return a time in seconds since the epoch; 0 for an invalid value."""
        value = self._values[name]
        if isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= LATEST:
            return float(value)
        self.damage.append(f"{name!r} is not a time")
        return 0.0

    def count(self, name: str) -> int:
        """Return a non-negative integer; 0 for an invalid value."""
        value = number(self._values[name])
        if value is None or value < 0:
            self.damage.append(f"its count of {name} is not a number")
            return 0
        return value

    def row(self, name: str) -> int | None:
        """Return a row number; None for NULL and for an invalid value."""
        value = self._values[name]
        if value is not None and number(value) is None:
            self.damage.append(f"{name!r} is not a row number")
        return number(value)

    def rows(self, name: str, most: int) -> tuple[int, ...]:
        """Return a JSON list of different row numbers, at most ``most``; empty for an invalid value."""
        try:
            found = json.loads(self.text(name))
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and len(found) <= most:
            rows = {each for each in found if type(each) is int and 0 < each < 1 << 63}
            if len(rows) == len(found):
                return tuple(found)
        self.damage.append(f"its {name} are not row numbers")
        return ()

    def facts(self, name: str) -> dict[str, Any]:
        """Return a JSON object; empty for an invalid value."""
        text = self.text(name)
        try:
            value = json.loads(text, parse_constant=_reject_constant, parse_float=_parse_finite)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        self.damage.append(f"its {name} are not a JSON object")
        return {}


def number(value: object) -> int | None:
    """Return an integer unchanged, and None for any other value."""
    return value if isinstance(value, int) else None


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _reject_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are not JSON
