"""The limits of one reply, and what it is made with, out of the settings."""

from __future__ import annotations

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.config import Settings
from bitnet_chat.version import __version__

_MAKING = ("backend", "ctx", "overflow", "temperature", "seed", "chat_template", "engine_args", "guard", "repeat_limit")
"""Settings that a reply depends on, beside its limits."""


def reply_options(settings: Settings) -> ReplyOptions:
    """A setting of 0 is no limit."""
    return ReplyOptions(max_tokens=settings.max_tokens or None, timeout=settings.timeout or None)


def made_with(settings: Settings) -> dict[str, object]:
    """What the journal keeps with each reply: the settings that are not as they would be without a word, and what they
    are read by. ``overflow`` is always told."""
    usual = Settings()
    chosen = {name: getattr(settings, name) for name in _MAKING if getattr(settings, name) != getattr(usual, name)}
    return {"bitnet_chat": __version__, "overflow": settings.overflow} | chosen
