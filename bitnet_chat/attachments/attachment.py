"""A file as text, and its form in a message. Pure.

The files come first and the question last, where a model weighs it most::

    [File: notes.md]
    ```md
    the text of the file
    ```

    What is this about?

The fence is longer than any run of backticks in the text, so that a file cannot end its own block; the name is one line
of visible characters; the tag is the suffix of the name. :func:`typed` removes the blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.progress import size

_BACKTICKS = re.compile("`+")
_TAG = re.compile(r"\.([A-Za-z0-9+]{1,10})\Z")
_UNTAGGED = ("txt", "text", "pdf")
# Latin letters, digits, other signs of Latin texts, ends of lines, other alphabets, ideographs and syllables.
_KINDS = [
    re.compile(pattern)
    for pattern in (
        r"[A-Za-z\u00c0-\u024f]",
        r"[0-9]",
        r"[!-/:-@\[-`{-\u00bf]",
        r"\n",
        r"[\u0250-\u2e7f]",
        r"[\u2e80-\U0010ffff]",
    )
]
_HEAD = re.compile(r"\[File: [^\n]*\]\n(`{3,})[^`\n]*\n")


@dataclass(frozen=True, slots=True)
class Attachment:
    name: str
    """As given by the user; may contain any characters of a file name."""
    text: str
    size: int
    """Bytes of the file."""
    kind: Literal["text", "pdf"] = "text"
    encoding: str = "utf-8"
    """Of a text file."""
    pages: int = 0
    """Of a PDF."""
    remark: str = ""
    """A note for the user: pages without text, for example."""

    def described(self, tokens: TokenCount | None = None, window: int | None = None) -> str:
        """One sanitized line: ``notes.md: 12.4 kB, ~3100 tokens (±10 %), 38 % of the window``.

        ``tokens``: the result of ``Backend.count`` for :attr:`block`; None: a rough estimate. ``window``: tokens.
        """
        tokens = tokens or rough_count(self.block)
        facts = [_size(self.size)]
        if self.pages:
            facts.append(f"{self.pages} page{'' if self.pages == 1 else 's'}")
        if self.encoding != "utf-8":
            facts.append(self.encoding)
        facts += [fact for fact in (self.remark, str(tokens)) if fact]
        if window and tokens.at_least > window:
            facts.append(f"more than the context window of {window} tokens")
        elif window:
            facts.append(f"{100 * tokens.count / window:.0f} % of the window")
        return one_line(f"{self.name}: {', '.join(facts)}")

    @property
    def block(self) -> str:
        """The text in the message, without the empty line after it."""
        longest = max(map(len, _BACKTICKS.findall(self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        end = "" if self.text.endswith("\n") else "\n"
        return f"[File: {one_line(self.name)}]\n{fence}{self._tag}\n{self.text}{end}{fence}\n"

    @property
    def _tag(self) -> str:
        match = _TAG.search(self.name)
        return match[1].lower() if match and match[1].lower() not in _UNTAGGED else ""


def with_attachments(message: str, attachments: Sequence[Attachment]) -> str:
    """The message with the files before it; the message itself without files."""
    return "".join(f"{each.block}\n" for each in attachments) + message


def typed(message: str) -> str:
    """The typed text of a message: for titles and one-line lists. The inverse of :func:`with_attachments`."""
    while head := _HEAD.match(message):
        end = message.find(f"\n{head[1]}\n\n", head.end() - 1)
        if end < 0:
            break
        message = message[end + len(head[1]) + 3 :]
    return message


def rough_count(text: str) -> TokenCount:
    """An estimate without a tokenizer, for a model that is not loaded yet, for example.

    Measured with nine vocabularies (Llama 3, Qwen 2, Phi 3, GPT-2, DeepSeek, Falcon, Command R, StarCoder, Gemma) on
    prose, code, JSON, CSV, logs, diffs and hexadecimal: each within 50 %, but for base64 (70 %). For other scripts the
    vocabularies themselves differ fourfold; the estimate is the middle, within 75 %.
    """
    letters, digits, signs, breaks, others, ideographs = (len(kind.findall(text)) for kind in _KINDS)
    latin = 0.34 * letters + 1.2 * digits + 0.85 * signs + 0.2 * breaks
    foreign = 0.8 * others + 1.7 * ideographs
    total = latin + foreign
    return TokenCount(round(total), 0.5 + 0.25 * foreign / total if total else 0.5)


def _size(count: int) -> str:
    """Bytes, with a finer form for small files: ``840 bytes``, ``12.4 kB``, ``2 MB``."""
    if count < 1000:
        return f"{count} byte{'' if count == 1 else 's'}"
    return f"{count / 1000:.1f} kB" if count < 99_950 else size(count)


# ``@path`` in what a user typed, and paths with blanks in quotes. Pure.
#
# A mention begins at the start of the text or after white space, unlike the @ of an e-mail address. Whether it names a
# file is decided by ``reading.mentioned``: otherwise it is a word. ``@"my file.txt"`` allows blanks; in quotes a
# backslash escapes a quote or a backslash, as in a shell.

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
    """Possible paths, the likeliest first: with and without the punctuation after it."""


def mentions(text: str) -> list[Mention]:
    """All possible mentions, in order."""
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
    """Whether a mention certainly means a file: quotes, the beginning of a path, or a suffix."""
    return text[mention.start + 1] == '"' or _FILE_LIKE.fullmatch(mention.paths[-1]) is not None


def unquoted(inside: str) -> str:
    """The text between two quotes, unescaped."""
    return _ESCAPE.sub(r"\1", inside)


def quoted(path: str) -> str:
    """The text between quotes for a path."""
    return path.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class UnfinishedMention:
    """A path that is being typed: it begins at ``start`` of the text, sign and quote included, and extends
    to its end.
    """

    start: int
    path: str
    in_quotes: bool


def unfinished(text: str, sign: Literal["@", ""] = "@") -> UnfinishedMention | None:
    """The path at the end of a text before the cursor. ``sign``: ``@`` for a mention, empty for the last
    of some paths.
    """
    match = _UNFINISHED[sign].search(text)
    if match is None:
        return None
    in_quotes = match[1] is not None
    return UnfinishedMention(match.start(), unquoted(match[1]) if in_quotes else match[2], in_quotes)
