"""How many tokens a request took, as clients are told. Pure."""

from __future__ import annotations

from bitnet_chat.events import Stats


def usage_of(stats: Stats) -> dict[str, int]:
    """``prompt_tokens`` are all that the model had before it when it began, those it knew already among them."""
    before = stats.prompt_size
    if before is None and stats.context_used is not None:
        before = stats.context_used - stats.tokens
    before = max(before or 0, stats.prompt_tokens or 0)
    return {"prompt_tokens": before, "completion_tokens": stats.tokens, "total_tokens": before + stats.tokens}
