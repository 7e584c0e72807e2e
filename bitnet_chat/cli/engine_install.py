"""``bitnet-chat engine install``: fetches a prebuilt engine, or compiles one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bitnet_chat import config
from bitnet_chat.cli.messages import can_prompt, confirm
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.discovery import candidates, find_server
from bitnet_chat.engine.install import manifest, packages
from bitnet_chat.errors import BuildError, EngineNotFoundError, FinishReason
from bitnet_chat.util.progress import ProgressLine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``install`` to its parser."""
    names = [package.name for package in packages.PACKAGES]
    parser.add_argument(
        "name", nargs="?", choices=names, metavar="NAME", help=f"{' or '.join(names)} (default: {names[0]})"
    )
    parser.add_argument(
        "--build", action="store_true", help="compilation for this processor instead of a prebuilt engine (5 minutes)"
    )
    parser.add_argument("--if-missing", action="store_true", help="no installation if an engine is found")
    parser.add_argument(
        "--yes", action="store_true", help="compilation without confirmation if prebuilt engines do not fit"
    )
    parser.add_argument(
        "--with",
        dest="features",
        action="append",
        default=[],
        choices=sorted({feature for each in manifest.FEATURES.values() for feature in each}),
        help="additional program, with --build. server: llama-server; cli: the current llama-cli, which keeps its own"
        " history; "
        "rpc: models distributed over several computers, and the program rpc-server for them",
    )


def run(flags: argparse.Namespace) -> int:
    """Install an engine. Returns the exit code. Raises BuildError."""
    name = flags.name or packages.PACKAGES[0].name
    compiled = flags.build or bool(flags.features)
    if flags.if_missing and flags.name is None and _is_found(compiled, flags.features):
        return 0
    if flags.features and not flags.build:
        print(f"bitnet-chat: --with {flags.features[0]} implies --build", file=sys.stderr)
    line = ProgressLine(sys.stderr)
    try:
        if not compiled and (problem := _why_not_prebuilt(name)) is not None:
            if not (flags.yes or _asks_to_compile(problem)):
                raise problem
            compiled = True
        folder = _compile(name, flags.features, line) if compiled else _install(name, line)
    except KeyboardInterrupt:
        line.close()
        print("bitnet-chat: stopped; run the same command to resume", file=sys.stderr)
        return FinishReason.INTERRUPTED.exit_code
    finally:
        line.close()
    _check_known_answers(folder)
    print(f"engine installed in {folder}")
    return 0


def _check_known_answers(folder: Path) -> None:
    """Check the known answers of an engine once after its installation. Raises BuildError if all of them are wrong."""
    from bitnet_chat.engine import known_answer_results
    from bitnet_chat.engine_checks import known_answers
    from bitnet_chat.util.progress import ProgressClock

    found = candidates(str(folder))
    engine = next((each.binary for each in found if each.binary is not None and each.binary.can_chat), None)
    if engine is None or known_answer_results.kept(engine):
        return
    line = ProgressLine(sys.stderr)
    clock = ProgressClock(line)
    clock.step("Checking its known answers")
    try:
        known_answers.require(engine, clock.at)
    finally:
        line.close()


def _compile(name: str, features: Sequence[str], line: ProgressLine) -> Path:
    from bitnet_chat.engine.install import build

    return build.install(name, features=features, on_progress=line)


def _install(name: str, line: ProgressLine) -> Path:
    from bitnet_chat.engine.install import prebuilt

    package = packages.by_name(name)
    assert package is not None
    return prebuilt.install(package, on_progress=line)


def _why_not_prebuilt(name: str) -> BuildError | None:
    """Return the reason why the prebuilt engine does not exist for this computer or this Python; None if it exists."""
    from bitnet_chat.engine.install import prebuilt, wheels

    package = packages.by_name(name)
    assert package is not None
    try:
        if prebuilt.installed(package) is None:
            wheels.choose(package, wheels.here())
    except BuildError as error:
        return error
    return None


def _asks_to_compile(problem: BuildError) -> bool:
    return can_prompt() and confirm(f"{problem.what}\nCompile it (about 5 minutes)?", usually=True)


def _is_found(compiled: bool, features: Sequence[str]) -> bool:
    """Return whether a suitable engine is found. ``compiled``: a prebuilt one is not suitable. Of ``features`` only
    ``server`` can be determined; others are never found.
    """
    settings, configured = config.load({})
    limit = settings.probe_timeout
    if set(features) - {"server"}:
        return False
    try:
        if "server" in features:
            find_server(None, configured or None, limit=limit)
        found = [each.binary for each in candidates(None, configured or None, limit=limit) if each.binary is not None]
    except EngineNotFoundError:
        return False
    return any(each.can_chat and not (compiled and each.dialect is Dialect.NATIVE) for each in found)
