"""Work on long conversations, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bitnet_chat.conversation import Conversation

P = ParamSpec("P")
T = TypeVar("T")
_MESSAGES = 256
_CHARACTERS = 1 << 14
"""More than these may take longer than 20 ms to look through."""


async def beside(conversation: Conversation, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What ``work`` gives, which takes as long as ``conversation`` is: at once for a short one, in a thread for a long
    one, so that others are not held up."""
    if is_long(conversation):
        return await asyncio.to_thread(work, *arguments, **named)
    return work(*arguments, **named)


def is_long(conversation: Conversation) -> bool:
    messages = conversation.messages
    return len(messages) > _MESSAGES or sum(len(each.content) for each in messages) > _CHARACTERS
