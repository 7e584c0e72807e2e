"""Yes-or-no questions on stderr; stdout is for results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from bitnet_chat.errors import UsageError


def can_prompt() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, usually: bool) -> bool:
    """Ask a yes-or-no question. ``usually``: the meaning of an empty line. The end of the input means no."""
    answer = _answer(question, "Y/n" if usually else "y/N")
    return bool(answer) and (answer.strip() in ("y", "yes") or (usually and not answer.strip()))


def choose(question: str, others: Mapping[str, str]) -> str:
    """Ask for ``y``, ``n``, or one of ``others``, which maps letters to meanings. An empty line means yes, the end of
    the input and anything else no.
    """
    answer = _answer(question, ", ".join(["Y/n", *(f"{letter}: {meaning}" for letter, meaning in others.items())]))
    if answer and answer.strip() in ("", "y", "yes"):
        return "y"
    return answer.strip() if answer.strip() in others else "n"


def _answer(question: str, answers: str) -> str:
    """The line that was typed, in lower case; empty at the end of the input."""
    print(f"{question} [{answers}] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)  # what follows begins a line
    return answer.lower()


def may_remove(things: Sequence[str]) -> bool:
    """Show ``things``, one sanitized line each, and ask for confirmation of their removal.

    Raises UsageError without a terminal.
    """
    if not can_prompt():
        raise UsageError("removal cannot be confirmed: stdin is not a terminal", remedy="add --yes")
    for thing in things:
        print(thing, file=sys.stderr)
    agreed = confirm(f"Remove {'it' if len(things) == 1 else 'them'} permanently?", usually=False)
    if not agreed:
        print("Nothing was removed.", file=sys.stderr)
    return agreed
