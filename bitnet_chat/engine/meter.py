"""Figures out of an engine's log: exact where it tells, silent where it does not. Pure.

Measured on llama.cpp 0.5.0. A classic engine at verbosity 5 writes ``n_past = N`` after each batch or token that it
evaluated and ``n_remain: N`` once for a message and once for each token it sampled, the end-of-turn token included.
A modern one at verbosity 4 writes ``task.n_tokens = N`` for the whole prompt, and ``prompt eval time = … / N tokens``
and ``eval time = … / N tokens`` at the end of a reply. Both write their log before the console goes on to the
prompt, so that at the end of a turn the figures are there.
"""

from __future__ import annotations

import re

_CONTEXT = re.compile(r"\bn_ctx(?:_slot)?\s*[:=]\s*(\d+)")
_PAST = re.compile(r"^(?:D )?n_past = (\d+)$")
_REMAIN = re.compile(r"^(?:D )?n_remain: (-?\d+)$")
_TASK = re.compile(r"\btask\.n_tokens = (\d+)")
_EVALUATED = re.compile(r"\b(prompt )?eval time = .*?/ +(\d+) (?:tokens|runs)")
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
        self.overflowed = False
        self.prompt_tokens: int | None = None
        self.prompt_size: int | None = None
        self.tokens: int | None = None
        self._before = 0
        self._sampled = -1  # the first n_remain is the message's

    def sent(self, *, silently: bool = False) -> None:
        """A message goes to the engine; ``silently``: only the wish that it go on."""
        self.overflowed = False
        self.prompt_tokens = None
        self.prompt_size = None
        self.tokens = None
        self._before = self.context_used or 0
        self._sampled = 0 if silently else -1

    def ended(self, estimate: int, *, natural: bool) -> None:
        """The turn is over; a natural end has one more token, which ends it and is no text.

        ``estimate``: tokens of the reply, for an engine that does not tell.
        """
        if self.tokens is None and self.context_used is not None:
            self.context_used += estimate
        elif self.tokens:
            self.tokens -= natural
        if self._sampled > 0 and self.context_used is not None:
            self.context_used += natural  # it is evaluated with the next message

    def line(self, line: str) -> None:
        if "n_past" in line or "n_remain" in line:
            if past := _PAST.match(line):
                self.context_used = int(past.group(1))
            elif _REMAIN.match(line):
                self._sampled += 1
                self.tokens = self._sampled
                if self._sampled == 1 and self.context_used is not None:
                    self.prompt_tokens = self.context_used - self._before
                    self.prompt_size = self.context_used
        elif "eval time" in line:
            # A classic engine tells it when it ends, of all its turns together.
            if self._sampled < 0 and (evaluated := _EVALUATED.search(line)):
                if evaluated.group(1):
                    self.prompt_tokens = int(evaluated.group(2))
                else:
                    self.tokens = int(evaluated.group(2))
                    if self.context_used is not None:
                        self.context_used += self.tokens
        elif "n_tokens" in line:
            if task := _TASK.search(line):
                self.context_used = self.prompt_size = int(task.group(1))
        elif "n_ctx" in line:
            # Lines differ in which of several sizes they tell; the slot's or the last one is what counts.
            if size := _CONTEXT.search(line):
                self.context_size = int(size.group(1))
        elif tells_overflow(line):
            self.overflowed = True
