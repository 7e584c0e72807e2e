"""The scripted engine of ``fake_engine.py`` for tests of a session: its starts, and a gate that holds them up."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from program import fake_engine


class ScriptedEngine:
    """An engine program in ``folder``. ``environment`` sets what it is told by variables."""

    def __init__(self, folder: Path, environment: pytest.MonkeyPatch) -> None:
        self.engine, self.environment = fake_engine(folder), environment
        self._record, self._gate = folder / "record.jsonl", folder / "gate"
        environment.setenv("FAKE_ENGINE_RECORD", str(self._record))

    @property
    def launches(self) -> list[dict[str, Any]]:
        """What it was started with, one entry a process."""
        return [json.loads(line) for line in self._record.read_text().splitlines()] if self._record.exists() else []

    @property
    def prompts(self) -> list[str]:
        return [launch["prompt"] for launch in self.launches]

    def none_is_left(self) -> bool:
        return not any(psutil.pid_exists(launch["pid"]) for launch in self.launches)

    def close_gate(self) -> None:
        """Each process that is started from now on loads until the descriptor of :meth:`gate_reached` is closed."""
        if not self._gate.exists():
            os.mkfifo(self._gate)
        self.environment.setenv("FAKE_ENGINE_GATE", str(self._gate))

    async def gate_reached(self) -> int:
        """Wait until a process loads. Returns a descriptor; to close it lets the process go on."""
        return await asyncio.get_running_loop().run_in_executor(None, os.open, self._gate, os.O_WRONLY)

    def remove_gate(self) -> None:
        self.environment.delenv("FAKE_ENGINE_GATE")
