"""``@path`` in what a user typed, and paths with blanks in quotes. Pure.

A mention begins at the start of the text or behind white space, so that an address of e-mail is none. Whether it
names a file is for ``reading.mentioned`` to see: one that does not stays a word. ``@"my file.txt"`` is for blanks;
in quotes a backslash stands before a quote or a backslash that is meant as such, as a shell has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_INSIDE = r'((?:[^"\\\n]|\\.)*)'
_MENTION = re.compile(rf'(?:(?<=\s)|\A)@(?:"{_INSIDE}"|([^\s"]\S*))')
_UNFINISHED = {sign: re.compile(rf'(?:(?<=\s)|\A){sign}(?:"{_INSIDE}|((?!")\S*))\Z') for sign in ("@", "")}
_ESCAPE = re.compile(r'\\(["\\])')
# A way to a file, or an ending; "@app.route" and "@user.bsky.social" are others' names, "@2.5" and "@example.com" too.
_FILE_LIKE = re.compile(r"(?:/|\.{1,2}/|~/)[^\s]+|[^\s()@]*[\w-]\.(?!(?:com|org|net)\Z)(?=\w*[A-Za-z])\w{1,4}")
_TAIL = ".,;:!?)]}>'\"…。、，"


@dataclass(frozen=True, slots=True)
class Mention:
    start: int
    end: int
    """``text[start:end]`` is the mention, ``@`` and quotes included."""
    paths: tuple[str, ...]
    """What it may mean, the likeliest first: with and without the punctuation behind it."""


def mentions(text: str) -> list[Mention]:
    """All that may be mentions, in their order."""
    found = []
    for match in _MENTION.finditer(text):
        if match[1] is not None:
            paths: tuple[str, ...] = (unquoted(match[1]),) if match[1] else ()
        else:
            bare = match[2].rstrip(_TAIL)
            paths = (match[2], bare) if bare and bare != match[2] else (match[2],)
        if paths:
            found.append(Mention(match.start(), match.end(), paths))
    return found


def looks_like_file(mention: Mention, text: str) -> bool:
    """Whether the user must have meant a file: quotes, a path that begins as such, or an ending."""
    return text[mention.start + 1] == '"' or _FILE_LIKE.fullmatch(mention.paths[-1]) is not None


def unquoted(inside: str) -> str:
    """What stands between two quotes, meant."""
    return _ESCAPE.sub(r"\1", inside)


def quoted(path: str) -> str:
    """The inside of the quotes for a path."""
    return path.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A path that is being typed: it begins at ``start`` of the text, sign and quote included, and ends with it."""

    start: int
    path: str
    in_quotes: bool


def unfinished(text: str, sign: Literal["@", ""] = "@") -> Unfinished | None:
    """The path at the end of a text before the cursor. ``sign``: ``@`` for a mention, nothing for the last of some
    paths."""
    match = _UNFINISHED[sign].search(text)
    if match is None:
        return None
    in_quotes = match[1] is not None
    return Unfinished(match.start(), unquoted(match[1]) if in_quotes else match[2], in_quotes)
