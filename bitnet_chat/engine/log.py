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
_LEAD = re.compile(r"^(?:\d+\.\d+\.\d+\.\d+ )?(?:[DIWE] )?")
_QUOTE = re.compile(rf"{_LEAD.pattern}(?:(?:\w+: )?(prompt|buffer): [\"']|(?:eval|embd|(?:input )?tokens): \[)")
"""The beginning of text that the engine was given or made. Tokens stand in one line, with their names reduced to
printable characters."""


def without_level(line: str) -> str:
    """A line of a log that has the level of each in front of it (``--log-prefix``)."""
    return _LEVEL.sub("", line)


class EngineLog:
    """The last lines of standard error. ``on_line`` sees each complete line, without colours.

    Prompts and messages, which debug logs quote, are left out: a log that a user pastes is none of the engine's.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._open = b""
        self._on_line = on_line
        self._newlines: dict[str | None, int] = {}
        self._quoted: int | None = None  # newlines to come in the text that is being quoted

    def quotes(self, subject: str, newlines: int) -> None:
        """What the engine will quote behind ``subject`` (``prompt``, ``buffer``) next has so many newlines."""
        self._newlines[subject] = newlines

    def feed(self, data: bytes) -> None:
        *lines, self._open = (self._open + data).split(b"\n")
        for line in lines:
            self._add(line)
            if self._quoted is not None:
                self._quoted = self._quoted - 1 if self._quoted else None
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
        if self._quoted is None and (quote := _QUOTE.match(line)):
            self._quoted = self._newlines.get(quote[1], 0)
        if line and self._quoted is None:
            self._on_line(line)
            self._lines.append(line)

    def lines(self) -> tuple[str, ...]:
        """What is kept of it."""
        return tuple(self._lines)

    def tail(self, count: int = 12) -> str:
        """At most ``count`` lines that may explain something, the most telling first; each only once."""
        said = {_LEAD.sub("", line): line for line in self._lines if not _CHATTER.match(line)}
        telling = {bare: line for bare, line in said.items() if _TELLING.search(line)}
        if not telling and not any(_LEVEL.match(line) for line in self._lines):
            telling = said  # with levels, all that explains anything has one, and the rest goes on with what has
        causes = [line for bare, line in telling.items() if _rank(bare) == 0][:count]
        rest = [(bare, line) for bare, line in telling.items() if _rank(bare)]
        rest = rest[len(rest) - (count - len(causes)) :] if count > len(causes) else []
        return "\n".join((*causes, *(line for _, line in sorted(rest, key=lambda each: _rank(each[0])))))

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self._lines)


def most_telling(text: str) -> str:
    """Of messages that stand behind one another (``; ``), the first of those that tell most."""
    return min(text.split("; "), key=_rank)


def _rank(line: str) -> int:
    """0: a cause; 1: anything; 2: what follows from a cause; 3: what points to another one."""
    return next((rank for rank, pattern in _RANKS if pattern.search(line)), 1)


_TELLING = re.compile(
    r"error|fail|unable|invalid|unknown|warn|abort|assert|cannot|not found|memory|context full|<<|^[EW] ", re.I
)
_CHATTER = re.compile(
    r"(?:\d+\.\d+\.\d+\.\d+ )?[DI]( |$)|\.+$|.*memory breakdown|.*_print(?:_meta)?: "
    # Said of models that load, too; ik_llama.cpp tells of the memory of a GPU that it does not use.
    # "30\t../sysdeps/…": a debugger that an abort has started.
    r"|.*is not marked as EOG|.*not in special_eog_ids|.*was not control-type|.*pre-tokenizer type, using"
    r"|main: buil[dt] |build: |main: seed|Log start|.*- kv +\d+:|.*- type +\w+:|\w+: using device "
    r"|.*: graph (?:nodes|splits) |.*buffer size = |.*on device \d+ is less |Memory (?:required|available) "
    r"|.*GENERATION QUALITY|.*CONSIDER REGENERATING|.*: \*+\s*$|.*Using metadata override|\d+\t\.\./"
    r"|.*warming up the model|Failed to open logfile "  # for the latter see log_flags() of the dialects
)
_RANKS = (
    # llama.cpp takes I2_S and TL1 for types of its own that it has given up, and any failure for one of memory.
    (3, re.compile(r"REMOVED, use|fit params to free")),
    (
        2,
        re.compile(
            r"failed to load model|unable to (?:load|create)|failed to read tensor|model loading error"
            r"|failed to create context"
        ),
    ),
    (
        0,
        re.compile(
            r"error loading model|unknown (?:model )?architecture|unknown pre-tokenizer|invalid ggml type|ASSERT"
            r"|what\(\): |terminate called|failed to allocate|bad_alloc|out of memory|[Cc]annot allocate"
            r"|[Nn]o such file|failed to open|invalid argument|unknown argument|shared librar|Library not loaded"
            r"|missing tensor|tensor '.*' not found|wrong number of tensors|wrong shape|too long|[Ii]llegal instruction"
            r"|corrupted|has offset \d+, expected|invalid magic"
        ),
    ),
)
"""The first that matches."""
