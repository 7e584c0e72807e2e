"""The limits of one reply, out of the settings."""

from __future__ import annotations

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.config import Settings


def reply_options(settings: Settings) -> ReplyOptions:
    """A setting of 0 is no limit."""
    return ReplyOptions(max_tokens=settings.max_tokens or None, timeout=settings.timeout or None)
