"""What a model thinks is told apart from what it answers, and never comes back to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.engine_output import Frame, ReplyText, ThinkingText, TurnEnd, VariantFrame
from bitnet_chat.filters.thinking import (
    DuplicatePrefixFilter,
    ThinkingFramer,
    ThinkingSplitter,
    leaves_open,
    thinking_tags,
)
from bitnet_chat.templates.builtin import TEMPLATES

TAGS = ("<think>", "</think>")


def split(text: str, sizes: list[int], *, is_open: bool = False) -> tuple[str, str]:
    """Thoughts and answer."""
    splitter = ThinkingSplitter(TAGS, is_open=is_open)
    frames: list[Frame] = []
    at = 0
    for size in [*sizes, len(text) + 1]:
        frames += splitter.feed(text[at : at + size])
        at += size
    frames += splitter.flush()
    thoughts = "".join(frame.text for frame in frames if isinstance(frame, ThinkingText))
    answer = "".join(frame.text for frame in frames if isinstance(frame, ReplyText))
    kinds = [type(frame) for frame in frames]
    assert ThinkingText not in kinds or ReplyText not in kinds or kinds.index(ReplyText) > kinds.index(ThinkingText)
    assert all(frame.text for frame in frames if isinstance(frame, ReplyText | ThinkingText))
    return thoughts, answer


CASES = {
    "thoughts and an answer": ("<think>\nhm,\n\nso\n</think>\n\n42", "hm,\n\nso", "42"),
    "no thoughts": ("42 is the answer", "", "42 is the answer"),
    "empty thoughts": ("<think>\n\n</think>\n\n42", "", "42"),
    "white space first": ("\n <think>hm</think>42", "hm", "42"),
    "white space and no thoughts": ("\n 42 ", "", "\n 42 "),
    "a tag later in the reply": ("write <think>this</think>", "", "write <think>this</think>"),
    "a tag in code": ("```\n<think>\n```", "", "```\n<think>\n```"),
    "tags in the answer": ("<think>hm</think>a <think>b</think> c", "hm", "a <think>b</think> c"),
    "an opening tag in thoughts": ("<think>a <think> b</think>c", "a <think> b", "c"),
    "thoughts without an end": ("<think>hm, and\n\n", "hm, and", ""),
    "half a closing tag at the end": ("<think>hm </thi", "hm </thi", ""),
    "half an opening tag": ("<thi", "", "<thi"),
    "another tag": ("<thinker>hm", "", "<thinker>hm"),
    "nothing": ("", "", ""),
    "only white space": (" \n", "", " \n"),
    "less than": ("<", "", "<"),
    "white space at the end of the answer": ("<think>a</think>\nb \n", "a", "b \n"),
}


@pytest.mark.parametrize("name", CASES)
def test_whole_and_byte_by_byte(name: str) -> None:
    text, thoughts, answer = CASES[name]
    for sizes in ([], [1] * len(text), [2] * len(text), [3] * len(text)):
        assert split(text, sizes) == (thoughts, answer)


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("hm\n</think>\n\n42", "hm", "42"),
        ("\n<think>\nhm\n</think>\n\n42", "hm", "42"),
        ("</think>42", "", "42"),
        ("hm, and", "hm, and", ""),
        ("<thi", "<thi", ""),
    ],
)
def test_a_prompt_that_opened_the_tag(text: str, thoughts: str, answer: str) -> None:
    for sizes in ([], [1] * len(text)):
        assert split(text, sizes, is_open=True) == (thoughts, answer)


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "/", "think>", " ", "\n", "a", "é", "\udc80"]), max_size=12
)


@given(PIECES.map("".join), st.lists(st.integers(1, 6), max_size=30), st.booleans())
def test_any_cuts_give_the_same(text: str, sizes: list[int], is_open: bool) -> None:
    whole = split(text, [], is_open=is_open)
    assert split(text, sizes, is_open=is_open) == whole
    # Nothing but tags and white space is lost: what is left can be read off the text in order.
    rest = iter(text)
    assert all(character in rest for character in "".join(whole))
    lost = len("".join(text.split())) - len("".join("".join(whole).split()))
    assert lost in {opened * len("<think>") + closed * len("</think>") for opened in range(13) for closed in range(13)}


def test_tags_are_those_that_the_template_names() -> None:
    assert thinking_tags("{{ content.split('</think>')[-1] }}") == TAGS
    assert thinking_tags("nothing", "[THINK]...[/THINK]") == ("[THINK]", "[/THINK]")
    assert thinking_tags(*TEMPLATES.values()) is None
    assert leaves_open("<|assistant|>\n<think>\n", TAGS) and not leaves_open("<think>\n\n</think>\n\n", TAGS)


def test_a_second_attempt_tells_only_what_is_new() -> None:
    for told, pieces, expected in (
        ("", ["hm"], "hm"),
        ("let me see", ["let ", "me see", ", so"], ", so"),
        ("let me see", ["let us", " go"], "\n\nus go"),
        ("let me", ["let"], ""),
        ("ab", ["abc", "d"], "cd"),
        ("abc", ["axx", "c"], "\n\nxxc"),
        ("abc", ["xyz"], "\n\nxyz"),
        ("abc", ["ab", "ad"], "\n\nad"),
    ):
        retelling = DuplicatePrefixFilter(told)
        assert "".join(map(retelling.feed, pieces)) == expected


class WordFramer:
    """A framer that takes each text for a part of the reply, and a full stop for its end. A digit in front of it is the
    number of one of several replies."""

    kind, reply = "words", "so far"

    def __init__(self) -> None:
        self.calls: list[object] = []

    def feed(self, text: str) -> list[Frame]:
        if text[:1].isdigit():
            return [VariantFrame(int(text[0]), each) for each in self.feed(text[1:])]  # type: ignore[arg-type]
        whole, stop, _ = text.partition(".")
        return [*([ReplyText(whole)] if whole else []), *([TurnEnd(False)] if stop else [])]

    def sent(self, data: bytes = b"") -> None:
        self.calls.append(("sent", data))

    def continued(self, data: bytes = b"") -> None:
        self.calls.append(("continued", data))

    def commanded(self, data: bytes = b"") -> None:
        self.calls.append(("commanded", data))

    def interrupted(self) -> None:
        self.calls.append("interrupted")

    def logged(self, line: str) -> bool:
        return line == "known"

    def waiting(self) -> list[Frame]:
        return [ReplyText("waiting")]

    def settle(self) -> list[Frame]:
        return [ReplyText("settled")]

    def eof(self, *, clean: bool) -> list[Frame]:
        return [ReplyText("end"), *([TurnEnd(False)] if clean else [])]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_framer_splits_replies_to_messages(is_open: bool) -> None:
    framer = ThinkingFramer(WordFramer(), TAGS, is_open=is_open)
    opening = "" if is_open else "<think>"
    assert framer.feed("<think>before") == [ReplyText("<think>before")], "before a message there is no reply"
    for _ in range(2):
        framer.sent(b"hello")
        assert framer.feed(f"{opening}hm</think>so") == [ThinkingText("hm"), ReplyText("so")]
        assert framer.feed("<think>.") == [ReplyText("<think>"), TurnEnd(False)]
    framer.sent()
    assert framer.feed(f"{opening}hm</thi.") == [ThinkingText("hm"), ThinkingText("</thi"), TurnEnd(False)]
    framer.sent()
    assert framer.feed("<thi.") == [*([ThinkingText("<thi")] if is_open else [ReplyText("<thi")]), TurnEnd(False)]


@pytest.mark.parametrize("method", ["continued", "commanded"])
def test_what_goes_on_has_no_thoughts(method: str) -> None:
    inner = WordFramer()
    framer = ThinkingFramer(inner, TAGS, is_open=True)
    framer.sent(b"a")
    getattr(framer, method)(b"b")
    framer.interrupted()
    assert framer.feed("<think>so") == [ReplyText("<think>so")]
    assert inner.calls == [("sent", b"a"), (method, b"b"), "interrupted"]


def test_the_rest_of_a_framer_is_that_of_the_inner_one() -> None:
    framer = ThinkingFramer(WordFramer(), TAGS, is_open=True)
    assert (framer.kind, framer.reply, framer.logged("known"), framer.logged("x")) == ("words", "so far", True, False)
    assert framer.eof(clean=True) == [ReplyText("end"), TurnEnd(False)]
    framer.sent()
    assert framer.waiting() + framer.settle() == [ThinkingText("waiting"), ThinkingText("settled")]
    assert framer.eof(clean=True) == [ThinkingText("end"), TurnEnd(False)]
    framer.sent()
    framer.feed("<thi")
    assert framer.eof(clean=False) == [ThinkingText("<thiend")]
    framer.sent()
    framer.feed("hm</th")
    assert framer.eof(clean=False) == [ThinkingText("</thend")]


def test_each_of_several_replies_has_its_thoughts() -> None:
    framer = ThinkingFramer(WordFramer(), TAGS, is_open=False)
    for _ in range(2):
        framer.sent()
        assert framer.feed("0<think>hm") == [VariantFrame(0, ThinkingText("hm"))]
        assert framer.feed("1so") == [VariantFrame(1, ReplyText("so"))]
        assert framer.feed("0</think>") == framer.feed("2<thi") == []
        assert framer.feed("0yes") == [VariantFrame(0, ReplyText("yes"))]
        assert framer.feed("2.") == [VariantFrame(2, ReplyText("<thi")), VariantFrame(2, TurnEnd(False))]
        assert framer.feed("1 <think>") == [VariantFrame(1, ReplyText(" <think>"))]


def test_the_end_of_an_engine_loses_nothing_of_several_replies() -> None:
    framer = ThinkingFramer(WordFramer(), TAGS, is_open=True)
    framer.sent()
    framer.feed("0hm</th")
    framer.feed("1hm</th.")
    framer.feed("2hm</think>a")
    assert framer.eof(clean=False) == [ThinkingText("end"), VariantFrame(0, ThinkingText("</th"))]
