"""What is shown beside a conversation and does not belong to it. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitnet_chat.conversation.message import Message

NOT_ANSWERED = "not answered"
"""The mark of a message that got no reply."""
LEFT_OUT = "left out: its place is damaged"
"""That of a message of a damaged journal which no model can be given where it stands."""


@dataclass(frozen=True, slots=True)
class Aside:
    """``place``: so many messages of the conversation stand before it. ``details``: what is known beside its text."""

    place: int
    message: Message
    why: str = NOT_ANSWERED
    details: Mapping[str, object] = field(default_factory=dict, compare=False)
