"""Paced text: nothing lost, nothing reordered, no cluster split, and never more than a second behind."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wcwidth import iter_graphemes

from bitnet_chat.repl.pacing import BEHIND, HOLD, OutputPacer

paces = st.one_of(st.floats(0.01, 10_000), st.sampled_from([0.0, 1.0, 30.0, 60.0]))
texts = st.text(max_size=300) | st.text(st.sampled_from("ab \n\re\u0301👩\u200d💻🇩🇪각क्ष"), max_size=300)
arrivals = st.lists(st.tuples(st.floats(0, 1.5), texts), max_size=12)


def play(pace: float | None, feeds: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """What a punctual caller shows, and when; ``feeds`` are texts with the seconds that pass before each."""
    pacer, now, shown = OutputPacer(pace), 0.0, []

    def show(time: float) -> None:
        text = pacer.due(time)
        if text:
            shown.append((time, text))

    for gap, text in [*feeds, (10.0, "")]:
        until = now + gap
        wakes = 0
        while (at := pacer.next_at(now)) is not None and at <= until:
            assert at >= now
            now = at
            show(now)
            wakes += 1
            assert wakes < 10_000, "the pacer does not come to rest"
        now = until
        pacer.feed(text, now)
        show(now)
    assert pacer.next_at(now) is None
    return shown


@given(paces, arrivals)
@example(0.01, [(0.0, "abc"), (1.0, "def")])
@example(30.0, [(0.0, "x" * 300), (0.1, "y" * 300), (0.5, "z")])
def test_nothing_is_lost_or_late(pace: float, feeds: list[tuple[float, str]]) -> None:
    shown = play(pace, feeds)
    assert "".join(text for _, text in shown) == "".join(text for _, text in feeds)
    now, arrived = 0.0, []
    for gap, text in feeds:
        now += gap
        arrived.extend([now] * len(text))
    shown_at = [time for time, text in shown for _ in text]
    for came, left in zip(arrived, shown_at, strict=True):
        assert came <= left <= came + BEHIND


@given(paces.filter(bool), texts)
def test_a_burst_is_cut_between_clusters(pace: float, text: str) -> None:
    boundaries, at = {0}, 0
    for cluster in iter_graphemes(text):
        at += len(cluster)
        boundaries.add(at)
    at = 0
    for _, part in play(pace, [(0.0, text)]):
        at += len(part)
        assert at in boundaries


@given(paces, arrivals)
def test_flush_gives_the_rest(pace: float, feeds: list[tuple[float, str]]) -> None:
    pacer, now, shown = OutputPacer(pace), 0.0, ""
    for gap, text in feeds:
        now += gap
        pacer.feed(text, now)
        shown += pacer.due(now)
    assert shown + pacer.flush() == "".join(text for _, text in feeds)
    assert pacer.flush() == "" and pacer.next_at(now) is None


def test_a_steady_pace() -> None:
    times = [time for time, _ in play(20.0, [(0.0, "0123456789")])]
    gaps = [after - before for before, after in pairwise(times[:-1])]
    assert gaps == pytest.approx([1 / 20] * len(gaps))


def test_a_cluster_that_comes_in_two_parts_is_shown_as_one() -> None:
    shown = play(50.0, [(0.0, "cafe"), (HOLD / 2, "\u0301!")])
    assert [text for _, text in shown] == ["c", "a", "f", "e\u0301", "!"]


@pytest.mark.parametrize("pace", [None, 0.0, -1.0])
def test_no_pace_is_at_once(pace: float | None) -> None:
    pacer = OutputPacer(pace)
    pacer.feed("all of it", 1.0)
    assert pacer.next_at(1.0) == 1.0
    assert pacer.due(1.0) == "all of it"
    assert pacer.next_at(1.0) is None
