"""Texts that end a reply: none is ever shown, not even in part, and nothing before them is lost."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_backend import Gate, ScriptedBackend

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Started, TextDelta, ThinkingDelta
from bitnet_chat.filters.stop_texts import StopTextScanner

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def expected(text: str, stops: list[str]) -> str:
    """Said in another way: at each character, whether a stop text ends there; the longest begins first."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))]
    return text


@given(LETTERS, STOPS, st.lists(st.integers(0, 30)))
def test_the_first_that_is_complete_ends_the_reply_in_any_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    scanner = StopTextScanner(stops)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    shown, whole = "", expected(text, stops)
    for start, end in pairwise(edges):
        shown += scanner.feed(text[start:end])
        assert whole.startswith(shown)
        # What is held back is the beginning of a stop text, and nothing else.
        held = whole[len(shown) :] if end == len(text) and not scanner.found else ""
        assert not held or any(stop.startswith(held) for stop in stops)
    assert shown + scanner.flush() == whole
    assert bool(scanner.found) == (whole != text)


def test_nothing_is_passed_on_behind_one() -> None:
    scanner = StopTextScanner(["END", ""])
    assert [scanner.feed("one E"), scanner.feed("ND two"), scanner.feed("three"), scanner.flush()] == [
        "one ",
        "",
        "",
        "",
    ]
    assert scanner.found == "END"


@pytest.mark.parametrize(
    ("stops", "text", "shown", "found"),
    [
        (["b", "abcd"], "xabcd", "xa", "b"),
        (["bc", "abc"], "xabcd", "x", "abc"),
        (["c", "b"], "abc", "a", "b"),
        (["a"], "a", "", "a"),
        (["x"], "abc", "abc", ""),
        ([], "abc", "abc", ""),
    ],
)
def test_the_one_that_is_complete_first(stops: list[str], text: str, shown: str, found: str) -> None:
    scanner = StopTextScanner(stops)
    assert (scanner.feed(text) + scanner.flush(), scanner.found) == (shown, found)


def replies(*steps: Event | Gate, stop: tuple[str, ...], markers: bool = True) -> list[Event]:
    async def main() -> list[Event]:
        inner = ScriptedBackend(lambda _: steps)
        inner.start()
        backend = GuardedBackend(inner, GuardLimits(markers=markers))
        events = [event async for event in backend.reply(Conversation().with_user("go"), ReplyOptions(stop=stop))]
        assert inner.calls.count("interrupt") == (isinstance(steps[-2], Gate))
        return events

    return asyncio.run(main())


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_the_reply_ends_in_order_and_the_backend_is_told() -> None:
    steps = [
        Started(),
        TextDelta("one\n"),
        TextDelta("two\nE"),
        TextDelta("ND"),
        Gate(),
        Completed(FinishReason.STOP, ""),
    ]
    events = replies(*steps, stop=("\nEND",))
    end = events[-1]
    assert isinstance(end, Completed) and (end.reason, end.text) == (FinishReason.STOP, "one\ntwo")
    assert text_of(events) == "one\ntwo"


def test_one_at_the_very_end_and_half_of_one() -> None:
    said = Completed(FinishReason.LENGTH, "no more EN")
    events = replies(Started(), TextDelta("no more EN"), said, stop=("END",))
    assert text_of(events) == "no more EN" and events[-1] == said
    events = replies(Started(), TextDelta("x<|im_end|>END"), Gate(), said, stop=("END",))
    end = events[-1]
    assert isinstance(end, Completed) and end.reason is FinishReason.ROLE_MARKER and text_of(events) == "x"


def test_thoughts_are_not_looked_at() -> None:
    thought = ThinkingDelta("I shall say END")
    events = replies(Started(), thought, TextDelta("END"), Gate(), Completed(FinishReason.STOP, ""), stop=("END",))
    assert thought in events and text_of(events) == ""
    assert isinstance(events[-1], Completed) and events[-1].reason is FinishReason.STOP
