"""Decoders of streams over HTTP: server-sent events and lines of JSON, from chunks of bytes that are cut anywhere.
Pure.

Server-sent events follow the HTML standard (section 9.2.6): lines end in LF, CR or CRLF, a byte order mark at the start
is dropped, a line that begins with a colon is a comment, and a blank line ends an event. There are two deviations:
bytes that are not UTF-8 become lone surrogates instead of U+FFFD, as everywhere in this package, and
:meth:`SseDecoder.flush` returns an event without its final blank line, which servers omit after ``[DONE]``.
"""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 1 << 24
"""Maximum size of one event in bytes. A whole reply with tool calls is far smaller."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event."""

    data: str
    """The data lines, joined by newlines."""
    event: str = "message"
    id: str = ""
    """The last id received; it applies to later events without an id too."""


class SseDecoder:
    """Decodes server-sent events: :meth:`feed` for each chunk, :meth:`flush` at the end of the stream."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # the beginning of an incomplete line
        self._held = 0
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id = ""
        self.retry: int | None = None
        """Milliseconds to wait before reconnecting, if the server has sent them."""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that ``chunk`` completes. Raises ValueError for an event that exceeds the limit."""
        if self._after_cr and chunk:
            # The CR has ended its line already: waiting for an LF would delay the event.
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            self._append(chunk)
            return []
        self._parts.append(chunk)
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts, self._held = [], 0
        self._append(rest)
        events: list[ServerSentEvent] = []
        for line in lines:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)
            if line:
                self._field(line)
            else:
                self._dispatch(events)
        return events

    def flush(self) -> list[ServerSentEvent]:
        """Return the incomplete event at the end of the stream, if any, and reset the decoder except for the last
        id."""
        events: list[ServerSentEvent] = []
        line = b"".join(self._parts)
        if self._at_start:
            line = line.removeprefix(_BOM)
        if line:
            self._field(line)
        self._dispatch(events)
        self._parts, self._held, self._at_start, self._after_cr = [], 0, True, False
        return events

    def _append(self, part: bytes) -> None:
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


LINE_LIMIT = 1 << 24
"""Maximum size of one line in bytes."""


class NdjsonDecoder:
    """Decodes lines: :meth:`feed` for each chunk, :meth:`flush` at the end of the stream.

    The lines are not parsed. Bytes that are not UTF-8 become lone surrogates.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._at_start = True

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that ``chunk`` completes, without blank ones. Raises ValueError for a line that exceeds the
        limit."""
        if b"\n" not in chunk:
            self._append(chunk)
            return []
        self._parts.append(chunk)
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts, self._held = [], 0
        self._append(rest)
        return [text for line in lines if (text := self._text(line))]

    def flush(self) -> list[str]:
        """Return the last line, if it lacks a newline."""
        text = self._text(b"".join(self._parts))
        self._parts, self._held, self._at_start = [], 0, True
        return [text] if text else []

    def _append(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._held += len(part)
            if self._held > self._limit:
                raise ValueError(f"a line of more than {self._limit} bytes")

    def _text(self, line: bytes) -> str:
        if self._at_start and line:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.strip(b" \t\r").decode("utf-8", "surrogateescape")
