"""Backends that limit tools: replies without tools from a model without support for them, or with one call at most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bitnet_chat.backend import Backend, ReplyOptions, refusal_of
from bitnet_chat.backends.pipeline import BackendWrapper, ReplyFilter, ReplyPipeline, only, pipeline_of
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason, UnsupportedError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, PromptProgress, Started

_TOOLS = re.compile(r"\btools?\b|\btool_choice\b", re.IGNORECASE)
"""In the error of a server: Ollama reports "does not support tools", vLLM that "auto" tool choice is off."""


class OptionalToolsBackend(BackendWrapper):
    """See :class:`bitnet_chat.backend.Backend`. Repeats a request to ``inner`` without tools if the model does not
    support them."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.without = False
        """Whether the model is known not to support tools, and a notice has reported it. Independent requests get a
        notice each."""
        self.was_interrupted = False
        if (follow := getattr(inner, "follow", None)) is not None:
            self.follow: Any = follow

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        self.was_interrupted = False
        asked = _without_tools(options) if self.without and not options.alone else options
        return pipeline_of(self.inner, conversation, asked).then(_OptionalTools(self, conversation, options, asked))

    async def refusal(self, conversation: Conversation, options: ReplyOptions) -> BitnetChatError | None:
        error = await refusal_of(self.inner, conversation, options)
        if error is None or not options.tools or not refuses_tools(error):
            return error
        return await refusal_of(self.inner, conversation, _without_tools(options))

    def interrupt(self) -> None:
        self.was_interrupted = True
        super().interrupt()


class _OptionalTools(ReplyFilter):
    """Repeats a request that is refused for its tools, without them."""

    def __init__(
        self, backend: OptionalToolsBackend, conversation: Conversation, wanted: ReplyOptions, asked: ReplyOptions
    ) -> None:
        self._backend, self._conversation, self._wanted, self._asked = backend, conversation, wanted, asked
        self._has_started = self._has_spoken = False

    def feed(self, event: Event) -> Sequence[Event]:
        if isinstance(event, Started):
            if self._has_started:
                return ()
            self._has_started = True
            return (event,)
        if isinstance(event, Failed) and self._asked.tools and not self._has_spoken and refuses_tools(event.error):
            self._asked, self.step = _without_tools(self._wanted), self._ask_again
            why = event.error.what.removeprefix("tools is not supported here: ")
            return (Notice(f"the model is not offered the tools: {why}"),)
        if isinstance(event, Completed) and not self._wanted.alone:
            self._backend.without = self._asked.tools != self._wanted.tools
        self._has_spoken = self._has_spoken or not isinstance(event, (Notice, PromptProgress))
        return (event,)

    async def _ask_again(self) -> ReplyPipeline:
        if self._backend.was_interrupted:  # between the two requests
            return ReplyPipeline(only(Completed(FinishReason.INTERRUPTED, "")))
        return pipeline_of(self._backend.inner, self._conversation, self._asked)


def _without_tools(options: ReplyOptions) -> ReplyOptions:
    return replace(options, tools=(), tool_choice="auto")


def refuses_tools(error: BitnetChatError) -> bool:
    """Whether tools may be the reason of ``error``."""
    if isinstance(error, UnsupportedError):
        return error.option == "tools"
    return isinstance(error, UsageError) and bool(_TOOLS.search(error.what))


class SingleCallBackend(BackendWrapper):
    """See :class:`bitnet_chat.backend.Backend`. Only the first tool call of each reply of ``inner`` is kept."""

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        return pipeline_of(self.inner, conversation, options).then(_SingleCall())


class _SingleCall(ReplyFilter):
    _has_called = False

    def feed(self, event: Event) -> Sequence[Event]:
        if not isinstance(event, ToolCall):
            return (event,)
        is_first, self._has_called = not self._has_called, True
        return (event,) if is_first else ()
