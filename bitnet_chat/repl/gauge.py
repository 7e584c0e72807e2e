"""The figures of a reply while it is made: about how many tokens, and how fast. Pure; the caller brings the time."""

from __future__ import annotations

from collections.abc import Callable

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.repl.toolbar import SEPARATOR, rate, tokens

MEASURABLE = 1.0
"""Seconds from the first text on before which a rate would jump about."""


class Gauge:
    """``feed`` what comes, ``read`` the figures. Each text is counted once, with the model's vocabulary where it is at
    hand, in the parts in which it is read: hence an estimate, which the figures after the reply replace."""

    def __init__(self, count: Callable[[str], TokenCount | None]) -> None:
        self._count = count
        self._new: list[str] = []
        self._tokens = 0
        self._first = 0
        """Tokens of the first text, which took no time that was measured."""
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
