"""The join between a cut reply and its continuation. Pure.

An engine reads a reply that it has to continue as a text, and cuts it into tokens. Two ends would be cut into other
tokens there than in the middle of a text, or not be read at all: white space, and the first bytes of a character whose
last are missing. Such an end is kept from the engine, which makes it again, and is then taken out of what it says.
"""

from __future__ import annotations

import re

from bitnet_chat.text.utf8 import encode

_FIRST_BYTES = re.compile(r"(?:[\udcc2-\udcf4][\udc80-\udcbf]{0,2})?\Z")


def split_overlap(reply: str) -> tuple[str, str]:
    """The part of a cut reply that the engine gets, and the rest of it."""
    match = _FIRST_BYTES.search(reply, max(0, len(reply) - 3))
    kept = (reply[: match.start()] if match else reply).rstrip()
    return kept, reply[len(kept) :]


class OverlapRemover:
    """Takes the loose end ``end`` out of what follows it, where it is there again. Feed text as it comes."""

    def __init__(self, end: str) -> None:
        self._end = encode(end)
        self._skips_space = end[:1].isspace()
        self._held = b""

    def feed(self, text: str) -> str:
        if not self._end:
            return text
        self._held += encode(text)
        if self._held != self._end and self._end.startswith(self._held):
            return ""
        held, end, self._held, self._end = self._held, self._end, b"", b""
        if held.startswith(end):
            return held.removeprefix(end).decode("utf-8", "surrogateescape")
        rest = held.decode("utf-8", "surrogateescape")
        return rest.lstrip() if self._skips_space else rest
