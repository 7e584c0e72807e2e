"""``bitnet-chat engine list|probe|install|bench``. ``install`` and ``bench`` are in separate modules."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bitnet_chat import config
from bitnet_chat.cli import engine_bench, engine_install
from bitnet_chat.cli.parser import Parser
from bitnet_chat.conversation.export import json_text
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.discovery import INSTALL, EngineCandidate, candidates, named, servers
from bitnet_chat.engine.install import manifest, packages
from bitnet_chat.errors import EngineNotFoundError
from bitnet_chat.text.sanitize import one_line

_STALL_TIMEOUT = 30.0
"""The stall timeout of ``probe --talk``, in seconds."""


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`."""
    flags = parser().parse_args(arguments)
    if flags.verb == "list":
        return _list(flags)
    if flags.verb == "probe":
        return _probe(flags)
    if flags.verb == "bench":
        return engine_bench.run(flags)
    return engine_install.run(flags)


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(prog="bitnet-chat engine", description="The engines of this computer.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    listing = verbs.add_parser("list", help="engines found, and the reason for the preferred one")
    listing.add_argument("--engine", metavar="PATH", help="the only engine to consider")
    probing = verbs.add_parser("probe", help="kind and capabilities of a binary")
    probing.add_argument("path", metavar="PATH")
    probing.add_argument("--talk", action="store_true", help="a question to the engine, as in a conversation")
    probing.add_argument("-m", "--model", metavar="FILE", default="", help="model for --talk")
    for each in (listing, probing):
        each.add_argument("--json", action="store_true", help="JSON output")
    engine_bench.add_arguments(verbs.add_parser("bench", help="tokens per second of each engine that can run a model"))
    engine_install.add_arguments(
        verbs.add_parser("install", help="installation of a prebuilt engine, or compilation of one")
    )
    return parser


def _list(flags: argparse.Namespace) -> int:
    settings, configured = config.load({})
    limit = settings.probe_timeout
    found = [*candidates(flags.engine, configured or None, limit=limit)]
    winner = next((each for each in found if each.binary is not None and each.binary.can_chat), None)
    listed = {each.path for each in found}
    found += [each for each in servers(flags.engine, configured or None, limit=limit) if each.path not in listed]
    if flags.json:
        print(json_text([_candidate_as_json(each, each is winner) for each in found], indent=2))
    else:
        for each in found:
            print(one_line(_described(each, each is winner)))
        if winner is not None:
            print(f"* is preferred, for a model that it can run: {_why(winner)}")
    if winner is None:
        raise EngineNotFoundError("no engine was found", remedy=INSTALL)
    return 0


def _why(winner: EngineCandidate) -> str:
    why = f"first in the search order that can chat ({winner.source})"
    if winner.holds_history and winner.binary is not None:
        kind = winner.binary.dialect.value
        why += f"; {kind}, so it reproduces a history exactly (such engines come first among places of one kind)"
    return why


def _described(candidate: EngineCandidate, wins: bool) -> str:
    binary = candidate.binary
    what = f"{binary.dialect.value}, {binary.label}" if binary else candidate.problem
    extra = "".join(f", with {feature}" for feature in _features(candidate.path))
    if types := _ternary(binary):
        extra += f", ternary types: {' '.join(types)}"
    return f"{'*' if wins else '-'} {candidate.path}  [{candidate.source}]  {what}{extra}"


_TERNARY = ("I2_S", "TQ1_0", "TQ2_0", "IQ1_BN", "IQ2_BN", "IQ2_BN_R4")


def _ternary(binary: EngineBinary | None) -> tuple[str, ...]:
    """Return the ternary tensor types that an engine computes, determined by the names in its files. I2_S is left out
    for ik_llama.cpp, which loads it and computes it wrongly.
    """
    from bitnet_chat.models.engine_support import mentioned

    if binary is None:
        return ()
    if binary.dialect is Dialect.NATIVE:
        return next((each.ternary for each in packages.PACKAGES if each.make is binary.make), ())
    found = mentioned(binary.path, [name.lower() for name in _TERNARY])
    return tuple(
        name for name in _TERNARY if name.lower() in found and not (name == "I2_S" and binary.make is EngineVariant.IK)
    )


def _features(program: Path) -> tuple[str, ...]:
    """Return the features of an engine that was compiled by this program; empty for other engines."""
    record = manifest.read(program.parent)
    return record.features if record is not None and program.name in record.files else ()


def _candidate_as_json(candidate: EngineCandidate, wins: bool) -> dict[str, object]:
    entry: dict[str, object] = {"path": str(candidate.path), "source": candidate.source, "used": wins}
    if candidate.binary is not None:
        entry |= {"dialect": candidate.binary.dialect.value, "version": candidate.binary.version}
        entry["make"] = candidate.binary.make.value
        entry["features"] = list(_features(candidate.path))
        entry["ternary"] = list(_ternary(candidate.binary))
        if wins:
            entry["why"] = _why(candidate)
    else:
        entry["problem"] = candidate.problem
    return entry


def _probe(flags: argparse.Namespace) -> int:
    limit = config.load({})[0].probe_timeout
    for binary in _engines_at(flags.path, limit):
        facts = _facts(binary)
        if answers := _answers(binary):
            facts["known answers"] = answers
        if flags.talk and binary.can_chat:
            facts["talks"] = _first_turn(binary, flags.model, limit)
        if flags.json:
            print(json_text(facts, indent=2))
        else:
            width = max(map(len, facts))
            print("\n".join(f"{key:{width}}  {one_line(str(value))}" for key, value in facts.items()))
    return 0


def _first_turn(binary: EngineBinary, model: str, limit: float) -> str:
    import asyncio

    from bitnet_chat.backends.local_engine import LocalEngineBackend
    from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
    from bitnet_chat.engine_checks.first_turn import FirstTurn, try_first_turn

    settings = config.Settings(
        engine=str(binary.path),
        model=model,
        temperature=0.0,
        journal=False,
        stall_timeout=_STALL_TIMEOUT,
        probe_timeout=limit,
    )

    async def first_turn() -> FirstTurn:
        local = LocalEngineBackend(settings)
        local.protocol()  # raises for an unusable model or template, which is not a fault of the engine
        backend = GuardedBackend(local, GuardLimits.of(settings), advice="nothing")
        try:
            return await try_first_turn(backend, binary.path)
        finally:
            await backend.close()

    turn = asyncio.run(first_turn())
    return f"yes: a prompt after {turn.ready_after:.2f} s, the first word {turn.answered_after:.2f} s later"


def _engines_at(written: str, limit: float) -> list[EngineBinary]:
    """Probe all engines of a folder, or one program, which may be a server. Raises EngineNotFoundError."""
    from bitnet_chat.engine.probe import probe

    path = named(written)
    if not path.is_dir():
        return [probe(path, limit=limit)]
    found = list(candidates(written, limit=limit))
    binaries = [each.binary for each in found if each.binary is not None]
    if not binaries:
        raise EngineNotFoundError(found[0].problem, remedy=found[0].remedy)
    return binaries


def _answers(binary: EngineBinary) -> str:
    """Check the known answers of the small models with ternary weights that the engine supports. Returns the result as
    text; empty without such models.
    """
    from bitnet_chat.engine import known_answer_results
    from bitnet_chat.engine_checks import known_answers

    if not binary.can_chat:
        return ""
    models = [each for each in known_answer_results.offered(binary) if each.weights in _TERNARY]
    wrong = [each for each in known_answers.check(binary, models) if each.wrong]
    if wrong:
        return "; ".join(f"WRONG with {each.model.name}: {each.wrong}" for each in wrong)
    return f"right with {', '.join(each.name for each in models)}" if models else ""


def _facts(binary: EngineBinary) -> dict[str, object]:
    exact = binary.dialect in (Dialect.CLASSIC, Dialect.NATIVE)
    return {
        "path": str(binary.path),
        "dialect": binary.dialect.value,
        "make": binary.make.value,
        "version": binary.version,
        "chat": "yes" if binary.can_chat else "no (a server)",
        "history": "of bitnet-chat, replayed exactly"
        if exact
        else "of the engine; in the system prompt after a restart",
        "forgets": "by a new process" if binary.dialect is Dialect.CLASSIC else "without loading again",
        "features": ", ".join(_features(binary.path)) or "none known",
        "ternary": " ".join(_ternary(binary)) or "none known",
        "flags": len(binary.flags),
    }
