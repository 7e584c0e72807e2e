"""What of a conversation goes into a context window that is too small for all of it. Pure."""

from __future__ import annotations

from bitnet_chat.conversation import Conversation


def without_oldest(history: Conversation, dropped: int) -> Conversation:
    """The system prompt, and the turns but for the ``dropped`` oldest messages."""
    return Conversation(history.messages[: len(history.messages) - len(history.turns)] + history.turns[dropped:])


def messages_to_drop(history: Conversation, dropped: int) -> int:
    """How many of the oldest messages to drop now that what ``dropped`` left was too long: half of the text.

    Whole turns: what is left begins with a user message. Equal to ``dropped`` when there is nothing left to drop.
    """
    turns = history.turns
    left = sum(len(message.content) for message in turns[dropped:])
    kept = left
    for index in range(dropped, len(turns)):
        if kept <= left // 2 and turns[index].role == "user":
            return index
        kept -= len(turns[index].content)
    return len(turns)
