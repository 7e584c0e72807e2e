"""The context window of one conversation: what no longer fits, and what is sent instead. Pure.

The system prompt is pinned, the newest turns stay, and the oldest are dropped in whole turns. More are dropped than
necessary, so that not every message costs a new prefill, but at least half of the window stays in use. A request
without state from earlier turns is cut at the next of several points at fixed distances in the conversation, which are
the same for each longer form of it, so that the dropped part stays the same for several turns.

Decisions are made here, for every kind of backend; a subclass counts the tokens
(:mod:`bitnet_chat.engine.context_window`, :mod:`bitnet_chat.backends.http.context_window`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bitnet_chat.context.summary import with_summary
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import encoded_conversation
from bitnet_chat.errors import ContextOverflowError

Policy = Literal["drop-oldest", "summarize", "stop"]
"""The policy for a conversation that is longer than the window."""
SMALLEST_WINDOW = 512
"""Tokens that every window has at least."""
NEAR_WINDOWS = 2
"""Windows: messages further back than this are not counted, but estimated by their length."""
_REPLY_SHARE = 8  # an eighth of the window is reserved for the reply
_SUMMARY_LIMIT = 256  # tokens
_LENGTH_ERROR = 0.3  # relative error of an estimate by length
_VOCABULARY_ERROR = 0.2  # relative error of a count with the model's own vocabulary, at most
_MESSAGE_BYTES = 20  # that a chat template adds to a message, about


@dataclass(frozen=True, slots=True)
class PromptCost:
    """Sizes of a prompt in tokens."""

    total: TokenCount
    """The whole prompt as it would be sent now."""
    message: TokenCount
    """Its end, which has to be sent: the message of the user and what follows it."""
    pinned: TokenCount
    """Its beginning, which has to be sent: system prompt and tools."""
    of_turn: Callable[[Message], float]
    """Size of one message between them."""


class ContextWindow:
    """The part of a conversation that is sent: all of it, until it is longer than the window.

    Only the conversation that was cut is affected: any other one, and this one undone to before its first kept turn,
    is sent whole. :meth:`follow` sets the conversation.
    """

    def __init__(self, policy: Policy = "drop-oldest") -> None:
        """Create a window of unknown size. ``policy``: for a conversation that is longer."""
        self.policy: Policy = policy
        self.size: int | None = None
        """Size in tokens, as reported by the engine or server; None while it is unknown."""
        self.configured: int | None = None
        """Size in tokens by a setting, used until it is reported."""
        self.left: tuple[Message, ...] = ()
        """The dropped oldest messages, as they were sent."""
        self.summary = ""
        """The summary in their place."""
        self._note = ""
        self._noted = 0
        self._sent = Conversation(), Conversation()
        self._kept: tuple[Conversation, tuple[Message, ...], str, Conversation] | None = None

    # What is sent

    def count_left(self, history: Conversation) -> int:
        """Count the oldest messages of ``history`` that are dropped."""
        return len(self.left) if self.sent(history).turns[: len(self.left)] == self.left else 0

    def follow(self, history: Conversation) -> None:
        """Set the conversation of the engine. Messages dropped from another one are forgotten: this one might become
        equal to it, in an engine that has all of it."""
        if self.left and not self.count_left(history):
            self.restore(())

    def kept(self, history: Conversation) -> Conversation:
        """The part of ``history`` that is sent, as it is sent; computed once for each history."""
        known = self._kept
        if known is not None and known[0] is history and known[1] is self.left and known[2] == self.summary:
            return known[3]
        left, summary, kept = self.left, self.summary, self.sent(history)
        if kept.turns[: len(left)] == left:
            kept = with_summary(without_oldest(kept, len(left)), summary)
        self._kept = history, left, summary, kept
        return kept

    def sent(self, history: Conversation) -> Conversation:
        """:func:`encoded_conversation`, computed once for each history. May be called from several threads."""
        known = self._sent
        if known[0] is not history:
            known = self._sent = history, encoded_conversation(history)
        return known[1]

    def drop(self, history: Conversation, count: int, tokens: TokenCount, summary: str = "", remark: str = "") -> None:
        """Drop the ``count`` oldest messages, which have ``tokens``. :meth:`take_note` then reports it, and
        ``remark``."""
        turns = self.sent(history).turns
        self.left, self.summary = turns[:count], summary
        self._note, self._noted = left_note(count, len(turns), tokens, summary, remark), count

    def restore(self, left: tuple[Message, ...], summary: str = "") -> None:
        """Undo :meth:`drop`: this history was not the one that was too long."""
        self.left, self.summary, self._note = left, summary, ""

    def take_note(self) -> tuple[str, int]:
        """One line about dropped messages that was not reported yet, or an empty text; and their number."""
        note, self._note = self._note, ""
        return note, self._noted if note else 0

    # What no longer fits

    @property
    def limit(self) -> int | None:
        """Tokens that the window has, as far as they are known."""
        return self.size or self.configured

    def reserve(self, max_tokens: int | None) -> int:
        """Tokens to keep free for a reply of at most ``max_tokens``; 0 in a window of unknown size."""
        size = self.limit
        return min(size // _REPLY_SHARE, max_tokens or size) if size else 0

    @property
    def summary_limit(self) -> int:
        """Tokens of a summary, at most."""
        size = self.limit
        return min(_SUMMARY_LIMIT, size // _REPLY_SHARE) if size else _SUMMARY_LIMIT

    def dropped_for(
        self,
        history: Conversation,
        cost: PromptCost,
        max_tokens: int | None,
        policy: Policy | None = None,
        *,
        is_alone: bool = False,
    ) -> int:
        """Number of the oldest messages of ``history`` that must not be sent with the prompt of ``cost``.

        ``max_tokens``: of the reply. ``policy``: instead of that of the window. ``is_alone``: the request does not
        depend on earlier ones. What is not certain the engine decides: it reports a full window.

        Raises ContextOverflowError for a message that is too long by itself, and for a conversation that is too long
        under the policy "stop".
        """
        policy, size, need = policy or self.policy, self.limit, cost.total
        left, turns = (0, history.turns) if is_alone else (self.count_left(history), self.kept(history).turns)
        if size is None:
            return left
        reserve, is_certain = self.reserve(max_tokens), need.error < _VOCABULARY_ERROR or policy != "stop"
        if (need.count if is_certain else need.at_least) + reserve <= size:
            return left
        if (cost.message + cost.pinned).at_least >= size:
            raise too_long(cost.message, cost.pinned, size)
        if not turns:
            if need.at_least >= size:
                if not self.summary or is_alone:
                    raise too_long(cost.message, cost.pinned, size)
                self.summary = ""
            return left
        if policy == "stop":
            raise outgrown(size, need, reserve)
        return left + self.oldest(turns, cost, reserve, policy, is_alone=is_alone)

    def oldest(
        self, turns: Sequence[Message], cost: PromptCost, reserve: int, policy: Policy, *, is_alone: bool = False
    ) -> int:
        """Number of the oldest of ``turns`` to drop so that ``reserve`` tokens are free, in a window of known size."""
        size = self.limit or SMALLEST_WINDOW
        room = size - reserve - cost.message.at_most - cost.pinned.count
        if policy == "summarize":
            room -= self.summary_limit
        enough = size / 2 - cost.message.count - cost.pinned.count
        return messages_to_drop(turns, cost.of_turn, room, enough, cut_distance(size) if is_alone else 0)

    def dropped_when_full(self, history: Conversation) -> int:
        """Number of the oldest messages to drop after the engine reported a full window, whatever was counted; no more
        than before if none is left. Raises ContextOverflowError under the policy "stop"."""
        left = self.count_left(history)
        turns = self.kept(history).turns
        if turns and self.policy == "stop":
            raise outgrown(self.limit)
        return left + half_to_drop(turns)


def cut_distance(size: int) -> int:
    """Bytes between two points at which a conversation is cut, for a window of ``size`` tokens: about a fifth of it."""
    return size * 3 // 4


def without_oldest(history: Conversation, dropped: int) -> Conversation:
    """The system prompt, and the turns without the ``dropped`` oldest messages."""
    return Conversation(history.messages[: len(history.messages) - len(history.turns)] + history.turns[dropped:])


def messages_to_drop(
    turns: Sequence[Message],
    cost: Callable[[Message], float],
    room: float,
    enough: float = math.inf,
    distance: int = 0,
) -> int:
    """Number of the oldest messages to drop so that the rest costs at most ``room``.

    Whole turns: the rest begins with a user message. As few are dropped as necessary; where the rest costs ``enough``
    even then, as many as leave that much. ``distance``: bytes, about, between the points of the conversation that may
    be cut at; 0 for any point. Looks only at messages that may stay.
    """
    total = 0.0
    starts: list[tuple[int, float]] = []
    for index in reversed(range(len(turns))):
        total += cost(turns[index])
        if total > room:
            break
        if turns[index].role == "user":
            starts.append((index, total))
    if not starts:
        return len(turns)
    more = [start for start, kept in reversed(starts) if kept >= enough]
    if not more or not more[0]:
        return starts[-1][0]
    return more[-1] if not distance else _cut_point(turns, more, distance)


def _cut_point(turns: Sequence[Message], starts: Sequence[int], distance: int) -> int:
    """The first of ``starts`` that is the first turn after a multiple of ``distance``; else the first of all."""
    before = _turn_before(turns, starts[0])
    at = sum(map(_bytes, turns[:before]))
    for start in starts:
        block = at // distance
        at += sum(map(_bytes, turns[before:start]))
        if at // distance != block:
            return start
        before = start
    return starts[0]


def _turn_before(turns: Sequence[Message], start: int) -> int:
    """Index of the first message of the turn that ends at ``start``."""
    return next((index for index in reversed(range(start)) if turns[index].role == "user"), 0)


def _bytes(message: Message) -> int:
    """About 3.5 for each token, in any language, with those that a template adds."""
    return len(message.content.encode("utf-8", "surrogatepass")) + _MESSAGE_BYTES


def half_to_drop(turns: Sequence[Message]) -> int:
    """Number of the oldest messages that hold half of the text; at least one turn."""
    half = sum(len(message.content) for message in turns) // 2
    return max(1, messages_to_drop(turns, lambda each: len(each.content), half)) if turns else 0


def estimate_before(turns: Sequence[Message], start: int, near: float, length: Callable[[Message], int]) -> TokenCount:
    """Tokens of the messages before ``start``, estimated by their ``length`` in characters: those from ``start`` on
    have ``near`` tokens."""
    if not start:
        return TokenCount(0)
    characters = sum(map(length, turns[start:])) or 1
    return TokenCount(max(start, round(sum(map(length, turns[:start])) / characters * near)), _LENGTH_ERROR)


def left_note(count: int, whole: int, tokens: TokenCount, summary: str = "", remark: str = "") -> str:
    """One line: the oldest ``count`` of ``whole`` messages, of ``tokens``, are out of the window."""
    about = f", {about_tokens(tokens)}" if tokens.count else ""
    instead = "a summary replaces them, " if summary else ""
    return (
        f"the context window is full: the oldest {count} of {whole} messages left it{about}"
        f"; {instead}the conversation still has them{remark and '; '}{remark}"
    )


def about_tokens(tokens: TokenCount) -> str:
    """``about 9,400 tokens (±10 %)``, with as many digits as the error leaves."""
    if not tokens.error:
        return f"{tokens.count:,} token{'s' * (tokens.count != 1)}"
    unit = 10 ** max(0, len(str(tokens.count)) - 2)
    return f"about {round(tokens.count / unit) * unit:,} tokens (±{100 * tokens.error:.0f} %)"


def too_long(message: TokenCount, pinned: TokenCount, size: int | None) -> ContextOverflowError:
    """Error for a message that would not fit even after nothing but the system prompt, ``pinned``. ``size``: of the
    window in tokens; None where only the server knows it."""
    beside = f", of which the system prompt takes {about_tokens(pinned)}" if size and pinned.count * 10 > size else ""
    window = f" of {size:,} tokens{beside}" if size else ""
    return ContextOverflowError(
        f"the message is {about_tokens(message)} long and does not fit into the context window{window}; it was not"
        " sent",
        remedy="shorten it, send it in parts, or give a larger --ctx where the model allows it",
        needed=message.count + pinned.count,
        size=size,
    )


def outgrown(size: int | None, need: TokenCount | None = None, reserve: int = 0) -> ContextOverflowError:
    """Error for a conversation that would lose its oldest turns, under the policy "stop". ``need``: tokens of the
    prompt. ``reserve``: tokens for the reply."""
    window = f" of {size:,} tokens" if size else ""
    length = f": with this message it is {about_tokens(need)} long" if need is not None else ""
    beside = f", and {reserve:,} are kept for the reply" if length and reserve else ""
    return ContextOverflowError(
        f"the conversation has outgrown the context window{window}{length}{beside}; nothing was sent or dropped",
        remedy="/clear starts over, --overflow drop-oldest or summarize lets the oldest turns leave the window,"
        " and a larger --ctx makes room where the model allows it",
        needed=None if need is None else need.count,
        reserve=reserve,
        size=size,
        by_policy=True,
    )
