"""Lets the oldest turns leave the context window, before a message is sent or when the engine says that it is full."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import death
from bitnet_chat.engine.keeper import Keeper
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine.summary import summarise
from bitnet_chat.errors import BitnetChatError
from bitnet_chat.prompt import summary as summaries
from bitnet_chat.prompt.verbatim import clean


class Trimmer:
    """``or_stop`` waits for a task or for the user to stop waiting."""

    def __init__(self, keeper: Keeper, or_stop: Callable[[asyncio.Future[Any]], Awaitable[None]]) -> None:
        self._keeper = keeper
        self._or_stop = or_stop

    async def make_room(self, history: Conversation, text: str, most: int | None) -> bool:
        """Let leave what has to, by what is known before ``text`` is sent; True where something did. False, too, where
        the user stops waiting.

        ``most``: tokens of the reply. Raises ContextOverflow for what is not to be sent.
        """
        window, talk = self._keeper.room.window, await self._keeper.talk()
        rendering = asyncio.ensure_future(self._keeper.render_ahead(history, text))
        await self._or_stop(rendering)
        if not rendering.done():
            return False
        before = window.kept(history)
        await self._let_go(history, self._keeper.to_drop(talk, history, text, most or talk.max_tokens))
        return window.kept(history) != before

    async def drop_more(self, process: EngineProcess, history: Conversation) -> None:
        """The engine itself said that it was too much. Raises ContextOverflow where nothing is left to drop."""
        room = self._keeper.room
        count = room.more_to_drop(history)
        if count == room.window.count_left(history):
            raise death.too_long(process)
        await self._let_go(history, count)

    async def _let_go(self, history: Conversation, count: int) -> None:
        """Have the ``count`` oldest messages out of the window, and a summary in their place where that is wanted."""
        room = self._keeper.room
        left = room.window.count_left(history)
        if count <= left:
            return
        summary = ""
        if room.policy == "summarize":
            earlier = room.window.summary if left else ""
            leaving = room.window.sent(history).turns[left:count]
            turns, limit = room.to_summarise(leaving, earlier, await self._keeper.talk())
            if turns or earlier:
                summary = await self._summary(summaries.request(turns, earlier, limit), limit)
            if not summary:
                self._keeper.notify("what left the context window was not summarised; it was dropped")
            elif len(turns) < len(leaving):
                self._keeper.notify(f"only the newest {len(turns)} of {len(leaving)} messages could be summarised")
        self._keeper.let_go(history, count, summary)

    async def _summary(self, request: str, limit: int) -> str:
        """What the model makes of the turns that leave; empty where it makes nothing, or is stopped."""
        try:
            process = await self._keeper.errand(clean(request).text)
        except BitnetChatError:
            return ""
        task = asyncio.ensure_future(summarise(process, request, limit))
        try:
            await self._or_stop(task)
        finally:
            self._keeper.end_errand(process)
        return await task
