"""The join between a cut reply and its continuation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.stdin_encoding import encoded_conversation
from bitnet_chat.filters.continuation import OverlapRemover, split_overlap
from bitnet_chat.text.utf8 import encode, rejoined


@given(
    st.text("a \n\u3000é", max_size=8), st.sampled_from([b"", "é".encode(), "漢".encode(), "👍".encode()]), st.data()
)
def test_what_is_left_out_and_made_again_is_not_told_twice(text: str, character: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, max(0, len(character) - 1)))
    reply = text + character[:at].decode("utf-8", "surrogateescape")
    kept, loose = split_overlap(reply)
    assert (
        kept + loose == reply
        and kept == encoded_conversation(Conversation().with_assistant(kept)).messages[0].content.rstrip()
    )
    # The engine makes the loose end again, and more.
    again = encode(loose) + character[at:] + b" and more"
    sizes = data.draw(st.lists(st.integers(1, 5), max_size=8))
    seam, told, start = OverlapRemover(loose), "", 0
    for size in [*sizes, len(again)]:
        told += seam.feed(again[start : start + size].decode("utf-8", "surrogateescape"))
        start += size
    assert rejoined(reply + told) == rejoined(
        (encode(reply) + character[at:] + b" and more").decode("utf-8", "surrogateescape")
    )


def test_an_engine_that_goes_on_in_another_way_is_told_as_it_is() -> None:
    assert OverlapRemover("\n\n").feed(" Next") == "Next"
    assert OverlapRemover(" \udcf0").feed(" no") == "no"
    assert OverlapRemover("\udcf0\udc9f").feed("no") == "no"
    assert OverlapRemover("").feed(" Next") == " Next"


@pytest.mark.parametrize(
    ("reply", "kept", "rest"),
    [
        ("", "", ""),
        ("so", "so", ""),
        ("so it\n\n", "so it", "\n\n"),
        ("so\udce4", "so", "\udce4"),
        ("\udce4", "", "\udce4"),
        ("so \udcf0\udc9f\udc91", "so", " \udcf0\udc9f\udc91"),
        ("so\udc91", "so\udc91", ""),
        ("so\udcff", "so\udcff", ""),
        ("so\udcf0\udc9f\udc91\udc8d", "so\udcf0\udc9f\udc91\udc8d", ""),
    ],
)
def test_what_an_engine_is_not_given(reply: str, kept: str, rest: str) -> None:
    assert split_overlap(reply) == (kept, rest)


def test_text_waits_only_while_it_may_be_the_end_of_the_reply() -> None:
    remover = OverlapRemover(" \udcf0\udc9f")
    assert [remover.feed(each) for each in (" ", "\udcf0", "\udc9f", "\udc91\udc8d", " ")] == [
        "", "", "", "\udc91\udc8d", " ",
    ]  # fmt: skip
    remover = OverlapRemover(" \n")
    assert [remover.feed(each) for each in (" ", " x", " y")] == ["", "x", " y"]
