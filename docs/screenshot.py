"""Makes the pictures of the README: real sessions on a real engine, each drawn as SVG into this folder.

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

import pyte
from drawing import draw
from terminal import Terminal

from bitnet_chat import paths

FOLDER = Path(__file__).resolve().parent
HOUR = 3600.0


def screenshot(data: Path) -> tuple[pyte.Screen, str]:
    """A conversation with the bundled model; the bar tells what is used."""
    with closing(Terminal("--temp", "0", data=data, rows=21)) as terminal:
        terminal.say("Hello! How do I stop a reply?", "and how do I use another model?", "tell me a joke", "你好")
        return terminal.rest(), "bitnet-chat"


def markdown(data: Path) -> tuple[pyte.Screen, str]:
    """A styled reply in the real REPL. The reply is a fixed text: the bundled model cannot write it."""
    with closing(Terminal(data=data, rows=24, script=FOLDER / "styled_reply.py")) as terminal:
        terminal.say("Why is a ternary model fast?")
        return terminal.rest(), "bitnet-chat"


PAST = (
    (200 * HOUR, ("How do I stop a reply?", "and how do I use another model?")),
    (52 * HOUR, ("write a Python program",)),
    (27 * HOUR, ("my name is Ada", "tell me a joke", "What is my name?")),
    (3 * HOUR, ("你好", "What is BitNet?")),
    (0.4 * HOUR, ("How do I search my history?", "thank you")),
)
"""Conversations by their age in seconds, which is set back so that the list looks like one of a week."""


def history(data: Path) -> tuple[pyte.Screen, str]:
    """What ``--resume`` shows: conversations that were really had, but not that long ago."""
    for _, messages in PAST:
        with closing(Terminal("--temp", "0", data=data)) as terminal:
            terminal.say(*messages)
            terminal.type("\x04")
            terminal.end()
    with closing(sqlite3.connect(data / "journal.db")) as journal, journal:
        for number, (age, _) in enumerate(PAST, 1):
            journal.execute("UPDATE conversations SET updated = ? WHERE id = ?", (time.time() - age, number))
    with closing(Terminal("--resume", data=data, rows=10)) as terminal:
        terminal.until(lambda: "Go on with" in terminal.lines[0])
        terminal.type("\x1b[B")
        return terminal.rest(), "bitnet-chat --resume"


def context(data: Path) -> tuple[pyte.Screen, str]:
    """A window that is full: the oldest turns leave it, the system prompt stays, and the bar warns of the next time."""
    flags = ("--ctx", "256", "--system", "Talk like a pirate.")
    with closing(Terminal("--temp", "0", *flags, data=data, rows=22)) as terminal:
        terminal.say("my name is Ada", "How do I stop a reply?", "How do I use another model?", "tell me a joke")
        terminal.say("how do I leave?", "What is BitNet?", "What is my name?", "how do I use an editor?", "who are you?")
        return terminal.rest(), 'bitnet-chat --ctx 256 --system "Talk like a pirate."'


def guard(data: Path) -> tuple[pyte.Screen, str]:
    """A model that may not end its reply repeats itself, until the guard stops it."""
    with closing(Terminal("--temp", "0", "--", "--ignore-eos", data=data, columns=82, rows=16)) as terminal:
        terminal.say("hi")
        return terminal.rest(), "bitnet-chat -- --ignore-eos"


PICTURES: dict[str, Callable[[Path], tuple[pyte.Screen, str]]] = {
    each.__name__: each for each in (screenshot, markdown, history, context, guard)
}


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            (data / "engine").symlink_to(paths.engine_home())
            screen, title = PICTURES[name](data)
        (FOLDER / f"{name}.svg").write_text(draw(screen, title), "utf-8")
        print(f"docs/{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
