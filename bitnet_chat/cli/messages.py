"""Messages and yes-or-no questions on stderr; stdout is for results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from bitnet_chat import terminal
from bitnet_chat.errors import UsageError


def write_lines(text: str, stream: TextIO | None = None, *, is_message: bool = False) -> None:
    """Write sanitized lines to ``stream`` (default: stderr), on a terminal wrapped at words. ``is_message``: the text
    is a message of a conversation, in which code is not wrapped.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        from bitnet_chat.text.wrap import WordWrapper, wrapped

        columns = terminal.size(stream)[0]
        text = WordWrapper(lambda: columns).feed(text) if is_message else wrapped(text, columns)
    print(text, file=stream, flush=True)


def can_prompt() -> bool:
    """Return whether questions can be asked: stdin and stderr are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, usually: bool) -> bool:
    """Ask a yes-or-no question. Returns True for yes. ``usually``: the answer of an empty line. The end of the input
    means no.
    """
    answer = _answer(question, "Y/n" if usually else "y/N")
    return bool(answer) and (answer.strip() in ("y", "yes") or (usually and not answer.strip()))


def choose(question: str, others: Mapping[str, str]) -> str:
    """Ask a question with more answers than yes and no. ``others``: further letters with their meanings. Returns ``y``,
    ``n`` or one of these letters: ``y`` for an empty line, ``n`` at the end of the input and for any other text.
    """
    answer = _answer(question, ", ".join(["Y/n", *(f"{letter}: {meaning}" for letter, meaning in others.items())]))
    if answer and answer.strip() in ("", "y", "yes"):
        return "y"
    return answer.strip() if answer.strip() in others else "n"


def _answer(question: str, answers: str) -> str:
    """Print a question and return the typed line in lower case; empty at the end of the input."""
    print(f"{question} [{answers}] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
    return answer.lower()


def may_remove(things: Sequence[str]) -> bool:
    """Print ``things`` (one sanitized line each) and ask whether to remove them. Returns True for yes. Raises
    UsageError without a terminal.
    """
    if not can_prompt():
        raise UsageError("removal cannot be confirmed: stdin is not a terminal", remedy="add --yes")
    for thing in things:
        print(thing, file=sys.stderr)
    agreed = confirm(f"Remove {'it' if len(things) == 1 else 'them'} permanently?", usually=False)
    if not agreed:
        print("Nothing was removed.", file=sys.stderr)
    return agreed
