"""The boundary between a reply that was cut off and its continuation. Pure.

An engine that continues a reply reads it as text and tokenizes it. Two kinds of endings would be tokenized differently
there than within a text, or cannot be read at all: trailing white space, and the first bytes of an incomplete
character. Such an ending (the overlap) is not sent. The engine generates it again, and :class:`OverlapRemover` removes
it from the continuation.
"""

from __future__ import annotations

import re

from bitnet_chat.text.utf8 import encode

_FIRST_BYTES = re.compile(r"(?:[\udcc2-\udcf4][\udc80-\udcbf]{0,2})?\Z")


def split_overlap(reply: str) -> tuple[str, str]:
    """Split a reply into the part to send to the engine and the overlap."""
    match = _FIRST_BYTES.search(reply, max(0, len(reply) - 3))
    sent = (reply[: match.start()] if match else reply).rstrip()
    return sent, reply[len(sent) :]


def paragraph_break(text: str) -> str:
    """The line breaks between ``text`` and another paragraph; none after an empty text."""
    return "\n\n"[min(2, len(text) - len(text.rstrip("\n"))) :] if text else ""


class OverlapRemover:
    """Removes the overlap ``end`` from the beginning of a continuation, if the engine has generated it again."""

    def __init__(self, end: str) -> None:
        self._end = encode(end)
        self._skips_space = end[:1].isspace()
        self._held = b""

    def feed(self, text: str) -> str:
        """Return the text that is new."""
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


class KnownTextRemover:
    """Removes from a reply that is generated again its beginning ``known``, which was shown."""

    def __init__(self, known: str) -> None:
        self._left = known
        self.differs = False
        """Whether another reply is generated. Nothing of it is returned."""

    @property
    def is_within(self) -> bool:
        """Whether a part of the known text has not been generated yet."""
        return bool(self._left)

    def feed(self, text: str) -> str:
        """Return the text that is new."""
        left = self._left
        if self.differs or not (left.startswith(text) or text.startswith(left)):
            self.differs = True
            return ""
        self._left = left[len(text) :]
        return text[len(left) :]
