"""Make the pictures of the documentation: real sessions on a real engine, each drawn as SVG into this folder.

Needs the packages of the test extra and an installed engine: ``.venv/bin/python docs/screenshot.py [NAME …]``.
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


def screenshot(data: Path) -> Picture:
    """The first use on a computer without engine and model: one question, and then a conversation."""
    (data / "engine").unlink()
    with closing(Terminal(data=data, rows=28, install="ask")) as terminal:
        terminal.until(lambda: any("[Y/n" in line for line in terminal.lines))
        terminal.type("y\r")
        terminal.say("Hello! Name three rivers.")
        return Picture(terminal.rest(), "bitnet-chat")


def markdown(data: Path) -> Picture:
    """A styled reply in the real REPL. The reply is a fixed text: the bundled model cannot write it."""
    with closing(Terminal(data=data, rows=24, script=FOLDER / "styled_reply.py")) as terminal:
        terminal.say("Why is a ternary model fast?")
        return Picture(terminal.rest(), "bitnet-chat (its reply is a fixed text)")


PAST = (
    (200 * HOUR, ("How do I stop a reply?", "and how do I use another model?")),
    (52 * HOUR, ("write a Python program",)),
    (27 * HOUR, ("my name is Ada", "tell me a joke", "What is my name?")),
    (3 * HOUR, ("你好", "What is BitNet?")),
    (0.4 * HOUR, ("How do I search my history?", "thank you")),
)
"""Earlier conversations and their age in seconds: they are made now and dated back, so that the list spans a
week."""


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
        terminal.kill_in_reply("tell me a long story", "there was a small model")
    with closing(Terminal("--continue", data=data, columns=82)) as terminal:
        terminal.ready()
        terminal.type("/resume\r")
        terminal.until(lambda: any(line.startswith("Continue:") for line in terminal.lines))
        terminal.type("\x1b[B\x1b[B")
        return Picture(terminal.rest(), "bitnet-chat --continue")


def context(data: Path) -> Picture:
    """A full context window: the oldest turns are dropped, the system prompt is kept, and the status bar warns."""
    flags = ("--ctx", "256", "--system", "Talk like a pirate.")
    with closing(Terminal(*flags, data=data, columns=81)) as terminal:
        terminal.say("my name is Ada", "How do I stop a reply?", "How do I use another model?", "tell me a joke")
        question = "What is my name?"
        terminal.say("how do I leave?", "What is BitNet?", question, "how do I use an editor?", "who are you?")
        title = 'bitnet-chat --ctx 256 --system "Talk like a pirate."'
        return Picture(terminal.rest(), title, first=f"> {question}")


def guard(data: Path) -> Picture:
    """A model that may not end its reply repeats itself, until the guard stops it."""
    with closing(Terminal("--", "--ignore-eos", data=data, rows=16)) as terminal:
        terminal.say("hi")
        return Picture(terminal.rest(), "bitnet-chat -- --ignore-eos", first="> hi")


def doctor(data: Path) -> Picture:
    """The middle of the output of doctor, with a finding and its remedy."""
    with closing(Terminal("doctor", "--ctx", "8192", data=data, rows=80)) as terminal:
        return Picture(terminal.end(), "bitnet-chat doctor --ctx 8192", "model", "terminal")


PICTURES: dict[str, Callable[[Path], Picture]] = {
    each.__name__: each for each in (screenshot, markdown, history, context, guard, doctor)
}


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        if name not in PICTURES:
            sys.exit(f"unknown picture {name!r}; available: {', '.join(PICTURES)}.")
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            (data / "engine").symlink_to(paths.engine_home())
            (data / "config.toml").write_text("temperature = 0.0\n", "utf-8")
            picture = PICTURES[name](data)
        (FOLDER / f"{name}.svg").write_text(draw(picture), "utf-8")
        print(f"docs/{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
