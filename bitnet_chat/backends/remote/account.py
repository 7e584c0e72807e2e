"""The account of one reply from a server: what arrived, when, and how many tokens it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bitnet_chat.events import Stats
from bitnet_chat.filters.continuation import Seam
from bitnet_chat.filters.thinking import Retelling
from bitnet_chat.text.utf8 import Gathering


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them; None where it did not."""

    prompt: int | None = None
    """Of the whole prompt."""
    cached: int = 0
    """Of those that it remembered from before."""
    completion: int | None = None
    is_estimate: bool = False
    """Whether the server says that it has not counted but estimated."""
    beyond: int = 0
    """Of ``completion``, those that are known to be no text: the token that ended the reply, or a stop text."""


class Account:
    """``sent``: the monotonic second at which the message was given to us."""

    def __init__(self, sent: float) -> None:
        self._sent = sent
        self._first: float | None = None
        self._ended: float | None = None
        self._said, self._thoughts = Gathering(), Gathering()
        self._told = 0
        """Pieces of the text."""
        self._retelling = Retelling("")
        self._seams: tuple[Seam, ...] = ()
        self._before: Stats | None = None
        """Of the answers of which this reply consists, but the last."""
        self._said_before = 0
        """Pieces of the text that are theirs."""
        self._apart = False
        """The next text is another paragraph."""
        self.pieces = 0
        """That arrived: about as many as tokens, where the server does not count."""
        self.usage = Usage()
        self.prompt_estimate: Callable[[], int] = int
        """Tokens of the prompt, for a server that does not count them."""

    @property
    def text(self) -> str:
        """The reply so far."""
        return self._said.text

    @property
    def is_empty(self) -> bool:
        """Nothing of the reply has come."""
        return not self._told

    @property
    def is_fresh(self) -> bool:
        """Nothing has come of the answer that is under way."""
        return self._told == self._said_before

    def go_on(self) -> None:
        """The same reply goes on with another answer of the server."""
        self._before = self.stats(None)
        self._said_before = self._told
        self._apart = True
        self._thoughts, self._ended, self.usage = Gathering(), None, Usage()

    def begin(self, *ends: str) -> None:
        """Another attempt begins. ``ends``: what it may repeat before it says anything new, in this order."""
        self._seams = tuple(Seam(end) for end in ends if end)
        self._retelling = Retelling(self._thoughts.text)
        self.pieces = 0

    def said(self, text: str) -> str:
        """The next of the reply came: what of it is to be told."""
        if self._first is None:
            self._first = time.monotonic()
        for seam in self._seams:
            text = seam.feed(text)
        if self._apart and (text := text.lstrip()):
            said, self._apart = self.text, False
            text = ("\n\n"[min(2, len(said) - len(said.rstrip("\n"))) :] if said else "") + text
        if text:
            self._said.add(text)
            self._told += 1
        return text

    def thought(self, text: str) -> str:
        """The same of what the model thinks; a second attempt has much of it in common with the first."""
        if self._first is None:
            self._first = time.monotonic()
        text = self._retelling.feed(text)
        self._thoughts.add(text)
        return text

    def asked(self) -> None:
        """The next of a call of a tool came."""
        if self._first is None:
            self._first = time.monotonic()

    def over(self) -> None:
        self._ended = time.monotonic()

    def stats(self, context_size: int | None) -> Stats:
        usage = self.usage
        made = self.pieces if usage.completion is None else usage.completion
        tokens = made - usage.beyond
        size = usage.prompt
        if size is None and self._first is not None:
            size = self.prompt_estimate() or None
        stats = Stats(
            prompt_tokens=None if size is None else size - usage.cached,
            tokens=tokens,
            time_to_first_token=None if self._first is None else self._first - self._sent,
            seconds=(self._ended or time.monotonic()) - self._sent,
            context_used=None if size is None else size + made,
            context_size=context_size,
            exact=usage.completion is not None and usage.prompt is not None and not usage.is_estimate,
            prompt_size=size,
        )
        if self._before is None:
            return stats
        return replace(
            stats,
            prompt_tokens=self._before.prompt_tokens,
            prompt_size=self._before.prompt_size,
            tokens=self._before.tokens + stats.tokens,
            exact=self._before.exact and stats.exact,
        )
