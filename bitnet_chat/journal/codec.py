"""Any text in SQLite and back, exactly.

SQLite keeps UTF-8, and a lone surrogate (a byte of a reply) is not UTF-8. Such a text becomes a blob;
all others stay text that any SQLite program can show. Its own functions end at a NUL, so that nothing is joined or
compared in SQL.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

from bitnet_chat.conversation import Message, ToolCall

# Characters inside of words, or next to them, that a search ignores.
_JOINTS = "'’-‐‑–_.,:;!?/\"()，。"
_UNSEARCHABLE = re.compile("[\x00\ud800-\udfff]")

# Scripts that are written without blanks between the words: each character is a word of its own for the index, and a
# phrase of them finds any part of a sentence. Thai to Myanmar, Khmer, kana, Han, Hangul, the planes of rare Han.
_UNSPACED = (
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])"
)


def encode_text(text: str) -> str | bytes:
    """A value for a parameter of a statement."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def decode_text(value: object) -> str:
    """The text given to :func:`encode_text`; empty for NULL and for a value that is not text. A byte of another program
    that is not UTF-8 becomes its surrogate."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else ""


def is_whole(value: object) -> bool:
    """Whether :func:`encode_text` may have made it."""
    try:
        if isinstance(value, bytes):
            value.decode("utf-8", "surrogatepass")
        elif isinstance(value, str):
            value.encode()
    except UnicodeError:
        return False
    return isinstance(value, bytes | str)


def decoded(data: bytes) -> str:
    """Text factory of SQLite, for any value that another program wrote into a TEXT column."""
    return data.decode("utf-8", "surrogateescape")


@cache
def _unspaced() -> re.Pattern[str]:
    return re.compile(_UNSPACED)  # takes some milliseconds


def searchable(text: str) -> str:
    """The form of a text in the full-text index. It must stay the same: it is needed to delete the entry."""
    return _unspaced().sub(r" \1 ", _UNSEARCHABLE.sub(" ", text))


def query(words: Sequence[str]) -> str:
    """An FTS5 query for all of ``words``, each as the beginning of a word or as a phrase. Empty where none of them has
    a letter or a digit, which is all that the index knows."""
    phrases = []
    for word in words:
        if any(character.isalnum() for character in word):
            phrase = searchable(word).strip().replace('"', '""')
            phrases.append(f'"{phrase}" *')
    return " AND ".join(phrases)


def has_signs(word: str) -> bool:
    """Whether there is more to it than letters, digits and what joins them: ``C++``, ``C#``, an emoji."""
    return any(unicodedata.category(character)[0] not in "LNM" and character not in _JOINTS for character in word)


def holder(words: Sequence[str]) -> Callable[[str], bool]:
    """Make a test for texts that contain all of ``words``, ignoring case."""
    folded = [word.casefold() for word in words]

    def holds(text: str) -> bool:
        text = text.casefold()
        return all(word in text for word in folded)

    return holds


def snippet(text: str, words: Sequence[str], room: int = 100) -> str:
    """About ``room`` characters on one line around the first of ``words`` that is found, with … where text is left
    out."""
    text = " ".join(text.split())
    # Folded per character, so that places in the one are places in the other.
    folded = "".join(character.casefold()[:1] or character for character in text)
    places = [folded.find("".join(each.casefold()[:1] or each for each in word)) for word in words]
    at = min((place for place in places if place >= 0), default=0)
    start = max(0, min(at - room // 4, len(text) - room))
    end = min(len(text), start + room)
    return ("…" if start else "") + text[start:end].strip() + ("…" if end < len(text) else "")


# Tool calls and results of a message, as the text of one column. Pure.


def encode_tool_calls(message: Message) -> str:
    """JSON; empty for a message without tool calls and results."""
    fields: dict[str, object] = {}
    if message.tool_calls:
        fields["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.call_id:
        fields["call_id"] = message.call_id
    if message.tool_name:
        fields["tool_name"] = message.tool_name
    return json.dumps(fields) if fields else ""


Work = tuple[tuple[ToolCall, ...], str, str]
"""``tool_calls``, ``call_id`` and ``tool_name`` of a message."""


def decode_tool_calls(text: str) -> tuple[Work, bool]:
    """The values given to :func:`encode_tool_calls`, and whether they can be read."""
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
