"""How many tokens a request took, as clients are told. Pure."""

from __future__ import annotations

from bitnet_chat.events import Stats


def usage_of(stats: Stats) -> dict[str, int]:
    """``prompt_tokens`` are those of the whole prompt, what the engine had evaluated before included."""
    before = stats.prompt_size
    if before is None and stats.context_used is not None:
        before = stats.context_used - stats.tokens
    before = max(before or 0, stats.prompt_tokens or 0)
    return {"prompt_tokens": before, "completion_tokens": stats.tokens, "total_tokens": before + stats.tokens}


def detailed_usage(stats: Stats) -> dict[str, object]:
    """The same, and how much of the prompt the engine had evaluated before, where that is known."""
    usage = usage_of(stats)
    if stats.prompt_tokens is None:
        return dict(usage)
    return usage | {"prompt_tokens_details": {"cached_tokens": usage["prompt_tokens"] - stats.prompt_tokens}}
