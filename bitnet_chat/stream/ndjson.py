"""Lines of JSON out of bytes that arrive cut anywhere. Pure."""

from __future__ import annotations

LIMIT = 1 << 24
"""Bytes of one line."""


class NdjsonDecoder:
    """``feed`` bytes as they come, ``flush`` at the end of the stream. Gives texts, which nobody has parsed yet; bytes
    that are not UTF-8 are lone surrogates in them."""

    def __init__(self, limit: int = LIMIT) -> None:
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
        """The last line, where no newline ends it."""
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
