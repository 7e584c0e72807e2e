"""Syntax highlighting of a code block while it streams.

Strings and comments are tracked character by character and written at once. A word is held back until the character
after it shows whether it is a keyword; a word that is too long for that is written plain.
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
"""Prefixes of string literals."""


class CodeBlock:
    """Highlights the lines of a code block: :meth:`feed` the characters of a line in any pieces, then call
    :meth:`newline`."""

    def __init__(self, output: StyledOutput, language: Language | None) -> None:
        self._output = output
        self._language = language
        self._held = ""
        self._inside: Quote | None = None
        self._begin_line()

    def _begin_line(self) -> None:
        self._sticky: tuple[re.Pattern[str], int] | None = None
        """Pattern and style of a token whose style no longer changes: a number, a long word, a line of a diff."""
        self._before = ""
        """The preceding character."""
        self._sigil = ""
        """Punctuation directly before the next word."""
        self._word = self._keyword = ""
        """The last word; ``_keyword``: the same if it is a keyword and only blanks have followed."""

    def feed(self, text: str) -> None:
        """Add text without newlines."""
        if self._language is None:
            self._output.put(text)
        else:
            self._run(self._held + text, self._language, last=False)

    def newline(self) -> None:
        """End the line. The caller writes the newline."""
        if self._language is not None:
            self._run(self._held, self._language, last=True)
        if self._inside is not None and not self._inside.lines:
            self._inside = None
        self._begin_line()

    def pause(self) -> None:
        """Write the characters that were held back, in their probable style."""
        if self._held and self._language is not None:
            look = PLAIN
            if self._inside is not None:
                look = self._inside.look
            elif self._held[0].isalpha():
                look = self._language.look(self._held, self._sigil, self._keyword, " ")
            self._output.show(self._held, look)

    def _run(self, text: str, language: Language, last: bool) -> None:
        self._held = ""
        at = 0
        while at < len(text) and not self._held:
            if self._inside is not None:
                at = self._within(text, at, self._inside, last)
            elif self._sticky is not None:
                at = self._continue_token(text, at, *self._sticky)
            else:
                at = self._outside(text, at, language, last)

    def _put(self, text: str, look: int = PLAIN) -> None:
        if text:
            self._output.put(text, look)
            self._before = text[-1]

    def _continue_token(self, text: str, at: int, pattern: re.Pattern[str], look: int) -> int:
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
        for quote in language.quotes:  # comments that begin with a word: "REM "
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
        # Excludes a quotation mark that did not open a string: the lexer would take the next word for one.
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
        found = _end_pattern(quote).search(text, at)
        if found is None:
            kept = 0 if last else _open_end_length(text[at:], quote)
            self._put(text[at : len(text) - kept], quote.look)
            self._held = text[len(text) - kept :] if kept else ""
            return len(text) - kept
        self._put(text[at : found.end()], quote.look)
        if found[0] == quote.close:
            self._inside = None
        return found.end()


_ALL = re.compile(r".*", re.DOTALL)


@lru_cache(maxsize=256)
def _end_pattern(quote: Quote) -> re.Pattern[str]:
    """Matches the end of a quote, and escapes that are not the end."""
    return re.compile((r"\\.|" if quote.escapes else "") + re.escape(quote.close), re.DOTALL)


def _open_end_length(text: str, quote: Quote) -> int:
    """Number of characters at the end of ``text`` that may be the beginning of the closing mark."""
    if quote.escapes and text.endswith("\\"):
        return 1  # complete escapes before it were consumed
    return max((size for size in range(1, len(quote.close)) if text.endswith(quote.close[:size])), default=0)
