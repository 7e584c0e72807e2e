"""Responses: JSON, event streams, and the token usage in both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable, Mapping, Sequence

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bitnet_chat.events import Stats
from bitnet_chat.text.utf8 import well_formed

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_json(value: object) -> bytes:
    """Return JSON in UTF-8. Bytes of a reply that are not UTF-8 become U+FFFD."""
    return well_formed(_encode(value)).encode()


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with an encoded body."""
    return Response(body, status, headers, media_type="application/json")


PING = 15.0
"""Seconds of silence after which a comment keeps the connection alive through proxies."""


class EventStream(EventSourceResponse):
    """A stream of server-sent events that ends when its client disconnects."""

    def __init__(
        self,
        events: AsyncIterable[bytes],
        *,
        gone: Callable[[], object] = lambda: None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``events``: bytes of whole events, each sent at once. ``gone`` is called at the end of the response, also
        after a disconnect before the first event.
        """
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
        # The base class polls twice per second for a shutdown, and then cuts every stream. Here the scheduler ends the
        # replies, which end their streams. This task sends the pings instead of a further one: with a hundred streams
        # each task counts.
        assert self._send is not None
        self.ping_interval = PING
        await self._ping(self._send)

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # The base class opens a scope for a timeout that is not set: a tenth of the cost of a piece in this process.
        await send(message)


def usage_of(stats: Stats) -> dict[str, int]:
    """Return the usage object. ``prompt_tokens`` includes those that were in the context before."""
    before = stats.prompt_size
    if before is None and stats.context_used is not None:
        before = stats.context_used - stats.tokens
    before = max(before or 0, stats.prompt_tokens or 0)
    return {"prompt_tokens": before, "completion_tokens": stats.tokens, "total_tokens": before + stats.tokens}


def detailed_usage(stats: Stats) -> dict[str, object]:
    """Return the usage object with the number of prompt tokens that were in the context before, if known."""
    usage = usage_of(stats)
    if stats.prompt_tokens is None:
        return dict(usage)
    return usage | {"prompt_tokens_details": {"cached_tokens": usage["prompt_tokens"] - stats.prompt_tokens}}


def common_usage(stats: Sequence[Stats]) -> dict[str, object]:
    """Return the usage object of several replies to one prompt, which counts once."""
    first, *others = stats
    more = sum(each.tokens for each in others)
    usage = usage_of(first)
    summed = {name: usage[name] + more for name in ("completion_tokens", "total_tokens")}
    return detailed_usage(first) | summed
