"""What a token costs on its way to the screen, at the start of a long reply and at its end."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import TextIO

from report import Figure, Goal, Section

from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed
from bitnet_chat.markdown import MarkdownRenderer, PlainRenderer, prose
from bitnet_chat.repl.display import ReplyDisplay

_TOKENS = 20_000
_PART = 2_000
"""Tokens of the start and of the end that are compared."""
_LIMIT = 120.0  # percent
_TOKEN = re.compile(r"\s?\w{1,5}|\s?[^\w\s]{1,3}|\s")
"""About as a tokenizer cuts text: words of up to five letters, with the blank before them."""

_TEXT = """\
## A heading
Some *words* and **more of them**, with `code` and [a link](https://example.org/a_b).

1. an item
   - another **one**

> a quotation

"""
_CODE = 'def name(a, b):\n    """A text."""\n    # a comment\n    return name(a - 1) + "text" if b > 2.5 else None\n'
_LONG = 'some *words* and **more** and `code` and (a) [link](b) + "text" '
_REPLIES = {
    "plain, without styles": ("", _TEXT),
    "markdown of all kinds": ("", f"{_TEXT}```python\n{_CODE}```\n| a | b |\n|---|---|\n| c | `d` |\n\n"),
    "one code block": ("```python\n", _CODE),
    "one code block, each word another": ("```python\n", ""),
    "one line": ("", _LONG),
    "one line of code": ("```json\n", '{"a": [1, true, "text"]}, '),
    "one string": ('```python\n"""', "some words # and 'more' of them\n"),
    "one table": ("| a | b |\n|---|---|\n", "| some words | **more** `code` |\n"),
    "quotations in quotations": ("", "> > > > > > > > > > a word\n"),
    "lists in lists": ("", "- a\n  - b\n    - c\n      - d\n        1. e\n           - [x] *f*\n"),
    "marks alone": ("", "**_`~[*](_``"),
}
_LANGUAGES = ("python", "javascript", "bash", "css")
_FIRST = """
import sys, time
begun = time.perf_counter()
from bitnet_chat.markdown.language import find
assert find(sys.argv[1])
print(1000 * (time.perf_counter() - begun))
"""


def measure(runs: int) -> Section:
    section = Section("The display: sanitizer, markdown, words kept whole at the edge, one write for each token")
    section.notes.append(
        f"{_TOKENS:,} tokens to /dev/null, processor time; the first {_PART:,} against the last, best of {runs} rounds"
    )
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for name, (head, body) in _REPLIES.items():
            tokens = list(_tokens(head, body))
            rounds = [_parts(tokens, _Nowhere(nowhere), _prose(name)) for _ in range(runs)]
            first, last = (min(times[at] for times in rounds) for at in (0, -1))
            section.figures.append(Figure.of(name, "µs/token", [statistics.mean(times) for times in rounds]))
            section.figures.append(Figure.of("    its end against its start", "%", [100 * last / first]))
            section.goals.append(Goal(f"a token at the end of {name}", 100 * last / first, "%", _LIMIT))
    for language in _LANGUAGES:
        samples = [_first_fence(language) for _ in range(runs)]
        section.figures.append(Figure.of(f"the first fence of {language}, Pygments included", "ms", samples))
    return section


def _prose(name: str) -> MarkdownRenderer:
    return (
        PlainRenderer()
        if name.endswith("without styles")
        else prose("on", terminal=True, colour=True, columns=lambda: 80)
    )


def _tokens(head: str, body: str) -> Iterator[str]:
    yield from _TOKEN.findall(head)
    if body:
        yield from islice(cycle(_TOKEN.findall(body)), _TOKENS)
    else:
        yield from (f" w{number:x}" for number in range(_TOKENS))


class _Nowhere:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def words(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    remarks = words


def _parts(tokens: list[str], sink: _Nowhere, shown: MarkdownRenderer) -> list[float]:
    """µs a token, part by part."""
    display = ReplyDisplay(sink, colour=True, spinner=True, prose=shown, size=lambda: (80, 24))
    display.begin()
    for token in tokens[:100]:  # what is loaded at the first word is not the cost of a token
        display.words(token)
    times = []
    for at in range(100, len(tokens) - _PART + 1, _PART):
        begun = time.process_time()
        for token in tokens[at : at + _PART]:
            display.words(token)
        times.append(1e6 * (time.process_time() - begun) / _PART)
    display.completed(Completed(FinishReason.STOP, "…"))
    return times


def _first_fence(language: str) -> float:
    command = [sys.executable, "-c", _FIRST, language]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
