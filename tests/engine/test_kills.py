"""Kills at random moments of a reply: the conversation goes on. ``bench/kills.py`` makes a hundred of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from kills import VICTIMS, Kills, Spec

from bitnet_chat.engine.binary import EngineBinary

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and processes are those of POSIX")


def check(spec: Spec) -> None:
    kills = Kills(spec, seed=3)
    for number in range(len(VICTIMS)):
        kill = kills.kill(number)
        assert kills.is_exact(kill), f"{kill.victim} after {kill.at} characters: {kills.difference(kill)}"
        assert all(kill.origins), "each reply knows the origin of its context"


def test_of_a_native_engine(any_native: EngineBinary, model: Path, tmp_path: Path) -> None:
    model = Path(os.environ.get("BITNET_CHAT_MODEL") or model)
    check(Spec(str(any_native.path), str(model), "engine", str(tmp_path), tokens=100))


def test_of_a_server(classic: EngineBinary, model: Path, tmp_path: Path) -> None:
    check(Spec(str(classic.path), str(model), "llama-server", str(tmp_path), tokens=100))
