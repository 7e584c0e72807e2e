"""What is put to an engine: a message, or the wish for more of a reply that was cut. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import as_sent


@dataclass(frozen=True, slots=True)
class Question:
    """``history``: what the engine has before. ``text``: what it is told, clean; empty where it goes on unasked with
    the reply that ``history`` ends with. ``goes_on``: whether more of that reply is wanted at all."""

    history: Conversation
    text: str
    goes_on: bool = False

    @property
    def is_silent(self) -> bool:
        return self.goes_on and not self.text

    def answered(self, reply: str) -> Conversation:
        """The conversation with the reply in it, as it is sent."""
        if not self.goes_on:
            return self.history.with_user(self.text).with_assistant(reply)
        *earlier, cut = self.history.messages
        return as_sent(Conversation((*earlier, Message("assistant", cut.content + reply))))
