"""The boundary between a reply that was cut off and its continuation. Pure.

An engine that continues a reply reads it as text and tokenizes it. Two kinds of endings would be tokenized differently
there than within a text, or cannot be read at all: trailing white space, and the first bytes of an incomplete
character. Such an ending (the overlap) is not sent. The engine generates it again, and :class:`OverlapRemover` removes
it from the continuation.
"""

from __future__ import annotations

import re

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import PromptProgress
from bitnet_chat.text.utf8 import encode

_REPEATED = 4000
"""Characters of a cut reply that is generated again: about 1,000 tokens, which take as long as they did at first."""
_FIRST_BYTES = re.compile(r"(?:[\udcc2-\udcf4][\udc80-\udcbf]{0,2})?\Z")


def split_overlap(reply: str) -> tuple[str, str]:
    """Split a reply into the part to send to the engine and the overlap."""
    match = _FIRST_BYTES.search(reply, max(0, len(reply) - 3))
    sent = (reply[: match.start()] if match else reply).rstrip()
    return sent, reply[len(sent) :]


def is_repeated(conversation: Conversation, evaluated: int) -> bool:
    """Whether the cut reply at the end of ``conversation`` is generated again, unseen, from its message on: read as one
    batch it would round differently, and might not go on as it would have.

    ``evaluated``: number of messages after the system prompt with which a live or saved context begins, as they were
    evaluated at first; -1 for none. It must contain everything before the message, and must not contain the reply,
    which is continued there as it is. The caller decides whether sampling gives the same reply again.
    """
    if len(conversation.turns) < 2:  # its message has left the context window
        return False
    *before, asked, reply = conversation.turns
    if reply.finish is FinishReason.CONTEXT_OVERFLOW:  # it goes on in a window without earlier messages
        return False
    if asked.role != "user" or not 0 < len(reply.content) <= _REPEATED:
        return False
    # Templates drop earlier thoughts, so the reply is not in the context as it was generated.
    has_reply = evaluated > len(before) + 1 and not reply.thinking
    return len(before) <= max(evaluated, 0) and not has_reply


def paragraph_break(text: str) -> str:
    """The line breaks between ``text`` and another paragraph; none after an empty text."""
    return "\n\n"[min(2, len(text) - len(text.rstrip("\n"))) :] if text else ""


class OverlapRemover:
    """Removes the overlap ``end`` from the beginning of a continuation, if the engine has generated it again."""

    def __init__(self, end: str) -> None:
        self._end = encode(end)
        self._has_space = end[:1].isspace()
        self._skips_space = False
        """Whether white space is removed until other text comes."""
        self._held = b""

    def feed(self, text: str) -> str:
        """Return the text that is new."""
        if not self._end:
            text = text.lstrip() if self._skips_space else text
            self._skips_space = self._skips_space and not text
            return text
        self._held += encode(text)
        if self._held != self._end and self._end.startswith(self._held):
            return ""
        held, end, self._held, self._end = self._held, self._end, b"", b""
        if held.startswith(end):
            return held.removeprefix(end).decode("utf-8", "surrogateescape")
        self._skips_space = self._has_space
        return self.feed(held.decode("utf-8", "surrogateescape"))


class KnownReplyRemover:
    """Removes from a reply that is generated again its beginning, which was shown: ``text``, after ``thinking``.

    Bytes are compared, so that the text may end within a character. Without ``thinking``, the thoughts before the text
    were not kept: all of them are removed.
    """

    def __init__(self, text: str, thinking: str = "") -> None:
        self.differs = False
        """Whether another reply is generated. Nothing of it is returned."""
        self._thinking, self._text = self._bytes(thinking), self._bytes(text)
        self._has_thinking = bool(thinking)
        self._size = self._left

    @property
    def is_within(self) -> bool:
        """Whether a part of the known reply has not been generated yet."""
        return self._left > 0

    @property
    def _left(self) -> int:
        return len(self._text) + len(self._thinking)

    def progress(self, tokens: int) -> PromptProgress:
        """Return how much of the known reply has been generated again. ``tokens``: its tokens, about."""
        done = tokens * (self._size - self._left) // max(1, self._size)
        return PromptProgress(done, tokens, repeats=True)

    def thought(self, text: str) -> str:
        """Return the new part of a piece of thoughts."""
        if not self._text and not self._thinking:
            return text
        if not self._has_thinking:
            return ""
        self._thinking, rest = self._split(self._thinking, text)
        self.differs = self.differs or bool(rest and self._text)  # there were fewer thoughts before the text
        return "" if self.differs else rest

    def said(self, text: str) -> str:
        """Return the new part of a piece of text."""
        self.differs = self.differs or bool(text and self._thinking)
        self._text, rest = self._split(self._text, text)
        return "" if self.differs else rest

    def _split(self, known: bytes, text: str) -> tuple[bytes, str]:
        """The known bytes that are left after ``text``, and the part of it that is new."""
        if not known:
            return b"", text
        piece = self._bytes(text)
        if self.differs or not (known.startswith(piece) or piece.startswith(known)):
            self.differs = True
            return known, ""
        return known[len(piece) :], piece[len(known) :].decode("utf-8", "surrogateescape")

    def _bytes(self, text: str) -> bytes:
        try:
            return encode(text)
        except UnicodeEncodeError:  # a surrogate that does not represent a byte
            self.differs = True
            return b""
