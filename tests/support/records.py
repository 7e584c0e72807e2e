"""Checks of immutable records."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest


def check_immutable(record: Any) -> None:
    """Check that no field of a dataclass instance can be set and that it has no further attributes."""
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field.name, getattr(record, field.name))
    assert not hasattr(record, "__dict__")
