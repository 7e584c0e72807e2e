"""Code as HTML: the tokens of Pygments in a few classes, for a listing that grows line by line. Pure.

A Pygments lexer requires a whole text. To bound the cost per line, a long listing is cut into pieces of about thirty
lines, and a full piece is never lexed again. The next piece is lexed together with the one before, so that a string or
comment of several lines continues; once a piece has the same tokens with and without the text before it, that text is
dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from html import escape
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Error, Generic, Keyword, Name, Number, Operator, String

_LINES, _SIZE = 30, 1_200
"""Number of lines or characters at which a piece is full."""
_MEMORY = 4_000
"""Maximum number of characters before a piece that are lexed with it."""
_CLASSES = (
    (Comment.Preproc, "p"),
    (Comment, "c"),
    (String.Escape, "e"),
    (String.Interpol, "e"),
    (String, "s"),
    (Number, "n"),
    (Keyword.Type, "t"),
    (Keyword.Constant, "n"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Name.Function, "f"),
    (Name.Class, "t"),
    (Name.Tag, "k"),
    (Name.Attribute, "a"),
    (Name.Decorator, "p"),
    (Name.Builtin, "b"),
    (Name.Exception, "t"),
    (Name.Variable, "a"),
    (Generic.Deleted, "d"),
    (Generic.Inserted, "i"),
    (Generic.Heading, "k"),
    (Generic.Subheading, "c"),
    (Generic.Prompt, "c"),
    (Error, ""),
)
"""The HTML class of a kind of token; the first match counts."""
_OTHER_NAMES = {"jsonc": "json5", "kt": "kotlin", "patch": "diff", "env": "bash", "cmd": "batch", "vue": "html"}
_NAMES = """
asm awk bash bat batch c c# c++ clojure cmake cpp cs csharp css csv dart diff docker dockerfile elixir elm erlang
fish fortran go golang graphql groovy haskell hcl html http ini java javascript js json json5 jsx julia kotlin less
lisp llvm lua make makefile matlab mysql nasm nginx nim nix objective-c ocaml perl php postgresql powershell
properties protobuf ps1 py py3 python python3 pycon r rb rs ruby rust scala scheme scss sh shell sql swift tcl
terraform toml ts tsx typescript vim wat xml yaml yml zig zsh
"""
# Only these: the name comes from a model, and some lexers have patterns without a bound of time.
_KNOWN = frozenset(_NAMES.split())

Token = tuple[Any, str]


@lru_cache(maxsize=64)
def _lexer(language: str) -> Any:
    """Return the lexer of a language; None for an unknown one, whose code is not coloured."""
    name = language.lower()
    name = _OTHER_NAMES.get(name, name)
    return get_lexer_by_name(name, stripnl=False, ensurenl=False) if name in _KNOWN else None


@lru_cache(maxsize=512)
def _class(kind: Any) -> str:
    return next((name for family, name in _CLASSES if kind in family), "")


def _tokens(code: str, lexer: Any) -> list[Token]:
    return list(lexer.get_tokens(code))


def _behind(tokens: Iterable[Token], skipped: int) -> Iterator[Token]:
    """Yield the tokens without their first ``skipped`` characters."""
    for kind, text in tokens:
        if skipped >= len(text):
            skipped -= len(text)
            continue
        yield kind, text[skipped:]
        skipped = 0


def _html(tokens: Iterable[Token]) -> str:
    """Return HTML in which adjacent tokens of one class share a span."""
    out: list[str] = []
    open_ = ""
    for kind, text in tokens:
        name = _class(kind)
        if name != open_ and (open_ == "" or text.strip()):  # a span may include blanks
            out.append("</span>" if open_ else "")
            out.append(f'<span class="{name}">' if name else "")
            open_ = name
        out.append(escape(text, quote=False))
    if open_:
        out.append("</span>")
    return "".join(out)


def _frame(language: str, inner: str, *, more: bool = False) -> str:
    named = f' data-language="{escape(language)}"' if language else ""
    return f'<pre class="code{" more" if more else ""}"{named}><code>{inner}</code></pre>'


def language_of(info: str) -> str:
    """Return the language in the text after a fence: python for ``{.python}`` and ``python title="x"``."""
    words = info.replace("{", " ").replace("}", " ").replace(",", " ").split()
    return words[0].lstrip(".")[:40] if words else ""


@lru_cache(maxsize=64)
def whole(code: str, language: str) -> str:
    """Return a complete block of code. A long one is not coloured; :class:`Listing` renders long code in pieces."""
    lexer = _lexer(language) if len(code) <= 2 * _MEMORY else None
    return _frame(language, escape(code, quote=False) if lexer is None else _html(_tokens(code, lexer)))


class Listing:
    """The pieces of one block of code: ``add`` lines, and ``cut`` a piece when it is ``full``."""

    def __init__(self, language: str, before: str | None = None) -> None:
        """``before``: the code that this listing continues."""
        self.language = language
        self._lexer = _lexer(language)
        self._more = before is not None
        self._before = (before or "")[-_MEMORY:]
        """The text before the piece that is lexed with it."""
        self._text = ""
        self._lines = 0
        self._inner: str | None = ""
        """The piece as HTML; None until it is rendered."""
        self._within = ""
        """The class of a string or comment that is open at the end of the piece."""

    @property
    def full(self) -> bool:
        return self._lines >= _LINES or len(self._text) >= _SIZE

    @property
    def needed(self) -> bool:
        """Whether the listing has something to show: a piece, or an empty listing."""
        return bool(self._text) or not self._more

    def add(self, line: str) -> None:
        """Add a line, including its newline if it has one."""
        self._text += line
        self._lines += 1
        self._inner = None

    def html(self, partial: str = "") -> str:
        """Return the piece so far with an incomplete line, which is lexed alone until it is complete."""
        inner = self._settled()
        if partial:
            if self._within or self._lexer is None:
                words = escape(partial, quote=False)
                inner += f'<span class="{self._within}">{words}</span>' if self._within else words
            else:
                inner += _html(_tokens(partial, self._lexer))
        return _frame(self.language, inner, more=self._more)

    def cut(self) -> str:
        """Return the final piece, and begin the next one."""
        html = self.html()
        if self._lexer is not None:
            alone = _html(_tokens(self._text, self._lexer)) == self._settled()
            before = self._text if alone else self._before + self._text
            self._before = before if len(before) <= _MEMORY else self._text
        self._more = True
        self._text, self._lines, self._inner = "", 0, ""
        return html

    def _settled(self) -> str:
        if self._inner is None:
            self._within = ""
            if self._lexer is None:
                self._inner = escape(self._text, quote=False)
            else:
                tokens = _tokens(self._before + self._text, self._lexer)
                self._inner = _html(_behind(tokens, len(self._before)))
                kind, last = tokens[-1]
                if last.endswith("\n") and (kind in String or kind in Comment.Multiline):
                    self._within = _class(kind)
        return self._inner
