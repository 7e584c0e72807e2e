"""The tool loop: a reply, its tool calls and the replies to their results, as one reply. Calls are made without
approval."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from bitnet_chat.context.token_count import TokenCount, by_length
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta
from bitnet_chat.filters.continuation import paragraph_break
from bitnet_chat.tools.toolbox import MARK, RESULT_LIMIT, Result, Toolbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bitnet_chat.conversation import Conversation, Message, Tool


# The share of the context window for the results of calls. Pure.

_FOR_A_REPLY = 8
"""An eighth of the context window is kept for the reply to the results."""
_AROUND = 10
"""Tokens that a template puts around a message, a call or a result."""
_AT_LEAST = 16
"""A sixteenth of the context window is kept for each result, enough for an error, even if nothing is left: older turns
may be dropped, or the engine reports the overflow."""


class ResultBudget:
    """The room for the results of one reply: equal shares of the free part of the context window, at most half of it,
    since earlier turns are needed as well."""

    def __init__(
        self,
        conversation: Conversation,
        tools: Iterable[Tool],
        size: int | None,
        count: Callable[[str], TokenCount | None],
        *,
        keeps_all: bool = False,
    ) -> None:
        """``conversation``: its last reply has the open calls. ``size``: tokens of the context window; None: not known,
        without an effect on results. ``keeps_all``: older turns are not dropped to make room."""
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
        """Maximum number of characters of the next result, ``text``."""
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
        """An upper bound for the tokens of a text."""
        return (self._count(text) or by_length(text)).at_most


def _last_turn(conversation: Conversation) -> tuple[Message, ...]:
    """The messages of the present turn, which stay in the context window until its end."""
    return conversation.messages[len(conversation.without_last_turn().messages) :]


ROUNDS = 8
"""Maximum number of replies of one turn whose calls are made."""
_SHOWN = 200
"""Characters of a call or a result in a line about it."""

Replies = Callable[[Conversation], AsyncGenerator[Event]]
Spaces = Callable[[Conversation], ResultBudget | None]


async def rounds(
    replies: Replies, conversation: Conversation, toolbox: Toolbox, space: Spaces = lambda conversation: None
) -> AsyncGenerator[Event]:
    """Yield the events of ``replies(conversation)``, make its calls, and yield the replies to their results. Each call
    is yielded before it is made, and followed by a Notice with its result. There is one Started and one end, with the
    text of all replies, separated by blank lines. ``space``: the room for the results of the open calls; None: not
    known."""
    progress = _Progress()
    for number in range(ROUNDS + 1):
        progress.begin_reply()
        async with aclosing(replies(conversation)) as events:
            async for event in events:
                if (passed := progress.feed(event)) is not None:
                    yield passed
                if isinstance(event, Completed | Failed):
                    break
        own, end = progress.end()
        if end is None:
            return
        if not isinstance(end, Completed) or end.reason is not FinishReason.TOOL_CALLS:
            yield end
            return
        if number == ROUNDS:
            yield Notice(f"the model has called tools in {ROUNDS} replies in a row: the turn ends here")
            yield end
            return
        conversation = conversation.with_assistant(own, FinishReason.TOOL_CALLS, tool_calls=tuple(progress.calls))
        room = space(conversation)
        for call in progress.calls:
            yield call
            result = await (toolbox.call(call) if room is None else toolbox.call(call, room.limit))
            for line in _lines(call, result):
                yield Notice(line)
            conversation = conversation.with_tool_result(call, result.text)
            if toolbox.stopped:
                yield Completed(FinishReason.INTERRUPTED, end.text, end.stats)
                return


class _Progress:
    """The content of all replies so far."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._gap = ""
        self._stats: Stats | None = None
        self._end: Completed | Failed | None = None
        self._has_started = False
        self.calls: list[ToolCall] = []
        """The calls of the last reply."""

    def begin_reply(self) -> None:
        self.calls, self._end, self._gap = [], None, paragraph_break("".join(self._text))

    def feed(self, event: Event) -> Event | None:
        """The event that is passed on at once, if any."""
        if isinstance(event, TextDelta):
            self._text.append(self._gap + event.text)
            self._gap = ""
            return TextDelta(self._text[-1])
        if isinstance(event, ToolCall):
            self.calls.append(event)
        elif isinstance(event, Completed | Failed):
            self._end = event
        elif not isinstance(event, Started) or not self._has_started:
            self._has_started = self._has_started or isinstance(event, Started)
            return event
        return None

    def end(self) -> tuple[str, Completed | Failed | None]:
        """The text of the last reply, and the end of all replies so far; None: the last reply has not ended."""
        if self._end is None:
            return "", None
        end = replace(self._end, text="".join(self._text))
        if isinstance(end, Completed):
            self._stats = end.stats if self._stats is None else self._stats + end.stats
            end = replace(end, stats=self._stats)
        return self._end.text, end


def _lines(call: ToolCall, result: Result) -> list[str]:
    """The lines for the user about a call that was made."""
    lines = [f"{shown(call)}: {clipped(result.text)}{loss(result)}"]
    return [*lines, f"{call.name} printed: {clipped(result.printed)}"] if result.printed.strip() else lines


def shown(call: ToolCall, limit: int = _SHOWN) -> str:
    """A call as text for display; not escaped for a terminal."""
    return clipped(f"{call.name} {call.arguments}", limit)


def clipped(text: str, limit: int = _SHOWN) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def loss(result: Result) -> str:
    """A note for display about left out characters of a result; empty if the model gets all of them."""
    return f" [{result.left_out:,} characters are left out: the context window is full]" if result.left_out else ""
