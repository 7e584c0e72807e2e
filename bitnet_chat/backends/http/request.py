"""The messages of a request: a history that may be trimmed, and the messages after it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.stdin_encoding import normalise
from bitnet_chat.errors import EmptyMessageError
from bitnet_chat.filters.continuation import split_overlap
from bitnet_chat.filters.tool_call_repair import InvalidToolCall
from bitnet_chat.text.utf8 import rejoined, well_formed

GO_ON = "Continue your last reply exactly where it stops. Repeat nothing of it, and add nothing before."


@dataclass(frozen=True, slots=True)
class RequestMessages:
    """``history``: the system prompt and the turns before the last user message. ``asked``: that message and those
    after it: an incomplete reply, or tool calls and their results. All texts are in the form in which they are sent."""

    history: Conversation
    asked: tuple[Message, ...]
    note: str = ""
    """A notice about changes to the user message; empty without changes."""
    cut: Message | None = None
    """The incomplete reply to continue, as it was shown; None for a new reply."""
    is_repeated: bool = False
    """Whether the server generates it again from its message on, instead of continuing ``prefix``."""
    prefix: str = ""
    """The sent part of the reply to continue."""
    overlap: str = ""
    """The end of that reply, which is not sent; see :mod:`bitnet_chat.filters.continuation`."""

    @classmethod
    def of(cls, conversation: Conversation) -> RequestMessages:
        """Raises UsageError for a conversation without a message to reply to; EmptyMessageError for an empty one."""
        cut, messages = conversation.cut_reply, conversation.messages
        at = max(place for place, each in enumerate(messages) if each.role == "user")
        cleaned = normalise(messages[at].content)
        if not cleaned.text:
            raise EmptyMessageError
        sent = tuple(_as_sent(message) for message in messages)
        question = cls(Conversation(sent[:at]), sent[at:])
        if cut is None:
            return replace(question, note=cleaned.note if at == len(messages) - 1 else "")
        return cls(question.history, sent[at:-1], cut=cut).continued()

    def continued(self) -> RequestMessages:
        """The request that continues the incomplete reply at its end."""
        if self.cut is None:
            return self
        kept, overlap = split_overlap(self.cut.content)
        kept = well_formed(rejoined(kept))
        asked = (*self.before, Message("assistant", kept)) if kept else self.before
        return replace(self, asked=asked, is_repeated=False, prefix=kept, overlap=overlap)

    def repeated(self) -> RequestMessages:
        """The request that generates the incomplete reply again."""
        return replace(self, asked=self.before, is_repeated=True, prefix="", overlap="")

    @property
    def before(self) -> tuple[Message, ...]:
        """``asked`` without the incomplete reply."""
        return self.asked[:-1] if self.prefix else self.asked

    @property
    def thinking_shown(self) -> str:
        """The thoughts of a reply that was cut within them, which are generated again."""
        return self.cut.thinking if self.cut is not None and not self.cut.content else ""

    def whole(self, text: str) -> str:
        """The whole reply. ``text``: its new part."""
        begun = self.cut.content if self.cut is not None and self.is_repeated else self.prefix + self.overlap
        return well_formed(rejoined(begun + text))

    def with_faults(self, text: str, faults: Sequence[InvalidToolCall]) -> RequestMessages:
        """The next request of the same reply, which reports ``faults``. ``text``: the reply so far."""
        said = Message("assistant", self.whole(text), tool_calls=tuple(fault.call for fault in faults))
        results = [fault.result for fault in faults]
        return RequestMessages(self.history, (*self.before, said, *results), self.note)

    def in_words(self) -> RequestMessages:
        """The request for a server that cannot continue a reply: a message asks the model to continue."""
        return RequestMessages(self.history, (*self.asked, Message("user", GO_ON)), self.note)


def sent_conversation(conversation: Conversation) -> Conversation:
    """A history as requests send it."""
    return Conversation(tuple(map(_as_sent, conversation.messages)))


def _as_sent(message: Message) -> Message:
    """``message`` in valid UTF-8. Control characters become visible symbols, except in replies."""
    content = message.content
    text = well_formed(rejoined(content)) if message.role == "assistant" else normalise(content).text
    return replace(message, content=text, finish=None, thinking="")
