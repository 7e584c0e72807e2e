"""Any backend, with every reply written down while it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from bitnet_chat.backends import Backend, ReplyOptions
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, TextDelta, ThinkingDelta

if TYPE_CHECKING:
    from bitnet_chat.journal import Recorder


async def recorded(
    backend: Backend, recorder: Recorder, conversation: Conversation, options: ReplyOptions
) -> AsyncIterator[Event]:
    """``backend.reply``, as it is; ``recorder`` hears of each event before the caller does."""
    status = backend.status()
    limits = {"max_tokens": options.max_tokens, "timeout": options.timeout}
    recorder.begin_reply(
        conversation,
        model=status.model,
        engine=status.engine,
        options={name: value for name, value in limits.items() if value is not None},
    )
    ended = False
    try:
        async with aclosing(_generator(backend.reply(conversation, options))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    recorder.text(event.text)
                elif isinstance(event, ThinkingDelta):
                    recorder.thinking(event.text)
                elif isinstance(event, ToolCall):
                    recorder.tool_call(event)
                elif isinstance(event, Completed):
                    ended = True
                    recorder.end_reply(event.reason, event.stats, text=event.text)
                elif isinstance(event, Failed):
                    ended = True
                    recorder.end_reply(event.error.reason, text=event.text)
                yield event
    finally:
        if not ended:  # the caller walked away, or the backend broke
            recorder.end_reply(FinishReason.INTERRUPTED)


async def _generator(events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
    """Something that can be closed, whatever a backend gives."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
