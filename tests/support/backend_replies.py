"""Replies of a backend: one loop for a test, and all events of a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from api_server import ApiServer, Script
from program import TIMEOUT

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.conversation import Conversation
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta


class Closeable(Protocol):
    async def close(self) -> None: ...


B = TypeVar("B", bound=Closeable)


def with_backend(make: Callable[[], B], body: Callable[[B], Awaitable[None]]) -> None:
    """Run ``body`` with a backend, which is closed afterwards."""

    async def main() -> None:
        backend = make()
        try:
            await asyncio.wait_for(body(backend), TIMEOUT)
        finally:
            await backend.close()

    asyncio.run(main())


def with_server(script: Script, make: Callable[[str], B], body: Callable[[B, ApiServer], Awaitable[None]]) -> None:
    """Run ``body`` with a scripted server and the backend that ``make`` gives for its address."""

    async def main() -> None:
        async with ApiServer(script) as server:
            backend = make(server.url)
            try:
                async with asyncio.timeout(TIMEOUT):
                    await body(backend, server)
            finally:
                await backend.close()

    asyncio.run(main())


async def events_of(
    backend: Backend,
    conversation: Conversation,
    options: ReplyOptions | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Event]:
    """All events of a reply. Only the last one ends it, and a completed reply has the text of its deltas."""
    events: list[Event] = []
    async for event in backend.reply(conversation, options or ReplyOptions()):
        on_event(event)
        events.append(event)
    assert [isinstance(event, Completed | Failed) for event in events].index(True) == len(events) - 1
    if isinstance(events[-1], Completed):
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == events[-1].text
    return events


def end_of(events: list[Event]) -> Completed:
    """The end of a reply that is completed."""
    assert isinstance(events[-1], Completed), events[-1]
    return events[-1]


def notices_in(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def numbered_turns(count: int) -> Conversation:
    """A conversation of ``count`` short turns, each with its number."""
    conversation = Conversation()
    for number in range(count):
        conversation = conversation.with_user(f"say number {number}").with_assistant(f"number {number}")
    return conversation
