"""What of a conversation is sent to a server whose window is too small for all of it. No I/O.

Counted before it is sent, as far as tokens can be counted here, and corrected by what the server says: by its counts
after each reply, and by its refusals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from bitnet_chat.backends.remote.question import Question
from bitnet_chat.conversation import Conversation, Message, Tool
from bitnet_chat.engine.room import Policy, outgrown, too_long
from bitnet_chat.prompt.tokens import Counter, TokenCount
from bitnet_chat.prompt.window import Window, half_to_drop, messages_to_drop

_FOR_A_REPLY = 8  # an eighth of the window is kept for it
_AROUND = 6  # tokens that a template puts around a message
_KNOWS = 0.2  # relative error of a count by the model's own vocabulary, at the most
_MOST = 5.0  # times as many tokens as we guess
_KNOWN = 4096  # counts that are kept: each message of a conversation is counted once


class _Sent(Window):
    """A window of messages that are as they are sent already, tool calls included."""

    def sent(self, history: Conversation) -> Conversation:
        return history


class Fit:
    """``policy``: what happens to a conversation that has outgrown the window; ``count``: of texts."""

    def __init__(self, policy: Policy, count: Counter) -> None:
        self.policy = policy
        self.window: Window = _Sent()
        self.size: int | None = None
        """Tokens of the window, as far as anybody has told."""
        self._count = count
        self._counts: dict[str, TokenCount] = {}
        self._factor = 1.0
        """How much more tokens the server counts, as far as our own count may be wrong."""
        self._around = 0
        """Tokens that it has counted beyond that: tools, and what its template puts around a conversation."""

    def messages(self, question: Question) -> tuple[Message, ...]:
        """What is sent."""
        return self.window.kept(question.history).messages + question.asked

    def estimate(self, question: Question) -> int:
        """Tokens of the prompt, for a server that does not count them."""
        return self.tokens(self.messages(question)).count + self._around

    def is_short(self, question: Question) -> bool:
        """Whether there is room without any counting: a token is a byte or more."""
        most = self._at_most(self.messages(question)) * self._factor + self._around
        return self.size is None or most < self.size // 2

    def to_drop(self, question: Question, most: int | None) -> int:
        """How many of the oldest messages are to be out of the window. ``most``: tokens of the reply.

        Raises ContextOverflow for what surely does not fit, and by the policy; what is not sure the server decides.
        """
        history, size = question.history, self.size
        left = self.window.count_left(history)
        kept = self.window.kept(history)
        if size is None or self.is_short(question):
            return left
        need = self.tokens(kept.messages) + self.tokens(question.asked) + TokenCount(self._around)
        reserve = min(size // _FOR_A_REPLY, most or size)
        if need.count < size if self.policy == "stop" else need.count + reserve <= size:
            return left
        asked, pinned = self.tokens(question.asked), self._pinned(history)
        if (asked + pinned).at_least >= size:
            raise too_long(asked, pinned, size)
        if not kept.turns:
            return left
        if self.policy == "stop":
            if need.at_least >= size:
                raise outgrown(size, need)
            return left
        return left + self._oldest(kept, asked, pinned, size, reserve)

    def refused(self, question: Question, tokens: int | None) -> int:
        """The same where the server has said that it was too much, ``tokens`` where it has told. Raises ContextOverflow
        where nothing is left that could leave, or nothing is to."""
        history = question.history
        left, kept = self.window.count_left(history), self.window.kept(history)
        if tokens:
            self.learn(question, tokens)
        asked, pinned = self.tokens(question.asked), self._pinned(history)
        if not kept.turns:
            raise too_long(asked, pinned, self.size)
        if self.policy == "stop":
            raise outgrown(self.size)
        if self.size and tokens:
            count = self._oldest(kept, asked, pinned, self.size, self.size // _FOR_A_REPLY)
        else:
            count = half_to_drop(kept.turns)
        return left + max(1, count)

    def learn(self, question: Question, tokens: int, tools: Iterable[Tool] = ()) -> None:
        """The server has counted what was sent, ``tools`` among it."""
        counted = sum((self._tokens(each) for each in self.messages(question)), TokenCount(0))
        offered = sum((self._count(_described(each)) for each in tools), TokenCount(0))
        whole = counted + offered
        if whole.count and tokens:
            # Who knows the vocabulary is wrong by a little, and what is more is something else. Who does not may be
            # wrong by much: some vocabularies have a token for each character.
            most = 1 + whole.error if whole.error < _KNOWS else _MOST
            self._factor = min(max(tokens / whole.count, 1 / most), most)
            self._around = max(0, round(tokens - counted.count * self._factor))

    def tokens(self, messages: Iterable[Message]) -> TokenCount:
        total = sum((self._tokens(each) for each in messages), TokenCount(0))
        # What was compared with the server's own count is no wild guess any more.
        return TokenCount(round(total.count * self._factor), min(total.error, 0.15 if self._factor != 1.0 else 1.0))

    def _pinned(self, history: Conversation) -> TokenCount:
        """What is sent whatever leaves."""
        return self.tokens(history.cleared().messages) + TokenCount(self._around)

    def cost_of_oldest(self, history: Conversation, count: int) -> TokenCount:
        return self.tokens(history.turns[:count])

    def _oldest(self, kept: Conversation, asked: TokenCount, pinned: TokenCount, size: int, reserve: int) -> int:
        costs = [self._tokens(each).count * self._factor for each in kept.turns]
        room = size - reserve - asked.at_most - pinned.count
        return messages_to_drop(kept.turns, costs, max(size / 2 - asked.count - pinned.count, room / 2), room)

    def _tokens(self, message: Message) -> TokenCount:
        text = _text(message)
        known = self._counts.get(text)
        if known is None:
            if len(self._counts) >= _KNOWN:
                self._counts.clear()
            known = self._counts[text] = self._count(text) + TokenCount(_AROUND)
        return known

    def _at_most(self, messages: Iterable[Message]) -> int:
        return sum(4 * len(_text(each)) + 2 * _AROUND for each in messages)


def _described(tool: Tool) -> str:
    return json.dumps([tool.name, tool.description, dict(tool.parameters)])


def _text(message: Message) -> str:
    calls = "".join(f"{call.name} {call.arguments}" for call in message.tool_calls)
    return message.content + calls
