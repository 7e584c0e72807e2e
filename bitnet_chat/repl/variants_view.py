"""The view of several replies to one message: side by side, or one after another in a window that is too narrow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, TextDelta, ThinkingDelta
from bitnet_chat.repl.reply_view import ABANDON_AFTER, SPIN, ReplyPresenter

if TYPE_CHECKING:
    from bitnet_chat.backend import Backend
    from bitnet_chat.backends.variants import VariantEvent
    from bitnet_chat.repl.columns import ReplyColumns
    from bitnet_chat.repl.display import ReplyDisplay

DISCARDED_IF_EMPTY = (FinishReason.INTERRUPTED, FinishReason.EMPTY)
"""Finish reasons with which a reply without text is not added to a conversation."""


@dataclass(frozen=True, slots=True)
class VariantReply:
    """One of several replies. ``calls``: empty unless the finish reason is TOOL_CALLS."""

    event: Completed | Failed
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the reply can be part of a conversation."""
        event = self.event
        return isinstance(event, Completed) and not (not event.text and event.reason in DISCARDED_IF_EMPTY)


class _Received:
    """What was received of one reply."""

    def __init__(self) -> None:
        self.begun = False
        self.reply: VariantReply | None = None
        self.text: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []

    @property
    def is_running(self) -> bool:
        return self.begun and self.reply is None

    def add(self, event: Event) -> None:
        self.begun = True
        if isinstance(event, TextDelta):
            self.text.append(event.text)
        elif isinstance(event, ThinkingDelta):
            self.thoughts.append(event.text)
        elif isinstance(event, ToolCall):
            self.calls.append(event)
        elif isinstance(event, Completed | Failed):
            has_calls = isinstance(event, Completed) and event.reason is FinishReason.TOOL_CALLS
            self.reply = VariantReply(event, "".join(self.thoughts), tuple(self.calls) if has_calls else ())


class VariantsView:
    """Shows the replies of ``source``, and can stop them."""

    def __init__(
        self,
        source: AsyncGenerator[VariantEvent],
        backend: Callable[[int], Backend],
        titles: Sequence[str],
        display: ReplyDisplay,
        stop: Callable[[], None],
        *,
        hidden: bool = False,
    ) -> None:
        """``backend``: returns that of a reply. ``titles``: sanitized, one for each reply. ``stop``: interrupts the
        running replies. ``hidden``: show only which reply is generated."""
        self._source, self._stop = source, stop
        columns = None if hidden else display.columns(titles)
        self._layout: _Layout
        if hidden:
            self._layout = _Hidden(display, len(titles))
        elif columns is not None:
            self._layout = _Beside(columns, backend)
        else:
            self._layout = _InTurn(display, titles, backend)
        self._loop = asyncio.get_running_loop()
        self._spinner: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        self._interrupted: float | None = None
        self._abandoned = False
        self._received = [_Received() for _ in titles]
        self._last = 0
        """Number of the reply with the last event."""

    async def run(self) -> list[VariantReply | None]:
        """Show the replies and return them; None: a reply that was not begun. A failure and an interrupt end all of
        them. A BitnetChatError of the backend becomes Failed. Cancelling the task stops the replies.
        """
        self._reading = asyncio.create_task(self._read())
        self._spin()
        try:
            await self._reading
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
        finally:
            if self._spinner is not None:
                self._spinner.cancel()
            for number, received in enumerate(self._received):
                if received.is_running:
                    self._take(number, Completed(FinishReason.INTERRUPTED, "".join(received.text)))
            self._layout.close()
        return [received.reply for received in self._received]

    def interrupt(self) -> None:
        """Stop all replies and keep their text. A second call, at least ABANDON_AFTER seconds later, ends them even if
        the backend does not respond.
        """
        now = self._loop.time()
        if self._interrupted is None:
            self._interrupted = now
            self._stop()
        elif now - self._interrupted >= ABANDON_AFTER and self._reading is not None:
            self._abandoned = True
            self._reading.cancel()

    def _is_stopped(self) -> bool:
        return self._interrupted is not None

    async def _read(self) -> None:
        if self._is_stopped():  # Enter and Ctrl-C arrived together, before the request
            await self._source.aclose()
            return
        try:
            async with aclosing(self._source) as events:
                async for each in events:
                    if self._is_stopped() and not self._received[each.variant].begun:
                        self._stop()  # the interrupt came between two replies
                    self._last = each.variant
                    self._take(each.variant, each.event)
                    is_running = any(received.is_running for received in self._received)
                    if not is_running and (self._is_stopped() or isinstance(each.event, Failed)):
                        return  # the others were not begun
        except BitnetChatError as error:
            self._take(self._last, Failed(error, "".join(self._received[self._last].text)))

    def _take(self, number: int, event: Event) -> None:
        self._received[number].add(event)
        self._layout.handle(number, event)

    def _spin(self) -> None:
        self._layout.spin()
        self._spinner = self._loop.call_later(SPIN, self._spin)


class _Layout(Protocol):
    """The replies on the screen."""

    def handle(self, number: int, event: Event) -> None:
        """Show an event of a reply."""

    def spin(self) -> None:
        """Draw the next frame of the spinner."""

    def close(self) -> None:
        """End the drawing. The cursor is then at the start of a line."""


class _Beside:
    """Replies in columns."""

    def __init__(self, columns: ReplyColumns, backend: Callable[[int], Backend]) -> None:
        self._columns, self._backend = columns, backend
        self._presenters: dict[int, ReplyPresenter] = {0: ReplyPresenter(backend(0), columns.displays[0])}
        self._ended = set[int]()

    def handle(self, number: int, event: Event) -> None:
        display = self._columns.displays[number]
        if number not in self._presenters:
            self._presenters[number] = ReplyPresenter(self._backend(number), display)
        presenter = self._presenters[number]
        if isinstance(event, Completed | Failed):
            presenter.end(event)
            self._columns.end(number)
            self._ended.add(number)
        else:
            presenter.handle(event)

    def spin(self) -> None:
        for number, display in enumerate(self._columns.displays):
            if number in self._ended:
                continue
            presenter = self._presenters.get(number)
            if presenter is None and all(before in self._ended for before in range(number)):  # its model may load
                presenter = self._presenters[number] = ReplyPresenter(self._backend(number), display)
            self._columns.status(number, " waiting" if presenter is None else display.frame(*presenter.activity()))

    def close(self) -> None:
        for number, display in enumerate(self._columns.displays):
            if number not in self._ended:
                display.notice("[not generated]")
        self._columns.close()


class _InTurn:
    """Replies one after another, each with a heading. Events of a later reply wait for the end of the one before."""

    def __init__(self, display: ReplyDisplay, titles: Sequence[str], backend: Callable[[int], Backend]) -> None:
        self._display, self._titles, self._backend = display, titles, backend
        self._waiting: list[list[Event]] = [[] for _ in titles]
        self._current = -1
        self._presenter: ReplyPresenter | None = None
        self._begin_next()

    def handle(self, number: int, event: Event) -> None:
        if number != self._current or self._presenter is None:
            self._waiting[number].append(event)
        elif isinstance(event, Completed | Failed):
            self._presenter.end(event)
            self._begin_next()
        else:
            self._presenter.handle(event)

    def _begin_next(self) -> None:
        self._presenter = None
        self._current += 1
        if self._current >= len(self._titles):
            return
        number = self._current
        self._display.notice(self._titles[number])
        self._display.begin()
        self._presenter = ReplyPresenter(self._backend(number), self._display)
        events, self._waiting[number] = self._waiting[number], []
        for event in events:
            self.handle(number, event)

    def spin(self) -> None:
        if self._presenter is not None:
            self._display.spin(*self._presenter.activity())

    def close(self) -> None:
        self._display.rest()
        for number in range(self._current, len(self._titles)):
            if number > self._current:
                self._display.notice(self._titles[number])
            self._display.notice("[not generated]")


class _Hidden:
    """Replies that are not shown."""

    def __init__(self, display: ReplyDisplay, count: int) -> None:
        self._display, self._count = display, count
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._begun = set[int]()
        display.begin()

    def handle(self, number: int, event: Event) -> None:
        self._begun.add(number)

    def spin(self) -> None:
        what = f"generating reply {max(1, len(self._begun))} of {self._count}"
        self._display.spin(self._loop.time() - self._since, what)

    def close(self) -> None:
        self._display.rest()
