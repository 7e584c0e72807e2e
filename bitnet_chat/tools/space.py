"""How much of the context window the results of calls may take. Pure."""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import TYPE_CHECKING

from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.tools.toolbox import MARK, RESULT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bitnet_chat.conversation import Conversation, Message, Tool

_FOR_A_REPLY = 8
"""An eighth of the window is kept for the reply to the results."""
_AROUND = 10
"""Tokens that a template puts around a message, a call or a result."""
_AT_LEAST = 16
"""A sixteenth of the window is for a result even where nothing is left: an error fits in. Older turns may leave for it,
and where they cannot the engine says so."""


class Space:
    """For the results of one reply, each with its share of what is left; together at most half of the window, since
    what was said before is wanted, too."""

    def __init__(
        self,
        conversation: Conversation,
        tools: Iterable[Tool],
        size: int | None,
        count: Callable[[str], TokenCount | None],
        *,
        keeps_all: bool = False,
    ) -> None:
        """``conversation``: its last reply has the open calls. ``size``: tokens of the window; None: nobody knows, and
        a result may be as long as any. ``keeps_all``: no older turn leaves the window to make room."""
        self._count = count
        self._calls = len(conversation.open_calls)
        self._least = (size or 0) // _AT_LEAST
        self._left: int | None = None
        if size:
            pinned = sum(
                self._tokens(json.dumps([each.name, each.description, dict(each.parameters)])) for each in tools
            )
            turns = conversation.turns if keeps_all else _last_turn(conversation)
            pinned += self._tokens(conversation.system) + sum(map(self._cost, turns))
            self._left = min(size // 2, size - size // _FOR_A_REPLY - pinned)

    def limit(self, text: str) -> int:
        """Characters of ``text``, the next result, that may stay."""
        calls, self._calls = self._calls, max(1, self._calls - 1)
        if self._left is None:
            return RESULT_LIMIT
        share = max(self._least, self._left // max(1, calls) - _AROUND)
        fits = min(len(text), RESULT_LIMIT)
        mark = self._tokens(MARK)
        if self._tokens(text[:fits]) > share:
            share = max(self._least, share - mark)
            fits = max(0, bisect_right(range(fits), share, key=lambda at: self._tokens(text[:at])) - 1)
        self._left -= self._tokens(text[:fits]) + _AROUND + (mark if fits < len(text) else 0)
        return fits

    def _cost(self, message: Message) -> int:
        calls = "".join(call.name + call.arguments for call in message.tool_calls)
        return self._tokens(message.content + calls) + _AROUND * (1 + len(message.tool_calls))

    def _tokens(self, text: str) -> int:
        """At the most."""
        return (self._count(text) or by_length(text)).at_most


def _last_turn(conversation: Conversation) -> tuple[Message, ...]:
    """What never leaves the window as long as it is answered."""
    return conversation.messages[len(conversation.without_last_turn().messages) :]
