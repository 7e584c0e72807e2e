"""The comparison of two models: their replies to one message, side by side, and the vote of the user.

The replies are generated one after the other: two engines at the same time would slow each other, and their figures
would not be those of one. In a blind comparison both are generated anew and shown together once both are complete, in
random order: their speed would tell the models apart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, fields
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from bitnet_chat.backends.variants import VariantEvent
from bitnet_chat.backends.wrappers.recording import record_reply
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Stats, TextDelta
from bitnet_chat.repl.display import summary
from bitnet_chat.repl.status_bar import SEPARATOR
from bitnet_chat.repl.variants_view import VariantReply, VariantsView
from bitnet_chat.text.sanitize import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bitnet_chat.backend import Backend, ReplyOptions
    from bitnet_chat.conversation import Conversation
    from bitnet_chat.journal import JournalRecorder, MessageRecord
    from bitnet_chat.repl.display import ReplyDisplay
    from bitnet_chat.repl.interfaces import UserInterface

_ORDER = SystemRandom()


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of a comparison. Replies and rows are those of the present model and of the other one."""

    replies: tuple[VariantReply | None, ...]
    rows: tuple[int | None, ...]
    """Rows of the replies in the journal; None: not known."""
    chosen: int | None = None
    """Number of the preferred reply; None: none was preferred."""


class Comparison:
    """Asks the present model, unless ``existing`` is its reply, and the other model."""

    def __init__(
        self,
        backends: tuple[Backend, Backend],
        conversation: Conversation,
        options: ReplyOptions,
        recorder: JournalRecorder,
        existing: MessageRecord | None,
        *,
        blind: bool,
        shuffle: Callable[[list[int]], None] = _ORDER.shuffle,
    ) -> None:
        """``backends``: of the present model and of the other one. ``conversation``: ends with the message.
        ``existing``: the row 0 means that it is not in the journal."""
        self._backends = backends
        self._conversation, self._options, self._recorder = conversation, options, recorder
        self._existing = None if blind else existing
        self._blind = blind
        self.generates_both = self._existing is None
        self._order = [0, 1]
        """The model of each reply in the order of generation."""
        self._shown = [0, 1]
        """The model of each column."""
        if blind:
            shuffle(self._order)
            shuffle(self._shown)
        self._rows: list[int | None] = [None, None]
        self._view: VariantsView | None = None
        self._names = ["", ""]
        self._is_stopped = False
        self._generating = 0
        """The model that generates."""

    def interrupt(self) -> None:
        """Stop the replies. They are not voted on."""
        self._is_stopped = True
        if self._view is not None:
            self._view.interrupt()

    async def run(self, display: ReplyDisplay, console: UserInterface) -> Compared:
        """Show the replies, ask for the choice, and keep it in the journal."""
        self._names = [one_line(backend.status().model) for backend in self._backends]
        replies = await self._blindly(display) if self._blind else await self._openly(display)
        if self._is_stopped or not all(reply is not None and reply.is_whole for reply in replies):
            self._reveal(replies, display)
            return Compared(tuple(replies), tuple(self._rows))
        answer = await console.choose("Which reply is better?", 2, "neither", "no vote")
        self._reveal(replies, display)
        chosen = self._shown[answer - 1] if answer else None
        if answer is None:
            display.notice("No vote.")
        elif None in self._rows:
            display.notice("The choice is not kept: this conversation is not saved.")
        else:
            rows = [row for row in (self._rows[model] for model in self._shown) if row is not None]
            self._recorder.vote(rows, None if chosen is None else self._rows[chosen], blind=self._blind)
        return Compared(tuple(replies), tuple(self._rows), chosen)

    def _backend(self, model: int) -> Backend:
        return self._backends[model]

    def _stop(self) -> None:
        self._backends[self._generating].interrupt()

    async def _openly(self, display: ReplyDisplay) -> list[VariantReply | None]:
        titles = [f"{number} {name}" for number, name in enumerate(self._names, 1)]
        self._view = VariantsView(self._events(), self._backend, titles, display, self._stop)
        return await self._view.run()

    async def _blindly(self, display: ReplyDisplay) -> list[VariantReply | None]:
        self._view = VariantsView(self._events(), self._backend, ["", ""], display, self._stop, hidden=True)
        replies = await self._view.run()
        display.figures = False
        try:
            shown = self._replayed(replies)
            shown_backend = [self._backends[model] for model in self._shown]
            titles = ["reply 1", "reply 2"]
            self._view = VariantsView(shown, shown_backend.__getitem__, titles, display, lambda: None)
            await self._view.run()
        finally:
            display.figures = True
        return replies

    async def _events(self) -> AsyncGenerator[VariantEvent]:
        """The replies, numbered by their models."""
        for model in self._order:
            if model == 0 and self._existing is not None:
                self._rows[0] = self._existing.row or None
                message = self._existing.message
                if message.content:
                    yield VariantEvent(0, TextDelta(message.content))
                end = message.finish or FinishReason.STOP
                yield VariantEvent(0, Completed(end, message.content, _stats_of(self._existing)))
                continue
            backend, self._generating = self._backends[model], model
            async with aclosing(record_reply(backend, self._recorder, self._conversation, self._options)) as events:
                async for event in events:
                    if isinstance(event, Completed):
                        rows = await self._recorder.rows()
                        self._rows[model] = rows.replies[0] if rows is not None and rows.replies else None
                    yield VariantEvent(model, event)

    async def _replayed(self, replies: Sequence[VariantReply | None]) -> AsyncGenerator[VariantEvent]:
        for number, model in enumerate(self._shown):
            reply = replies[model]
            if reply is not None:
                if reply.event.text:
                    yield VariantEvent(number, TextDelta(reply.event.text))
                yield VariantEvent(number, reply.event)

    def _reveal(self, replies: Sequence[VariantReply | None], display: ReplyDisplay) -> None:
        if not self._blind:
            return
        for number, model in enumerate(self._shown, 1):
            reply = replies[model]
            figures = ""
            if reply is not None and isinstance(reply.event, Completed):
                figures = f"{SEPARATOR}{summary(reply.event.stats, reply.event.reason)}"
            display.notice(f"{number} is {self._names[model]}{figures}")


def _stats_of(record: MessageRecord) -> Stats:
    """The figures of a stored reply, without values that are not numbers."""
    known = {each.name for each in fields(Stats)}
    values = {name: value for name, value in record.stats.items() if isinstance(value, int | float) and value >= 0}
    figures: dict[str, Any] = {name: value for name, value in values.items() if name in known}
    return Stats(**figures)
