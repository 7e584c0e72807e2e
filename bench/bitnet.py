#!/usr/bin/env python3
"""BitNet 2B4T's shape through the whole program: a BitNet build with its I2_S file against the prebuilt engine.

    python bench/bitnet.py BITNET/build/bin/llama-cli [--runs N]

The prebuilt engine ``bitnet`` runs what the file is converted to. The two are measured in turn, with one thread and
with two unless told otherwise. The goals are 1.7 times the prefill and 1.35 times the decode of BitNet 2024. The
weights are random; make_bitnet.py makes them once, in the folder that ``--folder`` names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from report import Figure, Goal, Section, ratios

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.engine import conversion
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.probe import probe
from bitnet_chat.engine.selection import EngineOption
from bitnet_chat.engine.speeds import EngineSpeed
from bitnet_chat.engine_checks import benchmark
from bitnet_chat.util.progress import ProgressClock, ProgressLine

_HERE = Path(__file__).resolve().parent
_GOALS = {"prefill": 1.7, "decode": 1.35}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="llama-cli of a BitNet build")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--folder", type=Path, default=paths.cache_dir() / "bench", metavar="DIR")
    flags = parser.parse_args()
    package = packages.by_name("bitnet")
    assert package is not None
    prebuilt = packages.at(packages.folder_of(package))
    if prebuilt is None:
        sys.exit("the prebuilt engine is not installed: bitnet-chat engine install bitnet")
    line = ProgressLine(sys.stderr)
    clock = ProgressClock(line)
    # BitNet of 2024 knows its first architecture alone: the same weights, and another activation.
    old, new = (
        random_model(flags.folder / "old.gguf", "bitnet"),
        random_model(flags.folder / "new.gguf", "bitnet-b1.58"),
    )
    conversion.obtain(new, prebuilt, on_progress=line)
    subjects = {
        "BitNet build, I2_S": (EngineOption(probe(flags.build), ""), old),
        "prebuilt, IQ2_BN": (EngineOption(prebuilt, "", converts=True), new),
    }
    print(f"{os.cpu_count()} processors, load before: {os.getloadavg()[0]:.1f}, {flags.runs} rounds in turn")
    for threads in flags.threads:
        samples: dict[str, list[EngineSpeed]] = {name: [] for name in subjects}
        for _ in range(flags.runs):
            for name, (contender, model) in subjects.items():
                samples[name].append(benchmark.measure(contender, model, Settings(threads=threads), clock))
        line.close()
        print(_section(threads, samples), flush=True)
    return 0


def _section(threads: int, samples: dict[str, list[EngineSpeed]]) -> Section:
    section = Section(f"BitNet 2B4T's shape, threads: {threads}")
    old, new = samples.values()
    for kind, goal in _GOALS.items():
        for name, speeds in samples.items():
            section.figures.append(Figure.of(f"{kind}, {name}", "tokens/s", [getattr(each, kind) for each in speeds]))
        rates = ratios([getattr(each, kind) for each in new], [getattr(each, kind) for each in old])
        figure = Figure.of(f"{kind}, prebuilt against BitNet build", "%", rates)
        section.figures.append(figure)
        section.goals.append(Goal(f"{kind} against BitNet build", figure.median, "%", 100 * goal, at_least=True))
    section.notes += map(str, section.goals)
    return section


def random_model(path: Path, architecture: str) -> Path:
    """Make the file unless it is there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(_HERE / "make_bitnet.py"), str(path), "--arch", architecture], check=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
