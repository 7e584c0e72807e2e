"""Replies of other clients in the same conversation, shown while the prompt is active.

For a backend that can follow (:meth:`bitnet_chat.backends.attached_server.backend.AttachedBackend.follow`). A reply
is written above the prompt line by line, as it streams; the incomplete line is directly above the prompt, which is
unchanged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

from bitnet_chat.backends.attached_server.messages import ChatRemoved, ChatRenamed, Heard, RemoteReplyStarted
from bitnet_chat.conversation import ToolCall
from bitnet_chat.events import Completed, Failed, Notice, TextDelta, ThinkingDelta
from bitnet_chat.repl import display
from bitnet_chat.repl.display import ReplyDisplay

if TYPE_CHECKING:
    from bitnet_chat.repl.controller import ReplController


class RemoteReplyScreen(Protocol):
    """The output of such replies. Each user interface implements it."""

    by_lines: bool
    """False: only whole replies can be shown."""

    async def above(self, write: Callable[[], None]) -> None:
        """Call ``write``, which writes whole lines, when the screen holds only the conversation."""

    def preview(self, text: str) -> None:
        """Show the incomplete line; empty: erase it."""


class RemoteReplyView:
    """``await run(heard)`` shows all events, and updates the conversation of the controller."""

    def __init__(self, talk: ReplController, display: ReplyDisplay, stage: RemoteReplyScreen) -> None:
        self._talk, self._display, self._stage = talk, display, stage
        self._rest = ""
        """Text that is received and not shown."""
        self._thinking = False
        """The last text received is a thought."""
        self._shown: list[Callable[[], None]] = []
        """Text to write at the end, if it cannot be written before."""

    async def run(self, heard: AsyncIterator[Heard]) -> None:
        async for each in heard:
            if isinstance(each, RemoteReplyStarted):
                async with self._talk.floor:
                    await self._reply(each, heard)
            elif isinstance(each, ChatRenamed):
                self._talk.renamed(each.title)
            elif isinstance(each, ChatRemoved):
                self._talk.removed()
                await self._show(lambda: self._display.notice("This conversation was removed elsewhere."), at_once=True)

    async def _reply(self, said: RemoteReplyStarted, heard: AsyncIterator[Heard]) -> None:
        message = said.message

        def begin() -> None:
            self._display.lines(*(display.quoted(message) if message is not None else ()))
            self._display.begin()

        await self._show(begin)
        self._stage.preview("…")
        async for event in heard:
            if isinstance(event, TextDelta | ThinkingDelta):
                await self._said(event.text, isinstance(event, ThinkingDelta))
            elif isinstance(event, Notice):
                await self._line(event.text)
            elif isinstance(event, ToolCall):
                await self._line(f"calls {event.name}")
            elif isinstance(event, Completed | Failed):
                await self._end(event)
                return

    async def _said(self, text: str, thinking: bool) -> None:
        if thinking is not self._thinking:
            await self._show(self._begin_line(self._open()))
            self._thinking = thinking
        whole, newline, rest = (self._rest + text).rpartition("\n")
        self._rest = whole + newline
        if newline:
            await self._show(self._open())
        self._rest = rest
        self._stage.preview(self._rest)

    def _open(self) -> Callable[[], None]:
        """A display with all text that was received and not shown."""
        text, self._rest = self._rest, ""
        show = self._display.thoughts if self._thinking else self._display.words
        return lambda: show(text) if text else None

    def _begin_line(self, write: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            write()
            self._display.rest()

        return both

    async def _line(self, text: str) -> None:
        write = self._open()

        def both() -> None:
            write()
            self._display.notice(text)

        await self._show(both)

    async def _end(self, event: Completed | Failed) -> None:
        write = self._open()
        self._thinking = False

        def all_of_it() -> None:
            write()
            if isinstance(event, Completed):
                self._display.completed(event)
            else:
                self._display.error(event.error)

        self._stage.preview("")
        await self._talk.catch_up()
        await self._show(all_of_it, at_once=True)

    async def _show(self, write: Callable[[], None], *, at_once: bool = False) -> None:
        self._shown.append(write)
        if not (at_once or self._stage.by_lines):
            return
        shown, self._shown = self._shown, []

        def all_of_it() -> None:
            for each in shown:
                each()

        await self._stage.above(all_of_it)
