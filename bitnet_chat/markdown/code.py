"""The lines of a code block, coloured while they stream.

Strings and comments are followed character by character and are written at once. A word is held until the character
after it shows whether it is a keyword; one that gets too long for that is written plain.
"""

from __future__ import annotations

import re
from functools import lru_cache

from bitnet_chat.markdown import style
from bitnet_chat.markdown.inline import StyledOutput
from bitnet_chat.markdown.language import Language, Quote
from bitnet_chat.markdown.style import PLAIN

_LONGEST_WORD = 24
_WORD = re.compile(r"\w*")
_NUMBER = re.compile(r"[\w.]*")
_BLANKS = re.compile(r"\s*")
_CHARACTER = re.compile(r"'(?:\\.|[^'\\])'")
_CHARACTER_SO_FAR = re.compile(r"'(?:\\.?|[^'\\])?")
_PREFIXES = frozenset(("b", "f", "r", "u", "rb", "br", "fr", "rf", "l", "u8"))
"""Words that belong to the string after them."""


class CodeBlock:
    """``feed`` the characters of a line in any parts, then ``newline``."""

    def __init__(self, paper: StyledOutput, language: Language | None) -> None:
        self._paper = paper
        self._language = language
        self._held = ""
        self._inside: Quote | None = None
        self._begin_line()

    def _begin_line(self) -> None:
        self._sticky: tuple[re.Pattern[str], int] | None = None
        """What goes on as it is, and its look: a number, a word that is too long, a line of a diff."""
        self._before = ""
        """The character before the next one."""
        self._sigil = ""
        """Punctuation that touches the next word."""
        self._word = self._keyword = ""
        """The last word, and the same where it was a keyword and only blanks have followed."""

    def feed(self, text: str) -> None:
        """``text`` has no newline in it."""
        if self._language is None:
            self._paper.put(text)
        else:
            self._run(self._held + text, self._language, last=False)

    def newline(self) -> None:
        """The line has ended; the caller writes the newline itself."""
        if self._language is not None:
            self._run(self._held, self._language, last=True)
        if self._inside is not None and not self._inside.lines:
            self._inside = None
        self._begin_line()

    def pause(self) -> None:
        """Write the held characters in their probable style."""
        if self._held and self._language is not None:
            look = PLAIN
            if self._inside is not None:
                look = self._inside.look
            elif self._held[0].isalpha():
                look = self._language.look(self._held, self._sigil, self._keyword, " ")
            self._paper.show(self._held, look)

    def _run(self, text: str, language: Language, last: bool) -> None:
        self._held = ""
        at = 0
        while at < len(text) and not self._held:
            if self._inside is not None:
                at = self._within(text, at, self._inside, last)
            elif self._sticky is not None:
                at = self._stuck(text, at, *self._sticky)
            else:
                at = self._outside(text, at, language, last)

    def _put(self, text: str, look: int = PLAIN) -> None:
        if text:
            self._paper.put(text, look)
            self._before = text[-1]

    def _stuck(self, text: str, at: int, pattern: re.Pattern[str], look: int) -> int:
        match = pattern.match(text, at)
        end = match.end() if match else at
        self._put(text[at:end], look)
        if end < len(text):
            self._sticky = None
        return end

    def _outside(self, text: str, at: int, language: Language, last: bool) -> int:
        char = text[at]
        if not self._before and char in language.line_marks:
            self._sticky = _ALL, language.line_marks[char]
            return at
        if char.isspace():
            match = _BLANKS.match(text, at)
            end = match.end() if match else at + 1
            self._put(text[at:end])
            self._sigil = self._word = ""
            return end
        if char.isdecimal():
            self._keyword = self._word = ""
            self._sticky = _NUMBER, style.VALUE
            return at
        if char.isalpha() or char == "_":
            return self._next_word(text, at, language, last)
        return self._punctuation(text, at, language, last)

    def _next_word(self, text: str, at: int, language: Language, last: bool) -> int:
        match = _WORD.match(text, at)
        end = max(match.end() if match else at, at + 1)
        if end - at > _LONGEST_WORD:
            self._keyword = self._word = self._sigil = ""
            self._sticky = _WORD, PLAIN
            return at
        if end == len(text) and not last:
            self._held = text[at:]
            return at
        word = text[at:end]
        for quote in language.quotes:  # "REM ", a comment that begins like a word
            if quote.open[0].isalpha() and text.startswith(quote.open, at) and not self._sigil:
                return self._enter(quote, at)
        look = language.look(word, self._sigil, self._keyword, text[end : end + 1])
        self._put(word, look)
        self._sigil, self._word, self._keyword = "", word, word if look == style.KEYWORD else ""
        return end

    def _punctuation(self, text: str, at: int, language: Language, last: bool) -> int:
        for quote in language.quotes:
            if text.startswith(quote.open, at):
                if self._may_open(quote):
                    return self._enter(quote, at)
            elif not last and len(text) - at < len(quote.open) and quote.open.startswith(text[at:]):
                self._held = text[at:]
                return at
        if language.characters and text[at] == "'":
            match = _CHARACTER.match(text, at)
            if match:
                self._put(match[0], style.STRING)
                self._sigil = self._word = self._keyword = ""
                return match.end()
            if not last and _CHARACTER_SO_FAR.fullmatch(text, at):
                self._held = text[at:]
                return at
        self._put(text[at])
        # A quote that opened nothing would make a string of the word behind it.
        self._sigil = (self._sigil + text[at])[-2:] if text[at] not in "\"'`" else ""
        self._word = self._keyword = ""
        return at + 1

    def _may_open(self, quote: Quote) -> bool:
        if quote.behind:
            return self._before == quote.behind
        if not quote.apart or not self._before:
            return True
        if not quote.close:
            return self._before.isspace()
        return not (self._before.isalnum() or self._before in "_\\") or self._word.lower() in _PREFIXES

    def _enter(self, quote: Quote, at: int) -> int:
        self._put(quote.open, quote.look)
        self._inside = quote
        self._sigil = self._word = self._keyword = ""
        return at + len(quote.open)

    def _within(self, text: str, at: int, quote: Quote, last: bool) -> int:
        if not quote.close:
            self._put(text[at:], quote.look)
            return len(text)
        found = _end_of(quote).search(text, at)
        if found is None:
            kept = 0 if last else _may_go_on(text[at:], quote)
            self._put(text[at : len(text) - kept], quote.look)
            self._held = text[len(text) - kept :] if kept else ""
            return len(text) - kept
        self._put(text[at : found.end()], quote.look)
        if found[0] == quote.close:
            self._inside = None
        return found.end()


_ALL = re.compile(r".*", re.DOTALL)


@lru_cache(maxsize=256)
def _end_of(quote: Quote) -> re.Pattern[str]:
    """What ends it, or what looks so and does not."""
    return re.compile((r"\\.|" if quote.escapes else "") + re.escape(quote.close), re.DOTALL)


def _may_go_on(text: str, quote: Quote) -> int:
    """How many characters at the end of ``text`` may be the first half of what ends it."""
    if quote.escapes and text.endswith("\\"):
        return 1  # the pairs before it were found
    return max((size for size in range(1, len(quote.close)) if text.endswith(quote.close[:size])), default=0)
