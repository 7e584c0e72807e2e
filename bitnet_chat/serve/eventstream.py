"""A stream of server-sent events that ends when its client goes, and takes with it what was made for that client."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message, Receive, Scope, Send

PING = 15.0
"""Seconds of silence after which a comment tells everything in between that the connection lives."""


class EventStream(EventSourceResponse):
    """``events`` are bytes of whole events, each sent at once; ``gone`` is called when nobody reads any more.

    ``gone`` is called in any case, when all was said too, and when the client went before the first event.
    """

    def __init__(
        self,
        events: AsyncIterable[bytes],
        *,
        gone: Callable[[], object] = lambda: None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            events,
            headers=headers,
            sep="\n",
            ping=0,  # see below
            ping_message_factory=lambda: ServerSentEvent(comment="", sep="\n"),
        )
        self._gone = gone
        self._send: Send | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()

    async def _listen_for_exit_signal_with_grace(self) -> None:
        # The original looks twice a second whether the server is to end, and then cuts every stream. Here the desk
        # ends the replies, and they end their streams. The task pings in place of another one: with a hundred streams
        # each task counts.
        assert self._send is not None
        self.ping_interval = PING
        await self._ping(self._send)

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # The original opens a scope for a timeout that is not set: a tenth of what a piece costs in this process.
        await send(message)
