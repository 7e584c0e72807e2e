"""Running figures of one REPL session. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitnet_chat.events import Stats


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the replies of this session. Times in seconds."""

    replies: int = 0
    tokens: int = 0
    generated: int = 0
    """Tokens that ``generating`` is the time of: all but the first ones of each reply whose rate is known."""
    generating: float = 0.0
    first_tokens: int = 0
    """Replies whose time to first token is known, and ``waited`` is the sum of."""
    waited: float = 0.0
    exact: bool = True
    last: Stats | None = None

    def plus(self, stats: Stats) -> Tally:
        rate, first = stats.tokens_per_second, stats.time_to_first_token
        tally = replace(
            self,
            replies=self.replies + 1,
            tokens=self.tokens + stats.tokens,
            exact=self.exact and stats.exact,
            last=stats,
        )
        if rate is not None:
            counted = stats.tokens - stats.first_tokens or stats.tokens  # all came in one burst
            tally = replace(
                tally,
                generated=self.generated + counted,
                generating=self.generating + counted / rate,
            )
        if first is not None:
            tally = replace(tally, first_tokens=self.first_tokens + 1, waited=self.waited + first)
        return tally

    @property
    def tokens_per_second(self) -> float | None:
        """Over all replies whose rate is known."""
        return self.generated / self.generating if self.generating > 0 else None

    @property
    def time_to_first_token(self) -> float | None:
        """Mean over all replies for which it is known."""
        return self.waited / self.first_tokens if self.first_tokens else None
