"""Recordings of real engines: what they wrote, what was written to them, when they were interrupted.

One JSON object a line: ``spawn`` (argv), ``out`` and ``in`` (b64), ``err`` (b64), ``signal``, ``exit``, ``killed``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet_chat.engine.protocols.classic import ClassicFramer
from bitnet_chat.engine.protocols.modern import ModernFramer
from bitnet_chat.engine_output import Frame, Framer, ReplyText, ThinkingText, UnexpectedOutput

FOLDER = Path(__file__).parents[1] / "data" / "recordings"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


@dataclass(frozen=True)
class Step:
    kind: str
    """``out``, ``in``, ``signal`` or ``exit``."""
    data: bytes = b""
    code: int = 0


@dataclass(frozen=True)
class Recording:
    argv: tuple[str, ...]
    steps: tuple[Step, ...]

    def option(self, flag: str) -> str:
        return self.argv[self.argv.index(flag) + 1]

    @property
    def is_modern(self) -> bool:
        return "--in-prefix" not in self.argv

    def framer(self) -> Framer:
        if self.is_modern:
            return ModernFramer()
        # The new flag takes a value: builds that know it flush their log before they change colour.
        at = self.argv.index("--color")
        ordered = self.argv[at + 1 : at + 2] == ("on",)
        return ClassicFramer(self.option("--in-prefix"), self.option("--in-suffix"), ordered=ordered)


def load(name: str) -> Recording:
    """Adjacent output is joined: where it was cut when it was recorded says nothing."""
    argv: tuple[str, ...] = ()
    steps: list[Step] = []
    for entry in _entries(name):
        kind = entry["kind"]
        if kind == "spawn":
            argv = tuple(entry["argv"])
        elif kind == "out":
            data = base64.b64decode(entry["b64"])
            if steps and steps[-1].kind == "out":
                data = steps.pop().data + data
            steps.append(Step("out", data))
        elif kind == "in":
            steps.append(Step("in", base64.b64decode(entry["b64"])))
        elif kind == "signal":
            steps.append(Step("signal"))
        elif kind == "exit":
            steps.append(Step("exit", code=entry["code"]))
    return Recording(argv, tuple(steps))


def _entries(name: str) -> Iterator[dict]:
    with (FOLDER / f"{name}.jsonl").open() as file:
        yield from map(json.loads, file)


def joined(frames: list[Frame]) -> list[Frame]:
    """Runs of text as one, since where text is cut is free."""
    result: list[Frame] = []
    for frame in frames:
        last = result[-1] if result else None
        if isinstance(frame, ReplyText | ThinkingText | UnexpectedOutput) and type(last) is type(frame):
            result[-1] = type(frame)(last.text + frame.text)
        else:
            result.append(frame)
    return result
