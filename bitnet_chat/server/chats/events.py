"""A reply of a chat as server-sent events. Pure.

Each event with content has the id ``<generation>.<place>``, the position after it: a client that reconnects with it
receives each event exactly once. ``complete`` and ``error`` have the last position. With several variants of a reply,
the id has the position in each of them, separated by commas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bitnet_chat.conversation import ToolCall
from bitnet_chat.events import Completed, Failed, Notice, PromptProgress, TextDelta, ThinkingDelta
from bitnet_chat.server.chats.responses import error_body, figures
from bitnet_chat.server.errors import to_api_error
from bitnet_chat.server.responses import detailed_usage, to_json

if TYPE_CHECKING:
    from bitnet_chat.server.broadcast import Cursor
    from bitnet_chat.server.web.shared_html import SharedHtml

_NOT_KEPT = "the journal cannot be written: this reply may not be saved"
RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser reconnects."""


@dataclass(frozen=True, slots=True)
class ComparedReply:
    """The reply that a new one is compared with. ``message``: its row. ``blind``: whether the models are hidden until
    the vote."""

    message: int
    blind: bool


@dataclass(frozen=True, slots=True)
class ReplyStart:
    """Facts about a reply at its beginning. Rows are None without a journal, or if it cannot be written."""

    generation: str
    """The id of the request: the same for all variants."""
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
    variant: int = 0
    variants: int = 1
    """Number of replies to the request; ``variant`` is the number of this one, from 0."""
    compared: ComparedReply | None = None


@dataclass(frozen=True, slots=True)
class LastSeen:
    """The last event that a client has received: its positions in the variants of a reply."""

    generation: str
    places: tuple[int, ...]

    @classmethod
    def of(cls, id: str) -> LastSeen | None:
        """Parse an event id. Return None for an unknown form."""
        generation, _, given = id.rpartition(".")
        places = given.split(",")
        if not generation or not all(each.isascii() and each.isdigit() and len(each) < 16 for each in places):
            return None
        return cls(generation, tuple(map(int, places)))


class Positions:
    """The positions of one client in the variants of a reply."""

    def __init__(self, generation: str, places: Sequence[int]) -> None:
        self._generation, self._places = generation, list(places)

    def id(self, variant: int, place: int) -> str:
        """The id of an event, and its position as the present one."""
        self._places[variant] = place
        return f"{self._generation}.{','.join(map(str, self._places))}"


class EventEncoder:
    """Encodes the events of one reply for one client: all of them, or those after the last position that it received.

    With ``html`` the events must begin at the position up to which HTML was sent, or before it.
    """

    def __init__(
        self,
        opening: ReplyStart,
        seen: int | None = None,
        html: SharedHtml | None = None,
        positions: Positions | None = None,
    ) -> None:
        """``seen``: None for all events, ``start`` included. ``positions``: in all variants; None: there is one."""
        self._opening = opening
        self._positions = positions or Positions(opening.generation, [seen or 0])
        self._number = {"variant": opening.variant} if opening.variants > 1 else {}
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
                "variant": opening.variant,
                "variants": opening.variants,
                "compare": None if opening.compared is None else asdict(opening.compared),
            }
            # A client that has this id has the starts of all variants.
            is_last = opening.variant == opening.variants - 1
            yield _event("start", start, self._id(0) if is_last else "")
            if opening.chat is not None and opening.message is None:
                yield self._event("notice", {"text": _NOT_KEPT})
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
                    yield self._event("thinking", {"text": new}, place)
                return
            if self._html is not None:
                self._html.advance(event.text, place)
            if new:
                # Before the text, so that a client that has the id of the text has the HTML as well.
                yield from self._blocks()
                yield self._event("chunk", {"text": new}, place)
        elif isinstance(event, PromptProgress):
            progress = {"done": event.done, "total": event.total}
            yield self._event("progress", progress | ({"repeats": True} if event.repeats else {}), place)
        elif place > self._seen:
            if isinstance(event, ToolCall):
                call = {"id": event.id, "name": event.name, "arguments": event.arguments}
                yield self._event("tool_call", call, place)
            elif isinstance(event, Notice):
                yield self._event("notice", {"text": event.text}, place)

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
            yield self._event("error", told, place)
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
            "stats": figures(stats),
        }
        yield self._event("complete", complete, place)

    def _blocks(self) -> Iterator[bytes]:
        """Yield the blocks of HTML that changed since the last position of the client."""
        if self._html is not None:
            for number, html in self._html.changed(self._shown):
                yield self._event("html", {"message": self._opening.message, "block": number, "html": html})
            self._shown = max(self._shown, self._html.place)

    def _event(self, name: str, form: Mapping[str, object], place: int | None = None) -> bytes:
        return _event(name, {**form, **self._number}, "" if place is None else self._id(place))

    def _id(self, place: int) -> str:
        return self._positions.id(self._opening.variant, place)


def chat_event(form: dict[str, object]) -> bytes:
    """Return an event about the chat as a whole."""
    return _event("chat", form)


def notice_event(text: str) -> bytes:
    """Return an event with a line for the user."""
    return _event("notice", {"text": text})


def saved_state_event(form: dict[str, object]) -> bytes:
    """Return the event that the chat can be continued without being read again, or no longer."""
    return _event("saved_state", form)


def _is_kept(end: Completed) -> bool:
    """Whether the reply is a message: not if it was stopped before its first token."""
    return bool(end.text) or not end.reason.exit_code


def _event(name: str, data: object, id: str = "") -> bytes:
    head = f"id: {id}\nevent: {name}\n" if id else f"event: {name}\n"
    return head.encode() + b"data: " + to_json(data) + b"\n\n"
