"""The log of an engine (standard error): its last lines, which explain why it ended, and figures about turns. Pure.

Formats that :class:`LogStatsParser` reads, measured with llama.cpp 0.5.0 (classic: verbosity 5, modern: verbosity 4),
BitNet of October 2024 (verbosity 1) and ik_llama.cpp (which does not log tokens). A classic engine writes, in this
order:

- ``n_past = N`` after each batch or token that was evaluated;
- ``n_remain: N`` once for a message, and once for each sampled token including the end-of-turn token. After an empty
  line, which makes the engine continue, the first is ``empty line, passing control back``;
- ``embd_inp.size(): N, n_consumed: M`` when it reads input: M of all N tokens of prompt and messages were read before.
  The last batch of a prompt longer than one batch is evaluated only with the first message.

Only the order of these lines is used, and not the time of their arrival: the log may be read later than the output.

A modern engine writes ``task.n_tokens = N`` for the whole prompt, and at the end of a reply ``prompt eval time = … / N
tokens`` and ``eval time = … / N tokens``, including the end-of-turn token; with verbosity 5 also ``stopped by EOS``
when that token was sampled, even if it is the last that a limit allows. Both dialects write these lines before the
console shows the prompt, so the figures are known at the end of a turn.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from bitnet_chat.engine_output import ReplyFigures

_LINES = 200
"""Number of lines that are kept."""
_LINE_LIMIT = 2000
"""Maximum length of a line in bytes."""
_OPEN_LIMIT = 1 << 16
"""Number of bytes after which a line without an end is complete."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^[DIWE] ")
_LEAD = re.compile(r"^(?:\d+\.\d+\.\d+\.\d+ )?(?:[DIWE] )?")
_QUOTE = re.compile(rf"{_LEAD.pattern}(?:(?:\w+: )?(prompt|buffer): [\"']|(?:eval|embd|(?:input )?tokens): \[)")
"""The beginning of a quotation of the conversation in the log. Prompts and messages are quoted with their newlines;
tokens are on one line, with printable characters only.
"""


def strip_level(line: str) -> str:
    """Return a line of a log without the level before it (``--log-prefix``)."""
    return _LEVEL.sub("", line)


class EngineLog:
    """Stores the last lines of a log. ``on_line``: called with each complete line, without colours.

    Prompts and messages, which debug logs quote, are left out, because they may look like lines of a log.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._open = b""
        self._on_line = on_line
        self._newlines: dict[str | None, int] = {}
        self._quoted: int | None = None
        """Number of newlines left in the current quotation; None outside of one."""

    def quotes(self, subject: str, newlines: int) -> None:
        """Set the number of newlines in the texts that the engine will quote as ``subject`` (``prompt``,
        ``buffer``).
        """
        self._newlines[subject] = newlines

    def feed(self, data: bytes) -> None:
        """Add bytes of the log."""
        *lines, self._open = (self._open + data).split(b"\n")
        for line in lines:
            self._add(line)
            if self._quoted is not None:
                self._quoted = self._quoted - 1 if self._quoted else None
        if len(self._open) > _OPEN_LIMIT:
            self._add(self._open)
            self._open = b""

    def close(self) -> None:
        """End the log: an incomplete last line counts as complete."""
        if self._open:
            self._add(self._open)
            self._open = b""

    def note(self, text: str) -> None:
        """Add a line that is not from the log, such as the last output of the engine."""
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
        """Return the lines that are kept, at most 200."""
        return tuple(self._lines)

    def tail(self, count: int = 12) -> str:
        """Return at most ``count`` lines that may explain why the engine ended, the most specific first, without
        duplicates.
        """
        said = {_LEAD.sub("", line): line for line in self._lines if not _CHATTER.match(line)}
        telling = {bare: line for bare, line in said.items() if _TELLING.search(line)}
        if not telling and not any(_LEVEL.match(line) for line in self._lines):
            telling = said  # with levels, relevant lines have a level, and lines without one continue others
        causes = [line for bare, line in telling.items() if _rank(bare) == 0][:count]
        rest = [(bare, line) for bare, line in telling.items() if _rank(bare)]
        rest = rest[len(rest) - (count - len(causes)) :] if count > len(causes) else []
        return "\n".join((*causes, *(line for _, line in sorted(rest, key=lambda each: _rank(each[0])))))

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self._lines)


def most_telling(text: str) -> str:
    """Return the most specific of several messages, which are separated by ``; ``; the first of equals."""
    return min(text.split("; "), key=_rank)


def _rank(line: str) -> int:
    """Rank a line, the most specific first: 0: a cause; 1: other lines; 2: a consequence; 3: a misleading cause."""
    return next((rank for rank, pattern in _RANKS if pattern.search(line)), 1)


_TELLING = re.compile(
    r"error|fail|unable|invalid|unknown|warn|abort|assert|cannot|not found|memory|context full|<<|^[EW] ", re.I
)
_CHATTER = re.compile(
    r"(?:\d+\.\d+\.\d+\.\d+ )?[DI]( |$)|\.+$|.*memory breakdown|.*_print(?:_meta)?: "
    # Also logged for models that load; ik_llama.cpp reports the memory of a GPU that it does not use.
    # "30\t../sysdeps/…": output of a debugger that an abort has started.
    r"|.*is not marked as EOG|.*not in special_eog_ids|.*was not control-type|.*pre-tokenizer type, using"
    r"|main: buil[dt] |build: |main: seed|Log start|.*- kv +\d+:|.*- type +\w+:|\w+: using device "
    r"|.*: graph (?:nodes|splits) |.*buffer size = |.*on device \d+ is less |Memory (?:required|available) "
    r"|.*GENERATION QUALITY|.*CONSIDER REGENERATING|.*: \*+\s*$|.*Using metadata override|\d+\t\.\./"
    r"|.*warming up the model|Failed to open logfile "  # see log_flags() in bitnet_chat.engine.protocols
)
_RANKS = (
    # llama.cpp confuses I2_S and TL1 with types that it has removed, and suggests memory as the cause of any failure.
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
"""Patterns by rank, see :func:`_rank`; the first that matches applies."""

_PREFIX = r"^(?:[\d.]+ )?(?:[A-Z] )?"  # a time and a level
_CONTEXT = re.compile(r"\bn_ctx(?:_slot)?\s*[:=]\s*(\d+)")
_PAST = re.compile(_PREFIX + r"n_past = (\d+)$")
_REMAIN = re.compile(_PREFIX + r"n_remain: (-?\d+)$")
_INPUT = re.compile(_PREFIX + r"embd_inp\.size\(\): (\d+), n_consumed: (\d+)$")
_EMPTY = "empty line, passing control back"
_END = "stopped by EOS"
_SHIFT = "context full, swapping"
_TASK = re.compile(r"\btask\.n_tokens = (\d+)")
_EVALUATED = re.compile(r"\b(prompt )?eval time = .*?/ +(\d+) (?:tokens|runs)")
_SUMS = re.compile(r"llama_\w*print\w*:|_perf_print:")  # totals of a classic engine at its end
_OVERFLOW = re.compile(
    r"context full|prompt is too long|input too long|exceeds? the available context|context size (?:has been )?exceeded"
    r"|larger than the (?:available )?context|exceed_context_size"
)


def tells_overflow(text: str) -> bool:
    """Return whether a message of an engine means that the context window is full."""
    return _OVERFLOW.search(text) is not None


class LogStatsParser:
    """Determines figures from the lines of the log, and the beginning and end of turns. They are those of the current
    turn, or the last one; None if they are unknown.
    """

    def __init__(self) -> None:
        self.context_size: int | None = None
        self.context_used: int | None = None
        """Tokens in the context, including those that will be evaluated with the next message."""
        self.overflowed = False
        self.has_shifted = False
        """Whether the engine has dropped the older half of its context (context shift)."""
        self.prompt_tokens: int | None = None
        """Tokens that the turn has added before the reply."""
        self.prompt_size: int | None = None
        """Tokens of the whole prompt of the turn."""
        self.tokens: int | None = None
        """Tokens of the reply: during it all sampled tokens, after it without the end-of-turn token."""
        self.is_whole = False
        """Whether a modern engine has logged that the model ended the reply."""
        self._reports_figures = False
        """Whether the engine reports its figures by :meth:`told`. The log is then not parsed."""
        self._past = 0
        """Number of evaluated tokens."""
        self._pending = 0
        """Number of tokens that were read as input and are not evaluated yet."""
        self._before = 0
        """``context_used`` before the turn."""
        self._is_asked = False
        """Whether the engine has read the message of the turn: each following ``n_remain`` is a sampled token."""
        self._readers: tuple[tuple[str, Callable[[str], None]], ...] = (
            ("n_past", self._read_count),
            ("n_remain", self._read_count),
            ("embd_inp", self._read_input),
            (_EMPTY, self._read_empty),
            ("eval time", self._read_time),
            ("n_tokens", self._read_task),
            (_END, self._read_end),
            ("n_ctx", self._read_size),
        )
        """Functions that parse a line, each with a text in the line; the first match applies."""

    def sent(self, *, silently: bool = False) -> None:
        """Begin a turn. ``silently``: without a message, to continue a reply."""
        self.overflowed = False
        self.is_whole = False
        self.prompt_tokens = 0 if silently else None
        self.prompt_size = None
        self.tokens = None
        self._before = self.context_used or 0
        self._is_asked = silently

    def forgot(self) -> None:
        """Reset the size of the context, because the engine has removed the conversation. It is known again with the
        next message.
        """
        self.context_used = None
        self._past = self._pending = 0

    def told(self, figures: ReplyFigures) -> None:
        """Set the figures of an engine that reports them itself."""
        self._reports_figures = True
        self.context_size = figures.context_size or self.context_size
        if figures.tokens is not None:
            self.context_used, self.tokens = figures.context_used, figures.tokens
            self.prompt_tokens, self.prompt_size = figures.prompt_tokens, figures.prompt_size

    def ended(self, estimate: int, *, natural: bool) -> None:
        """End the turn. ``natural``: the model has ended the reply, whose last token is the end-of-turn token.
        ``estimate``: estimated tokens of the reply, for an engine that logs only the size of its context.
        """
        if self._reports_figures:
            return
        if self.tokens is None and self.context_used is not None:
            self.context_used += estimate
        elif self._past and self.context_used is not None:
            self.context_used += natural  # it is evaluated with the next message
        if self.tokens:
            self.tokens -= natural

    def line(self, line: str) -> None:
        """Parse a line of the log."""
        if self._reports_figures:
            return
        # Most lines have no figure: a substring search is much faster than a regular expression.
        reader = next((read for mark, read in self._readers if mark in line), None)
        if reader is not None:
            reader(line)
        elif tells_overflow(line):
            self.overflowed = True

    def _read_count(self, line: str) -> None:
        if past := _PAST.match(line):
            self._evaluated(int(past.group(1)))
        elif _REMAIN.match(line):
            self._counted()
        elif _SHIFT in line:
            self.has_shifted = self.overflowed = True

    def _read_input(self, line: str) -> None:
        if taken := _INPUT.match(line):
            self._took(int(taken.group(1)) - int(taken.group(2)))

    def _read_empty(self, line: str) -> None:
        self._is_asked = True

    def _read_time(self, line: str) -> None:
        if not _SUMS.search(line) and (evaluated := _EVALUATED.search(line)):
            self._timed(int(evaluated.group(2)), is_prompt=bool(evaluated.group(1)))

    def _read_task(self, line: str) -> None:
        if task := _TASK.search(line):
            self.context_used = self.prompt_size = int(task.group(1))

    def _read_end(self, line: str) -> None:
        self.is_whole = True

    def _read_size(self, line: str) -> None:
        # Several lines report different sizes; that of the slot, which is the last, applies.
        if size := _CONTEXT.search(line):
            self.context_size = int(size.group(1))

    def _evaluated(self, past: int) -> None:
        self._pending = max(0, self._pending - max(0, past - self._past))
        self._past = past
        self.context_used = past + self._pending

    def _took(self, count: int) -> None:
        """Add ``count`` tokens of input, which will be evaluated next."""
        self._pending = count
        self.context_used = self._past + count
        if self._is_asked and self.prompt_tokens is None and self.tokens is None:
            self.prompt_tokens = count

    def _counted(self) -> None:
        if not self._is_asked:
            self._is_asked = True
            self._before = self.context_used or 0
            return
        if self.tokens is None:
            self.tokens = 0
            self.prompt_size = self.context_used
            if self.prompt_tokens is None and self.context_used is not None:
                self.prompt_tokens = self.context_used - self._before
        self.tokens += 1

    def _timed(self, count: int, *, is_prompt: bool) -> None:
        """Handle the timings of a modern engine."""
        if is_prompt:
            self.prompt_tokens = count
        else:
            self.tokens = count
            if self.context_used is not None:
                self.context_used += count
