"""Removal of the oldest messages of a request that does not fit into the context window of a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.http.client import CancellableRequest
from bitnet_chat.backends.http.context_window import ServerContextWindow
from bitnet_chat.backends.http.endpoint import RequestTarget
from bitnet_chat.backends.http.errors import ErrorResponse
from bitnet_chat.backends.http.request import RequestMessages
from bitnet_chat.backends.http.wire_format import WireFormat, sent
from bitnet_chat.context.summary import Summary, summarise
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import BitnetChatError, ConnectionLostError, HTTPStatusError

P = ParamSpec("P")
T = TypeVar("T")
_PATIENCE = 10.0  # seconds for a server to count
_TRIES = 4  # until what a server counts has room


class RequestTrimmer:
    """Removal of old messages, as ``window`` decides; the server is asked for its count, and for a summary."""

    def __init__(self, line: CancellableRequest, window: ServerContextWindow, wire: WireFormat) -> None:
        self._line, self._window, self.wire = line, window, wire

    async def make_room(self, request: RequestMessages, options: ReplyOptions, target: RequestTarget) -> None:
        """Drop what does not fit. Raises ContextOverflowError if that is not possible, and RequestCancelledError."""
        for _ in range(_TRIES):
            count, is_exact = await self._to_drop(request, options, target)
            if count <= self._window.count_left(request.history):
                return
            await self._release(request.history, count, target)
            if not is_exact:
                return

    async def check(self, request: RequestMessages, options: ReplyOptions, target: RequestTarget) -> None:
        """Raise the errors of :meth:`make_room`, and drop nothing."""
        await self._to_drop(request, options, target)

    async def _to_drop(
        self, request: RequestMessages, options: ReplyOptions, target: RequestTarget
    ) -> tuple[int, bool]:
        """Number of messages that must not be sent, and whether the server itself has counted."""
        window, exact = self._window, None
        if window.is_short(request):
            return window.count_left(request.history), False
        # A long history in a vocabulary that is not read yet takes time.
        if target.count is not None and await self._in_thread(window.is_countable, request):
            exact = await self._counted(request, options, target)
            if exact is not None:
                await self._in_thread(window.learn, request, exact)
        return await self._in_thread(window.to_drop, request, options.max_tokens, exact), exact is not None

    async def drop_more(self, request: RequestMessages, refusal: ErrorResponse, target: RequestTarget) -> None:
        """Drop messages after the server refused the prompt as too long. Raises as :meth:`make_room`."""
        self._window.size = refusal.context_size or self._window.size
        count = await self._in_thread(self._window.refused, request, refusal.prompt_tokens)
        await self._release(request.history, count, target)

    async def _counted(self, request: RequestMessages, options: ReplyOptions, target: RequestTarget) -> int | None:
        """Tokens of the prompt as the server counts them; None if it does not."""
        if target.count is None:
            return None
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError, ValueError, TimeoutError):
            body = await self._in_thread(sent, self.wire, request, options, self._window, target)
            async with asyncio.timeout(_PATIENCE):
                return await self._line.within(target.count(body.content))
        return None

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await self._line.within(loop.run_in_executor(None, partial(work, *arguments, **named)))

    async def _release(self, history: Conversation, count: int, target: RequestTarget) -> None:
        """Drop the ``count`` oldest messages from the window, and put a summary in their place if that is set."""
        window = self._window
        left = window.count_left(history)
        if count <= left:
            return
        summary = Summary()
        if window.policy == "summarize":
            leaving, earlier = history.turns[left:count], window.summary if left else ""
            ask = partial(self._ask, target)
            summary = await summarise(leaving, earlier, window.summary_limit, window.newest, ask)
        tokens = await self._in_thread(window.cost_of_oldest, history, count)
        window.drop(history, count, tokens, summary.text, summary.remark)

    async def _ask(self, target: RequestTarget, request: str, limit: int) -> str:
        """The reply to a message without a history; empty if the server gives none."""
        asked, _ = target.specials.protect_messages((Message("user", request),))
        body = self.wire.body(target.model, asked, ReplyOptions(max_tokens=limit), stream=False)
        with contextlib.suppress(BitnetChatError, ConnectionLostError, HTTPStatusError, ValueError):
            answer: Any = await self._line.within(target.connection.ask(self.wire.path, body))
            return "".join(each.text for each in self.wire.reader().whole(answer) if not each.thinking).strip()
        return ""
