"""Traits of a language: its comments and strings, and the colours of its words, learnt from Pygments.

A Pygments lexer requires a whole text: half a line with an open string is an error, and lexing the whole block at every
new character takes ever longer. So it is not run over the code at all. It is used once to find quotes and comments of
the language, by lexing a few probes, and for each new word, by lexing the word with its nearest neighbours. The results
are cached, and ``code.py`` colours a stream with them in constant time.
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
"""Text that may precede a string, in one language or another."""
_IN_A_TAG = "<a b="
_LINE_MARKS = "+-@!<>"
_NAME = re.compile(r"\w[\w+#.-]*")
# Names that models use and Pygments does not know, and markup that must not be coloured within itself.
_OTHER_NAMES = {"jsonc": "json5", "kt": "kotlin", "patch": "diff", "vb": "vb.net", "env": "bash", "cmd": "batch"}
_NO_CODE = frozenset(("text", "markdown", "md", "output", "rst", "restructuredtext", "rest", "tex", "latex"))
_KNOWN_WORDS = 4096
"""Maximum number of cached words; then the cache is cleared."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A comment or a string: all from ``open`` to ``close`` has one style."""

    open: str
    close: str
    """Empty: the end of the line."""
    look: int
    lines: bool = False
    """It may extend over several lines."""
    escapes: bool = False
    """A backslash escapes the next character."""
    apart: bool = False
    """It opens only where no word touches it."""
    behind: str = ""
    """It opens only after this character."""


class Language:
    """Traits and words of one language."""

    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer
        self._looks: dict[tuple[str, str, str, str], int] = {}
        self.quotes: tuple[Quote, ...] = tuple(
            sorted((*self._comments(), *self._strings()), key=lambda quote: -len(quote.open))
        )
        self.characters = self._is_string("'", "a", "") and not any(quote.open == "'" for quote in self.quotes)
        """An apostrophe quotes one character, and only one."""
        self.line_marks = self._line_marks()
        """Looks of whole lines by the character that they begin with: of a diff."""

    def look(self, word: str, sigil: str, previous: str, after: str) -> int:
        """The style of a word: ``sigil`` is the adjacent punctuation, ``previous`` the word before it on its line if
        that was a keyword, ``after`` the character after it.
        """
        if after not in ("(", ":", "=", ">"):
            after = " "
        key = (word, sigil, previous, after)
        known = self._looks.get(key)
        if known is None:
            if len(self._looks) >= _KNOWN_WORDS:
                self._looks.clear()
            before = f"{previous} {sigil}" if previous else sigil
            kind = self._kinds(f"{before}{word}{after}\n")[len(before)]
            known = _look(kind, bool(previous), sigil)
            # A comment is found by what opens it: here it would be a "#" that opened none.
            known = self._looks[key] = known if known != style.COMMENT else PLAIN
        return known

    def _kinds(self, text: str) -> list[Any]:
        """The token type of each character of ``text``."""
        from pygments.token import Token

        kinds: list[Any] = [Token.Text] * len(text)
        try:
            for at, kind, token in self._lexer.get_tokens_unprocessed(text):
                kinds[at : at + len(token)] = [kind] * len(token)
        except Exception:  # whatever goes wrong in one of 500 lexers: the word then has no colour
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
    """The language that the info string of a fence names first; None for an unknown one."""
    name = _NAME.search(info)
    return _known(name[0].lower()) if name and len(name[0]) < 40 else None


@lru_cache(maxsize=16)
def _known(name: str) -> Language | None:
    from pygments.lexers import find_lexer_class

    title = _titles().get(_OTHER_NAMES.get(name, name)) if name not in _NO_CODE else None
    lexer = find_lexer_class(title) if title else None
    # PHP is coloured without its opening tag too; to all others this means nothing.
    return Language(lexer(startinline=True)) if lexer else None


@lru_cache(maxsize=1)
def _titles() -> dict[str, str]:
    """Languages by the names of a fence. Without plugins: a search for those takes longer than all the rest."""
    from pygments.lexers import get_all_lexers

    return {alias.lower(): title for title, aliases, *_ in get_all_lexers(plugins=False) for alias in aliases}
