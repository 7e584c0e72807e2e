"""The engine's log: bounded, kept for the day it explains a death, and read for figures. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

_LINES = 200
_LINE_LIMIT = 2000
_OPEN_LIMIT = 1 << 16
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^[DIWE] ")


def without_level(line: str) -> str:
    """A line of a log that has the level of each in front of it (``--log-prefix``)."""
    return _LEVEL.sub("", line)


class EngineLog:
    """The last lines of standard error. ``on_line`` sees each complete line, without colours."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._open = b""
        self._on_line = on_line

    def feed(self, data: bytes) -> None:
        *lines, self._open = (self._open + data).split(b"\n")
        for line in lines:
            self._add(line)
        if len(self._open) > _OPEN_LIMIT:
            self._add(self._open)
            self._open = b""

    def close(self) -> None:
        if self._open:
            self._add(self._open)
            self._open = b""

    def note(self, text: str) -> None:
        """A line of our own, such as what the engine said on its terminal before it died."""
        self._lines.append(text[:_LINE_LIMIT])

    def _add(self, raw: bytes) -> None:
        line = raw[:_LINE_LIMIT].decode("utf-8", "replace").rstrip()
        if "\x1b" in line:
            line = _COLOUR.sub("", line)
        if line:
            self._on_line(line)
            self._lines.append(line)

    def lines(self) -> tuple[str, ...]:
        """What is kept of it."""
        return tuple(self._lines)

    def tail(self, count: int = 12) -> str:
        """The last lines that may explain something: warnings and errors first choice, anything otherwise."""
        telling = [line for line in self._lines if _TELLING.search(line) and not _CHATTER.match(line)]
        lines = telling or [line for line in self._lines if not _CHATTER.match(line)]
        return "\n".join(lines[-count:])

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self._lines)


_TELLING = re.compile(r"error|fail|unable|invalid|unknown|warn|abort|assert|cannot|not found|memory|<<|^[EW] ", re.I)
_CHATTER = re.compile(r"[DI]( |$)|\.+$|.*memory breakdown|.*_print: ")
