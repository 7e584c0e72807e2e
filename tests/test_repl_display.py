"""Events become text that is written once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.errors import EngineDied, FinishReason
from bitnet_chat.events import Completed, Stats
from bitnet_chat.markdown import prose
from bitnet_chat.repl.display import Display, summary

STATS = Stats(tokens=42, time_to_first_token=0.35, seconds=2.59, exact=True)


class Paper:
    """A sink that keeps everything, and words apart from remarks."""

    def __init__(self) -> None:
        self.all = ""
        self.said = ""

    def words(self, text: str) -> None:
        self.all += text
        self.said += text

    def remarks(self, text: str) -> None:
        self.all += text


def display(colour: bool = False, spinner: bool = False, unicode: bool = True, **more: Any) -> tuple[Paper, Display]:
    paper = Paper()
    return paper, Display(paper, colour=colour, spinner=spinner, unicode=unicode, **more)


def styled(columns: int = 40) -> tuple[Paper, Display]:
    shown = prose("on", terminal=True, colour=True, columns=lambda: columns)
    return display(colour=True, spinner=True, prose=shown)


def test_a_reply() -> None:
    paper, shown = display()
    shown.words("Hel")
    assert paper.all == "Hel"
    shown.words("lo.")
    shown.completed(Completed(FinishReason.STOP, "Hello.", STATS))
    assert paper.all == "Hello.\n42 tokens · 18.3 tok/s · first token after 0.35 s · stop\n\n"
    assert paper.said == "Hello.\n"


def test_no_empty_line_after_a_reply_that_ends_its_last() -> None:
    paper, shown = display()
    shown.words("Hello.\n")
    shown.completed(Completed(FinishReason.STOP, "Hello.\n"))
    assert paper.all == "Hello.\n0 tokens · stop\n\n"


def test_colours() -> None:
    paper, shown = display(colour=True)
    shown.notice("restarted")
    shown.error(EngineDied("It died", remedy="ask again", detail="a\x1b[2J"))
    assert paper.all == "\x1b[2mrestarted\x1b[0m\n\x1b[31mIt died\n  ask again\n  | a␛[2J\x1b[0m\n\n"


def test_a_stopped_reply_is_marked() -> None:
    paper, shown = display()
    shown.words("Hel")
    shown.completed(Completed(FinishReason.INTERRUPTED, "Hel"))
    assert paper.all == "Hel [stopped]\n0 tokens · interrupted\n\n"


def test_nothing_said() -> None:
    paper, shown = display()
    shown.completed(Completed(FinishReason.STOP, ""))
    assert paper.all.startswith("[nothing was said]\n")


def test_the_spinner_leaves_nothing() -> None:
    paper, shown = display(spinner=True)
    shown.spin(0.0, "loading the model")
    shown.spin(1.25)
    assert paper.all == "\r\x1b[K⠋ 0.0 s loading the model\r\x1b[K⠙ 1.2 s"
    shown.words("Hello")
    assert paper.all.endswith("⠙ 1.2 s\r\x1b[KHello")
    before = paper.all
    shown.spin(2.0)
    assert paper.all == before


def test_a_notice_takes_the_spinners_line() -> None:
    paper, shown = display(spinner=True, unicode=False)
    shown.spin(0.0)
    shown.notice("two\nlines")
    assert paper.all == "\r\x1b[K| 0.0 s\r\x1b[Ktwo lines\n"


def test_no_spinner_without_a_terminal() -> None:
    paper, shown = display()
    shown.spin(0.0)
    assert paper.all == ""


def test_a_notice_within_a_reply_gets_its_own_line() -> None:
    paper, shown = display()
    shown.words("Hel\r")
    shown.notice("restarted")
    shown.words("lo")
    assert paper.all == "Hel␍\nrestarted\nlo"


def test_thoughts_are_dim_and_apart() -> None:
    paper, shown = display(colour=True)
    shown.thoughts("Let me")
    shown.thoughts(" see")
    shown.words("Yes")
    shown.completed(Completed(FinishReason.STOP, "Yes"))
    assert paper.said == "\x1b[2mLet me see\x1b[0m\nYes\n"


def test_thoughts_that_never_end() -> None:
    paper, shown = display(colour=True)
    shown.thoughts("Hm")
    shown.error(EngineDied("gone"))
    assert paper.all == "\x1b[2mHm\x1b[0m\n\x1b[31mgone\x1b[0m\n\n"


def test_a_newline_cut_in_two() -> None:
    paper, shown = display()
    shown.words("a\r")
    assert paper.all == "a"
    shown.words("\nb")
    assert paper.all == "a\nb"


@given(st.lists(st.text(st.characters(codec=None, categories=None))))
def test_no_word_moves_the_cursor(parts: list[str]) -> None:
    paper, shown = display()
    for part in parts:
        shown.words(part)
    shown.completed(Completed(FinishReason.STOP, "".join(parts)))
    assert all(char in "\n\t" or not (char < " " or "\x7f" <= char <= "\x9f") for char in paper.all)


def test_summary() -> None:
    assert summary(Stats(), FinishReason.STOP) == "0 tokens · stop"
    assert summary(Stats(tokens=1), FinishReason.CONTEXT_OVERFLOW) == "~1 token · the context is full"


@pytest.mark.parametrize("reason", FinishReason)
def test_every_reason_is_in_words(reason: FinishReason) -> None:
    assert "_" not in summary(Stats(), reason)


def test_thoughts_are_plain_at_the_end_of_each_line() -> None:
    paper, shown = display(colour=True)
    shown.thoughts("one\ntwo")
    shown.words("Yes")
    assert paper.said == "\x1b[2mone\x1b[0m\n\x1b[2mtwo\x1b[0m\nYes"


@pytest.mark.parametrize(
    ("mode", "lines"),
    [("fold", "thought for 12.0 s, ~34 tokens · /thinking shows it\n"), ("hide", "")],
)
def test_thoughts_that_are_not_shown(mode: str, lines: str) -> None:
    paper, shown = display(thinking=mode)
    shown.begin()
    shown.thoughts("secret")
    shown.thought(12.0, 34)
    shown.words("Yes")
    assert paper.all == f"{lines}Yes"


def test_the_spinner_turns_while_thoughts_are_folded() -> None:
    paper, shown = display(spinner=True, thinking="fold")
    shown.begin()
    shown.thoughts("secret")
    shown.spin(3.0, "thinking")
    assert paper.all == "\r\x1b[K⠋ 3.0 s thinking"
    shown.thought(3.5, 2)
    shown.words("Yes")
    shown.spin(4.0, "thinking")
    assert paper.all.endswith("thinking\r\x1b[Kthought for 3.5 s, ~2 tokens · /thinking shows it\nYes")


def test_thoughts_to_be_read_later() -> None:
    for mode in ("show", "fold", "hide"):
        paper, shown = display(colour=True, thinking=mode)
        shown.thoughts("a\x1b[2J\nb", whole=True)
        assert paper.all == "\x1b[2ma␛[2J\x1b[0m\n\x1b[2mb\x1b[0m\n\n"


def test_words_are_styled() -> None:
    paper, shown = styled()
    shown.words("a **b")
    shown.notice("restarted")
    shown.words("c** \x1b[2J")
    shown.completed(Completed(FinishReason.INTERRUPTED, "a **bc** \x1b[2J"))
    assert paper.all.startswith(
        "a \x1b[2m**\x1b[0;1mb\x1b[0m\n\x1b[2mrestarted\x1b[0m\n"
        "\x1b[1mc\x1b[0;2m**\x1b[0m ␛[2J \x1b[2m[stopped]\x1b[0m\n"
    )


def test_a_table_keeps_the_spinner_turning() -> None:
    paper, shown = styled()
    shown.begin()
    shown.words("Look:\n")
    shown.spin(1.0)
    assert paper.all == "Look:\n"
    shown.words("| a |\n|---|\n| b |\n")
    shown.spin(2.0)
    assert paper.all == "Look:\n\r\x1b[K\x1b[2m⠋ 2.0 s table, 1 row\x1b[0m"
    shown.words("\n")
    assert "\x1b[0m\r\x1b[K\x1b[2m|" in paper.all
    before = paper.all
    shown.spin(3.0)
    assert paper.all == before


def test_an_interrupt_shows_the_table_so_far() -> None:
    paper, shown = styled()
    shown.words("| a |\n|---|\n| b |\n| c")
    shown.completed(Completed(FinishReason.INTERRUPTED, "…"))
    for word in ("a", "b", "c"):
        assert paper.all.count(word) == 1 or word == "a"
    assert "[stopped]" in paper.all


def test_a_pause_shows_what_waits() -> None:
    paper, shown = styled()
    shown.words("a *")
    assert paper.all == "a "
    shown.pause()
    shown.words(" b")
    assert paper.all == "a \x1b[2m*\x1b[0m b"


def test_a_reply_that_goes_on_is_still_in_its_code() -> None:
    paper, shown = styled()
    shown.begin("```python\nif a:\n")
    shown.words("    pass\n")
    assert paper.all == "    \x1b[35mpass\x1b[0m\n"
    shown.begin()
    shown.words("pass")
    assert paper.all.endswith("\npass")
