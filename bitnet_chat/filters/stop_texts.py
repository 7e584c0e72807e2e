"""Texts that end a reply. Pure.

The stop text that is complete first ends the reply, independent of the pieces; no part of it is passed on.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopTextScanner:
    """Passes a reply on up to the first stop text. Holds back only text that may be the beginning of one."""

    def __init__(self, stops: Iterable[str]) -> None:
        """Set the stop texts; empty ones are ignored."""
        self._stops = tuple(dict.fromkeys(filter(None, stops)))
        self._reach = max(map(len, self._stops), default=0) - 1
        self._held = ""
        self.found = ""
        """The stop text that ended the reply; no text is passed on after it."""

    def feed(self, text: str) -> str:
        """Return the text that can be shown."""
        if not self._stops:
            return text
        if self.found:
            return ""
        text = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self._held = ""
            return text[:at]
        cut = len(text) - self._open_length(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return the text that was held back, at the end of the reply."""
        text, self._held = self._held, ""
        return text

    def _open_length(self, text: str) -> int:
        """Length of the end of ``text`` that may be the beginning of a stop text."""
        for length in range(min(self._reach, len(text)), 0, -1):
            tail = text[-length:]
            if any(len(stop) > length and stop.startswith(tail) for stop in self._stops):
                return length
        return 0
