"""Statistics of one REPL session. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.events import Stats
from bitnet_chat.repl.status_bar import SEPARATOR, rate, tokens


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Sums over the replies of this session. Times in seconds."""

    replies: int = 0
    tokens: int = 0
    generated: int = 0
    """Tokens that were generated in ``generating`` seconds: all but the first ones of each reply with a known rate."""
    generating: float = 0.0
    first_tokens: int = 0
    """Number of replies with a known time to first token; ``waited`` is its sum."""
    waited: float = 0.0
    exact: bool = True
    last: Stats | None = None

    def plus(self, stats: Stats) -> SessionStats:
        rate, first = stats.tokens_per_second, stats.time_to_first_token
        session_stats = replace(
            self,
            replies=self.replies + 1,
            tokens=self.tokens + stats.tokens,
            exact=self.exact and stats.exact,
            last=stats,
        )
        if rate is not None:
            counted = stats.tokens - stats.first_tokens or stats.tokens  # all came in one burst
            session_stats = replace(
                session_stats,
                generated=self.generated + counted,
                generating=self.generating + counted / rate,
            )
        if first is not None:
            session_stats = replace(session_stats, first_tokens=self.first_tokens + 1, waited=self.waited + first)
        return session_stats

    @property
    def tokens_per_second(self) -> float | None:
        """Rate over all replies with a known rate."""
        return self.generated / self.generating if self.generating > 0 else None

    @property
    def time_to_first_token(self) -> float | None:
        """Mean over all replies with a known time."""
        return self.waited / self.first_tokens if self.first_tokens else None


# The figures of a reply while it is made: about how many tokens, and how fast. Pure; the caller brings the time.

MEASURABLE = 1.0
"""Seconds after the first text before which a rate would be unstable."""


class LiveRate:
    """``feed`` text, ``read`` the figures. Each text is counted once, with the vocabulary of the model if available, in
    the parts in which it is read: hence an estimate, which the figures after the reply replace.
    """

    def __init__(self, count: Callable[[str], TokenCount | None]) -> None:
        self._count = count
        self._new: list[str] = []
        self._tokens = 0
        self._first = 0
        """Tokens of the first text, whose generation time is unknown."""
        self._since: float | None = None

    def feed(self, text: str, now: float) -> None:
        self._new.append(text)
        if self._since is None:
            self._since = now
            self._take()
            self._first = self._tokens

    def read(self, now: float) -> str:
        """``~42 tokens · 18.3 tok/s``; empty before the first text."""
        if self._since is None:
            return ""
        self._take()
        time = now - self._since
        parts = [tokens(self._tokens, exact=False)]
        if time >= MEASURABLE and self._tokens > self._first:
            parts.append(rate((self._tokens - self._first) / time))
        return SEPARATOR.join(parts)

    def _take(self) -> None:
        if self._new:
            counted = self._count("".join(self._new))
            self._tokens += counted.count if counted is not None else len(self._new)
            self._new.clear()
