"""Known answers of the detection of repetitions, in ``tests/data/repetitions.json``: after how many characters a text
is a runaway, and how many repetitions it has, by kind of text and limit.

``PYTHONPATH=.:tests/support python tests/filters/test_repetition_answers.py`` writes the file anew; what the limits are
is tested in ``test_repetition.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from replies import COUNTERS, LOOPS, prose, sentence, stammer

from bitnet_chat.filters.repetition import RepetitionDetector

_FILE = Path(__file__).parents[1] / "data" / "repetitions.json"
KINDS = (*LOOPS, *COUNTERS, "stammer")
LIMITS = (1, 2, 3, 5, 12, 40)
_DENSITIES = (0.0, 0.25, 1.0)


def _texts(kind: str) -> Iterator[str]:
    """A loop of this kind, by itself, after prose and in a code block."""
    for number, before in enumerate(("", prose(Random(1), 300), "See:\n```\n")):
        random = Random(number)
        if kind in LOOPS:
            unit = LOOPS[kind](random)
            rest = unit * (12_000 // len(unit))
        elif kind in COUNTERS:
            words = sentence(random, 4, 9)
            rest = "".join(COUNTERS[kind](words, number) for number in range(1, 250))
        else:
            rest = stammer(random)
        yield before + rest[:12_000]


def answers(kind: str) -> list[list[int]]:
    found = []
    for text in _texts(kind):
        for limit in LIMITS:
            for density in _DENSITIES:
                detector = RepetitionDetector(limit, count=lambda text, density=density: round(len(text) * density))
                found.append([detector.feed(text) or 0, detector.repetitions])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_repetitions_are_found_where_they_are_known_to_be(kind: str) -> None:
    assert answers(kind) == json.loads(_FILE.read_text("utf-8"))[kind]


if __name__ == "__main__":
    made = {kind: json.dumps(answers(kind)) for kind in KINDS}
    lines = ",\n".join(f"{json.dumps(kind)}: {found}" for kind, found in made.items())
    _FILE.write_text(f"{{\n{lines}\n}}\n", "utf-8")
