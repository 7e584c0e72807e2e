"""Inline structure of one line: emphasis, strong emphasis, strikethrough, code and links.

A span is styled from its opening mark on, before it is known whether it is closed, and ends at the end of the line. A
wrong mark therefore styles at most the rest of the line. The rules for opening are narrower than those of CommonMark:
``*`` and ``_`` do not open within a word, before a file pattern, or within a URL.
"""

from __future__ import annotations

import re
from typing import Protocol

from bitnet_chat.markdown.style import BOLD, CODE, ITALIC, LINK, MARK, PLAIN, STRIKE, over


class StyledOutput(Protocol):
    """The destination of styled text; see :class:`bitnet_chat.markdown.painter.AnsiBuffer`."""

    def put(self, text: str, look: int = ...) -> None:
        """Add text without newlines in the style ``look``."""

    def show(self, text: str, look: int = ...) -> None:
        """Write text that a later :meth:`put` will add, so that it appears early."""


_SPECIAL = re.compile(r"[\\`*_~\[\]/]")
_URL_END = re.compile(r"[\s<>\"`*|\])]")
_TARGET = re.compile(r"[()]")
_ESCAPABLE = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_SPANS: dict[tuple[str, int], tuple[int, ...]] = {
    ("*", 1): (ITALIC,),
    ("*", 2): (BOLD,),
    ("*", 3): (BOLD, ITALIC),
    ("_", 1): (ITALIC,),
    ("_", 2): (BOLD,),
    ("_", 3): (BOLD, ITALIC),
    ("~", 2): (STRIKE,),
}
_LONGEST_RUN = 3


class InlineParser:
    """Parses lines: :meth:`begin` a line, :meth:`feed` its characters in any pieces, then :meth:`end` it."""

    def __init__(self, output: StyledOutput) -> None:
        self._output = output
        self.begin()

    def begin(self, base: int = PLAIN) -> None:
        """Start a line with the style ``base``."""
        self._base = base
        self._mark = over(base & ~BOLD, MARK)
        self._open: dict[int, str] = {}
        """The open spans, each with the character of its mark."""
        self._look = base
        self._before = ""
        """The preceding character."""
        self._run, self._run_before = "", ""
        """A run of equal marks that the next character may extend; ``_run_before``: the character before it."""
        self._literal = ""
        """The mark of a run that is too long to have a meaning."""
        self._ticks = 0
        """Length of the run of backticks that was written last."""
        self._code = 0
        """Number of backticks that opened the current code span."""
        self._escaped = False
        self._scheme = self._url = False
        self._brackets = 0
        self._linkable = False
        """Whether the preceding character is a ``]``."""
        self._target = 0
        """Number of open parentheses in the target of a link."""

    def begin_code(self, base: int, ticks: int) -> None:
        """Start within a code span that was opened by ``ticks`` backticks."""
        self.begin(base)
        self._code = ticks

    def feed(self, text: str) -> None:
        """Add text of the line."""
        at = 0
        while at < len(text):
            at = self._next(text, at)

    def end(self) -> None:
        """End the line."""
        if self._run:
            self._resolve_run("")
        if self._code:
            self._put_ticks()
        self.begin(self._base)

    def pause(self) -> None:
        """Write the marks that were held back."""
        self._output.show("`" * self._ticks if 0 < self._ticks < self._code else self._run, MARK)

    def _next(self, text: str, at: int) -> int:
        """Process some characters from ``at`` on, and return the position of the next one."""
        char = text[at]
        if self._code:
            return self._in_code(text, at)
        if self._ticks:
            return self._opening_ticks(char, at)
        if self._target:
            return self._in_target(text, at)
        if self._url:
            return self._in_url(text, at)
        if self._run or self._literal:
            return self._extend_run(char, at)
        if self._escaped or self._linkable:
            return self._after_special(char, at)
        found = _SPECIAL.search(text, at)
        end = found.start() if found else len(text)
        if end > at:
            self._output.put(text[at:end], self._look)
            self._before = text[end - 1]
            return end
        return self._special(char, at)

    def _special(self, char: str, at: int) -> int:
        if char in "*_~":
            self._run, self._run_before = char, self._before
            return at + 1
        if char == "`":
            self._ticks = 1
            self._output.put(char, self._mark)
            return at + 1
        if char == "\\":
            self._escaped = True
        elif char == "/":
            self._url = self._scheme and self._before == "/"
            self._scheme = self._before == ":"
        elif char == "[":
            self._brackets += 1
        elif self._brackets:  # "]"
            self._brackets -= 1
            self._linkable = True
        return self._put_char(char, at)

    def _after_special(self, char: str, at: int) -> int:
        escaped, linkable, self._escaped, self._linkable = self._escaped, self._linkable, False, False
        if escaped and char in _ESCAPABLE:
            return self._put_char(char, at)
        if linkable and char == "(":
            self._target = 1
            self._output.put(char, self._mark)
            return at + 1
        return at

    def _put_char(self, char: str, at: int) -> int:
        self._output.put(char, self._look)
        self._before = char
        return at + 1

    def _extend_run(self, char: str, at: int) -> int:
        if self._literal:
            if char == self._literal:
                return self._put_char(char, at)
            self._literal = ""
        elif char != self._run[0]:
            self._resolve_run(char)
        elif len(self._run) < _LONGEST_RUN:
            self._run += char
            return at + 1
        else:
            self._output.put(self._run, self._look)
            self._run, self._literal, self._before = "", char, char
        return at

    def _resolve_run(self, after: str) -> None:
        """Decide whether a run of marks opens or closes spans. ``after``: the character after it; empty at the end of
        the line."""
        run, self._run = self._run, ""
        mark, before = run[0], self._run_before
        self._before = mark
        spans = _SPANS.get((mark, len(run)), ())
        closes = (
            all(self._open.get(span) == mark for span in spans)
            and not (before.isspace() or not before)
            and not (mark == "_" and _in_word(after))
        )
        if spans and closes:
            for span in spans:
                del self._open[span]
        elif spans and not any(span in self._open for span in spans) and _opens(before, run, after):
            self._open |= dict.fromkeys(spans, mark)
        else:
            self._output.put(run, self._look)
            return
        self._output.put(run, self._mark)
        self._look = self._base
        for span in self._open:
            self._look |= span

    def _opening_ticks(self, char: str, at: int) -> int:
        if char == "`":
            self._ticks += 1
            self._output.put(char, self._mark)
            return at + 1
        self._code, self._ticks = self._ticks, 0
        return at

    def _in_code(self, text: str, at: int) -> int:
        if text[at] == "`":
            self._ticks += 1
            if self._ticks >= self._code:  # the same number closes the span, unless more follow
                run = self._code if self._ticks == self._code else 1
                self._output.put("`" * run, self._mark if self._ticks == self._code else over(self._base, CODE))
            return at + 1
        if self._ticks == self._code:
            self._code = self._ticks = 0
            self._before = "`"
            return at
        self._put_ticks()
        end = text.find("`", at)
        end = end if end >= 0 else len(text)
        self._output.put(text[at:end], over(self._base, CODE))
        return end

    def _put_ticks(self) -> None:
        """Write a run that is shorter than the opening one, which belongs to the code."""
        if self._ticks < self._code:
            self._output.put("`" * self._ticks, over(self._base, CODE))
        self._ticks = 0

    def _in_target(self, text: str, at: int) -> int:
        found = _TARGET.search(text, at)
        end = found.start() if found else len(text)
        if end > at:
            self._output.put(text[at:end], over(self._base, LINK))
            return end
        self._target += 1 if text[at] == "(" else -1
        self._output.put(text[at], over(self._base, LINK) if self._target else self._mark)
        self._before = text[at]
        return at + 1

    def _in_url(self, text: str, at: int) -> int:
        found = _URL_END.search(text, at)
        end = found.start() if found else len(text)
        if found and found[0] == "*" and not self._open:
            end += 1
        elif found:
            self._url = self._scheme = False
        if end > at:
            self._output.put(text[at:end], self._look)
            self._before = text[end - 1]
        return end


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _opens(before: str, run: str, after: str) -> bool:
    """Whether ``run`` between these two characters opens a span."""
    if not after or after.isspace() or before == "/":
        return False
    # Chinese and Japanese have no blanks between words.
    if before and _in_word(before) and (before < "\u2e80" or run[0] == "_"):
        return False
    return after not in ("./*,;:)=]}|>" if len(run) == 1 else "*,;)]}|")
