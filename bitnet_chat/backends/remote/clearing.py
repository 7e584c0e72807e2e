"""Room in the window of a server: the oldest messages make way for a question."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.backends.remote.connection import Lost, Refused
from bitnet_chat.backends.remote.fit import Fit
from bitnet_chat.backends.remote.line import Line
from bitnet_chat.backends.remote.question import Question
from bitnet_chat.backends.remote.refusal import Refusal
from bitnet_chat.backends.remote.service import Target
from bitnet_chat.backends.remote.wire import Wire
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.prompt import summary as summaries

_SUMMARY_LIMIT = 256  # tokens


class Clearing:
    """What is to go is decided by ``fit``; where a summary is to take its place the server is asked for one."""

    def __init__(self, line: Line, fit: Fit, wire: Wire) -> None:
        self._line, self._fit, self._wire = line, fit, wire

    async def make_room(self, question: Question, options: ReplyOptions, target: Target) -> None:
        """Raises ContextOverflow where that cannot be, and Stopped."""
        if self._fit.is_short(question):
            return
        loop = asyncio.get_running_loop()
        # A long history in a vocabulary that is not read yet takes its time.
        count = await self._line.within(loop.run_in_executor(None, self._fit.to_drop, question, options.max_tokens))
        await self._let_go(question.history, count, target)

    async def drop_more(self, question: Question, refusal: Refusal, target: Target) -> None:
        """The server said that it was too much. Raises as ``make_room`` does."""
        self._fit.size = refusal.context_size or self._fit.size
        await self._let_go(question.history, self._fit.refused(question, refusal.prompt_tokens), target)

    async def _let_go(self, history: Conversation, count: int, target: Target) -> None:
        """Have the ``count`` oldest messages out of the window, and a summary in their place where that is wanted."""
        fit, window = self._fit, self._fit.window
        left = window.count_left(history)
        if count <= left:
            return
        summary = ""
        if fit.policy == "summarize":
            earlier = window.summary if left else ""
            summary = await self._summary(history.turns[left:count], earlier, target)
        window.drop(history, count, fit.cost_of_oldest(history, count), summary)

    async def _summary(self, turns: Sequence[Message], earlier: str, target: Target) -> str:
        """What the model makes of the turns that leave; empty where it makes nothing."""
        size = self._fit.size
        limit = min(_SUMMARY_LIMIT, size // 8) if size else _SUMMARY_LIMIT
        while size and turns and self._fit.tokens(turns).count + limit * 2 > size:
            turns = turns[1:]
        asked: tuple[Message, ...] = (Message("user", summaries.request(turns, earlier, limit)),)
        asked, _ = target.specials.told(asked)
        body = self._wire.body(target.model, asked, ReplyOptions(max_tokens=limit), stream=False)
        with contextlib.suppress(BitnetChatError, Lost, Refused, ValueError):
            answer: Any = await self._line.within(target.connection.ask(self._wire.path, body))
            return "".join(each.text for each in self._wire.reader().whole(answer) if not each.thinking).strip()
        return ""
