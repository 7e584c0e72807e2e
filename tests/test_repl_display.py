"""Events become text that is written once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.errors import EngineDied, FinishReason
from bitnet_chat.events import Completed, Stats
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


def display(colour: bool = False, spinner: bool = False, unicode: bool = True) -> tuple[Paper, Display]:
    paper = Paper()
    return paper, Display(paper, colour=colour, spinner=spinner, unicode=unicode)


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
    assert summary(Stats(), FinishReason.LENGTH) == "0 tokens · length"
    assert summary(Stats(tokens=1), FinishReason.CONTEXT_OVERFLOW) == "~1 token · context overflow"
