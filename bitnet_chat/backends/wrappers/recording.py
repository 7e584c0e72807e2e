"""Any backend, with every reply written down while it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING

from bitnet_chat.backend import Backend, BackendStatus, ReplyOptions
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, TextDelta, ThinkingDelta

if TYPE_CHECKING:
    from bitnet_chat.journal import JournalRecorder


async def record_reply(
    backend: Backend, recorder: JournalRecorder, conversation: Conversation, options: ReplyOptions
) -> AsyncIterator[Event]:
    """``backend.reply``, as it is; ``recorder`` hears of each event before the caller does."""
    status = backend.status()
    recorder.begin_reply(conversation, model=status.model, engine=status.engine, options=made_with(options, status))
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
                    made = made_with(options, backend.status())  # more of it is known than before it had loaded
                    recorder.end_reply(event.reason, event.stats, text=event.text, options=made)
                elif isinstance(event, Failed):
                    ended = True
                    recorder.end_reply(event.error.reason, text=event.text)
                yield event
    finally:
        if not ended:  # the caller walked away, or the backend broke
            recorder.end_reply(FinishReason.INTERRUPTED)


def made_with(options: ReplyOptions, status: BackendStatus) -> dict[str, object]:
    """What this reply is asked for with; nothing of what is left to the engine."""
    facts: dict[str, object] = {"max_tokens": options.max_tokens, "timeout": options.timeout}
    facts |= asdict(options.sampling.over(status.sampling))
    facts |= {"engine_version": status.engine_version or None, "window": status.context_size}
    facts |= {"stop": list(options.stop) or None, "tools": [tool.name for tool in options.tools] or None}
    if options.tools and options.tool_choice != "auto":
        facts["tool_choice"] = options.tool_choice
    if options.format is not None:
        facts["response_format"] = options.format.schema or "json"
    return {name: value for name, value in facts.items() if value is not None}


async def _generator(events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
    """Something that can be closed, whatever a backend gives."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
