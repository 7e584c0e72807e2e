"""The prompt of one turn: what an engine is sent, and the conversation behind it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import encoded_conversation


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """A request to an engine, computed once a turn."""

    history: Conversation
    """The whole conversation before the message, encoded."""
    kept: Conversation
    """The part of it that the context window holds, as it is sent."""
    text: str = ""
    """The encoded message; empty to continue the reply at the end of ``history`` without one."""
    goes_on: bool = False
    """Whether that reply is continued."""
    known: Message | None = None
    """The beginning of the reply as it was shown, which the engine generates again and which is not shown again."""
    known_tokens: int = 0
    """Its tokens by the vocabulary."""

    @property
    def is_silent(self) -> bool:
        """Whether a reply is continued without a message that asks for it."""
        return self.goes_on and not self.text

    def answered(self, reply: str) -> Conversation:
        """The conversation with the reply in it, encoded."""
        if self.known is not None:
            return encoded_conversation(self.history.with_user(self.text).with_assistant(self.known.content + reply))
        if not self.goes_on:
            return self.history.with_user(self.text).with_assistant(reply)
        *earlier, cut = self.history.messages
        return encoded_conversation(Conversation((*earlier, Message("assistant", cut.content + reply))))
