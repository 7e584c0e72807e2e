#!/usr/bin/env python3
"""Kills at random moments of a reply at temperature 0, and whether the conversation goes on with the very text of an
undisturbed run: ``python bench/kills.py ENGINE [--backend llama-server] [--model FILE] [--kills N]``.

ENGINE: path of an engine, see ``bitnet-chat engine list``. The engine, the program, and both are killed in turn.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from bitnet_chat import paths

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from kills import VICTIMS, Kills, Spec


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("--backend", default="engine", choices=("engine", "llama-server"))
    parser.add_argument("--model", default=str(paths.models_dir() / "smollm2-135m.gguf"), help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=40, help="of a reply (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    flags = parser.parse_args()
    exact, all_of = Counter[str](), Counter[str]()
    with TemporaryDirectory(prefix="bitnet-chat-bench-") as folder:
        kills = Kills(Spec(flags.engine, flags.model, flags.backend, folder, flags.tokens), flags.seed)
        for number in range(flags.kills):
            kill = kills.kill(number)
            all_of[kill.victim] += 1
            exact[kill.victim] += kills.is_exact(kill)
            if not kills.is_exact(kill):
                print(f"{number}: {kill.victim} after {kill.at} characters: {kills.difference(kill)}", file=sys.stderr)
    print("| killed | went on exactly |\n|---|---|")
    for victim in VICTIMS:
        print(f"| {victim} | {exact[victim]} of {all_of[victim]} |")
    print(f"| all | {exact.total()} of {all_of.total()} |")
    return 0 if exact == all_of else 1


if __name__ == "__main__":
    sys.exit(main())
