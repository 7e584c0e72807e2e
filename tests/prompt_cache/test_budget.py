"""Which states leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.prompt_cache.budget import KEPT_BRANCHES, MAX_DEFAULT, MAX_STATES, StateUse, leaving, limit
from bitnet_chat.util.progress import parse_size

A, B, C = ("i", "j", 1), ("i", "j", 2), ("other", "j", 1)


def use(name: str, used: int, *conversations: tuple[str, str, int], bytes: int = 10) -> StateUse:
    return StateUse(name, bytes, used, frozenset(conversations))


def test_the_least_recently_used_leaves_first() -> None:
    states = [use("new", 3, A), use("old", 1, B), use("middle", 2)]
    assert leaving(states, 30) == []
    assert leaving(states, 29) == ["old"]
    assert leaving(states, 15) == ["old", "middle"]
    assert leaving(states, 0) == ["old", "middle", "new"]


def test_an_earlier_branch_leaves_before_another_conversation() -> None:
    states = [use("other", 1, B), use("shared", 2), use("undo", 3, A), use("head", 4, A)]
    assert leaving(states, 30) == ["undo"]
    assert leaving(states, 20) == ["undo", "other"]


def test_a_conversation_keeps_its_last_branches() -> None:
    states = [use(str(number), number, A) for number in range(KEPT_BRANCHES + 2)]
    assert leaving(states, 1000) == ["0", "1"]
    assert leaving([*states, use("x", -1)], 1000) == ["0", "1"], "a state without owners is of none"


def test_a_state_of_another_model_is_not_counted() -> None:
    assert leaving([use("back", 0, C), *(use(str(number), number, A) for number in range(1, 4))], 1000) == []


def test_a_state_of_several_conversations_stays_for_each() -> None:
    states = [use("fork", 0, A, B), *(use(f"a{number}", number, A) for number in range(1, 4))]
    assert leaving(states, 1000) == [], "it is the last one of the other conversation"
    assert leaving(states, 35) == ["a1"], "and counts once"
    assert leaving([*states, use("b", 9, B), use("b2", 10, B), use("b3", 11, B)], 1000) == ["fork"]


def test_the_number_of_states_is_bounded() -> None:
    assert leaving([use(str(number), number, bytes=1) for number in range(MAX_STATES + 2)], 10**9) == ["0", "1"]


def test_a_state_that_is_larger_than_the_limit() -> None:
    assert leaving([use("large", 2, A, bytes=100), use("small", 1, B)], 50) == ["small", "large"]


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 9), st.sets(st.sampled_from([A, B, C]))),
        max_size=12,
    ),
    st.integers(0, 300),
)
def test_the_limit_holds_and_nothing_leaves_without_need(
    drawn: list[tuple[int, int, set[tuple[str, str, int]]]], most: int
) -> None:
    states = [StateUse(str(n), size, used, frozenset(owners)) for n, (size, used, owners) in enumerate(drawn)]
    gone = leaving(states, most)
    assert len(gone) == len(set(gone))
    kept = [state for state in states if state.name not in gone]
    assert sum(state.bytes for state in kept) <= most
    for conversation in (A, B, C):
        owned = [state for state in kept if state.conversations == {conversation}]
        assert len(owned) <= KEPT_BRANCHES
    beyond = leaving(states, 10**9)
    assert gone[: len(beyond)] == beyond
    if len(gone) > len(beyond):
        last = next(state for state in states if state.name == gone[-1])
        assert sum(state.bytes for state in kept) + last.bytes > most


@pytest.mark.parametrize(
    ("setting", "free", "kept", "bytes"),
    [
        ("", 1000, 0, 100),
        ("", 900, 100, 100),
        ("", 10**15, 0, MAX_DEFAULT),
        ("", 0, 0, 0),
        ("2G", 0, 0, 2 << 30),
        ("0", 10**12, 10**9, 0),
        ("1.5 MiB", 0, 0, 3 << 19),
        ("7", 0, 0, 7),
    ],
)
def test_the_limit(setting: str, free: int, kept: int, bytes: int) -> None:
    assert limit(setting, free, kept) == bytes


@pytest.mark.parametrize("text", ["", "much", "-1", "1E9", "G", "1 2", "9" * 400, "²G", "nan", "1.G"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
