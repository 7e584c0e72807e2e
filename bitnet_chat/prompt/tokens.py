"""How many tokens a text is. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenCount:
    """``count`` tokens, give or take ``count * error``."""

    count: int
    error: float = 0.0
    """Relative; 0 when the tokenizer itself has counted."""

    @property
    def at_least(self) -> int:
        return int(self.count * (1 - self.error))

    @property
    def at_most(self) -> int:
        return int(self.count * (1 + self.error)) + (1 if self.error else 0)

    def __str__(self) -> str:
        """``1200 tokens``, ``~1200 tokens (±15 %)``."""
        noun = "token" if self.count == 1 else "tokens"
        return f"~{self.count} {noun} (±{100 * self.error:.0f} %)" if self.error else f"{self.count} {noun}"
