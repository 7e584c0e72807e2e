"""How long one waits: for a version, for a prompt, for an answer."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence

from report import Figure, Goal, Section
from subject import CHECKOUT, INSTALLED, ROOT, model_flags
from terminal import Terminal, plain

_VERSION_GOAL = 50.0
_PROMPT_GOAL = 250.0
_GREETING = "hello"


def measure(runs: int, environment: Mapping[str, str]) -> Section:
    section = Section("Start-up")
    section.notes.append(f"{runs} rounds in turn, from exec, in milliseconds")
    stamped = (ROOT / ".venv" / "setup.stamp").is_file() and INSTALLED.is_relative_to(ROOT / ".venv")
    if not stamped:
        section.notes.append("./bin/bitnet-chat is left out: it has not set up the environment that runs this")
    installed: list[float] = []
    checkout: list[float] = []
    prompt: list[float] = []
    typed: list[float] = []
    first: list[float] = []
    whole: list[float] = []
    for number in range(runs + 1):
        one = _seconds([str(INSTALLED), "--version"], environment)
        two = _seconds([str(CHECKOUT), "--version"], environment) if stamped else 0.0
        shown, echoed = _repl(environment)
        word, end = _one_shot(environment)
        if number:  # the first round warms the caches
            installed.append(1e3 * one)
            checkout.append(1e3 * two)
            prompt.append(1e3 * shown)
            typed.append(1e3 * echoed)
            first.append(1e3 * word)
            whole.append(1e3 * end)
    section.figures.append(Figure.of(".venv/bin/bitnet-chat --version", "ms", installed))
    if stamped:
        more = Figure.of("./bin/ on top of it", "ms", (b - a for a, b in zip(installed, checkout, strict=True)))
        section.figures += [Figure.of("./bin/bitnet-chat --version", "ms", checkout), more]
        section.goals.append(Goal("./bin/bitnet-chat --version on top of the other", more.median, "ms", _VERSION_GOAL))
    ready = Figure.of("REPL: exec to the prompt, the model still loading", "ms", prompt)
    section.figures += [
        ready,
        Figure.of("REPL: exec to the first typed character shown", "ms", typed),
        Figure.of(f"one question ({_GREETING!r}): exec to the first word", "ms", first),
        Figure.of(f"one question ({_GREETING!r}): exec to the end", "ms", whole),
    ]
    section.goals.append(Goal("REPL ready to type", ready.median, "ms", _PROMPT_GOAL))
    section.goals.append(
        Goal("REPL, first typed character shown", Figure.of("", "ms", typed).median, "ms", _PROMPT_GOAL)
    )
    return section


def _seconds(argv: Sequence[str], environment: Mapping[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, env=dict(environment), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _repl(environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds to the prompt, and to the echo of a character that was there before it."""
    terminal = Terminal([str(INSTALLED), *model_flags()], environment)
    try:
        prompt = terminal.until(lambda seen: b"> " in plain(seen)) - terminal.started
    finally:
        terminal.close()
    terminal = Terminal([str(INSTALLED), *model_flags()], environment)
    try:
        terminal.idle(0.02)
        terminal.send(b"Q")
        # The terminal itself echoes what comes before raw mode; the prompt shows it again.
        typed = terminal.until(lambda seen: b"> Q" in plain(seen)) - terminal.started
    finally:
        terminal.close()
    return prompt, typed


def _one_shot(environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds to the first byte of the answer, and to the end of the process."""
    begun = time.perf_counter()
    with subprocess.Popen(
        [str(INSTALLED), *model_flags(), "--temp", "0", _GREETING],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1), "the program wrote nothing"
        first = time.perf_counter() - begun
        process.communicate()
    return first, time.perf_counter() - begun
