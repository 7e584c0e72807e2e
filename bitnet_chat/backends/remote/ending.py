"""How a reply from a server ends, as events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.backends.remote.account import Account
from bitnet_chat.backends.remote.wire import Fault
from bitnet_chat.errors import BitnetChatError, EngineDied, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice


def completed(account: Account, reason: FinishReason, size: int | None) -> Completed:
    """``size``: tokens of the window, where they are known; so below."""
    return Completed(reason, account.text, account.stats(size))


def of_window(end: Completed, options: ReplyOptions, size: int | None) -> Completed:
    """Servers call it a length, whether a reply has reached its own limit or the end of the window."""
    stats = end.stats
    within = options.max_tokens is None or (stats.exact and stats.tokens < options.max_tokens)
    if end.reason is FinishReason.LENGTH and within and size and (stats.context_used or 0) >= size:
        return replace(end, reason=FinishReason.CONTEXT_OVERFLOW)
    return end


def cut_off(name: str, account: Account, why: str, size: int | None) -> list[Event]:
    """Of a reply that did not come to its own end. ``name``: of the server."""
    if account.is_empty:
        return [Failed(EngineDied(f"{name} broke off before the first word: {why}", remedy="ask again"))]
    line = _one_line(f"{name} broke off in the middle of the reply: {why}")
    return [Notice(line), completed(account, FinishReason.ENGINE_DIED, size)]


def refused(error: BitnetChatError, account: Account, untold: Sequence[Fault], size: int | None) -> list[Event]:
    """Of a reply that a server would not give. ``untold``: what the model was to hear in its middle: all but the answer
    to that is whole."""
    if not untold:
        return [Failed(error, account.text)]
    line = _one_line(f"the model could not be told that it called {untold[0].call.name} wrongly: {error.what}")
    return [Notice(line), completed(account, FinishReason.STOP, size)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
