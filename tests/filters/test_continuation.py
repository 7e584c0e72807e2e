"""The join between a cut reply and its continuation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.conversation.stdin_encoding import encoded_conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import PromptProgress
from bitnet_chat.filters.continuation import KnownReplyRemover, OverlapRemover, is_repeated, split_overlap
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


@given(st.text("a \n", max_size=4), st.text("a \n", max_size=8), st.lists(st.integers(1, 4), max_size=8))
def test_a_continuation_is_the_same_in_any_pieces(loose: str, text: str, sizes: list[int]) -> None:
    text += "."
    seam, told, start = OverlapRemover(loose), "", 0
    for size in [*sizes, len(text)]:
        told += seam.feed(text[start : start + size])
        start += size
    assert told == OverlapRemover(loose).feed(text)


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


# Replies that are generated again


@given(st.text("aé漢👍 \n", min_size=1, max_size=9), st.data())
def test_a_known_beginning_is_removed_wherever_it_ends(reply: str, data: st.DataObject) -> None:
    """Also within a character. No byte is lost, and none is told twice."""
    whole = encode(reply)
    at = data.draw(st.integers(0, len(whole)))
    known = whole[:at].decode("utf-8", "surrogateescape")
    remover, told, start = KnownReplyRemover(known), "", 0
    for size in [*data.draw(st.lists(st.integers(1, 3), max_size=9)), len(reply)]:
        told += remover.said(reply[start : start + size])
        start += size
    assert rejoined(known + told) == reply and not remover.is_within and not remover.differs


def test_of_another_reply_nothing_is_told() -> None:
    remover = KnownReplyRemover("abc")
    assert [remover.said(text) for text in ("a", "x", "bc", "d")] == ["", "", "", ""] and remover.differs
    remover = KnownReplyRemover("abc")
    assert remover.said("ab") == "" and remover.is_within and not remover.differs
    assert KnownReplyRemover("").said("x") == "x"
    assert KnownReplyRemover("\ud83d").differs


def test_how_much_was_generated_again() -> None:
    remover = KnownReplyRemover("abcdefgh", "hm")
    assert remover.progress(20) == PromptProgress(0, 20, repeats=True)
    remover.thought("hm")
    remover.said("abc")
    assert remover.progress(20).done == 10
    remover.said("defghi")
    assert remover.progress(20).done == 20
    remover = KnownReplyRemover("a")
    remover.said("a")
    assert remover.progress(20).done == 20


def test_known_thoughts() -> None:
    remover = KnownReplyRemover("ab", "hm so")
    assert [remover.thought(text) for text in ("hm", " so")] == ["", ""] and remover.is_within
    assert [remover.said("a"), remover.said("bc"), remover.thought("more")] == ["", "c", "more"]
    for thoughts in ("hm", "hm so on", "ha"):
        remover = KnownReplyRemover("ab", "hm so")
        assert (remover.thought(thoughts), remover.said("ab"), remover.differs) == ("", "", True)
    remover = KnownReplyRemover("ab")  # a client that has not kept them
    assert (remover.thought("hm"), remover.said("abc"), remover.differs) == ("", "c", False)


CUT = FinishReason.INTERRUPTED


@pytest.mark.parametrize(
    ("turns", "evaluated", "again"),
    [
        (1, -1, True),  # cold, as it was at first
        (1, 1, True),
        (1, 2, False),  # the context has the reply
        (2, -1, False),  # it was not read in one batch at first
        (2, 1, False),
        (2, 2, True),
        (2, 3, True),
        (2, 4, False),
    ],
)
def test_when_a_reply_is_generated_again(turns: int, evaluated: int, again: bool) -> None:
    conversation = Conversation().with_system("Be brief.")
    for number in range(turns):
        conversation = conversation.with_user(f"{number}").with_assistant("text", CUT)
    assert is_repeated(conversation, evaluated) is again


def test_replies_that_are_not_generated_again() -> None:
    asked = Conversation().with_user("Hello")
    assert not is_repeated(asked.with_assistant("", CUT), -1)
    assert is_repeated(asked.with_assistant("x" * 4000, CUT), -1)
    assert not is_repeated(asked.with_assistant("x" * 4001, CUT), -1)
    assert not is_repeated(asked.with_assistant("x", FinishReason.CONTEXT_OVERFLOW), -1)
    assert not is_repeated(Conversation().with_assistant("x", CUT), -1)
    later = Conversation().with_user("Hi").with_assistant("Hello").with_user("And?").with_assistant("x", CUT)
    assert not is_repeated(Conversation(later.turns[1:]), 0), "what precedes the message is not in the context"
    call = ToolCall("1", "add", "{}")
    used = asked.with_assistant("", FinishReason.TOOL_CALLS, tool_calls=(call,)).with_tool_result(call, "3")
    assert not is_repeated(used.with_assistant("x", CUT), 2)
    thought = asked.with_assistant("x", CUT, "hm")
    assert is_repeated(thought, 2), "a context that was read again has no thoughts"
