"""Shell scripts in the place of engines, on a computer without engines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitnet_chat import paths

COMMON = "-m, --model FNAME\n-c, --ctx-size N\n--simple-io\n-co, --color [on|off|auto]\n"
CLASSIC = COMMON + "-if, --interactive-first\n--in-prefix S\n--in-suffix S\n"
MODERN = COMMON + "-sys, --system-prompt P\n-st, --single-turn\n"
SERVER = "-m, --model FNAME\n-c, --ctx-size N\n--host H\n--port P\n"


def program(path: Path, help_text: str = CLASSIC, body: str = "") -> Path:
    """A program that runs ``body`` and prints ``help_text``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\ncat <<'END'\nversion: 7 (test)\n{help_text}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer without engines."""
    monkeypatch.setenv("PATH", f"/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "checkout", lambda: None)
