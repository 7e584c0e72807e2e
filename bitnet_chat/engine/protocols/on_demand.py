"""The dialect of an engine, made on first use, with its slow work outside the event loop."""

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
    """``make`` reads the model's header and its chat template, which may take seconds, and may raise."""

    def __init__(self, make: Callable[[], EngineProtocol]) -> None:
        self.made: EngineProtocol | None = None
        self._make = make
        self._making: asyncio.Future[EngineProtocol] | None = None

    async def get(self) -> EngineProtocol:
        if self.made is None:
            if self._making is None or self._making.done():
                self._making = asyncio.ensure_future(run_in_daemon_thread(self._make))
            self.made = await asyncio.shield(self._making)  # another task may be waiting for it too
        return self.made

    def forget(self) -> None:
        """Make a new one on the next use."""
        self.made = self._making = None

    async def render_ahead(self, memory: Conversation, text: str = "") -> None:
        """Render the prompt for ``text`` after ``memory`` in advance. A chat template is foreign code, which may take
        all its permitted time: never on the event loop."""
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
    """``template`` is asked for only where it is needed. ``overriding_template``: Jinja source for a modern engine.
    ``thinking``: the tags around what the model thinks, which a modern engine knows by itself."""
    if binary.dialect is Dialect.CLASSIC:
        from bitnet_chat.engine.protocols.classic import ClassicProtocol
        from bitnet_chat.templates.segments import PromptSegments

        segments = PromptSegments(template(), control_tokens, strips_after_special=strips_after_special)
        return ClassicProtocol(binary, options, segments, thinking)
    if binary.dialect is Dialect.NATIVE:
        from bitnet_chat.engine.native import command
        from bitnet_chat.engine.protocols.native import NativeProtocol
        from bitnet_chat.templates.segments import PromptSegments

        segments = PromptSegments(template(), control_tokens, strips_after_special=strips_after_special)
        argv = command.command(
            binary,
            options.model,
            context_size=options.context_size or None,
            threads=options.threads,
            overrides=options.overrides,
        )
        return NativeProtocol(argv, options, segments, thinking)
    from bitnet_chat.engine.protocols.modern import ModernProtocol

    return ModernProtocol(binary, options, overriding_template, control_tokens)
