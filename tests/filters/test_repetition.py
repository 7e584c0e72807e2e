"""Text that repeats itself without end is found, and text that only looks like it is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replies import COUNTERS, LOOPS, NORMAL, installed_python, prose, sentence, stammer

from bitnet_chat.filters.repetition import RepetitionDetector

LIMIT = 12
STEP = 127
REAL = json.loads((Path(__file__).parents[1] / "data" / "loops.json").read_text("utf-8"))
"""Replies of SmolLM2-135M at temperature 0 without a repeat penalty: ``loops``, what came before them and of what unit,
or what they were in all where each unit has another number, and the tokens of both; and those that are ``whole``."""


def found_at(
    text: str, limit: int = LIMIT, cuts: list[int] | None = None, count: Callable[[str], int] | None = None
) -> int | None:
    """How many characters had come by then, with the text cut at these places."""
    detector = RepetitionDetector(limit, count=count)
    at = 0
    for end in [*sorted(cuts or []), len(text)]:
        if (more := detector.feed(text[at:end])) is not None:
            return at + more
        at = end
    return None


@pytest.mark.parametrize("kind", NORMAL)
def test_normal_replies_are_left_alone(kind: str) -> None:
    for seed in range(15):
        text = NORMAL[kind](Random(seed))
        assert found_at(text) is None, (kind, seed)


@pytest.mark.parametrize("each", REAL["loops"], ids=[each["prompt"][:20] for each in REAL["loops"]])
def test_a_real_loop_is_stopped_within_400_tokens(each: dict[str, Any]) -> None:
    before, unit, tokens = each["before"], each["unit"], each["tokens"][1]
    text = each.get("rest") or unit * (20_000 // len(unit))
    density = tokens / len(each.get("rest") or unit)
    at = found_at(before + text, count=lambda text: round(len(text) * density))
    assert at is not None and at > len(before)
    assert (at - len(before)) * density <= 400


@pytest.mark.parametrize("density", [1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("before", ["", "Here: ", "word " * 7])
def test_one_sign_is_stopped_within_400_tokens(before: str, density: float) -> None:
    """Such as an emoji, whatever number of tokens it has."""
    at = found_at(before + "🐮" * 2000, count=lambda text: round(len(text) * density))
    assert at is not None and (at - len(before)) * density <= 400


def test_what_a_real_model_ended_itself_is_left_alone() -> None:
    assert len(REAL["loops"]) >= 18 and len(REAL["whole"]) >= 10
    for text in REAL["whole"]:
        assert found_at(text) is found_at(text, count=lambda text: len(text) // 2) is None


@pytest.mark.parametrize("kind", NORMAL)
def test_normal_replies_of_many_tokens_are_left_alone(kind: str) -> None:
    """As many as a small vocabulary makes of them: two characters in one, three tokens of any other sign."""
    for seed in range(15, 20):
        text = NORMAL[kind](Random(seed))
        assert found_at(text, count=lambda text: len(text.encode()) * 3 // 5) is None, (kind, seed)


def test_code_without_a_code_block_is_left_alone() -> None:
    for name, text in installed_python(Random(5), 60):
        assert found_at(text) is None, name


@pytest.mark.parametrize("kind", LOOPS)
def test_loops_are_found(kind: str) -> None:
    for seed in range(6):
        random = Random(seed)
        good, unit = prose(random, random.choice([1, 300, 2000])), LOOPS[kind](random)
        at = found_at(good + unit * (20_000 // len(unit)))
        assert at is not None, (kind, seed)
        assert at >= len(good), "it was found before it began"
        # 480 characters; 1,920 or 4 repetitions where those are more; 1,920 without letters. And a step or three.
        repeated = len(unit) if len(set(filter(str.isalpha, unit))) > 2 else 40 * LIMIT
        assert (
            at - len(good) <= max(40 * LIMIT, min(LIMIT, 4) * repeated, min(160 * LIMIT, LIMIT * repeated)) + 4 * STEP
        )


@pytest.mark.parametrize("kind", COUNTERS)
def test_loops_that_count_are_found(kind: str) -> None:
    for seed in range(6):
        random = Random(seed)
        good, text = prose(random, random.choice([1, 2000])), sentence(random, 5, 12)
        units = [COUNTERS[kind](text, number) for number in range(1, 100)]
        at = found_at(good + "".join(units))
        assert at is not None, (kind, seed)
        assert at - len(good) >= len("".join(units[:6])), "six repetitions, in more than 1,000 characters"
        assert at - len(good) <= max(84 * LIMIT, len("".join(units[:7]))) + 3 * STEP


def test_stammer_is_found() -> None:
    for seed in range(10):
        random = Random(seed)
        good, rest = prose(random, 1000), stammer(random)
        at = found_at(good + rest)
        assert at is not None, seed
        words = (good + rest)[len(good) : at].split()
        assert 25 * LIMIT <= len(words) <= 25 * LIMIT + 3 * STEP // 3
        assert found_at(f"{good}```\n{rest}") is None
        assert found_at(good + rest.replace(" ", "\n")) is None


def test_the_limit_is_the_number_of_repetitions() -> None:
    unit = "All work and no play makes Jack a dull boy, says he. "
    assert found_at(unit * 11) is None
    assert found_at(unit * 20) is not None
    assert found_at(unit * 20, limit=30) is None
    assert found_at(unit * 50, limit=30) is not None
    assert found_at(unit * 5, limit=2) is not None
    assert found_at(unit * 1000, limit=0) is None
    detector = RepetitionDetector(LIMIT)
    detector.feed(unit * 100)
    assert 12 <= detector.repetitions <= 15


PANGRAM = "the quick brown fox jumps over lazy dog "
CODE = "Look:\n```\n"
LINE = "    call(first, second, third_argument);\n"


@pytest.mark.parametrize(
    ("before", "unit", "limit", "density", "size"),
    [
        # 40·N characters or 10·N tokens, of 160·N or 24·N of a longer unit
        ("", PANGRAM, 1000, 0.0, 40_000),
        ("", "ab cd ef", 1000, 1.0, 10_000),
        ("", PANGRAM * 4 + PANGRAM.upper(), 1000, 0.0, 160_000),
        ("", PANGRAM + "and a cat ", 1000, 1.0, 24_000),
        # N/4 repetitions at least, and at least 3; 2 of a small limit
        ("", "".join(f"{PANGRAM}{number}" for number in range(10, 20)), 1000, 1.0, 105_000),
        ("", prose(Random(3), 2000)[:2000], 12, 0.0, 6000),
        ("", prose(Random(3), 1000)[:1000], 1, 0.0, 2000),
        # without letters 4 times as long, in tokens 3 times, but not with line breaks; with one or two twice as long
        ("", "=-" * 19 + "+-", 1000, 0.0, 160_000),
        ("", "=-=-=-+-", 1000, 1.0, 30_000),
        ("", "=-=-=-+\n", 1000, 1.0, 160_000),
        ("", "ha" * 19 + "ah", 1000, 0.0, 80_000),
        ("", "hahahaah", 1000, 1.0, 20_000),
        ("", "hahahabh", 1000, 1.0, 10_000),
        # 80·N repetitions of at most 8 characters
        ("", "-", 1000, 0.0, 80_000),
        (CODE, "=-=-=-=+", 2, 0.0, 1280),
        (CODE, "=-=-=-=-+", 2, 0.0, 2560),
        # in code 8 times as long, unless it has 8 words or 12 tokens in a line, and N/3 repetitions
        (CODE, LINE, 1000, 0.0, 320_000),
        (CODE, "one two three four five six seven eight\n", 1000, 0.0, 40_000),
        (CODE, "one two three four five six six six two\n", 1000, 0.0, 320_000),
        (CODE, "call(first, second) and ", 1000, 0.5, 24_000),
        (CODE, "call(first, second) and ", 1000, 0.49, 163_300),
        (CODE, "call(first, second) an\n ", 1000, 0.5, 160_000),
        (CODE, "".join(f"{PANGRAM}{number:010}" for number in range(10)), 1000, 0.0, 167_000),
        # comments with a letter or digit
        (CODE, "  # 0 = 1\n", 1000, 1.0, 30_000),
        (CODE, "// a\n\n// =\n", 100, 1.0, 64_000),
        (CODE, "// a\n// b\n", 1000, 1.0, 20_000),
        (CODE, "// -\n// =\n", 100, 1.0, 128_000),
    ],
)  # fmt: skip
def test_how_much_is_too_much(before: str, unit: str, limit: int, density: float, size: int) -> None:
    text = before + unit * (2 * size // len(unit))
    at = found_at(text, limit, count=lambda text: len(text) * density)  # type: ignore[arg-type, return-value]
    assert at is not None and size <= at - len(before) < size + 2 * STEP


LONG = " ".join(sentence(Random(number), 20, 20) for number in range(3))[:296]


@pytest.mark.parametrize(
    ("before", "text", "limit", "density", "at", "repetitions"),
    [
        # N/2 repetitions, at least 3, with 24·N tokens; looked at every 254 characters
        ("", LONG, 12, 1.0, 1936, 6),
        ("", LONG, 13, 1.0, 1936, 6),
        ("", LONG, 14, 1.0, 2190, 7),
        ("", LONG, 5, 1.0, 920, 3),
        ("", LONG, 4, 1.0, 920, 3),
        ("", "ab cd ef gh", 100, 1.0, 2444, 143),
        # 3·N with 80·N characters
        ("", LONG, 4, 0.0, 3714, 12),
        ("", LONG, 5, 0.0, 4730, 15),
        ("", "ab cd ef gh", 100, 0.0, 8032, 472),
        # in code 8 times as long
        ("```\n", "ab cd ef gh", 10, 1.0, 1936, 113),
        ("```\n", "ab cd ef gh", 100, 1.0, None, 0),
        # a unit has four words at least
        ("", "ab cd ef", 10, 1.0, None, 0),
    ],
)
def test_how_many_counted_repetitions_are_too_many(
    before: str, text: str, limit: int, density: float, at: int | None, repetitions: int
) -> None:
    detector = RepetitionDetector(limit, count=lambda text: len(text) * density)  # type: ignore[arg-type, return-value]
    first = 1 if text == LONG else 1000
    found = detector.feed(before + "".join(f"{number} {text} " for number in range(first, first + 1000)))
    assert (found, detector.repetitions) == (at, repetitions)


@pytest.mark.parametrize(("numbers", "at", "repetitions"), [(5, 412, 6), (6, 666, 8), (7, None, 0)])
def test_a_counted_unit_has_up_to_six_numbers(numbers: int, at: int | None, repetitions: int) -> None:
    units = [[f"word{'abcdefg'[place]} then {place or count} " for place in range(numbers)] for count in range(10, 400)]
    detector = RepetitionDetector(LIMIT, count=len)
    assert (detector.feed("".join(map("".join, units))), detector.repetitions) == (at, repetitions)


def test_words_are_looked_at_every_127_characters_and_other_text_every_31() -> None:
    at = found_at(PANGRAM * 100)
    assert at is not None and at % STEP == 31
    at = found_at("=-+- " * 2000)
    assert at is not None and at % 31 == 0


def test_a_unit_has_at_most_4096_characters() -> None:
    text = prose(Random(3), 5000)
    assert found_at(text[:4096] * 5) is not None
    assert found_at(text[:4097] * 5) is None


def test_any_limit_is_taken() -> None:
    for limit in (1, 2, 3, 1000, 10**8):
        assert found_at(prose(Random(1), 3000), limit) is None
    assert found_at("once more. " * 10_000, limit=1000) is not None


def test_in_a_code_block_only_the_extreme_is_found() -> None:
    line = "    call(first, second);\n"
    assert found_at("Look:\n" + line * 40) is not None
    assert found_at("Look:\n```c\n" + line * 100) is None
    assert found_at("Look:\n```c\n" + line * 250) is not None
    assert found_at("Look:\n```c\nx\n```\n" + line * 40) is not None
    assert found_at("Look:\n````c\n```\n" + line * 100) is None, "the inner fence does not close the outer one"


def test_a_reply_that_goes_on_in_a_code_block_is_in_it() -> None:
    detector = RepetitionDetector(LIMIT, before="Look:\n```c\nint a;\n")
    assert detector.feed("    call(first, second);\n" * 100) is None


def test_counters_are_those_that_count() -> None:
    text = "the very same words again"
    assert found_at("".join(f"{number}. {text}\n" for number in range(1, 90))) is not None
    assert found_at("```\n" + "".join(f"{number}. {text}\n" for number in range(1, 200))) is None, "in code"
    assert found_at("".join(f"{number}. {text}\n" for number in range(90, 1, -1))) is None
    assert found_at("".join(f"{number * number}. {text}\n" for number in range(1, 90))) is None
    assert found_at("".join(f"{10**30 + number}. {text}\n" for number in range(1, 90))) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*LOOPS.values(), *NORMAL.values()]),
    st.integers(0, 50),
    st.lists(st.integers(0, 6000), max_size=40),
)
def test_any_cut_gives_the_same_finding(make: object, seed: int, cuts: list[int]) -> None:
    unit = make(Random(seed))  # type: ignore[operator]
    text = prose(Random(seed), 400) + unit * max(1, 6000 // len(unit))
    whole = found_at(text)
    assert found_at(text, cuts=[cut for cut in cuts if cut <= len(text)]) == whole
    assert found_at(text[:1500], cuts=list(range(1500))) == found_at(text[:1500])


@given(st.text(st.sampled_from("ab1 \n`")))
def test_nothing_breaks_it(text: str) -> None:
    for limit in (0, 1, 12):
        at = found_at(text * 20, limit)
        assert at is None or 0 < at <= 20 * len(text)
