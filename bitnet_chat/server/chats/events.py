"""A reply of a chat as server-sent events. Pure.

Each event with content has the id ``<generation>.<place>``, the position after it: a client that reconnects with it
receives each event exactly once. ``complete`` and ``error`` have the last position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bitnet_chat.conversation import ToolCall
from bitnet_chat.events import Completed, Failed, Notice, PromptProgress, TextDelta, ThinkingDelta
from bitnet_chat.server.chats.responses import error_body
from bitnet_chat.server.errors import to_api_error
from bitnet_chat.server.responses import detailed_usage, to_json

if TYPE_CHECKING:
    from bitnet_chat.server.broadcast import Cursor
    from bitnet_chat.server.web.shared_html import SharedHtml

_NOT_KEPT = "the journal cannot be written: this reply may not be saved"
RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser reconnects."""


@dataclass(frozen=True, slots=True)
class ReplyStart:
    """Facts about a reply at its beginning. Rows are None without a journal, or if it cannot be written."""

    generation: str
    model: str
    chat: int | None = None
    message: int | None = None
    """The row of the reply."""
    user: tuple[int | None, str] | None = None
    """The row and the text of the user message; None for a continued reply and after a tool call."""
    parent: int | None = None
    """The row before the new ones; later rows belong to another branch now."""
    before: str | None = None
    """The text of the reply that is continued; None for a new reply."""


@dataclass(frozen=True, slots=True)
class LastSeen:
    """The last event that a client has received."""

    generation: str
    place: int

    @classmethod
    def of(cls, id: str) -> LastSeen | None:
        """Parse an event id. Return None for an unknown form."""
        generation, _, place = id.rpartition(".")
        if not generation or not (place.isascii() and place.isdigit() and len(place) < 16):
            return None
        return cls(generation, int(place))


class EventEncoder:
    """Encodes the events of one reply for one client: all of them, or those after the last position that it received.

    With ``html`` the events must begin at the position up to which HTML was sent, or before it.
    """

    def __init__(self, opening: ReplyStart, seen: int | None = None, html: SharedHtml | None = None) -> None:
        """``seen``: None for all events, ``start`` included."""
        self._opening = opening
        self._seen = seen or 0
        self._fresh = seen is None
        self._html = html
        self._shown = -1 if seen is None else seen
        """The position up to which the client has the HTML."""

    def begin(self) -> Iterator[bytes]:
        opening = self._opening
        if self._fresh:
            user = None if opening.user is None else {"id": opening.user[0], "content": opening.user[1]}
            start: dict[str, object] = {
                "generation": opening.generation,
                "chat": opening.chat,
                "model": opening.model,
                "user": user,
                "message": opening.message,
                "continues": opening.before is not None,
                "parent": opening.parent,
            }
            yield _event("start", start, self._id(0))
            if opening.chat is not None and opening.message is None:
                yield _event("notice", {"text": _NOT_KEPT})
        yield from self._blocks()

    def tell(self, seen: Cursor) -> Iterator[bytes]:
        """Yield the bytes for the next event."""
        event, place = seen.event, seen.place
        if isinstance(event, Completed | Failed):
            yield from self._end(event, place + 1)
            return
        if isinstance(event, TextDelta | ThinkingDelta):
            known = min(len(event.text), max(0, self._seen - (place - len(event.text))))
            new = event.text[known:]
            if isinstance(event, ThinkingDelta):
                if new:
                    yield _event("thinking", {"text": new}, self._id(place))
                return
            if self._html is not None:
                self._html.advance(event.text, place)
            if new:
                # Before the text, so that a client that has the id of the text has the HTML as well.
                yield from self._blocks()
                yield _event("chunk", {"text": new}, self._id(place))
        elif isinstance(event, PromptProgress):
            yield _event("progress", {"done": event.done, "total": event.total}, self._id(place))
        elif place > self._seen:
            if isinstance(event, ToolCall):
                call = {"id": event.id, "name": event.name, "arguments": event.arguments}
                yield _event("tool_call", call, self._id(place))
            elif isinstance(event, Notice):
                yield _event("notice", {"text": event.text}, self._id(place))

    def _end(self, end: Completed | Failed, place: int) -> Iterator[bytes]:
        opening = self._opening
        if self._html is not None:
            self._html.finish(place)
            yield from self._blocks()
        user = None if opening.user is None else opening.user[0]
        if isinstance(end, Failed):
            told = error_body(to_api_error(end.error)) | {
                "finish_reason": end.error.reason.value,
                "user": user,
                "message": opening.message if end.text else None,
            }
            yield _event("error", told, self._id(place))
            return
        stats = end.stats
        complete: dict[str, object] = {
            "user": user,
            "message": opening.message if _is_kept(end) else None,
            "finish_reason": end.reason.value,
            "usage": detailed_usage(stats),
            "exact": stats.exact,
            "tokens_per_second": stats.tokens_per_second,
            "time_to_first_token": stats.time_to_first_token,
            "seconds": stats.seconds,
            "context_used": stats.context_used,
            "context_size": stats.context_size,
            "model": opening.model,
            "stats": {name: value for name, value in asdict(stats).items() if value is not None},
        }
        yield _event("complete", complete, self._id(place))

    def _blocks(self) -> Iterator[bytes]:
        """Yield the blocks of HTML that changed since the last position of the client."""
        if self._html is not None:
            for number, html in self._html.changed(self._shown):
                yield _event("html", {"message": self._opening.message, "block": number, "html": html})
            self._shown = max(self._shown, self._html.place)

    def _id(self, place: int) -> str:
        return f"{self._opening.generation}.{place}"


def chat_event(form: dict[str, object]) -> bytes:
    """Return an event about the chat as a whole."""
    return _event("chat", form)


def saved_state_event(form: dict[str, object]) -> bytes:
    """Return the event that the chat can be continued without being read again, or no longer."""
    return _event("saved_state", form)


def _is_kept(end: Completed) -> bool:
    """Whether the reply is a message: not if it was stopped before its first token."""
    return bool(end.text) or not end.reason.exit_code


def _event(name: str, data: object, id: str = "") -> bytes:
    head = f"id: {id}\nevent: {name}\n" if id else f"event: {name}\n"
    return head.encode() + b"data: " + to_json(data) + b"\n\n"
