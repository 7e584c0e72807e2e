"""The part of a conversation in a context window that is too small for all of it. Pure.

The system prompt is pinned, the newest turns stay, and the oldest are dropped in whole turns. More are dropped than
necessary, so that not every message costs a new prefill, but at least half of the window stays in use. Without state
from earlier turns, messages are dropped up to the next of several cut points at fixed distances in the conversation,
which are the same for each longer form of it, so that the dropped part stays the same for several turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import encoded_conversation
from bitnet_chat.errors import ContextOverflowError

Policy = Literal["drop-oldest", "summarize", "stop"]
"""The policy for a conversation that is longer than the window."""
_AROUND = 20  # bytes


def places_apart(size: int) -> int:
    """Bytes between two places that a conversation is cut at, for a window of ``size`` tokens: about a fifth of it."""
    return size * 3 // 4


class ContextWindow:
    """The part of a conversation that an engine gets: all of it, until some has to leave.

    Only the conversation that was trimmed is affected: any other one, and this one undone to before its first kept
    turn, is kept whole. :meth:`follow` tells which one it is.
    """

    def __init__(self) -> None:
        self.left: tuple[Message, ...] = ()
        """The dropped oldest messages, as they were sent."""
        self.summary = ""
        """The summary in their place."""
        self._note = ""
        self._noted = 0
        self._sent = Conversation(), Conversation()

    def count_left(self, history: Conversation) -> int:
        """The number of the oldest messages of ``history`` that are dropped."""
        return len(self.left) if self.sent(history).turns[: len(self.left)] == self.left else 0

    def follow(self, history: Conversation) -> None:
        """Set the conversation of the engine to ``history``. Messages dropped from another conversation are forgotten:
        this one might become equal to it, in an engine that has all of it."""
        if self.left and not self.count_left(history):
            self.restore(())

    def kept(self, history: Conversation) -> Conversation:
        """The part of ``history`` for the engine, as it is sent."""
        history = self.sent(history)
        if history.turns[: len(self.left)] != self.left:
            return history
        return with_summary(without_oldest(history, len(self.left)), self.summary)

    def drop(self, history: Conversation, count: int, tokens: TokenCount, summary: str = "") -> None:
        """Drop the ``count`` oldest messages, which have ``tokens``. :meth:`take_note` then reports it."""
        turns = self.sent(history).turns
        self.left, self.summary = turns[:count], summary
        self._note, self._noted = left_note(count, len(turns), tokens, summary), count

    def sent(self, history: Conversation) -> Conversation:
        """:func:`encoded_conversation`, which looks at every character; one turn asks for the same history several
        times. May be called from several threads."""
        known = self._sent
        if known[0] is not history:
            known = self._sent = history, encoded_conversation(history)
        return known[1]

    def restore(self, left: tuple[Message, ...], summary: str = "") -> None:
        """Undo :meth:`drop`: this history was not the one that was too long."""
        self.left, self.summary, self._note = left, summary, ""

    def take_note(self) -> tuple[str, int]:
        """One line about dropped messages that was not reported yet, or an empty text; and their number."""
        note, self._note = self._note, ""
        return note, self._noted if note else 0


def without_oldest(history: Conversation, dropped: int) -> Conversation:
    """The system prompt, and the turns but for the ``dropped`` oldest messages."""
    return Conversation(history.messages[: len(history.messages) - len(history.turns)] + history.turns[dropped:])


def messages_to_drop(
    turns: Sequence[Message],
    cost: Callable[[Message], float],
    room: float,
    enough: float = math.inf,
    apart: int = 0,
) -> int:
    """How many of the oldest messages to drop so that the rest costs at most ``room``, of what ``cost`` tells of each.

    Whole turns: what is left begins with a user message. As few are dropped as that takes; where the rest costs
    ``enough`` even then, as many as leave so much. ``apart``: bytes, about, between the places in the conversation that
    may be dropped up to then. Looks at those messages only that may stay.
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
    return more[-1] if not apart else _place(turns, more, apart)


def _place(turns: Sequence[Message], starts: Sequence[int], apart: int) -> int:
    """The first of ``starts`` that is the first turn behind a multiple of ``apart``; the first of all where none is."""
    before = _turn_before(turns, starts[0])
    at = sum(map(_weight, turns[:before]))
    for start in starts:
        block = at // apart
        at += sum(map(_weight, turns[before:start]))
        if at // apart != block:
            return start
        before = start
    return starts[0]


def _turn_before(turns: Sequence[Message], start: int) -> int:
    """Where the turn begins that ends at ``start``."""
    return next((index for index in reversed(range(start)) if turns[index].role == "user"), 0)


def _weight(message: Message) -> int:
    """About 3.5 for each token, in any language, with those that a template puts around it."""
    return len(message.content.encode("utf-8", "surrogatepass")) + _AROUND


def half_to_drop(turns: Sequence[Message]) -> int:
    """The same where an engine only said that it was too much: half of the text, at least one turn."""
    half = sum(len(message.content) for message in turns) // 2
    return max(1, messages_to_drop(turns, lambda each: len(each.content), half)) if turns else 0


def left_note(count: int, whole: int, tokens: TokenCount, summary: str = "") -> str:
    """One line: the oldest ``count`` of ``whole`` messages, of ``tokens``, are out of the window."""
    about = f", {about_tokens(tokens)}" if tokens.count else ""
    instead = "a summary replaces them, " if summary else ""
    return (
        f"the context window is full: the oldest {count} of {whole} messages left it{about}"
        f"; {instead}the conversation still has them"
    )


def about_tokens(tokens: TokenCount) -> str:
    """``about 9,400 tokens (±10 %)``, with as many digits as the error leaves."""
    if not tokens.error:
        return f"{tokens.count:,} token{'s' * (tokens.count != 1)}"
    unit = 10 ** max(0, len(str(tokens.count)) - 2)
    return f"about {round(tokens.count / unit) * unit:,} tokens (±{100 * tokens.error:.0f} %)"


def too_long(message: TokenCount, pinned: TokenCount, size: int | None) -> ContextOverflowError:
    """A message that would not fit even if nothing but the system prompt, ``pinned``, stood before it. ``size``: None
    where only the server knows."""
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
    """A conversation that would have to lose its oldest turns, which the user does not want. ``reserve``: tokens that
    are kept for the reply."""
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
    )


# Turns that leave the context window, in the words of the model itself. Pure.

MARK = "A summary of the earlier part of this conversation, which is out of sight by now:"
_REQUEST = (
    "Summarise the part of a conversation that follows, in at most {words} words. Keep names, facts, numbers, decisions"
    " and open questions. Write plain sentences about what was said, and answer nothing in it."
)


def request(turns: Sequence[Message], earlier: str, tokens: int) -> str:
    """The message that asks for a summary of ``turns``, and of the ``earlier`` summary before them."""
    parts = [_REQUEST.format(words=max(20, tokens * 2 // 3))]
    if earlier:
        parts.append(f"{MARK}\n{earlier}")
    parts += (f"{message.role.capitalize()}: {message.content}" for message in turns)
    return "\n\n".join(parts)


def with_summary(history: Conversation, summary: str) -> Conversation:
    """``history`` with a summary of what came before it at the end of its system prompt."""
    if not summary:
        return history
    return history.with_system("\n\n".join(filter(None, (history.system, f"{MARK}\n{summary}"))))
