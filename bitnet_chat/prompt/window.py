"""What of a conversation stands in a context window that is too small for all of it. Pure.

The system prompt is pinned, the newest turns stay, and what leaves leaves in whole turns. So that not every message
costs a replay, more leaves than has to: about half of the window is free afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.prompt import summary as summaries
from bitnet_chat.prompt.tokens import TokenCount
from bitnet_chat.prompt.verbatim import as_sent


class Window:
    """The part of a conversation that an engine gets: all of it, until some has to leave.

    Only the conversation that was trimmed is affected: any other one, and this one undone to before its first kept
    turn, is kept whole. :meth:`follow` tells which one it is.
    """

    def __init__(self) -> None:
        self.left: tuple[Message, ...] = ()
        """The oldest messages, as they were sent, which are in the window no longer."""
        self.summary = ""
        """What stands in their place."""
        self._note = ""
        self._sent = Conversation(), Conversation()

    def count_left(self, history: Conversation) -> int:
        """How many of the oldest messages of ``history`` are out of the window."""
        return len(self.left) if self.sent(history).turns[: len(self.left)] == self.left else 0

    def follow(self, history: Conversation) -> None:
        """The engine is to be in step with ``history`` now. What left the window of another conversation is forgotten:
        this one might grow to be its equal, in an engine that has all of it."""
        if self.left and not self.count_left(history):
            self.restore(())

    def kept(self, history: Conversation) -> Conversation:
        """What an engine is given of ``history``, as it is sent."""
        history = self.sent(history)
        if history.turns[: len(self.left)] != self.left:
            return history
        return summaries.with_summary(without_oldest(history, len(self.left)), self.summary)

    def drop(self, history: Conversation, count: int, tokens: TokenCount, summary: str = "") -> None:
        """Let the ``count`` oldest messages leave, ``tokens`` of them. :meth:`take_note` then says so."""
        turns = self.sent(history).turns
        self.left, self.summary = turns[:count], summary
        about = f", {about_tokens(tokens)}" if tokens.count else ""
        instead = "a summary stands in their place, " if summary else ""
        self._note = (
            f"the context window is full: the oldest {count} of {len(turns)} messages left it{about}"
            f"; {instead}the conversation still has them"
        )

    def sent(self, history: Conversation) -> Conversation:
        """:func:`as_sent`, which looks at every character; one turn asks for the same history several times."""
        if self._sent[0] is not history:
            self._sent = history, as_sent(history)
        return self._sent[1]

    def restore(self, left: tuple[Message, ...], summary: str = "") -> None:
        """Take back what :meth:`drop` did: it was not this history that was too long."""
        self.left, self.summary, self._note = left, summary, ""

    def take_note(self) -> str:
        """One line about what left the window and was not told yet; empty when nothing did."""
        note, self._note = self._note, ""
        return note


def without_oldest(history: Conversation, dropped: int) -> Conversation:
    """The system prompt, and the turns but for the ``dropped`` oldest messages."""
    return Conversation(history.messages[: len(history.messages) - len(history.turns)] + history.turns[dropped:])


def messages_to_drop(turns: Sequence[Message], costs: Sequence[float], room: float, limit: float) -> int:
    """How many of the oldest messages to drop so that the rest costs at most ``room``.

    Whole turns: what is left begins with a user message. The newest turn stays even where it costs more than ``room``
    as long as it costs no more than ``limit``.
    """
    starts = [index for index, message in enumerate(turns) if message.role == "user"]
    rest = [sum(costs[start:]) for start in starts]
    for start, cost in zip(starts, rest, strict=True):
        if cost <= room:
            return start
    return starts[-1] if starts and rest[-1] <= limit else len(turns)


def half_to_drop(turns: Sequence[Message]) -> int:
    """The same where an engine only said that it was too much: half of the text, at least one turn."""
    costs = [len(message.content) for message in turns]
    half = sum(costs) // 2
    return max(1, messages_to_drop(turns, costs, half, half)) if turns else 0


def about_tokens(tokens: TokenCount) -> str:
    """``about 9,400 tokens (±10 %)``, with as many digits as the error leaves."""
    if not tokens.error:
        return f"{tokens.count:,} token{'s' * (tokens.count != 1)}"
    unit = 10 ** max(0, len(str(tokens.count)) - 2)
    return f"about {round(tokens.count / unit) * unit:,} tokens (±{100 * tokens.error:.0f} %)"
