"""Server-sent events from bytes that are cut anywhere. Pure.

As in the HTML standard (section 9.2.6): lines end in LF, CR or CRLF, a byte order mark at the start is dropped, a line
that begins with a colon is a comment, and a blank line ends an event. Two deviations: bytes that are not UTF-8 become
lone surrogates instead of U+FFFD, as everywhere in this package, and :meth:`SseDecoder.flush` gives an event without
its final blank line, which servers omit after ``[DONE]``.
"""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 1 << 24
"""Bytes of one event. A whole reply with its tool calls is far smaller."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """``data``: the data lines, joined by newlines. ``id``: the last one received, which persists from
    event to event.
    """

    data: str
    event: str = "message"
    id: str = ""


class SseDecoder:
    """``feed`` bytes as they come, ``flush`` at the end of the stream."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # of a line that has not ended yet
        self._held = 0
        self._begins = True
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id = ""
        self.retry: int | None = None
        """Milliseconds to wait before a reconnect, if the server has sent them."""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that ``chunk`` completes. Raises ValueError for one that is too long."""
        if self._after_cr and chunk:
            # The CR had ended its line at once: waiting for an LF would delay the event until the next one.
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        self._parts.append(chunk)
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts, self._held = [], 0
        self._hold(rest)
        events: list[ServerSentEvent] = []
        for line in lines:
            if self._begins:
                self._begins = False
                line = line.removeprefix(_BOM)
            if line:
                self._field(line)
            else:
                self._dispatch(events)
        return events

    def flush(self) -> list[ServerSentEvent]:
        """The event that the end of the stream has cut short, if any; the decoder is then new, except for the
        last id.
        """
        events: list[ServerSentEvent] = []
        line = b"".join(self._parts)
        if self._begins:
            line = line.removeprefix(_BOM)
        if line:
            self._field(line)
        self._dispatch(events)
        self._parts, self._held, self._begins, self._after_cr = [], 0, True, False
        return events

    def _hold(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._held += len(part)
            self._check(self._held)

    def _check(self, size: int) -> None:
        if size + self._size > self._limit:
            raise ValueError(f"an event of more than {self._limit} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._check(len(value))
            self._size += len(value)
            self._data.append(value.removeprefix(b" ").decode("utf-8", "surrogateescape"))
        elif name == b"event":
            self._event = value.removeprefix(b" ").decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.removeprefix(b" ").decode("utf-8", "replace")
        elif name == b"retry":
            value = value.removeprefix(b" ")
            if value.isdigit() and len(value) < 10:
                self.retry = int(value)

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
            events.append(ServerSentEvent(data, self._event or "message", self._id))
            self._data, self._size = [], 0
        self._event = ""


# Lines of JSON out of bytes that arrive cut anywhere. Pure.

LINE_LIMIT = 1 << 24
"""Bytes of one line."""


class NdjsonDecoder:
    """``feed`` bytes as they arrive, ``flush`` at the end of the stream. Gives unparsed texts, in which bytes that are
    not UTF-8 are lone surrogates.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._begins = True

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that ``chunk`` completes, blank ones left out. Raises ValueError for one that is too long."""
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        self._parts.append(chunk)
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts, self._held = [], 0
        self._hold(rest)
        return [text for line in lines if (text := self._text(line))]

    def flush(self) -> list[str]:
        """The last line, if it lacks a newline."""
        text = self._text(b"".join(self._parts))
        self._parts, self._held, self._begins = [], 0, True
        return [text] if text else []

    def _hold(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._held += len(part)
            if self._held > self._limit:
                raise ValueError(f"a line of more than {self._limit} bytes")

    def _text(self, line: bytes) -> str:
        if self._begins and line:
            self._begins = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.strip(b" \t\r").decode("utf-8", "surrogateescape")
