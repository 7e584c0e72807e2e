"""The dialect of an engine, made when it is first needed, and its work that may take long, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.dialects import Talk
from bitnet_chat.util.threads import in_daemon


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
