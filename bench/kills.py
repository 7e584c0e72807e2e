#!/usr/bin/env python3
"""Kills at random moments of a reply, and whether the conversation goes on with the very tokens of an undisturbed run:
``python bench/kills.py [ENGINE ...] [--history KIND] [--model FILE] [--kills N] [--sampled]``.

The engine, the program, and both are killed in turn, every fourth time once more while the reply is continued.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.discovery import find
from bitnet_chat.engine.install import packages

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from dequantized import write
from kills import VICTIMS, Kills, Spec

ENGINES = ("llama.cpp", "bitnet", "llama-server", "classic", "modern")
HISTORIES = ("none", "resumed", "live")


def spec(engine: str, model: str, flags: argparse.Namespace, folder: str, history: str) -> Spec:
    if engine in ("llama.cpp", "bitnet"):
        path = next(each.path for each in packages.installed() if packages.name_of(each) == engine)
    else:
        path = find(dialect=Dialect.MODERN if engine == "modern" else Dialect.CLASSIC).path
    if engine == "bitnet" and Path(model) == paths.bundled_model():  # which has a type that it cannot load
        model = str(write(Path(model), Path(folder) / "f32.gguf"))
    backend = "llama-server" if engine == "llama-server" else "engine"
    seed = flags.seed if flags.sampled else None
    return Spec(str(path), model, backend, folder, flags.tokens, history, seed)  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"{', '.join(ENGINES)} (default: all)")
    parser.add_argument("--model", default=str(paths.bundled_model()), help="default: the bundled one")
    parser.add_argument("--history", action="append", choices=HISTORIES, help="what precedes (default: all)")
    parser.add_argument("--kills", type=int, default=100, help="for each engine and history (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="of a reply (default: %(default)s)")
    parser.add_argument("--sampled", action="store_true", help="temperature 0.8 with random seeds (default: 0)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    flags = parser.parse_args()
    print(f"| engine | history | {' | '.join(VICTIMS)} | identical |\n|---|---|{'---|' * len(VICTIMS)}---|", flush=True)
    is_exact = True
    for engine in flags.engines or ENGINES:
        for history in flags.history or HISTORIES:
            is_exact = measure(engine, history, flags) and is_exact
    return 0 if is_exact else 1


def measure(engine: str, history: str, flags: argparse.Namespace) -> bool:
    exact, all_of = Counter[str](), Counter[str]()
    with TemporaryDirectory(prefix="bitnet-chat-bench-") as folder:
        kills = Kills(spec(engine, flags.model, flags, folder, history), flags.seed)
        for number in range(flags.kills):
            kill = kills.kill(number)
            all_of[kill.victim] += 1
            exact[kill.victim] += kills.is_exact(kill)
            if not kills.is_exact(kill):
                where = " and ".join(map(str, kill.at))
                print(f"{number}: {kill.victim} after {where} characters: {kills.difference(kill)}", file=sys.stderr)
    counts = " | ".join(f"{exact[victim]} of {all_of[victim]}" for victim in VICTIMS)
    print(f"| {engine} | {history} | {counts} | {exact.total()} of {all_of.total()} |", flush=True)
    return exact == all_of


if __name__ == "__main__":
    sys.exit(main())
