"""What the demo model knows: one entry per intent, from the files in ``data/``.

Fields of an ``[[intent]]``; lists of wordings are multi-line strings, one wording per line:

* ``name``, ``replies`` (one of them is chosen), ``expect`` (texts of which a right reply holds one);
* ``actions``: verb phrases ("start over"); the corpus puts an opening such as "how do I" before them;
* ``questions``: complete questions, used as they are; ``{thing}`` is a placeholder for any thing;
* ``subjects``: commands and flags ("/help") for questions such as "what does /help do?";
* ``weight``: how often it is asked, 1 by default.

An ``[[exit_code]]`` has the number, its meaning, its causes, and further questions. Wordings for the evaluation, which
training never sees, are in ``heldout.jsonl``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Intent:
    """One thing a user may want, and what the model should say to it."""

    name: str
    replies: tuple[str, ...]
    expect: tuple[str, ...]
    actions: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    weight: float = 1.0
    small_talk: bool = False


def load(name: str) -> dict[str, Any]:
    """Read ``data/NAME.toml``."""
    return tomllib.loads((FOLDER / "data" / f"{name}.toml").read_text("utf-8"))


def lines(text: str) -> tuple[str, ...]:
    """Return the wordings of a multi-line string."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _intents(name: str, *, small_talk: bool = False) -> Iterator[Intent]:
    for entry in load(name)["intent"]:
        yield Intent(
            entry["name"],
            tuple(entry["replies"]),
            tuple(entry["expect"]),
            lines(entry.get("actions", "")),
            lines(entry.get("questions", "")),
            tuple(entry.get("subjects", ())),
            entry.get("weight", 1.0),
            small_talk,
        )


def _exit_codes(data: Mapping[str, Any]) -> Iterator[Intent]:
    for entry in data["exit_code"]:
        code, causes = entry["code"], lines(entry["causes"])
        questions = [template.format(code=code) for template in lines(data["code_questions"])]
        questions += [t.format(cause=cause) for cause in causes for t in lines(data["cause_questions"])]
        yield Intent(
            f"exit_{entry['name']}",
            (f"Exit code {code} means {entry['meaning']}.",),
            (f"Exit code {code} ",),
            questions=(*questions, *lines(entry["questions"])),
            weight=0.9,
        )


INTENTS: tuple[Intent, ...] = (
    *_intents("commands"),
    *_intents("command_line"),
    *_exit_codes(load("exit_codes")),
    *_intents("small_talk", small_talk=True),
)
