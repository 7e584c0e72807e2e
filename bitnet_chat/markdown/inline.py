"""The text of one line: emphasis, strong, strikethrough, code, links.

A span is opened at its mark, before it is known whether it will be closed, and ends with its line at the latest: a
false mark styles at most the rest of the line. So the rules for opening are narrower than those of CommonMark: no ``*``
or ``_`` within a word, before a file pattern, or within a URL.
"""

from __future__ import annotations

import re
from typing import Protocol

from bitnet_chat.markdown.style import BOLD, CODE, ITALIC, LINK, MARK, PLAIN, STRIKE, over


class StyledOutput(Protocol):
    """The destination of styled text."""

    def put(self, text: str, look: int = ...) -> None: ...

    def show(self, text: str, look: int = ...) -> None: ...


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
    """``begin`` a line, ``feed`` its characters in any parts, ``end`` it."""

    def __init__(self, paper: StyledOutput) -> None:
        self._paper = paper
        self.begin()

    def begin(self, base: int = PLAIN) -> None:
        """A new line, all of it in the look ``base``."""
        self._base = base
        self._mark = over(base & ~BOLD, MARK)
        self._open: dict[int, str] = {}
        """The open spans, each with the character of its mark."""
        self._look = base
        self._before = ""
        """The character before the next one."""
        self._run, self._run_before = "", ""
        """A run of one mark that may be continued by the next character."""
        self._literal = ""
        """A mark in a run that is too long to have a meaning."""
        self._ticks = 0
        """Backticks in the run that has just been written."""
        self._code = 0
        """Number of backticks that opened the current code."""
        self._escaped = False
        self._scheme = self._url = False
        self._brackets = 0
        self._linkable = False
        """A ``]`` came last."""
        self._target = 0
        """Open parentheses in the target of a link."""

    def begin_code(self, base: int, ticks: int) -> None:
        """A line that has begun with code: ``ticks`` backticks and some of the quoted text."""
        self.begin(base)
        self._code = ticks

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            at = self._next(text, at)

    def end(self) -> None:
        if self._run:
            self._judge("")
        if self._code:
            self._put_ticks()
        self.begin(self._base)

    def pause(self) -> None:
        """Write the held marks."""
        self._paper.show("`" * self._ticks if 0 < self._ticks < self._code else self._run, MARK)

    def _next(self, text: str, at: int) -> int:
        """Takes some characters of ``text`` from ``at`` on; the place of the next one."""
        char = text[at]
        if self._code:
            return self._quoted(text, at)
        if self._ticks:
            return self._opening_ticks(char, at)
        if self._target:
            return self._destination(text, at)
        if self._url:
            return self._address(text, at)
        if self._run or self._literal:
            return self._run_on(char, at)
        if self._escaped or self._linkable:
            return self._after_special(char, at)
        found = _SPECIAL.search(text, at)
        end = found.start() if found else len(text)
        if end > at:
            self._paper.put(text[at:end], self._look)
            self._before = text[end - 1]
            return end
        return self._special(char, at)

    def _special(self, char: str, at: int) -> int:
        if char in "*_~":
            self._run, self._run_before = char, self._before
            return at + 1
        if char == "`":
            self._ticks = 1
            self._paper.put(char, self._mark)
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
        return self._say(char, at)

    def _after_special(self, char: str, at: int) -> int:
        escaped, linkable, self._escaped, self._linkable = self._escaped, self._linkable, False, False
        if escaped and char in _ESCAPABLE:
            return self._say(char, at)
        if linkable and char == "(":
            self._target = 1
            self._paper.put(char, self._mark)
            return at + 1
        return at

    def _say(self, char: str, at: int) -> int:
        self._paper.put(char, self._look)
        self._before = char
        return at + 1

    def _run_on(self, char: str, at: int) -> int:
        if self._literal:
            if char == self._literal:
                return self._say(char, at)
            self._literal = ""
        elif char != self._run[0]:
            self._judge(char)
        elif len(self._run) < _LONGEST_RUN:
            self._run += char
            return at + 1
        else:
            self._paper.put(self._run, self._look)
            self._run, self._literal, self._before = "", char, char
        return at

    def _judge(self, after: str) -> None:
        """The meaning of a run of marks, given the character ``after`` it; empty at the end of the line."""
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
            self._paper.put(run, self._look)
            return
        self._paper.put(run, self._mark)
        self._look = self._base
        for span in self._open:
            self._look |= span

    def _opening_ticks(self, char: str, at: int) -> int:
        if char == "`":
            self._ticks += 1
            self._paper.put(char, self._mark)
            return at + 1
        self._code, self._ticks = self._ticks, 0
        return at

    def _quoted(self, text: str, at: int) -> int:
        if text[at] == "`":
            self._ticks += 1
            if self._ticks >= self._code:  # as many as opened it close it, unless more follow
                run = self._code if self._ticks == self._code else 1
                self._paper.put("`" * run, self._mark if self._ticks == self._code else over(self._base, CODE))
            return at + 1
        if self._ticks == self._code:
            self._code = self._ticks = 0
            self._before = "`"
            return at
        self._put_ticks()
        end = text.find("`", at)
        end = end if end >= 0 else len(text)
        self._paper.put(text[at:end], over(self._base, CODE))
        return end

    def _put_ticks(self) -> None:
        """Fewer backticks than opened the code are part of it."""
        if self._ticks < self._code:
            self._paper.put("`" * self._ticks, over(self._base, CODE))
        self._ticks = 0

    def _destination(self, text: str, at: int) -> int:
        found = _TARGET.search(text, at)
        end = found.start() if found else len(text)
        if end > at:
            self._paper.put(text[at:end], over(self._base, LINK))
            return end
        self._target += 1 if text[at] == "(" else -1
        self._paper.put(text[at], over(self._base, LINK) if self._target else self._mark)
        self._before = text[at]
        return at + 1

    def _address(self, text: str, at: int) -> int:
        found = _URL_END.search(text, at)
        end = found.start() if found else len(text)
        if found and found[0] == "*" and not self._open:
            end += 1
        elif found:
            self._url = self._scheme = False
        if end > at:
            self._paper.put(text[at:end], self._look)
            self._before = text[end - 1]
        return end


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _opens(before: str, run: str, after: str) -> bool:
    """Whether ``run`` between these two characters begins a span."""
    if not after or after.isspace() or before == "/":
        return False
    # Chinese and Japanese have no blanks between words.
    if before and _in_word(before) and (before < "\u2e80" or run[0] == "_"):
        return False
    return after not in ("./*,;:)=]}|>" if len(run) == 1 else "*,;)]}|")
