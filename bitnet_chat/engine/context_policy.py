"""Decide whether the next turn fits into the context window, and how many messages leave it otherwise. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_chat.context import window as summaries
from bitnet_chat.context.token_count import Counter, TokenCount, by_length
from bitnet_chat.context.window import (
    ContextWindow,
    Policy,
    half_to_drop,
    messages_to_drop,
    outgrown,
    places_apart,
    too_long,
    without_oldest,
)
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.protocols import EngineProtocol

__all__ = ["ContextPolicy", "Policy", "outgrown", "too_long"]

_FOR_A_REPLY = 8  # an eighth of the window is kept for it
_SUMMARY_LIMIT = 256  # tokens
_SMALLEST = 512  # tokens of a window of unknown size
_AROUND = 6.0  # tokens that a template puts around a message
_FAR = 2  # windows: what lies further back is not counted, but guessed by its length
_GUESS = 0.3  # relative error of that
_COUNTED = 1_000_000  # characters that leave; more are estimated


@dataclass(frozen=True, slots=True)
class _HistoryCost:
    """Size of a history in tokens. ``tokens``: all of it, with its system prompt. ``scale``: what a message costs, by
    what its text alone does."""

    tokens: TokenCount
    scale: float


class ContextPolicy:
    """Overflow decisions. ``policy``: for a conversation that is longer than the window."""

    def __init__(self, policy: Policy, count: Counter) -> None:
        self.policy = policy
        self.count = count
        self.window = ContextWindow()
        self.size: int | None = None
        """Set the size of the context window in tokens, as reported by an engine."""

    def reserve(self, size: int, most: int | None) -> int:
        """Tokens to keep free for a reply of at most ``most`` tokens."""
        return min(size // _FOR_A_REPLY, most or size)

    def summary_limit(self, size: int) -> int:
        return min(_SUMMARY_LIMIT, size // _FOR_A_REPLY)

    def to_drop(
        self,
        protocol: EngineProtocol,
        history: Conversation,
        used: TokenCount | None,
        text: str,
        most: int | None,
        alone: Policy | None = None,
    ) -> int:
        """Number of the oldest messages of ``history`` that have to leave the window before ``text`` is sent.

        ``used``: tokens in the context of the child that has ``history``; None without such a child. ``most``: tokens
        of the reply. ``alone``: the policy of an independent request. May take time for a long history.

        Raises ContextOverflowError for a message that is too long by itself, and for a conversation that is too long
        where the policy is to stop.
        """
        policy = alone or self.policy
        left = self.window.count_left(history) if alone is None else 0
        size = self.size or protocol.context_size
        if not size:
            return left
        kept = self.window.kept(history) if alone is None else history
        message = protocol.cost_of_message(text, self.count) if text else TokenCount(0)
        told = self._told(protocol, kept, used, size)
        need = told.tokens + message
        reserve = self.reserve(size, most)
        if need.count + reserve <= size:
            return left
        pinned = protocol.cost_of_history(Conversation().with_system(history.system), self.count)
        if (pinned + message).at_least >= size:
            raise too_long(message, pinned, size)
        if not kept.turns:
            if need.at_least >= size:
                if not self.window.summary or alone:
                    raise too_long(message, pinned, size)
                self.window.summary = ""
            return left
        if policy == "stop":
            raise outgrown(size, need, reserve)
        room = size - reserve - message.at_most - pinned.count
        if policy == "summarize":
            room -= self.summary_limit(size)
        enough = size / 2 - message.count - pinned.count

        def cost(each: Message) -> float:
            return (self.count(each.content).count + _AROUND) * told.scale

        return left + messages_to_drop(kept.turns, cost, room, enough, places_apart(size) if alone else 0)

    def _told(self, protocol: EngineProtocol, kept: Conversation, used: TokenCount | None, size: int) -> _HistoryCost:
        """The part of a history that might stay, so that a history that is many times too long is not counted whole."""
        turns, near, start = kept.turns, 0.0, len(kept.turns)
        while start and near <= _FAR * size:
            start -= 1
            near += self.count(turns[start].content).count + _AROUND
        newest = without_oldest(kept, start)
        if start and (first := next((i for i in range(start, len(turns)) if turns[i].role == "user"), None)):
            newest, start = without_oldest(kept, first), first
            near = sum(self.count(each.content).count + _AROUND for each in turns[start:])
        tokens = used if used is not None and not start else protocol.cost_of_history(newest, self.count)
        system = protocol.cost_of_history(Conversation().with_system(kept.system), self.count)
        scale = max(0, tokens.count - system.count) / near if near else 1.0
        if start:
            length = sum(len(each.content) for each in newest.turns) or 1
            more = sum(len(each.content) for each in turns[:start]) / length * (tokens.count - system.count)
            tokens += TokenCount(max(start, round(more)), _GUESS)
        return _HistoryCost(tokens, scale)

    def fits_alone(self, protocol: EngineProtocol, history: Conversation, text: str) -> bool:
        """Whether no message before ``text`` could leave the window, and ``text`` certainly takes less than half of
        it."""
        kept = self.window.kept(history)
        size = self.size or protocol.context_size
        need = protocol.cost_of_history(kept, self.count) + protocol.cost_of_message(text, self.count)
        return not kept.turns and need.at_most * 2 < size

    def more_to_drop(self, history: Conversation) -> int:
        """Like :meth:`to_drop`, after the engine reported a full context window, regardless of the estimate. Raises
        ContextOverflowError where the policy is to stop and there is something that could leave."""
        left = self.window.count_left(history)
        turns = history.turns[left:]
        if turns and self.policy == "stop":
            raise outgrown(self.size)
        return left + half_to_drop(turns)

    def to_summarise(
        self, turns: Sequence[Message], earlier: str, protocol: EngineProtocol
    ) -> tuple[Sequence[Message], int]:
        """The newest of ``turns`` that fit into one window with the request for a summary, and the summary's limit in
        tokens."""
        size = self.size or protocol.context_size or _SMALLEST
        limit = self.summary_limit(size)
        asked = protocol.cost_of_message(summaries.request((), earlier, limit), self.count)
        room = size - limit - asked.at_most
        for start in range(len(turns)):
            if sum(self.count(each.content).at_most + _AROUND for each in turns[start:]) <= room:
                return turns[start:], limit
        return (), limit

    def cost_of_oldest(self, protocol: EngineProtocol, history: Conversation, count: int) -> TokenCount:
        """Tokens of the ``count`` oldest messages, with what the template puts around them."""
        leaving = history.turns[:count]
        around = protocol.cost_of_message("", self.count) + TokenCount(
            1
        )  # of a message and its reply, which has an end
        around = TokenCount(around.count * sum(each.role == "user" for each in leaving), around.error)
        if sum(len(each.content) for each in leaving) > _COUNTED:
            return by_length("".join(each.content for each in leaving)) + around
        return sum((self.count(each.content) for each in leaving), around)
