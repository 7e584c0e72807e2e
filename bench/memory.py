"""What our own process holds in memory, the engine excluded."""

from __future__ import annotations

from collections.abc import Mapping

import psutil
from report import Figure, Goal, Section
from subject import INSTALLED
from terminal import Terminal, plain

_MB = 1e6
_GOAL = 45.0
_TURNS = 20
_SUMMARY = b"first token after"
_QUESTIONS = ("hello", "how do I leave?", "how do I stop a reply?", "which flag sets the temperature?")


def measure(runs: int, environment: Mapping[str, str]) -> Section:
    section = Section("Memory of our process in the REPL")
    section.notes.append(f"resident set in MB (10^6 bytes), the engine excluded; {runs} processes")
    at_prompt: list[float] = []
    after: list[float] = []
    own: list[float] = []
    for _ in range(runs):
        first, last, unshared = _conversation(environment)
        at_prompt.append(first)
        after.append(last)
        own.append(unshared)
    figures = [
        Figure.of("at the prompt, model loaded", "MB", at_prompt),
        Figure.of(f"after {_TURNS} turns", "MB", after),
        Figure.of(f"after {_TURNS} turns, shared with no other process", "MB", own),
    ]
    section.figures += figures
    section.goals.append(Goal("memory at the prompt", figures[0].median, "MB", _GOAL))
    section.goals.append(Goal(f"memory after {_TURNS} turns", figures[1].median, "MB", _GOAL))
    return section


def _conversation(environment: Mapping[str, str]) -> tuple[float, float, float]:
    terminal = Terminal([str(INSTALLED), "--temp", "0"], environment)
    try:
        terminal.until(lambda seen: b"> " in plain(seen))
        terminal.idle(2.0)
        process = psutil.Process(terminal.pid)
        first = process.memory_info().rss
        for turn in range(1, _TURNS + 1):
            terminal.send(_QUESTIONS[turn % len(_QUESTIONS)].encode() + b"\r")
            terminal.until(lambda seen, turn=turn: seen.count(_SUMMARY) >= turn)  # type: ignore[misc]
        terminal.idle(1.0)
        return first / _MB, process.memory_info().rss / _MB, process.memory_full_info().uss / _MB
    finally:
        terminal.close()
