"""The context window of a server: its tokens, estimated before a request and corrected by what it reports. No I/O.

The server counts the prompt after each reply, and some report sizes when they refuse one. What is learned this way
holds for one conversation; a request that does not depend on earlier ones has a window without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.context.token_count import CachedCounter, Counter, TokenCount, by_length
from bitnet_chat.context.window import (
    NEAR_WINDOWS,
    SMALLEST_WINDOW,
    ContextWindow,
    Policy,
    PromptCost,
    estimate_before,
    half_to_drop,
    messages_to_drop,
    outgrown,
    too_long,
)
from bitnet_chat.conversation import Conversation, Message, Tool

_TEMPLATE_TOKENS = 6  # that a template adds to a message, about
_VOCABULARY_ERROR = 0.2  # relative error of a count with the model's own vocabulary, at most
_LARGEST_FACTOR = 5.0  # between the server's count and one without its vocabulary
_CORRECTED_ERROR = 0.15  # relative error of a count that was corrected by the server's


class ServerContextWindow(ContextWindow):
    """The window of one server. ``count``: tokens of a text."""

    def __init__(self, policy: Policy, count: Counter) -> None:
        super().__init__(policy)
        self.tools: Sequence[Tool] = ()
        """The tools of the present request."""
        self._count = CachedCounter(count)
        self._is_alone = False
        self._factor = 1.0
        """The server's count of a text divided by ours."""
        self._around = 0
        """Tokens that the server counts beside the messages: what its template adds to a conversation."""
        self._around_tools: tuple[Sequence[Tool], int] = (), 0
        """The same with certain tools, their own tokens included."""

    def sent(self, history: Conversation) -> Conversation:
        """The messages of a request are encoded already."""
        return history

    def alone(self, policy: Policy | None) -> ServerContextWindow:
        """A window for a request that does not depend on earlier ones: it has learned nothing."""
        window = ServerContextWindow(policy or self.policy, self._count)
        window._count, window.size, window._is_alone = self._count, self.size, True
        return window

    def messages(self, request: RequestMessages) -> tuple[Message, ...]:
        """The messages that are sent."""
        return self.kept(request.history).messages + request.asked

    def estimate(self, request: RequestMessages) -> int:
        """Tokens of the prompt, for a server that does not count them."""
        return self.tokens(self.messages(request)).count + self._beside.count

    def is_short(self, request: RequestMessages) -> bool:
        """Whether the prompt certainly fits, without counting: a token has at least a byte."""
        if self.size is None:
            return True
        left = self.size / 2 - self._around - sum(4 * len(_described(each)) for each in self.tools)
        for message in (*request.asked, *self.kept(request.history).messages):
            left -= (4 * len(_text(message)) + 2 * _TEMPLATE_TOKENS) * self._factor
            if left < 0:
                return False
        return True

    def may_be_refused(self, request: RequestMessages) -> bool:
        """Whether a server might refuse the prompt as too long."""
        if self.size is not None:
            return not self.is_short(request)
        left = SMALLEST_WINDOW
        for message in (*request.asked, *self.kept(request.history).messages):
            left -= len(_text(message)) + _TEMPLATE_TOKENS
            if left < 0:
                return True
        return False

    def is_countable(self, request: RequestMessages) -> bool:
        """Whether the server is worth asking for its count: not for a prompt of many windows."""
        return self.size is not None and self.need(request).at_least <= NEAR_WINDOWS * self.size

    def need(self, request: RequestMessages) -> TokenCount:
        """Tokens of the prompt; those of messages far back are estimated."""
        kept, asked = self.kept(request.history), self.tokens(request.asked) + self._beside
        near, start, most = TokenCount(0), len(kept.turns), NEAR_WINDOWS * (self.size or 0) / self._factor
        while start and (not self.size or near.count <= most):
            start -= 1
            near += self._tokens(kept.turns[start])
        before = estimate_before(kept.turns, start, near.count * self._factor, lambda each: len(_text(each)))
        return self._corrected(near) + asked + self.tokens(kept.cleared().messages) + before

    def to_drop(self, request: RequestMessages, max_tokens: int | None, exact: int | None = None) -> int:
        """Number of the oldest messages that must not be sent. ``max_tokens``: of the reply. ``exact``: tokens of the
        prompt as it would be sent now, if the server has counted them. Raises ContextOverflowError as
        :meth:`dropped_for`.
        """
        if exact is None and self.is_short(request):
            return self.count_left(request.history)
        cost = self._cost(request, self.need(request) if exact is None else TokenCount(exact))
        return self.dropped_for(request.history, cost, max_tokens, is_alone=self._is_alone)

    def refused(self, request: RequestMessages, tokens: int | None) -> int:
        """Number of the oldest messages to drop after the server refused the prompt as too long. ``tokens``: of the
        prompt, if it said so. Raises ContextOverflowError if no more can leave, or by the policy."""
        history = request.history
        left, turns = self.count_left(history), self.kept(history).turns
        if tokens:
            self.learn(request, tokens)
        cost = self._cost(request, TokenCount(tokens or 0))
        if not turns:
            raise too_long(cost.message, cost.pinned, self.size)
        if self.policy == "stop":
            raise outgrown(self.size, cost.total if tokens else None)
        if not self.size or not tokens:
            return left + half_to_drop(turns)
        return left + max(1, self.oldest(turns, cost, self.reserve(None), self.policy, is_alone=self._is_alone))

    def _cost(self, request: RequestMessages, total: TokenCount) -> PromptCost:
        pinned = self.tokens(request.history.cleared().messages) + self._beside
        return PromptCost(total, self.tokens(request.asked), pinned, self._of_turn)

    def _of_turn(self, message: Message) -> float:
        return self._tokens(message).count * self._factor

    def learn(self, request: RequestMessages, tokens: int) -> None:
        """Note the server's count of the prompt, tools included."""
        counted = sum((self._tokens(each) for each in self.messages(request)), TokenCount(0))
        whole = counted + self._offered
        if whole.count and tokens:
            # A count with the vocabulary has a small error; a larger difference has another cause. One without may be
            # wrong by much: some vocabularies have a token for each character.
            most = 1 + whole.error if whole.error < _VOCABULARY_ERROR else _LARGEST_FACTOR
            self._factor = min(max(tokens / whole.count, 1 / most), most)
            around = max(0, round(tokens - counted.count * self._factor))
            if self.tools:
                self._around_tools = tuple(self.tools), around
            else:
                self._around = around

    def tokens(self, messages: Iterable[Message]) -> TokenCount:
        """Tokens of messages, corrected by what was learned."""
        return self._corrected(sum((self._tokens(each) for each in messages), TokenCount(0)))

    def _corrected(self, total: TokenCount) -> TokenCount:
        error = min(total.error, _CORRECTED_ERROR if self._factor != 1.0 else 1.0)
        return TokenCount(round(total.count * self._factor), error)

    @property
    def _offered(self) -> TokenCount:
        return sum((self._count(_described(each)) for each in self.tools), TokenCount(0))

    @property
    def _beside(self) -> TokenCount:
        """Tokens of this request beside its messages."""
        tools, around = self._around_tools
        if self.tools and tuple(self.tools) == tools:
            return TokenCount(around)
        return TokenCount(self._around) + self._corrected(self._offered)

    def cost_of_oldest(self, history: Conversation, count: int) -> TokenCount:
        """Tokens of the ``count`` oldest messages."""
        leaving = history.turns[:count]
        if len(leaving) > CachedCounter.LIMIT or sum(len(each.content) for each in leaving) > (
            CachedCounter.CHARACTER_LIMIT
        ):
            return by_length("".join(map(_text, leaving)))
        return self.tokens(leaving)

    def newest(self, turns: Sequence[Message]) -> Sequence[Message]:
        """The newest of ``turns`` that fit into one request for a summary of them."""
        if not self.size:
            return turns
        return turns[messages_to_drop(turns, self._of_turn, self.size - 2 * self.summary_limit) :]

    def _tokens(self, message: Message) -> TokenCount:
        return self._count(_text(message)) + TokenCount(_TEMPLATE_TOKENS)


def _described(tool: Tool) -> str:
    return json.dumps([tool.name, tool.description, dict(tool.parameters)])


def _text(message: Message) -> str:
    calls = "".join(f"{call.name} {call.arguments}" for call in message.tool_calls)
    return message.content + calls
