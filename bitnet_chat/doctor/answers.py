"""Correctness of engines, by known answers of small models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitnet_chat.doctor.finding import Finding, broken, ok, warn
from bitnet_chat.engine import answer_verdicts
from bitnet_chat.engine.answer_verdicts import AnswerVerdict
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.install import packages
from bitnet_chat.engine_checks import known_answers

_GROUP = "answer"
_OTHER = "bitnet-chat engine install bitnet has a verified one"


def look(winner: EngineBinary | None) -> Iterator[Finding]:
    """Findings about the prebuilt engines, and a BitNet build in use. A quarter of a second for a type, once."""
    for engine in packages.installed():
        yield judge(engine, known_answers.check(engine))
    if winner is not None and winner.make is EngineVariant.BITNET and winner.can_chat:
        models = [each for each in answer_verdicts.offered(winner) if each.weights == "I2_S"]
        yield judge(winner, known_answers.check(winner, models))


def judge(engine: EngineBinary, verdicts: Sequence[AnswerVerdict]) -> Finding:
    """Pure. Weights that a prebuilt engine computes wrongly are run by other engines."""
    right = [each.model.name for each in verdicts if not each.wrong]
    wrong = {each.model.name: each.wrong for each in verdicts if each.wrong}
    facts: dict[str, object] = {"right": right, "wrong": wrong}
    if not verdicts:
        return warn(_GROUP, engine.path.name, "its files do not show the supported types of weights", "", **facts)
    if not wrong:
        return ok(_GROUP, engine.path.name, f"its answers are correct with {', '.join(right)}", **facts)
    if engine.dialect is Dialect.NATIVE and right:
        seen = f"its answers are correct with {', '.join(right)}; it is not used for {', '.join(wrong)}"
        return ok(_GROUP, engine.path.name, f"{seen}, which it computes wrongly", **facts)
    told = "; ".join(f"{name}: {what}" for name, what in wrong.items())
    return broken(_GROUP, engine.path.name, f"it computes wrong results ({told})", _OTHER, **facts)
