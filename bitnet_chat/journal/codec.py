"""Conversion of text and tool calls to SQLite values and back, without loss, and the text forms of a search.

SQLite stores UTF-8. A reply may contain lone surrogates, which represent bytes that were not UTF-8; such a text is
stored as a blob. All other texts are stored as text, which any SQLite program can show. SQL functions stop at a NUL
character, so texts are joined and compared in Python.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

from bitnet_chat.conversation import Message, ToolCall

# Punctuation in words, or next to them, that a search ignores.
_IGNORED_PUNCTUATION = "'’-‐‑–_.,:;!?/\"()，。"
_UNSEARCHABLE = re.compile("[\x00\ud800-\udfff]")

# Scripts without spaces between words: each character is indexed as a word, and a phrase of characters finds any part
# of a sentence. Thai to Myanmar, Khmer, kana, Han, Hangul, and the supplementary planes of Han.
_UNSPACED = (
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])"
)


def encode_text(text: str) -> str | bytes:
    """Convert a text to a statement parameter: a str, or bytes if it contains lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def decode_text(value: object) -> str:
    """Convert a column value back to the text given to :func:`encode_text`. NULL and non-text values give an empty
    text.

    Bytes that are not UTF-8, written by another program, become surrogates.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else ""


def is_valid_text(value: object) -> bool:
    """Whether ``value`` is a possible result of :func:`encode_text`."""
    try:
        if isinstance(value, bytes):
            value.decode("utf-8", "surrogatepass")
        elif isinstance(value, str):
            value.encode()
    except UnicodeError:
        return False
    return isinstance(value, bytes | str)


def decode_column(data: bytes) -> str:
    """Decode a TEXT value; the ``text_factory`` of a connection. Accepts bytes that are not UTF-8."""
    return data.decode("utf-8", "surrogateescape")


@cache
def _unspaced() -> re.Pattern[str]:
    return re.compile(_UNSPACED)  # takes some milliseconds


def searchable(text: str) -> str:
    """Convert a text to its form in the full-text index.

    The result must not change between releases: deleting an index entry requires the text that was indexed.
    """
    return _unspaced().sub(r" \1 ", _UNSEARCHABLE.sub(" ", text))


def fts_query(words: Sequence[str]) -> str:
    """Return an FTS5 query for all of ``words``, each as a phrase or as the beginning of a word.

    Empty if no word has a letter or a digit, because the index contains only these.
    """
    phrases = []
    for word in words:
        if any(character.isalnum() for character in word):
            phrase = searchable(word).strip().replace('"', '""')
            phrases.append(f'"{phrase}" *')
    return " AND ".join(phrases)


def has_unindexed(word: str) -> bool:
    """Whether ``word`` has characters that the index does not contain: ``C++``, ``C#``, an emoji."""
    return any(
        unicodedata.category(character)[0] not in "LNM" and character not in _IGNORED_PUNCTUATION for character in word
    )


def contains_all(words: Sequence[str]) -> Callable[[str], bool]:
    """Return a predicate that is True for texts with all of ``words``, ignoring case."""
    folded = [word.casefold() for word in words]

    def holds(text: str) -> bool:
        text = text.casefold()
        return all(word in text for word in folded)

    return holds


def snippet(text: str, words: Sequence[str], room: int = 100) -> str:
    """Return about ``room`` characters of ``text`` on one line, around the first occurrence of any of ``words``.

    … marks omitted text.
    """
    text = " ".join(text.split())
    # Case is folded per character, so that indices into the folded text are valid for the original.
    folded = "".join(character.casefold()[:1] or character for character in text)
    places = [folded.find("".join(each.casefold()[:1] or each for each in word)) for word in words]
    at = min((place for place in places if place >= 0), default=0)
    start = max(0, min(at - room // 4, len(text) - room))
    end = min(len(text), start + room)
    return ("…" if start else "") + text[start:end].strip() + ("…" if end < len(text) else "")


def encode_tool_calls(message: Message) -> str:
    """Encode the tool calls and the tool result of a message as JSON; empty for a message without them."""
    fields: dict[str, object] = {}
    if message.tool_calls:
        fields["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.call_id:
        fields["call_id"] = message.call_id
    if message.tool_name:
        fields["tool_name"] = message.tool_name
    return json.dumps(fields) if fields else ""


ToolFields = tuple[tuple[ToolCall, ...], str, str]
"""The fields ``tool_calls``, ``call_id`` and ``tool_name`` of a message."""


def decode_tool_calls(text: str) -> tuple[ToolFields, bool]:
    """Return the fields given to :func:`encode_tool_calls`, and whether ``text`` was readable."""
    if not text:
        return ((), "", ""), True
    try:
        fields = json.loads(text)
        calls = tuple(
            ToolCall(str(call["id"]), str(call["name"]), str(call["arguments"]))
            for call in fields.get("tool_calls", ())
        )
        return (calls, str(fields.get("call_id", "")), str(fields.get("tool_name", ""))), True
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # written by another release
        return ((), "", ""), False
