"""The part of a conversation that is sent to a server whose window is too small for all of it. No I/O.

Counted before it is sent, as far as tokens can be counted here, and corrected by what the server says: by its counts
after each reply, and by its refusals. What is learned so holds for one conversation; an independent request
has a Fit of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.context.token_count import Counter, TokenCount, by_length
from bitnet_chat.context.window import ContextWindow, half_to_drop, messages_to_drop, outgrown, places_apart, too_long
from bitnet_chat.conversation import Conversation, Message, Tool
from bitnet_chat.engine.context_policy import Policy

_FOR_A_REPLY = 8  # an eighth of the window is kept for it
_AROUND = 6  # tokens that a template puts around a message
_KNOWS = 0.2  # relative error of a count by the model's own vocabulary, at the most
_MOST = 5.0  # times as many tokens as we guess
_FAR = 2  # windows: what lies further back is not counted, but guessed by its length
_SMALLEST = 512  # tokens that every window has
_GUESS = 0.3  # relative error of that
_KNOWN, _KNOWN_CHARACTERS = 4096, 4_000_000  # counts that are kept: each message of a conversation is counted once


class _SentHistory(ContextWindow):
    """A window of messages that are as they are sent already, tool calls included."""

    def sent(self, history: Conversation) -> Conversation:
        return history


class _Counts:
    """Tokens of texts, each counted once. What a text is depends on nothing but the text."""

    def __init__(self, count: Counter) -> None:
        self._count = count
        self._known: dict[str, TokenCount] = {}
        self._characters = 0

    def __call__(self, text: str) -> TokenCount:
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _KNOWN or self._characters > _KNOWN_CHARACTERS:
                self._known.clear()
                self._characters = 0
            known = self._known[text] = self._count(text)
            self._characters += len(text)
        return known


class ServerContextWindow:
    """``policy``: what happens to a conversation that has outgrown the window; ``count``: of texts."""

    def __init__(self, policy: Policy, count: Counter) -> None:
        self.policy = policy
        self.window: ContextWindow = _SentHistory()
        self.size: int | None = None
        """Tokens of the window, where the server or a setting gives them."""
        self.tools: Sequence[Tool] = ()
        """The tools of the present request."""
        self._count = _Counts(count)
        self._is_alone = False
        self._factor = 1.0
        """How much more tokens the server counts, as far as our own count may be wrong."""
        self._around = 0
        """Tokens that it has counted beyond that: what its template puts around a conversation, and around tools."""
        self._around_tools: tuple[Sequence[Tool], int] = (), 0
        """The same with certain tools, whose own tokens are in it."""

    def alone(self, policy: Policy | None) -> ServerContextWindow:
        """One for an independent request: it has learned nothing."""
        fit = ServerContextWindow(policy or self.policy, self._count)
        fit._count, fit.size, fit._is_alone = self._count, self.size, True
        return fit

    def messages(self, question: RequestMessages) -> tuple[Message, ...]:
        """The messages that are sent."""
        return self.window.kept(question.history).messages + question.asked

    def estimate(self, question: RequestMessages) -> int:
        """Tokens of the prompt, for a server that does not count them."""
        return self.tokens(self.messages(question)).count + self._beside.count

    def reserve(self, most: int | None) -> int:
        """Tokens that are kept free for a reply of ``most`` at most."""
        return min(self.size // _FOR_A_REPLY, most or self.size) if self.size else 0

    def is_short(self, question: RequestMessages) -> bool:
        """Whether the prompt fits for certain, without counting: a token is a byte or more."""
        if self.size is None:
            return True
        left = self.size / 2 - self._around - sum(4 * len(_described(each)) for each in self.tools)
        for message in (*question.asked, *self.window.kept(question.history).messages):
            left -= (4 * len(_text(message)) + 2 * _AROUND) * self._factor
            if left < 0:
                return False
        return True

    def may_be_refused(self, question: RequestMessages) -> bool:
        """Whether a server might refuse the prompt as too long."""
        if self.size is not None:
            return not self.is_short(question)
        left = _SMALLEST
        for message in (*question.asked, *self.window.kept(question.history).messages):
            left -= len(_text(message)) + _AROUND
            if left < 0:
                return True
        return False

    def is_countable(self, question: RequestMessages) -> bool:
        """Whether it is not so much too long that a server need not be asked how many tokens it has."""
        return self.size is not None and self.need(question).at_least <= _FAR * self.size

    def need(self, question: RequestMessages) -> TokenCount:
        """Tokens of what is sent; guessed, where it is much more than the window has."""
        kept, asked = self.window.kept(question.history), self.tokens(question.asked) + self._beside
        near, start, most = TokenCount(0), len(kept.turns), _FAR * (self.size or 0) / self._factor
        while start and (not self.size or near.count <= most):
            start -= 1
            near += self._tokens(kept.turns[start])
        total = self._corrected(near) + asked + self.tokens(kept.cleared().messages)
        if start:
            length = sum(len(_text(each)) for each in kept.turns[start:]) or 1
            more = sum(len(_text(each)) for each in kept.turns[:start]) / length * near.count * self._factor
            total += TokenCount(max(start, round(more)), _GUESS)
        return total

    def to_drop(self, question: RequestMessages, most: int | None, exact: int | None = None) -> int:
        """How many of the oldest messages have to leave the window. ``most``: tokens of the reply. ``exact``: those
        of what is sent so far, where the server has counted.

        Raises ContextOverflowError for what surely does not fit, and by the policy; what is not sure the server
        decides.
        """
        history, size = question.history, self.size
        left = self.window.count_left(history)
        kept = self.window.kept(history)
        if size is None or (exact is None and self.is_short(question)):
            return left
        need = self.need(question) if exact is None else TokenCount(exact)
        reserve = self.reserve(most)
        is_sure = need.error < _KNOWS or self.policy != "stop"
        if (need.count if is_sure else need.at_least) + reserve <= size:
            return left
        asked, pinned = self.tokens(question.asked), self._pinned(history)
        if not kept.turns:
            if need.at_least >= size:
                raise too_long(asked, pinned, size)
            return left
        if (asked + pinned).at_least >= size:
            raise too_long(asked, pinned, size)
        if self.policy == "stop":
            raise outgrown(size, need, reserve)
        return left + self._oldest(kept, asked, pinned, size, reserve)

    def refused(self, question: RequestMessages, tokens: int | None) -> int:
        """The same where the server has said that it was too much, ``tokens`` where it has told. Raises
        ContextOverflowError where nothing is left that could leave, or nothing is to."""
        history = question.history
        left, kept = self.window.count_left(history), self.window.kept(history)
        if tokens:
            self.learn(question, tokens)
        asked, pinned = self.tokens(question.asked), self._pinned(history)
        if not kept.turns:
            raise too_long(asked, pinned, self.size)
        if self.policy == "stop":
            raise outgrown(self.size, TokenCount(tokens) if tokens else None)
        if self.size and tokens:
            count = self._oldest(kept, asked, pinned, self.size, self.size // _FOR_A_REPLY)
        else:
            count = half_to_drop(kept.turns)
        return left + max(1, count)

    def learn(self, question: RequestMessages, tokens: int) -> None:
        """Note the server's count of the prompt, tools included."""
        counted = sum((self._tokens(each) for each in self.messages(question)), TokenCount(0))
        whole = counted + self._offered
        if whole.count and tokens:
            # A count with the vocabulary has a small error; a larger difference has another cause. One without may be
            # wrong by much: some vocabularies have a token for each character.
            most = 1 + whole.error if whole.error < _KNOWS else _MOST
            self._factor = min(max(tokens / whole.count, 1 / most), most)
            around = max(0, round(tokens - counted.count * self._factor))
            if self.tools:
                self._around_tools = tuple(self.tools), around
            else:
                self._around = around

    def tokens(self, messages: Iterable[Message]) -> TokenCount:
        return self._corrected(sum((self._tokens(each) for each in messages), TokenCount(0)))

    def _corrected(self, total: TokenCount) -> TokenCount:
        # A count that was corrected by the server's is exact enough.
        return TokenCount(round(total.count * self._factor), min(total.error, 0.15 if self._factor != 1.0 else 1.0))

    @property
    def _offered(self) -> TokenCount:
        return sum((self._count(_described(each)) for each in self.tools), TokenCount(0))

    @property
    def _beside(self) -> TokenCount:
        """The tokens of this request beside its messages, which differ between requests."""
        tools, around = self._around_tools
        if self.tools and tuple(self.tools) == tools:
            return TokenCount(around)
        return TokenCount(self._around) + self._corrected(self._offered)

    def _pinned(self, history: Conversation) -> TokenCount:
        """The messages that are always sent."""
        return self.tokens(history.cleared().messages) + self._beside

    def cost_of_oldest(self, history: Conversation, count: int) -> TokenCount:
        leaving = history.turns[:count]
        if len(leaving) > _KNOWN or sum(len(each.content) for each in leaving) > _KNOWN_CHARACTERS:
            return by_length("".join(map(_text, leaving)))
        return self.tokens(leaving)

    def _oldest(self, kept: Conversation, asked: TokenCount, pinned: TokenCount, size: int, reserve: int) -> int:
        room = size - reserve - asked.at_most - pinned.count
        enough = size / 2 - asked.count - pinned.count
        apart = places_apart(size) if self._is_alone else 0

        def cost(each: Message) -> float:
            return self._tokens(each).count * self._factor

        return messages_to_drop(kept.turns, cost, room, enough, apart)

    def _tokens(self, message: Message) -> TokenCount:
        return self._count(_text(message)) + TokenCount(_AROUND)


def _described(tool: Tool) -> str:
    return json.dumps([tool.name, tool.description, dict(tool.parameters)])


def _text(message: Message) -> str:
    calls = "".join(f"{call.name} {call.arguments}" for call in message.tool_calls)
    return message.content + calls
