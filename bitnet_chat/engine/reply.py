"""Record of one turn: text, times and numbers of tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bitnet_chat.context.token_count import Counter, TokenCount, by_length
from bitnet_chat.context.tokenizer import TokenLimit
from bitnet_chat.engine.log import LogStatsParser
from bitnet_chat.engine_output import EngineError, TurnEnd
from bitnet_chat.events import PromptProgress, Stats
from bitnet_chat.filters.continuation import KnownReplyRemover, OverlapRemover
from bitnet_chat.filters.thinking import DuplicatePrefixFilter

_TURNING = 2
"""Tokens beyond a limit of which one is text for certain: the other may be the one that ends the reply."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimates for a turn, without figures of the engine. ``before``: tokens in the context when the message is sent,
    None where that is not known. ``asked``: those of the message, with what stands around it. ``count``: of texts."""

    before: TokenCount | None
    asked: Callable[[], TokenCount]
    count: Counter


class ReplyAccumulator:
    """Record of a turn. ``sent``: the monotonic second of the user's message. ``told``: the thoughts of an interrupted
    attempt, which were shown. ``overlap``: see :mod:`bitnet_chat.filters.continuation`. ``allowance``: what there may
    be of the reply, its thoughts included. ``estimate``: for an engine without figures. ``tags``: what the engine
    writes before its thoughts and behind them, which is not shown but counts as tokens. ``known``: removes
    the beginning of a reply that is generated again, which is neither shown nor counted; its ``known_tokens`` are.
    """

    def __init__(
        self,
        meter: LogStatsParser,
        sent: float,
        told: str = "",
        overlap: str = "",
        allowance: TokenLimit | None = None,
        estimate: Estimate | None = None,
        tags: tuple[str, str] = ("", ""),
        known: KnownReplyRemover | None = None,
        known_tokens: int = 0,
    ) -> None:
        self._known, self._known_tokens = known or KnownReplyRemover(""), known_tokens
        self._parts: list[str] = []
        self._beyond: list[tuple[str, bool]] = []
        """Text beyond the allowance, and whether it is thoughts."""
        self._tags = list(tags)
        """Those that were not written yet."""
        self._written_tags: list[str] = []
        self.has_thought = False
        self._told = [told]
        self._retelling = DuplicatePrefixFilter(told)
        self._overlap_remover = OverlapRemover(overlap)
        self._allowance = allowance
        self.error: EngineError | None = None
        self.end: TurnEnd | None = None
        self.sent = sent
        self.first: float | None = None
        """Time of the first character."""
        self._first_text = ""
        self._ended: float | None = None
        self._arrivals = 0
        self._meter = meter
        self._estimate = estimate
        self._is_natural = False

    @property
    def text(self) -> str:
        """The reply so far. Put together when asked for: adding each piece to a long one would copy it each time."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    @property
    def told(self) -> str:
        """All thoughts shown to the user so far."""
        return "".join(self._told)

    def thought(self, text: str) -> str:
        """Add a piece of thoughts; returns the part to show."""
        if self._known.is_within and not (text := self._known.thought(text)):
            return ""
        self._arrived(text)
        if not self.has_thought:
            self.has_thought = True
            self._write_tag()
        return self._thought(self._within(text, thinking=True))

    def _thought(self, text: str) -> str:
        text = self._retelling.feed(text)
        self._told.append(text)
        return text

    @property
    def tokens(self) -> int:
        """Tokens of the reply: as counted by the engine, or else by the vocabulary."""
        if self.is_trimmed and self._allowance is not None:
            return self._allowance.limit
        made = self._meter.tokens
        return max(0, made - self._known_tokens) if made is not None else self._counted.count

    @property
    def is_another(self) -> bool:
        """Whether the engine has not generated the known beginning again."""
        return self._known.differs or (self._known.is_within and self.end is not None)

    @property
    def repeated(self) -> PromptProgress | None:
        """How much of the known beginning was generated again. None: all of it, or it is not generated."""
        return self._known.progress(self._known_tokens) if self._known.is_within else None

    @property
    def _counted(self) -> TokenCount:
        """Tokens of reply and thoughts, estimated without the engine."""
        count = self._estimate.count if self._estimate is not None else by_length
        return sum((count(each) for each in (*self._written_tags, self.told, self.text) if each), TokenCount(0))

    @property
    def at_least(self) -> int:
        """Tokens for limits: never more than were made, so that no reply is cut too early."""
        return self._meter.tokens if self._meter.tokens is not None else self._arrivals

    def exceeds(self, limit: int) -> bool:
        """Whether there is more than ``limit`` tokens of text, as far as that can be told apart: a reply that has just
        as many is whole."""
        if self._allowance is None:
            return self.at_least >= limit
        return self.is_trimmed or self.at_least >= limit + _TURNING

    def said(self, text: str) -> str:
        """Add a piece of the reply, not of thoughts; returns the part to show."""
        if self._known.is_within and not (text := self._known.said(text)):
            return ""
        self._arrived(text)
        if self.has_thought and len(self._tags) == 1:
            self._write_tag()
        text = self._within(self._overlap_remover.feed(text))
        if text:
            self._parts.append(text)
        return text

    def within_after_all(self) -> list[tuple[str, bool]]:
        """What had come beyond the limit, and whether it is thoughts, where the engine says that the whole reply is
        within: it may have written a text in fewer tokens than it would read it in.

        Nothing of a reply that was stopped: how far the engine came until it was interrupted depends on time, and one
        seed has one reply."""
        made = self._meter.tokens
        if not self._is_natural or self._allowance is None or made is None or made - 1 > self._allowance.limit:
            return []
        self._allowance.lift()
        beyond, self._beyond = self._beyond, []
        for text, thinking in beyond:
            if thinking:
                self._thought(text)
            else:
                self._parts.append(text)
        return beyond

    def _write_tag(self) -> None:
        tag = self._tags.pop(0)
        self._written_tags.append(tag)
        if self._allowance is not None:
            self._allowance.take(tag)

    @property
    def is_trimmed(self) -> bool:
        """Whether the reply exceeds its limit."""
        return self._allowance is not None and self._allowance.is_exceeded

    def _within(self, text: str, *, thinking: bool = False) -> str:
        if self._allowance is None:
            return text
        taken = self._allowance.take(text)
        if len(taken) < len(text):
            self._beyond.append((text[len(taken) :], thinking))
        return taken

    def _arrived(self, text: str) -> None:
        self._arrivals += 1
        if self.first is None:
            self.first, self._first_text = time.monotonic(), text

    def over(self, *, natural: bool = False) -> None:
        """Close the turn. ``natural``: the model has ended it."""
        self._ended, self._is_natural = time.monotonic(), natural

    def stats(self) -> Stats:
        meter, tokens = self._meter, self.tokens
        added, size, used = meter.prompt_tokens, meter.prompt_size, meter.context_used
        exact = meter.tokens is not None and size is not None
        if self._estimate is not None and self.first is not None:
            if not added:  # not told; or the engine was started with the message, and has evaluated it before the turn
                asked = self._estimate.asked()
                added, exact = min(asked.count, size or asked.count), exact and not asked.error
            before = self._estimate.before
            if not size and before is not None:
                size = before.count + added
            if used is None and size is not None:
                used = size + tokens + self._is_natural
        if self.is_trimmed and size is not None:
            used = size + tokens  # what is beyond the limit stays out of the conversation
        return Stats(
            prompt_tokens=added,
            tokens=tokens,
            time_to_first_token=None if self.first is None else self.first - self.sent,
            seconds=(self._ended or time.monotonic()) - self.sent,
            context_used=used,
            context_size=meter.context_size,
            exact=exact,
            prompt_size=size,
            first_tokens=self._first_tokens,
        )

    @property
    def _first_tokens(self) -> int:
        if self._estimate is None or not self._first_text:
            return 1
        return max(1, min(self._estimate.count(self._first_text).count, self.tokens))
