"""The dialect of an engine, created on first use. Slow work is done in threads, and not on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.protocols import EngineOptions, EngineProtocol
from bitnet_chat.filters.thinking import Tags
from bitnet_chat.util.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from bitnet_chat.templates.chat_template import ChatTemplate


class ProtocolOnDemand:
    """Creates an :class:`EngineProtocol` on first use. ``make`` reads the header and the chat template of the model,
    which may take seconds; it raises BitnetChatError. ``made`` is the protocol, None before the first use.
    """

    def __init__(self, make: Callable[[], EngineProtocol]) -> None:
        self.made: EngineProtocol | None = None
        self._make = make
        self._making: asyncio.Future[EngineProtocol] | None = None

    async def get(self) -> EngineProtocol:
        """Return the protocol. Raises the errors of ``make``."""
        if self.made is None:
            if self._making is None or self._making.done():
                self._making = asyncio.ensure_future(run_in_daemon_thread(self._make))
            self.made = await asyncio.shield(self._making)  # other tasks may wait for the same result
        return self.made

    def forget(self) -> None:
        """Create a new protocol on the next use."""
        self.made = self._making = None

    async def render_ahead(self, memory: Conversation, text: str = "") -> None:
        """Render the prompt for ``text`` after the conversation ``memory`` in advance, in a thread: a chat template may
        take seconds, up to its time limit. Raises the errors of ``make``.
        """
        protocol = await self.get()
        await run_in_daemon_thread(lambda: protocol.render_ahead(memory, text))


def protocol_for(
    binary: EngineBinary,
    options: EngineOptions,
    template: Callable[[], ChatTemplate],
    *,
    control_tokens: frozenset[str] = frozenset(),
    strips_after_special: bool = False,
    overriding_template: str = "",
    thinking: Tags | None = None,
) -> EngineProtocol:
    """Create the dialect of an engine. Raises ModelError for an invalid chat template.

    ``template``: returns the chat template; not called for a modern engine. ``control_tokens``: special tokens of the
    model. ``strips_after_special``: its tokenizer removes spaces after special tokens. ``overriding_template``: Jinja
    text for a modern engine. ``thinking``: the tags around thoughts, for other engines than a modern one.
    """
    if binary.dialect is Dialect.CLASSIC:
        from bitnet_chat.engine.protocols.classic import ClassicProtocol
        from bitnet_chat.templates.segments import PromptSegments

        segments = PromptSegments(template(), control_tokens, strips_after_special=strips_after_special)
        return ClassicProtocol(binary, options, segments, thinking)
    if binary.dialect is Dialect.NATIVE:
        from bitnet_chat.engine.native.client import command
        from bitnet_chat.engine.protocols.native import NativeProtocol
        from bitnet_chat.templates.segments import PromptSegments

        segments = PromptSegments(template(), control_tokens, strips_after_special=strips_after_special)
        argv = command(
            binary,
            options.model,
            context_size=options.context_size or None,
            threads=options.threads,
            state_folder=options.states,
            variants=None if options.variants else 1,
            overrides=options.overrides,
        )
        return NativeProtocol(argv, options, segments, thinking, saves=options.states is not None)
    from bitnet_chat.engine.protocols.modern import ModernProtocol

    return ModernProtocol(binary, options, overriding_template, control_tokens)
