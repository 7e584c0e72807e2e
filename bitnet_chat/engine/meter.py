"""Figures out of an engine's log: exact where it tells, absent where it does not. Pure.

Measured on llama.cpp 0.5.0 (classic: verbosity 5, modern: verbosity 4), BitNet of October 2024 (verbosity 1) and
ik_llama.cpp (no verbosity tells tokens). A classic engine writes, in this order:

- ``n_past = N`` after each batch or token that was evaluated;
- ``n_remain: N`` once for a message and once for each sampled token, the end-of-turn token included. An empty line,
  which makes the engine go on, has ``empty line, passing control back`` instead of the first;
- ``embd_inp.size(): N, n_consumed: M`` when it takes input: of all N tokens of prompt and messages M were taken
  before. The last batch of a prompt that is longer than one batch is evaluated with the first message only.

Only the order of these lines counts, and not when they arrive: the log of a process may be read behind its output.

A modern engine writes ``task.n_tokens = N`` for the whole prompt, and ``prompt eval time = … / N tokens`` and
``eval time = … / N tokens`` at the end of a reply, the end-of-turn token included; with verbosity 5 also ``stopped by
EOS`` where that token was sampled, be it the last that a limit allowed. Both dialects write their log before
the console goes on to the prompt, so that at the end of a turn the figures are there.
"""

from __future__ import annotations

import re

from bitnet_chat.frames import Figures

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
    """Whether an engine's words mean that the context window is full."""
    return _OVERFLOW.search(text) is not None


class Meter:
    """Fed with log lines; told of turns. All figures are of the turn under way or the last one."""

    def __init__(self) -> None:
        self.context_size: int | None = None
        self.context_used: int | None = None
        """Tokens in the window; what is to be evaluated with the next message included."""
        self.overflowed = False
        self.has_shifted = False
        """Whether the engine has dropped the older half of its context without being asked to."""
        self.prompt_tokens: int | None = None
        """Tokens that the turn added before the reply."""
        self.prompt_size: int | None = None
        """Tokens of the whole prompt of the turn."""
        self.tokens: int | None = None
        """Tokens of the reply: while it is made all that were sampled, at its end those of its text."""
        self.is_whole = False
        """Whether a modern engine has told that the model itself ended the reply."""
        self._is_told = False
        """Whether the engine tells its figures itself: its log is not read for any."""
        self._past = 0
        self._pending = 0  # taken as input and not evaluated yet
        self._before = 0
        self._is_asked = False
        """Whether the message of the turn was read: the next ``n_remain`` is that of a sampled token."""

    def sent(self, *, silently: bool = False) -> None:
        """A message goes to the engine; ``silently``: only the wish that it go on."""
        self.overflowed = False
        self.is_whole = False
        self.prompt_tokens = 0 if silently else None
        self.prompt_size = None
        self.tokens = None
        self._before = self.context_used or 0
        self._is_asked = silently

    def forgot(self) -> None:
        """The engine was made to forget the conversation: what its context holds is told with the next message."""
        self.context_used = None
        self._past = self._pending = 0

    def told(self, figures: Figures) -> None:
        """By an engine that counts for us."""
        self._is_told = True
        self.context_size = figures.context_size or self.context_size
        if figures.tokens is not None:
            self.context_used, self.tokens = figures.context_used, figures.tokens
            self.prompt_tokens, self.prompt_size = figures.prompt_tokens, figures.prompt_size

    def ended(self, estimate: int, *, natural: bool) -> None:
        """The turn is over; a natural end has one more token, which ends it and is no text.

        ``estimate``: tokens of the reply, for an engine that tells only how much its context holds.
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
        if "n_past" in line or "n_remain" in line:
            if past := _PAST.match(line):
                self._evaluated(int(past.group(1)))
            elif _REMAIN.match(line):
                self._counted()
            elif _SHIFT in line:
                self.has_shifted = self.overflowed = True
        elif "embd_inp" in line:
            if taken := _INPUT.match(line):
                self._took(int(taken.group(1)) - int(taken.group(2)))
        elif _EMPTY in line:
            self._is_asked = True
        elif "eval time" in line:
            if not _SUMS.search(line) and (evaluated := _EVALUATED.search(line)):
                self._timed(int(evaluated.group(2)), is_prompt=bool(evaluated.group(1)))
        elif "n_tokens" in line:
            if task := _TASK.search(line):
                self.context_used = self.prompt_size = int(task.group(1))
        elif _END in line:
            self.is_whole = True
        elif "n_ctx" in line:
            # Lines differ in which of several sizes they tell; the slot's or the last one is what counts.
            if size := _CONTEXT.search(line):
                self.context_size = int(size.group(1))
        elif tells_overflow(line):
            self.overflowed = True

    def _evaluated(self, past: int) -> None:
        self._pending = max(0, self._pending - max(0, past - self._past))
        self._past = past
        self.context_used = past + self._pending

    def _took(self, count: int) -> None:
        """``count`` tokens of input are about to be taken; only those of a message while one is read."""
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
        """Of a modern engine."""
        if is_prompt:
            self.prompt_tokens = count
        else:
            self.tokens = count
            if self.context_used is not None:
                self.context_used += count
