"""The stream of a reply for one client, or of several variants of it as they are generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_chat.events import Completed, Failed
from bitnet_chat.server.broadcast import ReplyBroadcast, watch_all
from bitnet_chat.server.chats.events import RETRY, EventEncoder, Positions, ReplyStart

if TYPE_CHECKING:
    from bitnet_chat.server.web.shared_html import SharedHtml

_AT_ONCE = 500
"""Characters that are rendered in one turn of the event loop."""


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """One of the variants. ``html``: None for a client without HTML."""

    opening: ReplyStart
    generation: ReplyBroadcast
    html: SharedHtml | None = None


async def events_of(
    replies: Sequence[StreamedReply], places: Sequence[int] | None = None, settled: asyncio.Event | None = None
) -> AsyncGenerator[bytes]:
    """Yield the events of all variants of a reply that follow the positions ``places``; None: all of them.

    ``settled``: awaited before the last event, so that the replies are in the journal before a client receives the end
    of the last one.
    """
    seen = places or [0] * len(replies)
    positions = Positions(replies[0].opening.generation, seen)
    # A variant whose end the client has received has no events.
    left = [(each, place) for each, place in zip(replies, seen, strict=True) if not _is_over(each.generation, place)]
    encoders = [
        EventEncoder(each.opening, None if places is None else place, each.html, positions) for each, place in left
    ]
    yield RETRY
    for encoder in encoders:
        for part in encoder.begin():
            yield part
    begins = [place if each.html is None else min(each.html.place, place) for each, place in left]
    async with aclosing(watch_all([each.generation for each, _ in left], begins)) as watched:
        async for number, cursor in watched:
            html = left[number][0].html
            if html is not None and html.place + _AT_ONCE < cursor.place:
                await asyncio.sleep(0)  # a long reply that is rendered late: let other tasks run
            is_end = isinstance(cursor.event, Completed | Failed)
            if is_end and settled is not None and all(each.generation.end is not None for each in replies):
                await settled.wait()
            # Events of one batch are sent in one write.
            if parts := b"".join(encoders[number].tell(cursor)):
                yield parts


def _is_over(generation: ReplyBroadcast, place: int) -> bool:
    """Whether a client at a position has received the end, which has a position of its own."""
    return generation.end is not None and place > generation.place
