"""The engine's log: bounded, kept to explain a death, and parsed for figures. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from bitnet_chat.engine_frames import ReplyFigures

_LINES = 200
_LINE_LIMIT = 2000
_OPEN_LIMIT = 1 << 16
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^[DIWE] ")
_LEAD = re.compile(r"^(?:\d+\.\d+\.\d+\.\d+ )?(?:[DIWE] )?")
_QUOTE = re.compile(rf"{_LEAD.pattern}(?:(?:\w+: )?(prompt|buffer): [\"']|(?:eval|embd|(?:input )?tokens): \[)")
"""The beginning of text that the engine was given or made. Tokens are on one line, with their names reduced to
printable characters."""


def strip_level(line: str) -> str:
    """A line of a log that has the level of each in front of it (``--log-prefix``)."""
    return _LEVEL.sub("", line)


class EngineLog:
    """The last lines of standard error. ``on_line`` sees each complete line, without colours.

    Prompts and messages, which debug logs quote, are left out: a log that a user pastes is not the engine's.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._open = b""
        self._on_line = on_line
        self._newlines: dict[str | None, int] = {}
        self._quoted: int | None = None  # newlines to come in the text that is being quoted

    def quotes(self, subject: str, newlines: int) -> None:
        """Set the number of newlines in the next text that the engine quotes after ``subject`` (``prompt``,
        ``buffer``)."""
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
        """Add a line that is not from the log, such as the engine's terminal output before its death."""
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
        """The lines that are kept."""
        return tuple(self._lines)

    def tail(self, count: int = 12) -> str:
        """At most ``count`` lines that may explain a death, the most specific first, without duplicates."""
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
    """The most specific of several messages, separated by ``; ``; the first one of equals."""
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
"""The first line that matches."""


# Figures from an engine's log: exact if logged, absent otherwise. Pure.
#
# Measured on llama.cpp 0.5.0 (classic: verbosity 5, modern: verbosity 4), BitNet of October 2024 (verbosity 1) and
# ik_llama.cpp (no verbosity logs tokens). A classic engine writes, in this order:
#
# - ``n_past = N`` after each batch or token that was evaluated;
# - ``n_remain: N`` once for a message and once for each sampled token, the end-of-turn token included. An empty line,
#   which makes the engine go on, has ``empty line, passing control back`` instead of the first;
# - ``embd_inp.size(): N, n_consumed: M`` when it takes input: of all N tokens of prompt and messages M were taken
#   before. The last batch of a prompt that is longer than one batch is evaluated with the first message only.
#
# Only the order of these lines counts, and not when they arrive: the log of a process may be read behind its output.
#
# A modern engine writes ``task.n_tokens = N`` for the whole prompt, and ``prompt eval time = … / N tokens`` and
# ``eval time = … / N tokens`` at the end of a reply, the end-of-turn token included; with verbosity 5 also ``stopped by
# EOS`` where that token was sampled, be it the last that a limit allowed. Both dialects write their log before
# the console goes on to the prompt, so that at the end of a turn the figures are there.

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
_SUMS = re.compile(r"llama_\w*print\w*:|_perf_print:")  # what a classic engine evaluated in all its life
_OVERFLOW = re.compile(
    r"context full|prompt is too long|input too long|exceeds? the available context|context size (?:has been )?exceeded"
    r"|larger than the (?:available )?context|exceed_context_size"
)


def tells_overflow(text: str) -> bool:
    """Whether an engine's message means that the context window is full."""
    return _OVERFLOW.search(text) is not None


class LogStatsParser:
    """Figures from log lines and the begin and end of turns. All are of the current turn or the last one."""

    def __init__(self) -> None:
        self.context_size: int | None = None
        self.context_used: int | None = None
        """Tokens in the window, including those to evaluate with the next message."""
        self.overflowed = False
        self.has_shifted = False
        """Whether the engine has dropped the older half of its context by itself."""
        self.prompt_tokens: int | None = None
        """Tokens that the turn added before the reply."""
        self.prompt_size: int | None = None
        """Tokens of the whole prompt of the turn."""
        self.tokens: int | None = None
        """Tokens of the reply: while it is made all that were sampled, at its end those of its text."""
        self.is_whole = False
        """Whether a modern engine has logged that the model ended the reply."""
        self._is_told = False
        """Whether the engine reports its figures itself: its log is then not parsed for any."""
        self._past = 0
        self._pending = 0  # taken as input and not evaluated yet
        self._before = 0
        self._is_asked = False
        """Whether the message of the turn was read: the next ``n_remain`` is that of a sampled token."""
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
        """Handlers by the text in a line; the first match counts."""

    def sent(self, *, silently: bool = False) -> None:
        """A message is sent to the engine; ``silently``: only the request to continue."""
        self.overflowed = False
        self.is_whole = False
        self.prompt_tokens = 0 if silently else None
        self.prompt_size = None
        self.tokens = None
        self._before = self.context_used or 0
        self._is_asked = silently

    def forgot(self) -> None:
        """The engine has dropped the conversation: the size of its context is known with the next message."""
        self.context_used = None
        self._past = self._pending = 0

    def told(self, figures: ReplyFigures) -> None:
        """Set the figures of an engine that reports them itself."""
        self._is_told = True
        self.context_size = figures.context_size or self.context_size
        if figures.tokens is not None:
            self.context_used, self.tokens = figures.context_used, figures.tokens
            self.prompt_tokens, self.prompt_size = figures.prompt_tokens, figures.prompt_size

    def ended(self, estimate: int, *, natural: bool) -> None:
        """The turn is over; a natural end has one more token, the end-of-turn token, which is not text.

        ``estimate``: tokens of the reply, for an engine that reports only the size of its context.
        """
        if self._is_told:
            return
        if self.tokens is None and self.context_used is not None:
            self.context_used += estimate
        elif self._past and self.context_used is not None:
            self.context_used += natural  # it is evaluated with the next message
        if self.tokens:
            self.tokens -= natural

    def line(self, line: str) -> None:
        if self._is_told:
            return
        # Almost no line has a figure: a substring search takes a fraction of the time of an expression.
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
        # Lines differ in which of several sizes they have; the slot's or the last one counts.
        if size := _CONTEXT.search(line):
            self.context_size = int(size.group(1))

    def _evaluated(self, past: int) -> None:
        self._pending = max(0, self._pending - max(0, past - self._past))
        self._past = past
        self.context_used = past + self._pending

    def _took(self, count: int) -> None:
        """Count ``count`` tokens of input, which will be read next; only while a message is read."""
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
