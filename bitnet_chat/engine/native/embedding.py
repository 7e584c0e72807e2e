"""One vector for a text from those of its tokens. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of length 1. A library that pools the tokens itself, as a model of embeddings asks for, gives a single row."""
    sums = [math.fsum(column) for column in zip(*rows, strict=True)]
    length = math.sqrt(math.fsum(value * value for value in sums)) or 1.0
    return tuple(value / length for value in sums)
