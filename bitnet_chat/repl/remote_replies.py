"""Replies that other clients request in the same conversation, shown while the prompt is active.

A backend that is attached to a server reports them
(:meth:`bitnet_chat.backends.attached_server.backend.AttachedBackend.follow`). The complete lines of a reply are written
above the prompt as they arrive; the incomplete line is a preview, directly above the prompt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

from bitnet_chat.backends.attached_server.messages import (
    BranchSwitched,
    ChatRemoved,
    ChatRenamed,
    Heard,
    RemoteReplyStarted,
)
from bitnet_chat.conversation import ToolCall
from bitnet_chat.events import Completed, Failed, Notice, TextDelta, ThinkingDelta
from bitnet_chat.repl import display
from bitnet_chat.repl.display import ReplyDisplay

if TYPE_CHECKING:
    from bitnet_chat.journal import StoredConversation
    from bitnet_chat.repl.controller import ReplController


class RemoteReplyScreen(Protocol):
    """Writes above the active prompt. Each user interface implements it."""

    by_lines: bool
    """Whether lines can be shown as they arrive. False: a reply is shown when it is complete."""

    async def above(self, write: Callable[[], None]) -> None:
        """Erase the prompt, call ``write``, which writes whole lines, and draw the prompt again."""

    def preview(self, text: str) -> None:
        """Show ``text`` as the incomplete line; an empty text erases it."""


class RemoteReplyView:
    """Shows the events of other clients, and updates the conversation of the controller."""

    def __init__(self, controller: ReplController, display: ReplyDisplay, screen: RemoteReplyScreen) -> None:
        self._controller, self._display, self._screen = controller, display, screen
        self._pending = ""
        """Text that was received and not shown yet."""
        self._thinking = False
        """Whether the last text received is a thought."""
        self._delayed: list[Callable[[], None]] = []
        """Output that is delayed until the end of the reply, if ``screen.by_lines`` is False."""

    async def run(self, events: AsyncIterator[Heard]) -> None:
        """Show ``events`` until they end. Holds the turn lock of the controller during a reply."""
        async for each in events:
            if isinstance(each, RemoteReplyStarted):
                async with self._controller.turn_lock:
                    await self._reply(each, events)
            elif isinstance(each, BranchSwitched):
                async with self._controller.turn_lock:
                    await self._switch()
            elif isinstance(each, ChatRenamed):
                self._controller.renamed(each.title)
            elif isinstance(each, ChatRemoved):
                self._controller.removed()
                await self._show(lambda: self._display.notice("This conversation was removed elsewhere."), at_once=True)

    async def _switch(self) -> None:
        before = self._controller.conversation, self._controller.variant
        stored = await self._controller.catch_up()
        # Nothing is new after a switch in this client.
        if stored is not None and (stored.conversation, stored.turn_position) != before:
            await self._show_branch(stored)

    async def _show_branch(self, stored: StoredConversation) -> None:
        await self._show(lambda: display.show(self._display, stored, is_branch=True), at_once=True)

    async def _reply(self, started: RemoteReplyStarted, events: AsyncIterator[Heard]) -> None:
        message = started.message

        def begin() -> None:
            self._display.lines(*(display.quoted(message) if message is not None else ()))
            self._display.begin()

        await self._show(begin)
        self._screen.preview("…")
        async for event in events:
            if isinstance(event, TextDelta | ThinkingDelta):
                await self._add_text(event.text, isinstance(event, ThinkingDelta))
            elif isinstance(event, Notice):
                await self._show_notice(event.text)
            elif isinstance(event, ToolCall):
                await self._show_notice(f"calls {event.name}")
            elif isinstance(event, Completed | Failed):
                await self._end(event, started.row)
                return

    async def _add_text(self, text: str, thinking: bool) -> None:
        if thinking is not self._thinking:
            await self._show(self._begin_line(self._take_pending()))
            self._thinking = thinking
        whole, newline, rest = (self._pending + text).rpartition("\n")
        self._pending = whole + newline
        if newline:
            await self._show(self._take_pending())
        self._pending = rest
        self._screen.preview(self._pending)

    def _take_pending(self) -> Callable[[], None]:
        """Remove the text that was not shown yet. Returns a function that shows it."""
        text, self._pending = self._pending, ""
        show = self._display.thoughts if self._thinking else self._display.words
        return lambda: show(text) if text else None

    def _begin_line(self, write: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            write()
            self._display.rest()

        return both

    async def _show_notice(self, text: str) -> None:
        write = self._take_pending()

        def both() -> None:
            write()
            self._display.notice(text)

        await self._show(both)

    async def _end(self, event: Completed | Failed, row: int | None) -> None:
        write = self._take_pending()
        self._thinking = False

        def all_of_it() -> None:
            write()
            if isinstance(event, Completed):
                self._display.completed(event)
            else:
                self._display.error(event.error)

        self._screen.preview("")
        stored = await self._controller.catch_up()
        await self._show(all_of_it, at_once=True)
        # A switch just after the reply is in what was loaded, and its own event brings nothing new.
        if stored is not None and row is not None and all(each.row != row for each in stored.shown):
            await self._show_branch(stored)

    async def _show(self, write: Callable[[], None], *, at_once: bool = False) -> None:
        self._delayed.append(write)
        if not (at_once or self._screen.by_lines):
            return
        shown, self._delayed = self._delayed, []

        def all_of_it() -> None:
            for each in shown:
                each()

        await self._screen.above(all_of_it)
