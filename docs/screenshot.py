"""Make the pictures of the documentation: real sessions with a real engine and model, drawn as SVG in this folder.

Requires the packages of the test extra, an installed engine (for ``guard`` a compiled one), and the model
smollm2-135m: ``.venv/bin/python docs/screenshot.py [NAME …]``. ``screenshot`` downloads both.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from drawing import Picture, draw
from terminal import Terminal

from bitnet_chat import paths

FOLDER = Path(__file__).resolve().parent
HOUR = 3600.0
CONFIG = 'model = "smollm2-135m"\ntemperature = 0.0\nmax_tokens = 90\nthreads = 1\n'


def screenshot(data: Path) -> Picture:
    """The first use on a computer without engine and model: one question, then a conversation."""
    for name in ("engine", "models"):
        (data / name).unlink()
    (data / "config.toml").write_text("temperature = 0.0\n", "utf-8")
    with closing(Terminal(data=data, rows=30, install="ask")) as terminal:
        terminal.until(lambda: any("[Y/n" in line for line in terminal.lines))
        terminal.type("y\r")
        terminal.say("Hello! Name three rivers.")
        return Picture(terminal.rest(), "bitnet-chat")


def markdown(data: Path) -> Picture:
    """A styled reply. The reply is a fixed text, because a small model does not write such Markdown."""
    with closing(Terminal(data=data, rows=24, script=FOLDER / "styled_reply.py")) as terminal:
        terminal.say("Why is a ternary model fast?")
        return Picture(terminal.rest(), "bitnet-chat (its reply is a fixed text)")


PAST = (
    (200 * HOUR, ("What is a llama?", "And an alpaca?")),
    (52 * HOUR, ("Write a Python function that reverses a list.",)),
    (27 * HOUR, ("My name is Ada.", "Tell me a joke.", "What is my name?")),
    (3 * HOUR, ("Name three rivers.", "Which one is the longest?")),
    (0.4 * HOUR, ("Why is the sky blue?", "Thank you.")),
)
"""Earlier conversations with their age in seconds. They are created now, and their time is changed in the journal."""


def history(data: Path) -> Picture:
    """The reply after ``kill -9``, and the list of ``/resume``."""
    for _, messages in PAST:
        with closing(Terminal(data=data)) as terminal:
            terminal.say(*messages)
            terminal.type("\x04")
            terminal.end()
    with closing(sqlite3.connect(data / "journal.db")) as journal, journal:
        for number, (age, _) in enumerate(PAST, 1):
            journal.execute("UPDATE conversations SET updated = ? WHERE id = ?", (time.time() - age, number))
    with closing(Terminal(data=data)) as terminal:
        terminal.kill_in_reply("Tell me a story about a lighthouse.")
    with closing(Terminal("--continue", data=data, columns=82)) as terminal:
        terminal.ready()
        terminal.type("/resume\r")
        terminal.until(lambda: any(line.startswith("Continue:") for line in terminal.lines))
        terminal.type("\x1b[B\x1b[B")
        return Picture(terminal.rest(), "bitnet-chat --continue", first="Continuing")


def context(data: Path) -> Picture:
    """A full context window: the oldest turns are dropped, the system prompt is kept, and the status bar warns."""
    flags = ("--ctx", "512", "--system", "Answer in one sentence.")
    with closing(Terminal(*flags, data=data, columns=81, rows=26)) as terminal:
        terminal.say("What is a river?", "What is a mountain?", "What is a desert?", "What is an island?")
        question = "What is a lake?"
        terminal.say("What is a volcano?", question, "What is a glacier?")
        title = 'bitnet-chat --ctx 512 --system "Answer in one sentence."'
        return Picture(terminal.rest(), title, first=f"> {question}")


def guard(data: Path) -> Picture:
    """A model that may not end its reply repeats itself, until the guard stops it."""
    message = "Sing: la la la la la la la la la la la la"
    with closing(Terminal("-n", "0", "--repeat-limit", "3", "--", "--ignore-eos", data=data, rows=24)) as terminal:
        terminal.say(message)
        return Picture(terminal.rest(), "bitnet-chat --repeat-limit 3 -- --ignore-eos", first="In ")


def doctor(data: Path) -> Picture:
    """The middle of the output of doctor, with a finding and its remedy."""
    with closing(Terminal("doctor", "--ctx", "16384", data=data, rows=80)) as terminal:
        return Picture(terminal.end(), "bitnet-chat doctor --ctx 16384", "model", "terminal")


def resume(data: Path) -> Picture:
    """A conversation about a long file, continued by another process: it is not read again."""
    engine = ("--engine", "llama.cpp")
    with closing(Terminal(*engine, data=data, columns=82)) as terminal:
        terminal.ready()
        terminal.type(f"/file {FOLDER / 'limits.md'}\r")
        terminal.until(lambda: any("tokens" in line and "limits.md" in line for line in terminal.lines))
        terminal.say("Which engines are named here?")
        terminal.type("\x04")
        terminal.end()
    with closing(Terminal(*engine, "--continue", data=data, columns=82, rows=26)) as terminal:
        terminal.say("And which platforms?")
        terminal.type("/stats\r")
        return Picture(terminal.rest(), "bitnet-chat --continue")


def tree(data: Path) -> Picture:
    """The branches that /regen and /edit leave, in the list of /tree."""
    with closing(Terminal("--engine", "llama.cpp", "--temp", "0.8", "-n", "30", data=data, columns=82)) as terminal:
        terminal.say("Name a river.", "Name a mountain.", "/regen", "/regen")
        terminal.type("/undo\r")
        terminal.until(lambda: terminal.lines[-2] == "> Name a mountain.")
        terminal.type("\x15")
        terminal.say("Name a desert.")
        terminal.type("/tree\r")
        terminal.until(lambda: sum("< " in line for line in terminal.lines) > 1)
        return Picture(terminal.rest(), "bitnet-chat")


def variants(data: Path) -> Picture:
    """Two replies side by side, and the question which one continues the conversation."""
    engine = ("--engine", "llama.cpp", "--temp", "0.9", "-n", "60")
    with closing(Terminal(*engine, data=data, rows=22)) as terminal:
        terminal.say("Describe a river in two sentences.")
        terminal.type("/regen 2\r")
        terminal.until(lambda: any("Which reply" in line for line in terminal.lines))
        return Picture(terminal.rest(), "bitnet-chat")


PICTURES: dict[str, Callable[[Path], Picture]] = {
    each.__name__: each for each in (screenshot, markdown, history, context, guard, doctor, resume, tree, variants)
}


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        if name not in PICTURES:
            sys.exit(f"unknown picture {name!r}; available: {', '.join(PICTURES)}.")
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            (data / "engine").symlink_to(paths.engine_home())
            (data / "models").symlink_to(paths.models_dir())
            (data / "config.toml").write_text(CONFIG, "utf-8")
            picture = PICTURES[name](data)
        (FOLDER / f"{name}.svg").write_text(draw(picture), "utf-8")
        print(f"docs/{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
