"""The account of one turn: what arrived, when, and how many tokens it was."""

from __future__ import annotations

import time

from bitnet_chat.engine.meter import Meter
from bitnet_chat.events import Stats
from bitnet_chat.prompt.tokenizer import Allowance
from bitnet_chat.stream.framer import TurnEnd
from bitnet_chat.stream.seam import Seam
from bitnet_chat.stream.thinking import Retelling


class Turn:
    """``sent``: the monotonic second at which the user's message was given to us. ``told``: the thoughts of an attempt
    that was broken off, which the user has seen. ``loose_end``: see :mod:`bitnet_chat.stream.seam`. ``allowance``: what
    there may be of the reply, its thoughts included."""

    def __init__(
        self,
        meter: Meter,
        sent: float,
        told: str = "",
        loose_end: str = "",
        allowance: Allowance | None = None,
    ) -> None:
        self._parts: list[str] = []
        self.has_thought = False
        self._told = [told]
        self._retelling = Retelling(told)
        self._seam = Seam(loose_end)
        self._allowance = allowance
        self.error = ""
        self.end: TurnEnd | None = None
        self.sent = sent
        self.first: float | None = None
        """When the first character arrived."""
        self._ended: float | None = None
        self._arrivals = 0
        self._meter = meter

    @property
    def text(self) -> str:
        """The reply so far. Put together when asked for: adding each piece to a long one would copy it each time."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    @property
    def told(self) -> str:
        """All thoughts that the user has seen by now."""
        return "".join(self._told)

    def thought(self, text: str) -> str:
        """The next of what the model thinks came: what of it is to be told."""
        self._arrived()
        self.has_thought = True
        text = self._retelling.feed(self._within(text))
        self._told.append(text)
        return text

    @property
    def tokens(self) -> int:
        """As the engine counts; where it does not tell, by what arrived: several tokens may come in one piece, and
        one of them makes about four characters."""
        if self._allowance is not None and self._allowance.is_exceeded:
            return self._allowance.limit
        if self._meter.tokens is not None:
            return self._meter.tokens
        return max(self._arrivals, len(self.text) // 4)

    @property
    def at_least(self) -> int:
        """For limits: never more than there were, so that no reply is cut before its time."""
        return self._meter.tokens if self._meter.tokens is not None else self._arrivals

    def said(self, text: str) -> str:
        """The next of the reply came, no thoughts: what of it is to be told."""
        self._arrived()
        text = self._within(self._seam.feed(text))
        if text:
            self._parts.append(text)
        return text

    @property
    def is_trimmed(self) -> bool:
        """Whether more came than there may be of the reply."""
        return self._allowance is not None and self._allowance.is_exceeded

    def _within(self, text: str) -> str:
        return text if self._allowance is None else self._allowance.take(text)

    def _arrived(self) -> None:
        self._arrivals += 1
        if self.first is None:
            self.first = time.monotonic()

    def over(self) -> None:
        self._ended = time.monotonic()

    def stats(self) -> Stats:
        meter = self._meter
        return Stats(
            prompt_tokens=meter.prompt_tokens,
            tokens=self.tokens,
            time_to_first_token=None if self.first is None else self.first - self.sent,
            seconds=(self._ended or time.monotonic()) - self.sent,
            context_used=meter.context_used,
            context_size=meter.context_size,
            exact=meter.tokens is not None,
            prompt_size=meter.prompt_size,
        )
