"""How many threads an engine should have. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitnet_chat.doctor.finding import Finding, ok, warn
from bitnet_chat.engine.threads import Processors, Threads

_GROUP, _NAME = "threads", "sweep"
_WORTH_IT = 1.1  # less of a difference may be chance
_BITNETS_DEFAULT = 2


@dataclass(frozen=True, slots=True)
class Rate:
    threads: int
    tokens: float
    """Tokens a second."""


def counts(physical: int, logical: int, current: int) -> tuple[int, ...]:
    """What to try, the likeliest first. ``current``: what a conversation would get."""
    return tuple(
        dict.fromkeys(
            min(each, logical)
            for each in (current, physical, _BITNETS_DEFAULT, max(1, physical // 2), logical, 1)
            if each > 0
        )
    )


def given(share: Threads, has: Processors) -> Finding:
    """What an engine is given, and what that follows from."""
    count = "1 thread" if share.number == 1 else f"{share.number} threads"
    processors = "1 processor" if has.count == 1 else f"{has.count} processors"
    seen = f"an engine gets {count}; {processors} may be used: {has.origin}"
    facts: dict[str, object] = {
        "given": share.number,
        "allowed": has.count,
        "machine": has.machine,
        "affinity": has.affinity,
        "quota": has.quota,
        "cores": has.cores,
    }
    if share.notice:
        return warn(_GROUP, "allowed", f"{seen}; {share.notice}", f"-t {has.count} or less", **facts)
    return ok(_GROUP, "allowed", seen, **facts)


def judge(rates: Sequence[Rate], *, current: int, physical: int, tiny: bool) -> Finding:
    """``tiny``: the model is too small to say anything about others."""
    if not rates:
        return warn(
            _GROUP,
            _NAME,
            "nothing could be measured in the time there was",
            "give a smaller model with -m, or more time",
        )
    best = max(rates, key=lambda rate: rate.tokens)
    now = next((rate for rate in rates if rate.threads == current), best)
    told = ", ".join(f"{rate.threads}: {rate.tokens:,.1f}" for rate in sorted(rates, key=lambda rate: rate.threads))
    seen = f"tokens a second by threads: {told}; in use: {current}"
    facts: dict[str, object] = {
        "rates": {str(rate.threads): round(rate.tokens, 2) for rate in rates},
        "best": best.threads,
    }
    if tiny:
        return ok(_GROUP, _NAME, f"{seen}. This model is too small to tell anything about others", **facts)
    bitnets = next((rate for rate in rates if rate.threads == _BITNETS_DEFAULT), None)
    if bitnets is not None and physical > _BITNETS_DEFAULT and best.tokens > _WORTH_IT * bitnets.tokens:
        share = 100 * bitnets.tokens / best.tokens
        seen += f". BitNet's own script takes {_BITNETS_DEFAULT} by default: {share:.0f} % of the best"
    if best.tokens > _WORTH_IT * now.tokens:
        return warn(_GROUP, _NAME, seen, f"-t {best.threads}, or threads = {best.threads} in config.toml", **facts)
    return ok(_GROUP, _NAME, seen, **facts)
