"""The benchmarks start: each finds the modules and files that it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BENCH = Path(__file__).parents[2] / "bench"
_RUN = """
import runpy, sys
alone = sys.path[:]
for script in sys.argv[1:]:
    sys.path[:] = [str({bench!r}), *alone]
    runpy.run_path(script, run_name="benchmark")
"""


def test_each_benchmark_finds_its_modules() -> None:
    scripts = sorted(map(str, _BENCH.glob("*.py")))
    code = _RUN.format(bench=str(_BENCH))
    ended = subprocess.run([sys.executable, "-c", code, *scripts], capture_output=True, text=True, check=False)
    assert len(scripts) > 20 and ended.returncode == 0, ended.stderr
