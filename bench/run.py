#!/usr/bin/env python3
"""What bitnet-chat costs against the bare engine, in one run: ``python bench/run.py [--runs N] [--json]``.

Run it with the Python of the environment that has bitnet-chat installed, on a machine with nothing else to do. What
is compared is measured in turn (A B A B ...); each figure is a median with the least and the most beside it. Nothing
here is a test, and no test depends on speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import display
import memory
import startup
import synthetic
import throughput
from report import Section
from subject import choose, home

PARTS = ("reply", "child", "startup", "memory", "display")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds of each measurement (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object with all samples")
    parser.add_argument("--only", action="append", choices=PARTS, help="some of it")
    parser.add_argument("-m", "--model", type=Path, metavar="FILE", help="default: the bundled one")
    parser.add_argument("-c", "--ctx", type=int, default=512, metavar="N", help="tokens that FILE fills (default: 512)")
    flags = parser.parse_args()
    if flags.runs < 1:
        parser.error("--runs wants at least 1")
    if flags.model:
        choose(flags.model, flags.ctx)
    wanted = flags.only or PARTS
    runs: int = flags.runs
    sections: list[Section] = []
    load = os.getloadavg()[0]
    with home() as environment:
        parts: dict[str, list[Callable[[], Section]]] = {
            "reply": [
                lambda: throughput.measure(runs, environment),
                lambda: throughput.measure(runs, environment, threads=os.cpu_count() or 1),
            ],
            "child": [lambda: synthetic.measure(runs), lambda: synthetic.measure_small(runs)],
            "startup": [lambda: startup.measure(runs, environment)],
            "display": [lambda: display.measure(runs)],
            "memory": [lambda: memory.measure(max(1, runs // 2), environment)],
        }
        about = (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
        )
        load_note = f"load before: {load:.1f}" + (" - BUSY: these figures are pessimistic" if load > 1 else "")
        if not flags.json:
            print(f"{about}, {load_note}\n")
        for part in wanted:
            for measure in parts[part]:
                section = measure()
                sections.append(section)
                if not flags.json:
                    print(section, flush=True)
    if flags.json:
        print(json.dumps({"machine": about, "load": load, "sections": [each.as_json() for each in sections]}))
        return 0
    print("Goals\n-----")
    for each in sections:
        for goal in each.goals:
            print(goal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
