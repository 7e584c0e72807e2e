"""Clients as they were published, installed from the package indexes into folders of their own, once for each list."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.util import file_lock

CLIENTS = Path(__file__).parents[1] / "clients"
TIMEOUT = 900.0  # seconds, for a slow index
# Before any test changes the environment.
_INSTALLED = paths.data_dir() / "test-clients"
_NPM = shutil.which("npm")


def python() -> Path:
    """A Python that has the packages of ``requirements.txt``. Skips the test where they cannot be had."""

    def install(folder: Path, wanted: Path) -> list[list[str]]:
        options = "--quiet --disable-pip-version-check --no-deps --no-compile -r"
        pip = [str(_program(folder)), "-m", "pip", "install", *options.split(), str(wanted)]
        # What they import is compiled here, once: that takes as long as the test.
        names = sorted(each.stem for each in CLIENTS.glob("*.py") if each.stem != "run")
        load = [str(_program(folder)), "-I", str(CLIENTS / "run.py"), "", *names]
        return [[sys.executable, "-m", "venv", str(folder)], pip, load]

    return _program(_installed(CLIENTS / "requirements.txt", install))


def _program(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def node_modules() -> Path:
    """A folder with the packages of ``package.json`` and this project's scripts for them."""
    if _NPM is None:
        _missing("npm is not installed")
    options = "--no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error"

    def install(folder: Path, wanted: Path) -> list[list[str]]:
        folder.mkdir()
        shutil.copy(wanted, folder)
        return [[_NPM or "npm", "install", *options.split(), "--prefix", str(folder)]]

    folder = _installed(CLIENTS / "package.json", install)
    for script in CLIENTS.glob("*.mjs"):  # modules are looked for beside the script
        placed = folder / script.name
        if not placed.exists() or placed.read_bytes() != script.read_bytes():
            with tempfile.TemporaryDirectory(dir=folder) as making:
                Path(shutil.copy(script, making)).replace(placed)
    return folder


def _installed(wanted: Path, install: Callable[[Path, Path], list[list[str]]]) -> Path:
    """The folder for the packages that ``wanted`` lists; made where it is missing, by one process at a time."""
    of = f"{wanted.read_text('utf-8')}{sys.version_info[:2]}"
    folder = _INSTALLED / hashlib.sha256(of.encode()).hexdigest()[:16]
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    with file_lock.held(folder.with_suffix(".lock")):
        done = folder / "done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for command in install(folder, wanted):
                ran = subprocess.run(command, capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
                if ran.returncode != 0:
                    last = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
                    _missing(f"the packages of {wanted.name} cannot be installed: {' '.join(last)}")
            done.touch()
    return folder


def _missing(why: str) -> None:
    """CI must have the clients; elsewhere a test without them is skipped."""
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


if __name__ == "__main__":  # ahead of the tests, which then need no network
    python()
    node_modules()
