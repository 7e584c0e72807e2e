"""The messages of a request: a history, and the end of the conversation that has to be in the window. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import normalise
from bitnet_chat.errors import UsageError
from bitnet_chat.filters.continuation import split_overlap
from bitnet_chat.text.utf8 import rejoined, well_formed

GO_ON = "Continue your last reply exactly where it stops. Repeat nothing of it, and add nothing before."


@dataclass(frozen=True, slots=True)
class RequestMessages:
    """``history``: system prompt and the turns before the last message of the user. ``asked``: that message, and what
    has followed it: a reply that was cut, or calls of tools and their results. All of it as it is sent."""

    history: Conversation
    asked: tuple[Message, ...]
    note: str = ""
    """One line about changes to the message of the user; empty without any."""
    prefix: str = ""
    """The reply that is to go on, as the server gets it; empty for a new one."""
    overlap: str = ""
    """The end of that reply which the server does not get; see :mod:`bitnet_chat.filters.continuation`."""

    @classmethod
    def of(cls, conversation: Conversation) -> RequestMessages:
        """Raises UsageError for a conversation without a message to reply to."""
        last = conversation.last
        at = next((i for i in reversed(range(len(conversation.messages))) if _is_user(conversation.messages[i])), None)
        if last is None or at is None or last.role == "system":
            raise UsageError("the conversation has no user message to reply to")
        if last.role == "assistant" and not last.was_cut:
            raise UsageError("the last reply is complete and cannot be continued")
        cleaned = normalise(conversation.messages[at].content)
        if not cleaned.text:
            raise UsageError("an empty message cannot be sent")
        sent = tuple(_as_sent(message) for message in conversation.messages)
        question = cls(Conversation(sent[:at]), sent[at:])
        if last.role != "assistant":
            return replace(question, note=cleaned.note if last.role == "user" else "")
        kept, overlap = split_overlap(last.content)
        before = sent[at:-1]
        if not kept:
            return replace(question, asked=before)
        kept = well_formed(rejoined(kept))
        return replace(question, asked=(*before, Message("assistant", kept)), prefix=kept, overlap=well_formed(overlap))

    def in_words(self) -> RequestMessages:
        """The same for a server that cannot continue a reply: a message asks the model to."""
        return replace(self, asked=(*self.asked, Message("user", GO_ON)), prefix="", overlap="")


def _is_user(message: Message) -> bool:
    return message.role == "user"


def _as_sent(message: Message) -> Message:
    """JSON cannot hold a byte that is not UTF-8; names and results of tools are as untrusted as messages."""
    content = message.content
    text = well_formed(rejoined(content)) if message.role == "assistant" else normalise(content).text
    return replace(message, content=text, finish=None, thinking="")
