"""Statistics of a session, and of a reply while it is generated. Pure: the caller provides the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.events import Stats
from bitnet_chat.repl.status_bar import SEPARATOR, rate, tokens


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Sums over the replies of a session. Times are in seconds."""

    replies: int = 0
    tokens: int = 0
    generated: int = 0
    """Number of tokens generated in ``generating`` seconds: those after the first burst of each reply whose rate is
    known.
    """
    generating: float = 0.0
    first_tokens: int = 0
    """Number of replies with a known time to first token; ``waited`` is the sum of these times."""
    waited: float = 0.0
    exact: bool = True
    """Whether all token counts are exact."""
    last: Stats | None = None

    def plus(self, stats: Stats) -> SessionStats:
        """Return the sums with another reply."""
        rate, first = stats.tokens_per_second, stats.time_to_first_token
        session_stats = replace(
            self,
            replies=self.replies + 1,
            tokens=self.tokens + stats.tokens,
            exact=self.exact and stats.exact,
            last=stats,
        )
        if rate is not None:
            counted = stats.tokens - stats.first_tokens or stats.tokens  # 0 if all tokens came in one burst
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
        """The rate over all replies with a known rate; None if there are none."""
        return self.generated / self.generating if self.generating > 0 else None

    @property
    def time_to_first_token(self) -> float | None:
        """The mean in seconds over all replies with a known time; None if there are none."""
        return self.waited / self.first_tokens if self.first_tokens else None


MEASURABLE = 1.0
"""Seconds after the first text from which a rate is shown; before, it would be unstable."""


class LiveRate:
    """Estimates the number of tokens of a reply and their rate while it is generated. Text is counted in the parts that
    arrive between two calls of :meth:`read`, so the count differs from that of the whole reply.
    """

    def __init__(self, count: Callable[[str], TokenCount | None]) -> None:
        """Create an estimate. ``count``: counts with the vocabulary of the model; it returns None if that is unknown,
        and each piece of text counts as one token.
        """
        self._count = count
        self._new: list[str] = []
        self._tokens = 0
        self._first = 0
        """Number of tokens of the first text, whose generation time is unknown."""
        self._since: float | None = None

    def feed(self, text: str, now: float) -> None:
        """Add text received at ``now`` (seconds of a monotonic clock)."""
        self._new.append(text)
        if self._since is None:
            self._since = now
            self._take()
            self._first = self._tokens

    def read(self, now: float) -> str:
        """Return a text such as ``~42 tokens · 18.3 tok/s``; empty before the first text."""
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
