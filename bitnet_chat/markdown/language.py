"""Traits of a programming language, determined with Pygments: comments, strings, and the styles of words.

A Pygments lexer requires the whole text: an open string is an error, and lexing the whole block at each new character
takes quadratic time. So lexers are not applied to the streamed code. A lexer is used once to determine quotes and
comments of the language, by lexing probes, and once for each new word, by lexing the word with its neighbours. The
results are cached, and ``code.py`` highlights a stream with them in constant time per character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bitnet_chat.markdown import style
from bitnet_chat.markdown.style import PLAIN

if TYPE_CHECKING:
    from pygments.lexer import Lexer

_LINE_COMMENTS = ("#", "//", "--", ";", "%", "'", '"', "!", "REM ")
_BLOCK_COMMENTS = (
    ("/*", "*/"),
    ("<!--", "-->"),
    ("{-", "-}"),
    ("(*", "*)"),
    ("--[[", "]]"),
    ("#|", "|#"),
    ("<#", "#>"),
)
_LONG_QUOTES = ('"""', "'''")
_QUOTES = ('"', "'", "`")
_CONTEXTS = ("x = ", "", "key: ", "(", '{"a": ')
"""Text that can precede a string literal in some languages."""
_IN_A_TAG = "<a b="
_LINE_MARKS = "+-@!<>"
_NAME = re.compile(r"\w[\w+#.-]*")
# Names that models use and Pygments lacks, and markup that is not highlighted.
_ALIASES = {"jsonc": "json5", "kt": "kotlin", "patch": "diff", "vb": "vb.net", "env": "bash", "cmd": "batch"}
_NOT_HIGHLIGHTED = frozenset(("text", "markdown", "md", "output", "rst", "restructuredtext", "rest", "tex", "latex"))
_CACHE_SIZE = 4096
"""Maximum number of cached words."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A comment or a string: the text from ``open`` to ``close`` has one style."""

    open: str
    close: str
    """Empty if it ends at the end of the line."""
    look: int
    lines: bool = False
    """Whether it may span lines."""
    escapes: bool = False
    """Whether a backslash escapes the next character."""
    apart: bool = False
    """Whether it opens only if the preceding character does not belong to a word."""
    behind: str = ""
    """The only character after which it opens; empty: any."""


class Language:
    """Traits and words of one language."""

    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer
        self._cache: dict[tuple[str, str, str, str], int] = {}
        self.quotes: tuple[Quote, ...] = tuple(
            sorted((*self._comments(), *self._strings()), key=lambda quote: -len(quote.open))
        )
        self.characters = self._is_string("'", "a", "") and not any(quote.open == "'" for quote in self.quotes)
        """Whether an apostrophe quotes exactly one character."""
        self.line_marks = self._line_marks()
        """Styles of whole lines by their first character, for diffs."""

    def look(self, word: str, sigil: str, previous: str, after: str) -> int:
        """Return the style of a word.

        ``sigil``: punctuation directly before it. ``previous``: the preceding word on the line, if that is a keyword.
        ``after``: the next character.
        """
        if after not in ("(", ":", "=", ">"):
            after = " "
        key = (word, sigil, previous, after)
        cached = self._cache.get(key)
        if cached is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            before = f"{previous} {sigil}" if previous else sigil
            kind = self._kinds(f"{before}{word}{after}\n")[len(before)]
            cached = _look(kind, bool(previous), sigil)
            # Comments are detected by their opening mark; here "#" has not opened one.
            cached = self._cache[key] = cached if cached != style.COMMENT else PLAIN
        return cached

    def _kinds(self, text: str) -> list[Any]:
        """Return the token type of each character of ``text``."""
        from pygments.token import Token

        kinds: list[Any] = [Token.Text] * len(text)
        try:
            for at, kind, token in self._lexer.get_tokens_unprocessed(text):
                kinds[at : at + len(token)] = [kind] * len(token)
        except Exception:  # an error in one of 500 lexers only costs the colour of a word
            pass
        return kinds[: len(text)] + [Token.Text] * (len(text) - len(kinds))

    def _comments(self) -> list[Quote]:
        found = []
        for mark in _LINE_COMMENTS:
            if self._is_comment(f"a\n{mark} b c", 2) or self._is_comment(f"{mark} b c", 0):
                touching = self._is_comment(f"a{mark} b c", 1)
                found.append(Quote(mark, "", style.COMMENT, apart=not touching))
        for begin, end in _BLOCK_COMMENTS:
            text = f"{begin} b\nc {end}"
            if self._is_comment(text, 0):
                found.append(Quote(begin, end, style.COMMENT, lines=True))
        return found

    def _is_comment(self, text: str, start: int) -> bool:
        from pygments.token import Comment

        kinds = self._kinds(f"{text}\n")[start : len(text)]
        return all(kind in Comment and kind not in (Comment.Hashbang,) for kind in kinds) and not any(
            kind in Comment.Preproc or kind in Comment.PreprocFile for kind in kinds
        )

    def _strings(self) -> list[Quote]:
        found = []
        for mark in (*_LONG_QUOTES, *_QUOTES):
            lines = self._is_string(mark, "b\nc", " d")
            if lines or (mark in _QUOTES and self._is_string(mark, "b c", " d")):
                escapes = self._is_string(mark, f"b\\{mark}c", " d")
                found.append(Quote(mark, mark, style.STRING, lines, escapes, apart=mark == "'"))
            elif mark in _QUOTES and self._is_string(mark, "b c", ">", (_IN_A_TAG,)):
                found.append(Quote(mark, mark, style.STRING, behind=_IN_A_TAG[-1]))
        return found

    def _is_string(self, mark: str, content: str, rest: str, contexts: Sequence[str] = _CONTEXTS) -> bool:
        from pygments.token import String

        quoted = f"{mark}{content}{mark}"
        for context in contexts:
            kinds = self._kinds(f"{context}{quoted}{rest}\n")
            end = len(context) + len(quoted)
            inside = zip(quoted, kinds[len(context) : end], strict=True)
            ends = not rest or kinds[end + len(rest) - 1] not in String
            if ends and all(kind in String for char, kind in inside if not char.isspace()):
                return True
        return False

    def _line_marks(self) -> dict[str, int]:
        from pygments.token import Generic

        kinds = {mark: self._kinds(f"{mark} a b\n")[: len(mark) + 4] for mark in _LINE_MARKS}
        return {
            mark: look
            for mark, each in kinds.items()
            if len(set(each)) == 1 and each[0] in Generic and (look := _look(each[0], False, "")) != PLAIN
        }


def _look(kind: Any, defines: bool, sigil: str) -> int:
    from pygments.token import Comment, Generic, Keyword, Literal, Name, Number, Operator, String

    for kinds, look in (
        ((Keyword.Constant, Keyword.Type, Name.Builtin, Name.Constant, Name.Exception, Name.Attribute), style.VALUE),
        ((Keyword, Operator.Word, Name.Decorator, Name.Tag, Comment.Preproc), style.KEYWORD),
        ((String.Symbol, Number, Generic.Subheading), style.VALUE),
        ((Generic.Inserted,), style.GREEN),
        ((Generic.Deleted,), style.RED),
        ((Comment,), style.COMMENT),
        ((String,), style.STRING),
        ((Literal.Date, Literal.Number), style.VALUE),
    ):
        if any(kind in each for each in kinds):
            return look
    if defines and any(kind in each for each in (Name.Function, Name.Class)):
        return style.DEFINED
    return style.VALUE if "$" in sigil and kind in Name.Variable else PLAIN


def find(info: str) -> Language | None:
    """Return the language named first in the info string of a fence; None if unknown."""
    name = _NAME.search(info)
    return _load(name[0].lower()) if name and len(name[0]) < 40 else None


@lru_cache(maxsize=16)
def _load(name: str) -> Language | None:
    from pygments.lexers import find_lexer_class

    title = _titles().get(_ALIASES.get(name, name)) if name not in _NOT_HIGHLIGHTED else None
    lexer = find_lexer_class(title) if title else None
    # startinline: highlight PHP without an opening tag too; other lexers ignore it.
    return Language(lexer(startinline=True)) if lexer else None


@lru_cache(maxsize=1)
def _titles() -> dict[str, str]:
    """Languages by their names in fences. Without plugins, whose discovery takes longer than everything else."""
    from pygments.lexers import get_all_lexers

    return {alias.lower(): title for title, aliases, *_ in get_all_lexers(plugins=False) for alias in aliases}
