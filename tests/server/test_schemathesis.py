"""The server is what its OpenAPI description says: see ``described.py``.

In a process of its own: the requests take seconds to make when the tests are listed, which each worker would do, and
loading Schemathesis takes each process that runs tests a second.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

TESTS = Path(__file__).with_name("described.py")


@pytest.mark.long
def test_the_server_is_as_described() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=-q --strict-markers", "-p", "no:cacheprovider", str(TESTS)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        cwd=Path(__file__).parents[2],
        env=environment(),
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
