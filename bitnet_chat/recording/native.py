"""The lines of a native engine, with the texts in them changed. Pure.

A text that is changed takes as many bytes of UTF-8 as before, and a line as many characters: what is missing of one is
white space at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bitnet_chat.recording.masking import is_role

Change = Callable[[str], str]
"""A text to one of as many bytes of UTF-8."""


def output(text: str, change: Change, told: Change) -> str:
    """What an engine wrote. ``change``: for the reply, all of it at once, as a word may come in several lines;
    ``told``: for what the engine says of its own, and for lines that cannot be read."""
    lines = text.split("\n")
    contents = [_content(line) for line in lines]
    pieces = [str(content["text"]) if _is_token(content) else "" for content in contents]
    changed = _apart(change("".join(pieces)), pieces)
    return "\n".join(
        _line(content | _concealed(content, new, told), line) if content else told(line)
        for line, content, new in zip(lines, contents, changed, strict=True)
    )


def request(text: str, change: Change, heads: Sequence[str] = ()) -> str:
    """What was written to an engine. The special tokens of a prompt stay, and names of roles behind them, ``heads`` of
    the chat template among them."""

    def changed(piece: str) -> str:
        first = "".join(piece.partition("\n")[:2])
        kept = next((each for each in (*heads, first) if piece.startswith(each) and is_role(each)), "")
        return kept + change(piece[len(kept) :])

    content = _content(text)
    if not content:
        return change(text)
    if isinstance(prompt := content.get("prompt"), list):
        content["prompt"] = [[piece if special else changed(piece), special] for piece, special in prompt]
    content |= {"stop": [change(each) for each in content["stop"]]} if content.get("stop") else {}
    content |= {"grammar": change(content["grammar"])} if content.get("grammar") else {}
    content |= {"schema": {}} if content.get("schema") else {}
    return _line(content | _numbers(content), text.removesuffix("\n")) + "\n" * text.endswith("\n")


def said(text: str) -> str:
    """The texts in lines of either direction, for the words in them."""
    parts: list[str] = []
    for line in text.split("\n"):
        content = _content(line)
        parts += [piece for piece, special in content.get("prompt") or () if not special]
        parts.append(str(content.get("text", "")))
    return "".join(parts)


def _content(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_token(content: dict[str, Any]) -> bool:
    return content.get("kind") == "token" and isinstance(content.get("text"), str)


def _concealed(content: dict[str, Any], text: str, told: Change) -> dict[str, Any]:
    if _is_token(content):
        return {"text": text} | _numbers(content)
    own = {name: told(value) for name in ("what", "text") if isinstance(value := content.get(name), str)}
    return own | _numbers(content)


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Numbers of tokens tell their texts."""
    tokens = content.get("tokens")
    return {"tokens": [int("1" * len(str(each))) for each in tokens]} if isinstance(tokens, list) else {}


def _line(content: dict[str, Any], before: str) -> str:
    return json.dumps(content, separators=(",", ":")).ljust(len(before))


def _apart(text: str, pieces: Sequence[str]) -> Iterator[str]:
    """``text`` in parts of as many bytes as ``pieces`` have."""
    data, at = text.encode("utf-8", "surrogateescape"), 0
    for piece in pieces:
        size = len(piece.encode("utf-8", "surrogateescape"))
        yield data[at : at + size].decode("utf-8", "surrogateescape")
        at += size
