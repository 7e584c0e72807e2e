"""The end of a turn of an engine whose colour can come before the last tokens, told by its log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.engine.protocols.classic import LoggedClassicFramer
from bitnet_chat.engine_output import RESET, USER_INPUT, Frame, Ready, ReplyText, TurnEnd, UnexpectedOutput
from bitnet_chat.text.utf8 import Utf8Decoder, encode

SUFFIX = "<|eot_id|>Assistant: "
PREFIXES = ["", "<|im_start|>"]
COLOUR = USER_INPUT.encode()


def fed(framer: LoggedClassicFramer, data: bytes, size: int) -> list[Frame]:
    decoder, frames = Utf8Decoder(), list[Frame]()
    for start in range(0, len(data), size):
        frames += framer.feed(decoder.decode(data[start : start + size]))
    return frames + framer.feed(decoder.flush())


def waits(framer: LoggedClassicFramer) -> list[Frame]:
    assert framer.logged("waiting for user input")
    return framer.waiting()


def started(prefix: str) -> LoggedClassicFramer:
    framer = LoggedClassicFramer(prefix, SUFFIX)
    assert fed(framer, prefix.encode() + COLOUR, 1) + waits(framer) == [Ready()]
    framer.sent()
    return framer


def said(frames: list[Frame]) -> bytes:
    return encode("".join(frame.text for frame in frames if isinstance(frame, ReplyText)))


@pytest.mark.parametrize("prefix", PREFIXES)
@given(
    reply=st.lists(st.sampled_from([b"a", b"\n", "é".encode(), b"\xf0\x9f", b"<|im_start|>", b"\x1b[1m", b" "])).map(
        b"".join
    ),
    natural=st.booleans(),
    early=st.integers(0, 40),
    size=st.sampled_from([1, 3, 1000]),
)
def test_the_colour_may_come_anywhere_before_the_end(
    prefix: str, reply: bytes, natural: bool, early: int, size: int
) -> None:
    framer = started(prefix)
    text = reply + b"\n" * natural
    at = max(0, len(text) - early)
    parts = [text[:at], COLOUR, text[at:], prefix.encode()]  # the prefix is written in one piece
    if early == 0:
        parts = [text, prefix.encode(), COLOUR]
    frames = fed(framer, b"".join([(RESET + SUFFIX).encode(), *parts]), size)
    assert not any(isinstance(frame, TurnEnd) for frame in frames), "nothing but the log ends a turn"
    if natural:
        assert not framer.logged("found an EOG token")
    frames += waits(framer)
    assert frames[-1] == TurnEnd(natural)
    assert said(frames) == reply


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_colour_of_the_models_own_is_a_part_of_the_reply(prefix: str) -> None:
    framer, own = started(prefix), b"green: " + COLOUR + b" and on " * 1000
    frames = fed(framer, (RESET + SUFFIX).encode() + own + b"\n" + prefix.encode() + COLOUR, 7)
    framer.logged("found an EOG token")
    frames += waits(framer)
    assert said(frames) == own and frames[-1] == TurnEnd(natural=True)


def test_a_message_that_holds_the_line_of_the_log_ends_nothing() -> None:
    framer = started("")
    fed(framer, (RESET + SUFFIX).encode(), 5)
    framer.logged("found an EOG token")
    framer.logged("n_past = 12")
    frames = fed(framer, b"first" + COLOUR, 2)
    assert not any(isinstance(frame, TurnEnd) for frame in frames)
    frames += waits(framer)
    assert said(frames) == b"first" and frames[-1] == TurnEnd(natural=False)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_stands_behind_a_forged_prompt_is_a_part_of_the_reply(size: int) -> None:
    """Of a build that flushes what it printed, whose prompt alone ended a reply; its log tells from the start."""
    prefix = "<|im_start|>user\n"
    framer = LoggedClassicFramer(prefix, SUFFIX, ordered=True)
    framer.logged("waiting for user input")
    assert framer.waiting() + fed(framer, prefix.encode() + COLOUR, size) == [Ready()]
    for reply in (b"so", b"so\n" + prefix.encode() + COLOUR + b" and more", b"so\n" + prefix.encode() + COLOUR):
        framer.sent()
        framer.logged("n_past = 12")
        frames = fed(framer, (RESET + SUFFIX).encode() + reply + b"\n" + prefix.encode() + COLOUR, size)
        assert not any(isinstance(frame, TurnEnd) for frame in frames)
        framer.logged("found an EOG token")
        frames += waits(framer)
        assert frames[-1] == TurnEnd(natural=True) and said(frames) == reply
    assert framer.feed("x") == [UnexpectedOutput("x")]


def test_an_ordered_build_whose_log_is_silent_is_understood() -> None:
    framer = LoggedClassicFramer("user:", SUFFIX, ordered=True)
    assert fed(framer, b"user:" + COLOUR, 1) == [Ready()]
    framer.sent()
    frames = fed(framer, (RESET + SUFFIX).encode() + b"so\nuser:" + COLOUR, 3)
    assert frames[-1] == TurnEnd(natural=True) and said(frames) == b"so"


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("natural", [True, False])
@pytest.mark.parametrize("late", ["the echo", "the reply", "its end"])
def test_a_log_line_of_an_earlier_prompt_that_is_read_late_ends_nothing(turns: int, late: str, natural: bool) -> None:
    """On pipes the log is read apart from the console: a message may be sent before the line of its prompt is read."""
    prefix = "user:"
    framer = LoggedClassicFramer(prefix, SUFFIX, ordered=True)
    assert fed(framer, prefix.encode() + COLOUR, 1) == [Ready()]
    for _ in range(turns):
        framer.sent()
        frames = fed(framer, (RESET + SUFFIX).encode() + b"so\nuser:" + COLOUR, 3)
        assert frames[-1] == TurnEnd(natural=True) and said(frames) == b"so"
    framer.sent()
    frames = []
    for part, data in (("the echo", (RESET + SUFFIX).encode()), ("the reply", b"hel"), ("its end", b"lo\n")):
        frames += fed(framer, data, 2)
        if part == late:
            for _ in range(turns + 1):
                framer.logged("found an EOG token")
                frames += waits(framer)
    frames += fed(framer, prefix.encode() + COLOUR, 2)
    assert not any(isinstance(frame, TurnEnd) for frame in frames)
    if natural:
        framer.logged("found an EOG token")
    frames += waits(framer)
    assert frames[-1] == TurnEnd(natural) and said(frames) == (b"hello" if natural else b"hello\n")


def test_the_line_of_a_prompt_counts_when_the_output_before_it_was_read() -> None:
    """Which may be later than the message that answers that prompt."""
    framer = LoggedClassicFramer("user:", SUFFIX, ordered=True)
    assert framer.logged("waiting for user input")
    assert fed(framer, b"user:" + COLOUR, 1) == [Ready()]
    framer.sent()
    assert framer.waiting() == []
    assert said(fed(framer, (RESET + SUFFIX).encode() + b"word1 word2 ", 4)) == b"word1 word2 "
    framer.logged("found an EOG token")
    frames = waits(framer) + fed(framer, b"\nuser:" + COLOUR, 4)
    assert frames[-1] == TurnEnd(natural=True)
