"""The context window of an engine process: its tokens, counted with the vocabulary and the chat template. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_chat.context import summary
from bitnet_chat.context.token_count import Counter, TokenCount, by_length
from bitnet_chat.context.window import (
    NEAR_WINDOWS,
    SMALLEST_WINDOW,
    ContextWindow,
    Policy,
    PromptCost,
    estimate_before,
    messages_to_drop,
    without_oldest,
)
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.prompt import EnginePrompt
from bitnet_chat.engine.protocols import EngineProtocol

_TEMPLATE_TOKENS = 6.0  # that a template adds to a message, about
_COUNTED = 1_000_000  # characters; the tokens of more are estimated


class EngineContextWindow(ContextWindow):
    """The window of one engine. ``count``: tokens of a text without those of the template."""

    def __init__(self, policy: Policy, count: Counter) -> None:
        super().__init__(policy)
        self.count = count

    def to_drop(
        self,
        protocol: EngineProtocol,
        prompt: EnginePrompt,
        used: TokenCount | None,
        max_tokens: int | None,
        alone: Policy | None = None,
    ) -> int:
        """Number of the oldest messages of the history that have to leave the window before the message is sent.

        ``used``: tokens in the context of the engine that has what the window keeps of it; None without such an engine.
        ``max_tokens``: of the reply. ``alone``: the policy of a request that does not depend on earlier ones. May take
        time for a long history. Raises ContextOverflowError as :meth:`dropped_for`.
        """
        self.configured = protocol.context_size or None
        if not self.limit:
            return self.count_left(prompt.history)
        kept = prompt.kept if alone is None else prompt.history
        message = protocol.cost_of_message(prompt.text, self.count) if prompt.text else TokenCount(0)
        told, scale = self._cost_of_history(protocol, kept, used, self.limit)
        pinned = protocol.cost_of_history(Conversation().with_system(prompt.history.system), self.count)

        def of_turn(each: Message) -> float:
            return self._tokens(each) * scale

        cost = PromptCost(told + message, message, pinned, of_turn)
        return self.dropped_for(prompt.history, cost, max_tokens, alone, is_alone=alone is not None)

    def _tokens(self, message: Message) -> float:
        return self.count(message.content).count + _TEMPLATE_TOKENS

    def _cost_of_history(
        self, protocol: EngineProtocol, kept: Conversation, used: TokenCount | None, size: int
    ) -> tuple[TokenCount, float]:
        """Tokens of a history with its system prompt, and the factor from :meth:`_tokens` to what a message costs. Only
        the part that might stay is rendered, so that a history that is many times too long costs no more time."""
        turns, near, start = kept.turns, 0.0, len(kept.turns)
        while start and near <= NEAR_WINDOWS * size:
            start -= 1
            near += self._tokens(turns[start])
        newest = without_oldest(kept, start)
        if start and (first := next((i for i in range(start, len(turns)) if turns[i].role == "user"), None)):
            newest, start = without_oldest(kept, first), first
            near = sum(map(self._tokens, turns[start:]))
        tokens = used if used is not None and not start else protocol.cost_of_history(newest, self.count)
        system = protocol.cost_of_history(Conversation().with_system(kept.system), self.count)
        of_turns = tokens.count - system.count
        tokens += estimate_before(turns, start, of_turns, lambda each: len(each.content))
        return tokens, max(0, of_turns) / near if near else 1.0

    def fits_alone(self, protocol: EngineProtocol, prompt: EnginePrompt) -> bool:
        """Whether nothing before the message could leave the window, and it certainly takes less than half of it."""
        size = self.size or protocol.context_size
        need = protocol.cost_of_history(prompt.kept, self.count) + protocol.cost_of_message(prompt.text, self.count)
        return not prompt.kept.turns and need.at_most * 2 < size

    def newest(self, protocol: EngineProtocol, earlier: str, turns: Sequence[Message]) -> Sequence[Message]:
        """The newest of ``turns`` that fit into one window with the request for a summary of them."""
        size, limit = self.size or protocol.context_size or SMALLEST_WINDOW, self.summary_limit
        asked = protocol.cost_of_message(summary.request((), earlier, limit), self.count)
        room = size - limit - asked.at_most
        return turns[messages_to_drop(turns, lambda each: self.count(each.content).at_most + _TEMPLATE_TOKENS, room) :]

    def cost_of_oldest(self, protocol: EngineProtocol, history: Conversation, count: int) -> TokenCount:
        """Tokens of the ``count`` oldest messages, with those of the template."""
        leaving = history.turns[:count]
        # Of a message and its reply, which has an end token.
        around = protocol.cost_of_message("", self.count) + TokenCount(1)
        around = TokenCount(around.count * sum(each.role == "user" for each in leaving), around.error)
        if sum(len(each.content) for each in leaving) > _COUNTED:
            return by_length("".join(each.content for each in leaving)) + around
        return sum((self.count(each.content) for each in leaving), around)
