"""Where orders come in: the desk finds who answers, starts the reply, and keeps account of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from bitnet_chat.backends import Backend, ReplyOptions
from bitnet_chat.backends.recorded import recorded
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, Busy, EngineDied, FinishReason
from bitnet_chat.events import Completed, Event, Failed
from bitnet_chat.journal import Recorder
from bitnet_chat.serve.catalogue import Catalogue
from bitnet_chat.serve.generation import Generation

log = logging.getLogger("bitnet_chat.serve")


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants. ``recorder``: who writes the reply down, if anybody does."""

    conversation: Conversation
    options: ReplyOptions = field(default_factory=ReplyOptions)
    model: str = ""
    recorder: Recorder | None = None
    urgent: bool = True
    """A person waits. Batch work is not urgent."""


class Desk:
    """All methods belong to the event loop."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._tasks: dict[asyncio.Task[None], Generation] = {}
        self._closing = False

    @property
    def running(self) -> int:
        """Replies that are waited for or made."""
        return len(self._tasks)

    def start(self) -> None:
        self.catalogue.start()

    def begin(self, order: Order, *, on_end: Callable[[Generation], None] | None = None) -> Generation:
        """Starts the reply. Raises UnknownModel, or Busy when the server is ending; other errors, a full queue among
        them, are the Failed that the generation ends with."""
        if self._closing:
            raise Busy("this server is ending", retry_after=10.0)
        model = self.catalogue.choose(order.model)
        generation = Generation(secrets.token_hex(12), model)
        task = asyncio.ensure_future(self._make(order, generation))
        self._tasks[task] = generation

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.pop(task, None)
            if on_end is not None:
                on_end(generation)

        task.add_done_callback(over)
        return generation

    async def close(self, grace: float = 0.0) -> None:
        """Nothing new begins; what is under way has ``grace`` seconds, and then ends with what it has."""
        self._closing = True
        if self._tasks and grace:
            await asyncio.wait(self._tasks, timeout=grace)
        for generation in list(self._tasks.values()):
            generation.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10.0)
        await self.catalogue.close()

    async def _make(self, order: Order, generation: Generation) -> None:
        task = asyncio.current_task()
        assert task is not None
        generation.stopped_by(task.cancel)
        try:
            async with (
                self.catalogue.held(generation.model) as pool,
                pool.lease(order.conversation, urgent=order.urgent) as seat,
            ):
                if not generation.stopped_by(seat.backend.interrupt):
                    raise asyncio.CancelledError
                await _listen(_events(seat.backend, order), generation)
                seat.memory = _remembered(order.conversation, generation)
        except asyncio.CancelledError:  # stopped while it waited
            generation.put(Completed(FinishReason.INTERRUPTED, ""))
        except BitnetChatError as error:
            generation.put(Failed(error, generation.text))
        except Exception:
            log.exception("a reply broke")
            generation.put(Failed(EngineDied("the server broke off this reply; its log says why"), generation.text))
        finally:
            if generation.end is None:
                generation.put(Failed(EngineDied("the reply ended without a word about why"), generation.text))


def _events(backend: Backend, order: Order) -> AsyncIterator[Event]:
    if order.recorder is None:
        return backend.reply(order.conversation, order.options)
    return recorded(backend, order.recorder, order.conversation, order.options)


async def _listen(events: AsyncIterator[Event], generation: Generation) -> None:
    try:
        async for event in events:
            generation.put(event)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _remembered(conversation: Conversation, generation: Generation) -> Conversation:
    """What the backend has lived through."""
    last = conversation.last
    if last is not None and last.role == "assistant":  # it was gone on with
        before = Conversation(conversation.messages[:-1])
        return before.with_assistant(last.content + generation.text, tool_calls=generation.calls)
    return (
        conversation.with_assistant(generation.text, tool_calls=generation.calls) if generation.text else conversation
    )
