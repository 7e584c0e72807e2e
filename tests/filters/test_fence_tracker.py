"""The place of the next character: its line, the one above, and whether it is in a fenced code block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.filters.role_markers import FenceTracker


def after(text: str) -> FenceTracker:
    tracker = FenceTracker()
    tracker.feed(text)
    return tracker


@pytest.mark.parametrize(
    ("text", "line", "before", "after_blank"),
    [
        ("", "", "", False),
        ("one", "one", "", False),
        ("one\n", "", "one", False),
        ("one\ntwo", "two", "one", False),
        ("one\n\ntwo", "two", "one", True),
        ("one\n \t\n", "", "one", True),
        ("\none", "one", "", True),
        ("one\n\ntwo\nthree", "three", "two", False),
    ],
)
def test_the_line_and_the_one_above(text: str, line: str, before: str, after_blank: bool) -> None:
    tracker = after(text)
    assert (tracker.line, tracker.before, tracker.after_blank) == (line, before, after_blank)


@pytest.mark.parametrize(
    ("text", "in_code"),
    [
        ("```", False),
        ("```\n", True),
        ("```\n```", False),
        ("```\n```\n", False),
        ("```\n````\n", False),
        ("````\n```\n", True),
        ("```\n``", True),
        ("```\n``` x", True),
        ("```\n```  \n", False),
        ("~~~ text\n", True),
        ("~~~\n```\n", True),
        ("~~~\n~~~~\n", False),
        ("``\n", False),
        ("~~\n", False),
        ("```a`b\n", False),
        ("~~~a`b\n", False),
        ("  > ```\n", True),
        ("- ```\n", False),
        ("x ```\n", False),
        ("```\nx\n\ny", True),
        (" " * 197 + "```\n", True),
        (" " * 198 + "```\n", False),
    ],
)
def test_whether_it_is_in_code(text: str, in_code: bool) -> None:
    for parts in ([text], list(text)):
        tracker = FenceTracker()
        for part in parts:
            tracker.feed(part)
        assert tracker.in_code == in_code


def test_the_middle_of_a_long_line_is_dropped() -> None:
    """The first 200 and the last 1,000 characters stay, as soon as a line has more than 2,200."""
    assert len(after("x" * 2200).line) == 2200
    assert after("a" * 200 + "b" * 1001 + "c" * 1000).line == "a" * 200 + "c" * 1000
    assert after("a" * 199 + "b" * 1003 + "c" * 999).line == "a" * 199 + "b" + "b" + "c" * 999
    tracker = after("x" * 5000 + "\ny")
    assert (tracker.line, tracker.before) == ("y", "x" * 5000)


def test_a_copy_goes_its_own_way() -> None:
    tracker = after("one\n\n```\ntwo")
    copy = tracker.copy()
    copy.feed("\n```\nthree\n\n")
    assert (tracker.line, tracker.before, tracker.after_blank, tracker.in_code) == ("two", "```", False, True)
    assert (copy.line, copy.before, copy.after_blank, copy.in_code) == ("", "three", True, False)


@given(st.text("`~ \na>", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_cuts_make_no_difference(text: str, cuts: list[int]) -> None:
    tracker, at = FenceTracker(), 0
    for end in [*sorted(cuts), len(text)]:
        tracker.feed(text[at:end])
        at = max(at, end)
    whole = after(text)
    assert (tracker.line, tracker.before, tracker.after_blank, tracker.in_code) == (
        whole.line,
        whole.before,
        whole.after_blank,
        whole.in_code,
    )
