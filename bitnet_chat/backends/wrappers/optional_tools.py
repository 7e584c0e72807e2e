"""Backends that do with tools as a front end wishes: without them where the model has no place for them, or with one
call in a reply.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from bitnet_chat.backend import Backend, BackendStatus, ReplyOptions, refusal_of
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason, UnsupportedError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, PromptProgress, Started

_TOOLS = re.compile(r"\btools?\b|\btool_choice\b", re.IGNORECASE)
"""In a refusal of somebody else's server: Ollama says "does not support tools", vLLM that "auto" tool choice is off."""


class OptionalToolsBackend:
    """See :class:`bitnet_chat.backend.Backend`. All but the replies is that of ``inner``, which is offered tools, and
    asked again without them where its model has no place for them."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self._without = False
        """The model has no place for tools, and the user knows it. Not so for requests that stand for themselves: each
        is told."""
        self._was_interrupted = False
        if (follow := getattr(inner, "follow", None)) is not None:
            self.follow: Any = follow

    def start(self) -> None:
        self.inner.start()

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        wanted = options or ReplyOptions()
        without = replace(wanted, tools=(), tool_choice="auto")
        asked = without if self._without and not wanted.alone else wanted
        self._was_interrupted = False
        has_started, has_spoken = False, False
        while True:
            refusal: BitnetChatError | None = None
            events = self.inner.reply(conversation, asked)
            try:
                async for event in events:
                    if isinstance(event, Failed) and asked.tools and not has_spoken and refuses_tools(event.error):
                        refusal = event.error
                        break
                    if isinstance(event, Started):
                        if has_started:
                            continue
                        has_started = True
                    elif isinstance(event, Completed) and not wanted.alone:
                        self._without = asked.tools != wanted.tools  # it was the tools, then
                    has_spoken = has_spoken or not isinstance(event, Started | Notice | PromptProgress)
                    yield event
            finally:
                # An async generator has something to close; an iterator without aclose has nothing.
                close = getattr(events, "aclose", None)
                if close is not None:
                    await close()
            if refusal is None:
                return
            asked = without
            why = refusal.what.removeprefix("tools is not supported here: ")
            yield Notice(f"the model is not offered the tools: {why}")
            if self._was_interrupted:  # while there was nothing to stop
                yield Completed(FinishReason.INTERRUPTED, "")
                return

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        error = await refusal_of(self.inner, conversation, options)
        if error is None or not options.tools or not refuses_tools(error):
            return error
        return await refusal_of(self.inner, conversation, replace(options, tools=(), tool_choice="auto"))

    def prepare(self, history: Conversation) -> None:
        self.inner.prepare(history)

    def count(self, text: str) -> TokenCount | None:
        return self.inner.count(text)

    def interrupt(self) -> None:
        self._was_interrupted = True
        self.inner.interrupt()

    def status(self) -> BackendStatus:
        return self.inner.status()

    async def close(self) -> None:
        await self.inner.close()


def refuses_tools(error: BitnetChatError) -> bool:
    """Whether it may be for the tools that a reply was refused."""
    if isinstance(error, UnsupportedError):
        return error.option == "tools"
    return isinstance(error, UsageError) and bool(_TOOLS.search(error.what))


class SingleCallBackend:
    """See :class:`bitnet_chat.backend.Backend`. Of the calls that a reply of ``inner`` asks for the first is kept."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.start, self.prepare, self.count = inner.start, inner.prepare, inner.count
        self.interrupt, self.status, self.close = inner.interrupt, inner.status, inner.close

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        has_called = False
        events = self.inner.reply(conversation, options or ReplyOptions())
        try:
            async for event in events:
                if isinstance(event, ToolCall):
                    if has_called:
                        continue
                    has_called = True
                yield event
        finally:
            # An async generator has something to close; an iterator without aclose has nothing.
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
