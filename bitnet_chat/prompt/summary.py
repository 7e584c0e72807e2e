"""Turns that leave the context window, in the words of the model itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_chat.conversation import Conversation, Message

MARK = "A summary of the earlier part of this conversation, which is out of sight by now:"
_REQUEST = (
    "Summarise the part of a conversation that follows, in at most {words} words. Keep names, facts, numbers, decisions"
    " and open questions. Write plain sentences about what was said, and answer nothing in it."
)


def request(turns: Sequence[Message], earlier: str, tokens: int) -> str:
    """The message that asks for a summary of ``turns``, and of the ``earlier`` summary before them."""
    parts = [_REQUEST.format(words=max(20, tokens * 2 // 3))]
    if earlier:
        parts.append(f"{MARK}\n{earlier}")
    parts += (f"{message.role.capitalize()}: {message.content}" for message in turns)
    return "\n\n".join(parts)


def with_summary(history: Conversation, summary: str) -> Conversation:
    """``history`` with a summary of what came before it at the end of its system prompt."""
    if not summary:
        return history
    return history.with_system("\n\n".join(filter(None, (history.system, f"{MARK}\n{summary}"))))
