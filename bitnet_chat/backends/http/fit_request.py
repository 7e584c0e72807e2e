"""Room in the window of a server: the oldest messages make way for a question."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.client import CancellableRequest, ConnectionLostError, HTTPStatusError
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.errors import ErrorResponse
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.wire_format import WireFormat, sent
from bitnet_chat.context import window as summaries
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import BitnetChatError

P = ParamSpec("P")
T = TypeVar("T")
_SUMMARY_LIMIT = 256  # tokens
_PATIENCE = 10.0  # seconds for a server to count
_TRIES = 4  # until what a server counts has room


class RequestTrimmer:
    """What is to go is decided by ``fit``; where a summary is to take its place the server is asked for one."""

    def __init__(self, line: CancellableRequest, fit: ServerContextWindow, wire: WireFormat) -> None:
        self._line, self._fit, self.wire = line, fit, wire

    async def make_room(self, question: RequestMessages, options: ReplyOptions, target: RequestTarget) -> None:
        """Raises ContextOverflowError where that cannot be, and RequestCancelledError."""
        for _ in range(_TRIES):
            count, is_exact = await self._to_drop(question, options, target)
            if count <= self._fit.window.count_left(question.history):
                return
            await self._release(question.history, count, target)
            if not is_exact:
                return

    async def check(self, question: RequestMessages, options: ReplyOptions, target: RequestTarget) -> None:
        """Raises as ``make_room`` would, and does nothing."""
        await self._to_drop(question, options, target)

    async def _to_drop(
        self, question: RequestMessages, options: ReplyOptions, target: RequestTarget
    ) -> tuple[int, bool]:
        """How many messages have to leave the window, and whether the server itself has counted."""
        fit, exact = self._fit, None
        if fit.is_short(question):
            return fit.window.count_left(question.history), False
        # A long history in a vocabulary that is not read yet takes its time.
        if target.count is not None and await self._in_thread(fit.is_countable, question):
            exact = await self._counted(question, options, target)
            if exact is not None:
                await self._in_thread(fit.learn, question, exact)
        return await self._in_thread(fit.to_drop, question, options.max_tokens, exact), exact is not None

    async def drop_more(self, question: RequestMessages, refusal: ErrorResponse, target: RequestTarget) -> None:
        """The server said that it was too much. Raises as ``make_room`` does."""
        self._fit.size = refusal.context_size or self._fit.size
        count = await self._in_thread(self._fit.refused, question, refusal.prompt_tokens)
        await self._release(question.history, count, target)

    async def _counted(self, question: RequestMessages, options: ReplyOptions, target: RequestTarget) -> int | None:
        """Tokens of what would be sent, as the server counts them; None where it does not."""
        if target.count is None:
            return None
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError, ValueError, TimeoutError):
            body = await self._in_thread(sent, self.wire, question, options, self._fit, target)
            async with asyncio.timeout(_PATIENCE):
                return await self._line.within(target.count(body.content))
        return None

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await self._line.within(loop.run_in_executor(None, partial(work, *arguments, **named)))

    async def _release(self, history: Conversation, count: int, target: RequestTarget) -> None:
        """Have the ``count`` oldest messages out of the window, and a summary in their place where that is wanted."""
        fit, window = self._fit, self._fit.window
        left = window.count_left(history)
        if count <= left:
            return
        summary = ""
        if fit.policy == "summarize":
            earlier = window.summary if left else ""
            summary = await self._summary(history.turns[left:count], earlier, target)
        window.drop(history, count, await self._in_thread(fit.cost_of_oldest, history, count), summary)

    async def _summary(self, turns: Sequence[Message], earlier: str, target: RequestTarget) -> str:
        """What the model makes of the turns that leave; empty where it makes nothing."""
        size = self._fit.size
        limit = min(_SUMMARY_LIMIT, size // 8) if size else _SUMMARY_LIMIT
        while size and turns and self._fit.tokens(turns).count + limit * 2 > size:
            turns = turns[1:]
        asked: tuple[Message, ...] = (Message("user", summaries.request(turns, earlier, limit)),)
        asked, _ = target.specials.told(asked)
        body = self.wire.body(target.model, asked, ReplyOptions(max_tokens=limit), stream=False)
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError, ValueError):
            answer: Any = await self._line.within(target.connection.ask(self.wire.path, body))
            return "".join(each.text for each in self.wire.reader().whole(answer) if not each.thinking).strip()
        return ""
