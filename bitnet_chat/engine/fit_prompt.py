"""Removal of the oldest turns from the context window, before a message or when the engine reports that it is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.context.summary import Summary, summarise, with_summary
from bitnet_chat.context.window import Policy, left_note, without_oldest
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import normalise
from bitnet_chat.engine import exit_errors
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.engine.prompt import EnginePrompt
from bitnet_chat.engine.reply import ReplyAccumulator
from bitnet_chat.engine.supervisor import EngineSupervisor
from bitnet_chat.engine_output import EngineError, ReplyText, ThinkingText, TurnEnd
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.util.threads import run_beside_loop, run_in_daemon_thread


class ContextTrimmer:
    """Removal of old turns. ``or_stop`` waits for a task or for a stop by the user."""

    def __init__(self, supervisor: EngineSupervisor, or_stop: Callable[[asyncio.Future[Any]], Awaitable[None]]) -> None:
        self._supervisor = supervisor
        self._or_stop = or_stop

    async def cut(self, prompt: EnginePrompt, options: ReplyOptions) -> EnginePrompt:
        """``prompt``, for a request that does not depend on earlier ones, or its newest part that fits. Raises
        ContextOverflowError if none does, or by the policy."""
        supervisor, window, history = self._supervisor, self._supervisor.window, prompt.history
        count = await self.leaving(prompt, options)
        if not count:
            return prompt
        leaving, summary = history.turns[:count], Summary()
        if (options.overflow or window.policy) == "summarize":
            summary = await self._summary(leaving, "")
        tokens = await run_beside_loop(history, window.cost_of_oldest, await supervisor.protocol(), history, count)
        supervisor.tell(left_note(count, len(history.turns), tokens, summary.text, summary.remark), count)
        rest = with_summary(without_oldest(history, count), summary.text)
        return replace(prompt, history=rest, kept=rest)

    async def leaving(self, prompt: EnginePrompt, options: ReplyOptions) -> int:
        """Number of the oldest messages that are dropped for such a request. Raises as :meth:`cut`."""
        policy = options.overflow or self._supervisor.window.policy
        return await run_in_daemon_thread(await self._count(prompt, options.max_tokens, policy))

    async def fit(self, prompt: EnginePrompt, max_tokens: int | None) -> EnginePrompt:
        """``prompt`` without the oldest turns that do not fit before its message and a reply of ``max_tokens``; with
        them if the user stops waiting. Raises ContextOverflowError as :meth:`cut`."""
        window = self._supervisor.window
        prompt = replace(prompt, kept=window.kept(prompt.history))
        # It renders the chat template, for as long as that is given.
        counting = asyncio.ensure_future(run_in_daemon_thread(await self._count(prompt, max_tokens)))
        counting.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may have no waiter any more
        await self._or_stop(counting)
        if not counting.done():
            return prompt
        await self._release(prompt.history, counting.result())
        return replace(prompt, kept=window.kept(prompt.history))

    async def _count(
        self, prompt: EnginePrompt, max_tokens: int | None, alone: Policy | None = None
    ) -> Callable[[], int]:
        protocol = await self._supervisor.protocol()
        return partial(self._supervisor.to_drop, protocol, prompt, max_tokens or protocol.max_tokens, alone)

    async def drop_more(self, process: EngineProcess, prompt: EnginePrompt) -> None:
        """Drop turns after the engine reported a full window. Raises ContextOverflowError with nothing left to drop."""
        window = self._supervisor.window
        count = window.dropped_when_full(prompt.history)
        if count == window.count_left(prompt.history):
            raise exit_errors.too_long(process)
        await self._release(prompt.history, count)

    async def _release(self, history: Conversation, count: int) -> None:
        """Drop the ``count`` oldest messages from the window, and put a summary in their place if that is set."""
        window = self._supervisor.window
        left = window.count_left(history)
        if count <= left:
            return
        summary = Summary()
        if window.policy == "summarize":
            leaving = window.sent(history).turns[left:count]
            summary = await self._summary(leaving, window.summary if left else "")
        self._supervisor.release(history, count, summary)

    async def _summary(self, leaving: Sequence[Message], earlier: str) -> Summary:
        """A summary of the dropped messages by the engine itself; empty if it fails or is stopped by the user."""
        window, protocol = self._supervisor.window, await self._supervisor.protocol()
        newest = partial(window.newest, protocol, earlier)
        return await summarise(leaving, earlier, window.summary_limit, newest, self._ask)

    async def _ask(self, request: str, limit: int) -> str:
        try:
            process = await self._supervisor.side_prompt(normalise(request).text)
        except BitnetChatError:
            return ""
        task = asyncio.ensure_future(_reply_of(process, request, limit))
        try:
            await self._or_stop(task)
        finally:
            self._supervisor.end_errand(process)
        return await task


async def _reply_of(process: EngineProcess, request: str, limit: int) -> str:
    """The reply of an engine without a history to ``request``, of about ``limit`` tokens at most; empty if it fails."""
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
            elif isinstance(frame, ThinkingText):  # which counts towards the limit
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
