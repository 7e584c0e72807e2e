"""bitnet-chat: talk to a local model through a resident engine on a pseudo-terminal.

The public names are imported on first use, so that ``import bitnet_chat`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bitnet_chat.version import __version__

if TYPE_CHECKING:
    from bitnet_chat.backend import Backend, ReplyOptions
    from bitnet_chat.conversation import Conversation, Message
    from bitnet_chat.errors import BitnetChatError, FinishReason
    from bitnet_chat.events import Completed, Failed, Notice, PromptProgress, Started, Stats, TextDelta, ThinkingDelta

_HOMES = {
    "Backend": "backend",
    "BitnetChatError": "errors",
    "Completed": "events",
    "Conversation": "conversation",
    "Failed": "events",
    "FinishReason": "errors",
    "Message": "conversation",
    "Notice": "events",
    "PromptProgress": "events",
    "ReplyOptions": "backend",
    "Started": "events",
    "Stats": "events",
    "TextDelta": "events",
    "ThinkingDelta": "events",
}

__all__ = [
    "Backend",
    "BitnetChatError",
    "Completed",
    "Conversation",
    "Failed",
    "FinishReason",
    "Message",
    "Notice",
    "PromptProgress",
    "ReplyOptions",
    "Started",
    "Stats",
    "TextDelta",
    "ThinkingDelta",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"bitnet_chat.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bitnet_chat' has no attribute {name!r}")
