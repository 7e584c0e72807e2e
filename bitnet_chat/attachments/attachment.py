"""A file as text, its form in a message, and mentions of files in typed text. Pure.

Files come first and the question last, where a model weighs it most::

    [File: notes.md]
    ```md
    the text of the file
    ```

    What is this about?

The fence is longer than any run of backticks in the text, so that a file cannot end its block. The name is one line of
visible characters, and the tag after the fence is the suffix of the name. :func:`typed` removes the blocks.
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
# Latin letters, digits, Latin punctuation, newlines, other alphabets, ideographs and syllabic scripts.
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
    """A file as text."""

    name: str
    """The path as given by the user; may contain any characters of a file name."""
    text: str
    size: int
    """Size of the file in bytes."""
    kind: Literal["text", "pdf"] = "text"
    encoding: str = "utf-8"
    """Encoding of a text file."""
    pages: int = 0
    """Number of pages of a PDF."""
    remark: str = ""
    """A note for the user, for example about pages without text."""

    def described(self, tokens: TokenCount | None = None, window: int | None = None) -> str:
        """Describe the attachment in one sanitized line: ``notes.md: 12.4 kB, ~3100 tokens (±10 %), 38 % of the
        window``.

        ``tokens``: result of ``Backend.count`` for :attr:`block`; None: a rough estimate. ``window``: size of the
        context window in tokens.
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
        """The text for the message, without the empty line after it."""
        longest = max(map(len, _BACKTICKS.findall(self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        end = "" if self.text.endswith("\n") else "\n"
        return f"[File: {one_line(self.name)}]\n{fence}{self._tag}\n{self.text}{end}{fence}\n"

    @property
    def _tag(self) -> str:
        match = _TAG.search(self.name)
        return match[1].lower() if match and match[1].lower() not in _UNTAGGED else ""


def with_attachments(message: str, attachments: Sequence[Attachment]) -> str:
    """Return the message with the files before it."""
    return "".join(f"{each.block}\n" for each in attachments) + message


def typed(message: str) -> str:
    """Return the typed text of a message, for titles and one-line lists: the inverse of :func:`with_attachments`."""
    while head := _HEAD.match(message):
        end = message.find(f"\n{head[1]}\n\n", head.end() - 1)
        if end < 0:
            break
        message = message[end + len(head[1]) + 3 :]
    return message


def rough_count(text: str) -> TokenCount:
    """Estimate the number of tokens without a tokenizer, for example before the model is loaded.

    Measured with nine vocabularies (Llama 3, Qwen 2, Phi 3, GPT-2, DeepSeek, Falcon, Command R, StarCoder, Gemma) on
    prose, code, JSON, CSV, logs, diffs and hexadecimal: the error is within 50 %, and 70 % for base64. For other
    scripts the vocabularies differ by a factor of four; the estimate is in the middle, within 75 %.
    """
    letters, digits, signs, breaks, others, ideographs = (len(kind.findall(text)) for kind in _KINDS)
    latin = 0.34 * letters + 1.2 * digits + 0.85 * signs + 0.2 * breaks
    foreign = 0.8 * others + 1.7 * ideographs
    total = latin + foreign
    return TokenCount(round(total), 0.5 + 0.25 * foreign / total if total else 0.5)


def _size(count: int) -> str:
    """Format a number of bytes, more precisely for small files: ``840 bytes``, ``12.4 kB``, ``2 MB``."""
    if count < 1000:
        return f"{count} byte{'' if count == 1 else 's'}"
    return f"{count / 1000:.1f} kB" if count < 99_950 else size(count)


# Mentions: ``@path`` in typed text. A mention begins at the start of the text or after white space, unlike the @ of an
# e-mail address. ``reading.mentioned`` decides whether it names a file; otherwise it is a word. ``@"my file.txt"``
# allows blanks; in quotes a backslash escapes a quote or a backslash, as in a shell.

_INSIDE = r'((?:[^"\\\n]|\\.)*)'
_MENTION = re.compile(rf'(?:(?<=\s)|\A)@(?:"{_INSIDE}"|([^\s"]\S*))')
_UNFINISHED = {sign: re.compile(rf'(?:(?<=\s)|\A){sign}(?:"{_INSIDE}|((?!")\S*))\Z') for sign in ("@", "")}
_ESCAPE = re.compile(r'\\(["\\])')
# A path or a file suffix. Not "@app.route", "@user.bsky.social", "@2.5" or "@example.com".
_FILE_LIKE = re.compile(r"(?:/|\.{1,2}/|~/)[^\s]+|[^\s()@]*[\w-]\.(?!(?:com|org|net)\Z)(?=\w*[A-Za-z])\w{1,4}")
_TAIL = ".,;:!?)]}>'\"…。、，"


@dataclass(frozen=True, slots=True)
class Mention:
    """A possible mention of a file: ``text[start:end]``, with ``@`` and quotes."""

    start: int
    end: int
    paths: tuple[str, ...]
    """Possible paths, the most likely first: with and without the punctuation after it."""


def mentions(text: str) -> list[Mention]:
    """Find all possible mentions, in order."""
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
    """Whether a mention certainly means a file: it has quotes, the beginning of a path, or a suffix."""
    return text[mention.start + 1] == '"' or _FILE_LIKE.fullmatch(mention.paths[-1]) is not None


def unquoted(inside: str) -> str:
    """Unescape the text between two quotes."""
    return _ESCAPE.sub(r"\1", inside)


def quoted(path: str) -> str:
    """Escape a path for use between quotes."""
    return path.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class UnfinishedMention:
    """A path that is being typed. It begins at ``start`` of the text, with sign and quote, and extends to the end."""

    start: int
    path: str
    in_quotes: bool


def unfinished(text: str, sign: Literal["@", ""] = "@") -> UnfinishedMention | None:
    """Find the path at the end of the text before the cursor.

    ``sign``: ``@`` for a mention, empty for the last one of a list of paths. Returns None without a path.
    """
    match = _UNFINISHED[sign].search(text)
    if match is None:
        return None
    in_quotes = match[1] is not None
    return UnfinishedMention(match.start(), unquoted(match[1]) if in_quotes else match[2], in_quotes)
