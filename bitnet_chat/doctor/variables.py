"""Environment variables that set flags of an engine. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bitnet_chat.doctor.finding import Finding, ok, warn
from bitnet_chat.engine.environment_variables import of_engines, reason

_GROUP, _NAME = "engine", "variables"


def judge(environment: Iterable[str]) -> Finding:
    """``environment``: the names of the set variables. Values are not shown: some are keys."""
    found = of_engines(environment)
    taken = {name: why for name in found if (why := reason(name))}
    kept = [name for name in found if name not in taken]
    facts: dict[str, object] = {"passed": kept, "taken_out": list(taken)}
    if not found:
        return ok(_GROUP, _NAME, "no variable of llama.cpp is set", **facts)
    passed = f"the engine gets {', '.join(kept)}" if kept else "the engine gets no variable of llama.cpp"
    if not taken:
        return ok(_GROUP, _NAME, passed, **facts)
    told = "; ".join(f"{name}: {why}" for name, why in taken.items())
    return warn(
        _GROUP,
        _NAME,
        f"not passed to the engine: {told}; {passed}",
        "unset them, and use a setting of bitnet-chat or a flag after --",
        **facts,
    )
