"""Counts of tokens with their errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import check_immutable

from bitnet_chat.context.token_count import CachedCounter, TokenCount, by_length


def test_an_exact_count_has_itself_as_its_bounds() -> None:
    count = TokenCount(7)
    assert (count.at_least, count.at_most, count.error) == (7, 7, 0.0)


def test_an_estimate_has_bounds_around_it() -> None:
    count = TokenCount(100, 0.25)
    assert (count.at_least, count.at_most) == (75, 126), "rounded down below and up above"
    assert (TokenCount(3, 0.5).at_least, TokenCount(3, 0.5).at_most) == (1, 5)


def test_sums_weigh_errors_by_their_counts() -> None:
    total = TokenCount(100) + TokenCount(300, 0.2)
    assert total.count == 400 and total.error == pytest.approx(0.15)
    assert TokenCount(10, 0.1) + TokenCount(0) == TokenCount(10, 0.1)
    assert TokenCount(0, 0.5) + TokenCount(0, 0.5) == TokenCount(0)


@given(st.lists(st.builds(TokenCount, st.integers(0, 10**6), st.floats(0, 1)), max_size=8))
def test_a_sum_stays_within_the_bounds_of_its_parts(parts: list[TokenCount]) -> None:
    total = sum(parts, TokenCount(0))
    assert total.count == sum(each.count for each in parts)
    assert total.at_least <= total.count <= total.at_most
    assert abs(total.count * total.error - sum(each.count * each.error for each in parts)) <= 1e-6 * (total.count + 1)


def test_they_say_what_they_are() -> None:
    assert str(TokenCount(1)) == "1 token"
    assert str(TokenCount(0)) == "0 tokens"
    assert str(TokenCount(1200)) == "1200 tokens"
    assert str(TokenCount(1200, 0.154)) == "~1200 tokens (±15 %)"
    assert str(TokenCount(1, 0.5)) == "~1 token (±50 %)"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a", 1),
        ("abc", 1),
        ("abcd", 2),
        ("abcdefg", 2),
        ("abcdefgh", 3),
        ("é" * 7, 4),
        ("世界", 2),
        ("\udcf0", 1),
    ],
)
def test_without_a_vocabulary_bytes_are_counted(text: str, count: int) -> None:
    assert by_length(text) == TokenCount(count, 0.5)


def test_a_count_is_immutable() -> None:
    check_immutable(TokenCount(1))


class _Counts:
    """A counter that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> TokenCount:
        self.asked.append(text)
        return TokenCount(len(text))


def test_each_text_is_counted_once() -> None:
    counts = _Counts()
    cached = CachedCounter(counts)
    assert [cached(text).count for text in ("a", "bc", "", "a", "bc", "")] == [1, 2, 0, 1, 2, 0]
    assert counts.asked == ["a", "bc", ""]


def test_known_counts_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedCounter, "LIMIT", 2)
    counts = _Counts()
    cached = CachedCounter(counts)
    for text in ("a", "b", "a", "b", "c", "c", "a", "a", "b"):
        cached(text)
    assert counts.asked == ["a", "b", "c", "a", "b"], "the third and the fifth text forget all others"


def test_known_counts_are_limited_in_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedCounter, "CHARACTER_LIMIT", 4)
    counts = _Counts()
    cached = CachedCounter(counts)
    for text in ("abcd", "e", "abcd", "e", "f", "abcd", "f", "g", "h", "f"):
        cached(text)
    assert counts.asked == ["abcd", "e", "f", "abcd", "g", "h", "f"], "forgotten where more than 4 are known"
