"""Events become text that is written once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repl_console import RecordedOutput
from styled import plain

from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Stats
from bitnet_chat.markdown import prose
from bitnet_chat.repl.display import ReplyDisplay, summary

STATS = Stats(tokens=42, time_to_first_token=0.35, seconds=2.59, exact=True)


def display(
    colour: bool = False, spinner: bool = False, unicode: bool = True, **more: Any
) -> tuple[RecordedOutput, ReplyDisplay]:
    output = RecordedOutput()
    size = (lambda: (60, 24)) if spinner else None
    return output, ReplyDisplay(output, colour=colour, spinner=spinner, unicode=unicode, **{"size": size} | more)


def below(*lines: str) -> str:
    """What draws these where the cursor is, at the start of a line, and brings it back."""
    down = len(lines) - 1
    room = "\x1bD" * down + f"\x1b[{down}A" if down else ""
    return f"{room}\x1b7" + "\r\x1b[B".join(lines) + "\x1b8"


ERASED = "\x1b[J"
ERASED_ROW = "\x1b7\x1b[B\x1b[J\x1b8\x1b[K"
HELD = [
    "| a | b |\n",
    "|---|---|\n",
    "| c | d |\n",
    "| thr",
    "ee | `",
    "**",
    "*x",
    "```python\n",
    "for",
    "'a",
    "\n",
    "> ",
    "- [",
    "1.",
]


def styled(columns: int = 40) -> tuple[RecordedOutput, ReplyDisplay]:
    shown = prose("on", terminal=True, colour=True, columns=lambda: columns)
    return display(colour=True, spinner=True, prose=shown, size=lambda: (columns + 1, 24))


def test_a_reply() -> None:
    output, shown = display()
    shown.words("Hel")
    assert output.all == "Hel"
    shown.words("lo.")
    shown.completed(Completed(FinishReason.STOP, "Hello.", STATS))
    assert output.all == "Hello.\n42 tokens · 18.3 tok/s · first token after 0.35 s · stop\n\n"
    assert output.stdout == "Hello.\n"


def test_no_empty_line_after_a_reply_that_ends_its_last() -> None:
    output, shown = display()
    shown.words("Hello.\n")
    shown.completed(Completed(FinishReason.STOP, "Hello.\n"))
    assert output.all == "Hello.\n0 tokens · stop\n\n"


def test_colours() -> None:
    output, shown = display(colour=True)
    shown.notice("restarted")
    shown.error(EngineDiedError("It died", remedy="ask again", detail="a\x1b[2J"))
    assert output.all == (
        "\x1b[2mrestarted\x1b[0m\n\x1b[31mIt died\x1b[0m\n\x1b[31m  ask again\x1b[0m\n\x1b[31m  | a␛[2J\x1b[0m\n\n"
    )


def test_a_stopped_reply_is_marked() -> None:
    output, shown = display()
    shown.words("Hel")
    shown.completed(Completed(FinishReason.INTERRUPTED, "Hel"))
    assert output.all == "Hel [stopped]\n0 tokens · interrupted\n\n"


def test_nothing_said() -> None:
    output, shown = display()
    shown.completed(Completed(FinishReason.STOP, ""))
    assert output.all.startswith("[empty reply]\n")


def test_the_spinner_leaves_nothing() -> None:
    output, shown = display(spinner=True)
    shown.spin(0.0, "loading the model")
    shown.spin(1.25)
    assert output.all == below(" ⠋ 0.0 s loading the model") + ERASED_ROW + below(" ⠙ 1.2 s")
    shown.words("Hello")
    assert output.all.endswith(f"{below(' ⠙ 1.2 s')}{ERASED_ROW}Hello")
    before = output.all
    shown.spin(2.0)
    assert output.all == before


def test_a_notice_takes_the_spinners_line() -> None:
    output, shown = display(spinner=True, unicode=False)
    shown.spin(0.0)
    shown.notice("two\nlines")
    assert output.all == f"{below(' | 0.0 s')}{ERASED_ROW}two lines\n"


def test_no_spinner_without_a_terminal() -> None:
    output, shown = display()
    shown.spin(0.0)
    assert output.all == ""


def test_a_notice_within_a_reply_gets_its_own_line() -> None:
    output, shown = display()
    shown.words("Hel\r")
    shown.notice("restarted")
    shown.words("lo")
    assert output.all == "Hel␍\nrestarted\nlo"


def test_thoughts_are_dim_and_apart() -> None:
    output, shown = display(colour=True)
    shown.thoughts("Let me")
    shown.thoughts(" see")
    shown.words("Yes")
    shown.completed(Completed(FinishReason.STOP, "Yes"))
    assert output.stdout == "\x1b[2mLet me see\x1b[0m\nYes\n"


def test_thoughts_that_never_end() -> None:
    output, shown = display(colour=True)
    shown.thoughts("Hm")
    shown.error(EngineDiedError("gone"))
    assert output.all == "\x1b[2mHm\x1b[0m\n\x1b[31mgone\x1b[0m\n\n"


def test_a_newline_cut_in_two() -> None:
    output, shown = display()
    shown.words("a\r")
    assert output.all == "a"
    shown.words("\nb")
    assert output.all == "a\nb"


@given(st.lists(st.text(st.characters(codec=None, categories=None))))
def test_no_word_moves_the_cursor(parts: list[str]) -> None:
    output, shown = display()
    for part in parts:
        shown.words(part)
    shown.completed(Completed(FinishReason.STOP, "".join(parts)))
    assert all(char in "\n\t" or not (char < " " or "\x7f" <= char <= "\x9f") for char in output.all)


def test_summary() -> None:
    assert summary(Stats(), FinishReason.STOP) == "0 tokens · stop"
    assert summary(Stats(tokens=1), FinishReason.CONTEXT_OVERFLOW) == "~1 token · the context window is full"


@pytest.mark.parametrize("reason", FinishReason)
def test_every_reason_is_in_words(reason: FinishReason) -> None:
    assert "_" not in summary(Stats(), reason)


def test_thoughts_are_plain_at_the_end_of_each_line() -> None:
    output, shown = display(colour=True)
    shown.thoughts("one\ntwo")
    shown.words("Yes")
    assert output.stdout == "\x1b[2mone\x1b[0m\n\x1b[2mtwo\x1b[0m\nYes"


@pytest.mark.parametrize(
    ("mode", "lines"),
    [("fold", "thought for 12.0 s, ~34 tokens · /thinking shows it\n"), ("hide", "")],
)
def test_thoughts_that_are_not_shown(mode: str, lines: str) -> None:
    output, shown = display(thinking=mode)
    shown.begin()
    shown.thoughts("secret")
    shown.thought(12.0, 34)
    shown.words("Yes")
    assert output.all == f"{lines}Yes"


def test_the_spinner_turns_while_thoughts_are_folded() -> None:
    output, shown = display(spinner=True, thinking="fold")
    shown.begin()
    shown.thoughts("secret")
    shown.spin(3.0, "thinking")
    assert output.all == below(" ⠋ 3.0 s thinking")
    shown.thought(3.5, 2)
    shown.words("Yes")
    shown.spin(4.0, "thinking")
    assert output.all.endswith(f"thinking\x1b8{ERASED_ROW}thought for 3.5 s, ~2 tokens · /thinking shows it\nYes")


def test_thoughts_to_be_read_later() -> None:
    for mode in ("show", "fold", "hide"):
        output, shown = display(colour=True, thinking=mode)
        shown.thoughts("a\x1b[2J\nb", whole=True)
        assert output.all == "\x1b[2ma␛[2J\x1b[0m\n\x1b[2mb\x1b[0m\n\n"


def test_words_are_styled() -> None:
    output, shown = styled()
    shown.words("a **b")
    shown.notice("restarted")
    shown.words("c** \x1b[2J")
    shown.completed(Completed(FinishReason.INTERRUPTED, "a **bc** \x1b[2J"))
    assert output.all.startswith(
        "a \x1b[2m**\x1b[0;1mb\x1b[0m\n\x1b[2mrestarted\x1b[0m\n"
        "\x1b[1mc\x1b[0;2m**\x1b[0m ␛[2J \x1b[2m[stopped]\x1b[0m\n"
    )


def test_a_table_is_shown_while_it_is_held() -> None:
    output, shown = styled()
    shown.begin()
    shown.words("Look:\n")
    shown.spin(1.0)
    assert output.all == "Look:\n"
    shown.words("| a |\n|---|\n| b |\n| c")
    shown.spin(2.0, figures="~9 tokens")
    drawn = output.all
    assert plain(drawn) == "Look:\n" + below(
        "| a   |", "|-----|", "| b   |", "| c", " ⠋ 2.0 s table, 1 row · ~9 tokens"
    )
    shown.words(" |\n")
    assert output.all == drawn
    shown.words("\n")
    assert plain(output.all[len(drawn) :]) == f"{ERASED_ROW}| a   |\n|-----|\n| b   |\n| c   |\n\n"
    before = output.all
    shown.spin(3.0)
    assert output.all == before


def test_figures_stand_below_the_words_and_are_gone_before_the_next_row() -> None:
    output, shown = display(spinner=True, size=lambda: (20, 24))
    shown.begin()
    shown.words("The quick")
    before = len(output.all)
    shown.spin(1.0, figures="~2 tokens")
    drawn = "\x1bD\x1b[1A\x1b7\r\x1b[B ⠋ ~2 tokens\x1b8"
    assert output.all[before:] == drawn
    shown.words(" brown")
    assert output.all.endswith(f"{drawn} brown")
    shown.words(" foxes")
    assert output.all.endswith(f"{ERASED}\nfoxes{drawn}")
    shown.completed(Completed(FinishReason.STOP, "…", STATS))
    assert output.all.endswith(f"foxes{drawn}{ERASED}\n42 tokens · 18.3\ntok/s · first token\nafter 0.35 s · stop\n\n")


def test_lines_of_ours_are_broken_between_words() -> None:
    output, shown = display(size=lambda: (16, 24))
    shown.notice("the engine was restarted")
    shown.lines("/help   this list of commands")
    shown.error(EngineDiedError("It died of hunger", remedy="ask it again, please", detail="a long line of a log"))
    assert output.all == (
        "the engine was\nrestarted\n/help   this\n        list of\n        commands\n\n"
        "It died of\nhunger\n  ask it again,\n  please\n  | a long line\n    of a log\n\n"
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(HELD), max_size=12).map("".join))
def test_whatever_is_held_comes_before_a_notice(text: str) -> None:
    output, shown = styled(columns=200)
    shown.words(text)
    shown.notice("NOTICE")
    said = plain(output.all).partition("NOTICE")[0]
    kept = [char for char in text if not char.isspace() and char not in "|-"]
    assert [char for char in said if not char.isspace() and char not in "|-"] == kept


def test_an_interrupt_shows_the_table_so_far() -> None:
    output, shown = styled()
    shown.words("| a |\n|---|\n| b |\n| c")
    shown.completed(Completed(FinishReason.INTERRUPTED, "…"))
    for word in ("a", "b", "c"):
        assert output.all.count(word) == 1 or word == "a"
    assert "[stopped]" in output.all


def test_a_pause_shows_what_waits() -> None:
    output, shown = styled()
    shown.words("a *")
    assert output.all == "a "
    shown.pause()
    shown.words(" b")
    assert output.all == "a \x1b[2m*\x1b[0m b"


def test_a_reply_that_goes_on_is_still_in_its_code() -> None:
    output, shown = styled()
    shown.begin("```python\nif a:\n")
    shown.words("    pass\n")
    assert output.all == "    \x1b[35mpass\x1b[0m\n"
    shown.begin()
    shown.words("pass")
    assert output.all.endswith("\npass")
