"""Numbers of tokens, with their error. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenCount:
    """``count`` tokens, give or take ``count * error``."""

    count: int
    error: float = 0.0
    """Relative; 0 for an exact count of the tokenizer."""

    @property
    def at_least(self) -> int:
        return int(self.count * (1 - self.error))

    @property
    def at_most(self) -> int:
        return int(self.count * (1 + self.error)) + (1 if self.error else 0)

    def __add__(self, other: TokenCount) -> TokenCount:
        count = self.count + other.count
        return TokenCount(count, (self.count * self.error + other.count * other.error) / count if count else 0.0)

    def __str__(self) -> str:
        """``1200 tokens``, ``~1200 tokens (±15 %)``."""
        noun = "token" if self.count == 1 else "tokens"
        return f"~{self.count} {noun} (±{100 * self.error:.0f} %)" if self.error else f"{self.count} {noun}"


Counter = Callable[[str], TokenCount]
"""Counts the tokens of a text that holds no special tokens."""


class CachedCounter:
    """A counter that counts each text once. What a text costs depends on nothing but the text."""

    LIMIT = 4096
    CHARACTER_LIMIT = 4_000_000

    def __init__(self, count: Counter) -> None:
        self._count = count
        self._known: dict[str, TokenCount] = {}
        self._characters = 0

    def __call__(self, text: str) -> TokenCount:
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= self.LIMIT or self._characters > self.CHARACTER_LIMIT:
                self._known.clear()
                self._characters = 0
            known = self._known[text] = self._count(text)
            self._characters += len(text)
        return known


def by_length(text: str) -> TokenCount:
    """Estimate the tokens of a text in an unknown vocabulary. A token of English has 4 to 5 bytes, of code 3,
    of Chinese 3 to 4."""
    return TokenCount(math.ceil(len(text.encode("utf-8", "replace")) / 3.5), 0.5)
