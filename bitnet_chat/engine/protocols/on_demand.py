"""The dialect of an engine, made when it is first needed, and its work that may take long, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.protocols import EngineOptions, Talk
from bitnet_chat.filters.thinking import Tags
from bitnet_chat.util.threads import in_daemon

if TYPE_CHECKING:
    from bitnet_chat.templates.chat_template import ChatTemplate


class TalkOnDemand:
    """``make`` reads the model's header and its chat template, which may take seconds, and may raise."""

    def __init__(self, make: Callable[[], Talk]) -> None:
        self.made: Talk | None = None
        self._make = make
        self._making: asyncio.Future[Talk] | None = None

    async def get(self) -> Talk:
        if self.made is None:
            if self._making is None or self._making.done():
                self._making = asyncio.ensure_future(in_daemon(self._make))
            self.made = await asyncio.shield(self._making)  # another task may be waiting for it too
        return self.made

    def forget(self) -> None:
        """Make another one next time."""
        self.made = self._making = None

    async def render_ahead(self, memory: Conversation, text: str = "") -> None:
        """Have at hand what ``text`` after ``memory`` needs rendered. A chat template is foreign code, which takes what
        time it is given: never on the event loop."""
        talk = await self.get()
        await in_daemon(lambda: talk.render_ahead(memory, text))


def talk_for(
    binary: EngineBinary,
    options: EngineOptions,
    template: Callable[[], ChatTemplate],
    *,
    control_tokens: frozenset[str] = frozenset(),
    strips_after_special: bool = False,
    overriding_template: str = "",
    thinking: Tags | None = None,
) -> Talk:
    """``template`` is asked for only where it is needed. ``overriding_template``: Jinja source for a modern engine.
    ``thinking``: the tags around what the model thinks, which a modern engine knows by itself."""
    if binary.dialect is Dialect.CLASSIC:
        from bitnet_chat.engine.protocols.classic import ClassicTalk
        from bitnet_chat.templates.segments import PromptSegments

        segments = PromptSegments(template(), control_tokens, strips_after_special=strips_after_special)
        return ClassicTalk(binary, options, segments, thinking)
    if binary.dialect is Dialect.NATIVE:
        from bitnet_chat.engine.native import command
        from bitnet_chat.engine.protocols.native import NativeTalk
        from bitnet_chat.templates.segments import PromptSegments

        segments = PromptSegments(template(), control_tokens, strips_after_special=strips_after_special)
        argv = command.command(
            binary,
            options.model,
            context_size=options.context_size or None,
            threads=options.threads,
            overrides=options.overrides,
        )
        return NativeTalk(argv, options, segments, thinking)
    from bitnet_chat.engine.protocols.modern import ModernTalk

    return ModernTalk(binary, options, overriding_template, control_tokens)
