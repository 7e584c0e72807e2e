"""Removal of the oldest turns from the context window, before a message or when the engine reports that it is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.context import window as summaries
from bitnet_chat.context.window import left_note, without_oldest
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import normalise
from bitnet_chat.engine import exit_errors
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.reply import ReplyAccumulator
from bitnet_chat.engine.supervisor import EngineSupervisor
from bitnet_chat.engine_frames import EngineError, ReplyText, ThinkingText, TurnEnd
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.util.threads import run_beside_loop, run_in_daemon_thread


class ContextTrimmer:
    """Removal of old turns. ``or_stop`` waits for a task or for a stop by the user."""

    def __init__(self, supervisor: EngineSupervisor, or_stop: Callable[[asyncio.Future[Any]], Awaitable[None]]) -> None:
        self._supervisor = supervisor
        self._or_stop = or_stop

    async def cut(self, history: Conversation, text: str, options: ReplyOptions) -> Conversation:
        """The history for a stateless request: ``history``, or its newest part with room before ``text``. It depends on
        the request alone. Raises ContextOverflowError for what is not to be sent."""
        supervisor, room = self._supervisor, self._supervisor.room
        count = await self.leaving(history, text, options)
        if not count:
            return history
        leaving = history.turns[:count]
        summary = ""
        if (options.overflow or room.policy) == "summarize":
            summary = await self._made_of(leaving, "")
        tokens = await run_beside_loop(history, room.cost_of_oldest, await supervisor.protocol(), history, count)
        supervisor.tell(left_note(count, len(history.turns), tokens, summary), count)
        return summaries.with_summary(without_oldest(history, count), summary)

    async def leaving(self, history: Conversation, text: str, options: ReplyOptions) -> int:
        """Number of the oldest messages that are dropped for such a request. Raises as ``cut``."""
        protocol = await self._supervisor.protocol()
        most, policy = options.max_tokens or protocol.max_tokens, options.overflow or self._supervisor.room.policy
        return await run_in_daemon_thread(lambda: self._supervisor.to_drop(protocol, history, text, most, policy))

    async def make_room(self, history: Conversation, text: str, most: int | None) -> bool:
        """Let leave what has to, by what is known before ``text`` is sent; True where something did. False, too, where
        the user stops waiting.

        ``most``: tokens of the reply. Raises ContextOverflowError for what is not to be sent.
        """
        window, protocol = self._supervisor.room.window, await self._supervisor.protocol()
        before = window.kept(history)
        # It renders the chat template, which takes what time it is given.
        work = partial(self._supervisor.to_drop, protocol, history, text, most or protocol.max_tokens)
        counting = asyncio.ensure_future(run_in_daemon_thread(work))
        counting.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may have no waiter any more
        await self._or_stop(counting)
        if not counting.done():
            return False
        await self._release(history, counting.result())
        return window.kept(history) != before

    async def drop_more(self, process: EngineProcess, history: Conversation) -> None:
        """Drop turns after the engine reported a full window. Raises ContextOverflowError with nothing left to drop."""
        room = self._supervisor.room
        count = room.more_to_drop(history)
        if count == room.window.count_left(history):
            raise exit_errors.too_long(process)
        await self._release(history, count)

    async def _release(self, history: Conversation, count: int) -> None:
        """Drop the ``count`` oldest messages from the window, and put a summary in their place if that is set."""
        room = self._supervisor.room
        left = room.window.count_left(history)
        if count <= left:
            return
        summary = ""
        if room.policy == "summarize":
            leaving = room.window.sent(history).turns[left:count]
            summary = await self._made_of(leaving, room.window.summary if left else "")
        self._supervisor.release(history, count, summary)

    async def _made_of(self, leaving: Sequence[Message], earlier: str) -> str:
        """A summary of the dropped messages; empty, with a notice, if it failed."""
        turns, limit = self._supervisor.room.to_summarise(leaving, earlier, await self._supervisor.protocol())
        summary = ""
        if turns or earlier:
            summary = await self._summary(summaries.request(turns, earlier, limit), limit)
        if not summary:
            self._supervisor.tell("what left the context window was not summarised; it was dropped")
        elif len(turns) < len(leaving):
            self._supervisor.tell(f"only the newest {len(turns)} of {len(leaving)} messages could be summarised")
        return summary

    async def _summary(self, request: str, limit: int) -> str:
        """The model's summary of the dropped turns; empty if it has no text or was stopped."""
        try:
            process = await self._supervisor.side_prompt(normalise(request).text)
        except BitnetChatError:
            return ""
        task = asyncio.ensure_future(summarise(process, request, limit))
        try:
            await self._or_stop(task)
        finally:
            self._supervisor.end_errand(process)
        return await task


# The turns that leave the window, summarised by the model itself.


async def summarise(process: EngineProcess, request: str, limit: int) -> str:
    """The answer of a fresh child to ``request``, of about ``limit`` tokens at most; empty without one."""
    await process.settled()
    if process.state is not ProcessState.IDLE:
        return ""
    message = process.input_for(Conversation(), normalise(request).text, ReplyOptions(max_tokens=limit))
    assert message is not None, "it was started for this message"
    process.send(message, watched=True)
    turn = ReplyAccumulator(process.meter, time.monotonic())
    while turn.end is None and (frames := await process.frames()):
        for frame in frames:
            if isinstance(frame, ReplyText):
                turn.said(frame.text)
            elif isinstance(frame, ThinkingText):  # which is within the limit too
                turn.thought(frame.text)
            elif isinstance(frame, EngineError):
                return ""
            elif isinstance(frame, TurnEnd):
                turn.end = frame
        if turn.at_least >= limit:
            process.stop()
    if turn.end is None or turn.end.reason is FinishReason.INTERRUPTED:
        return ""
    return turn.text.strip()
