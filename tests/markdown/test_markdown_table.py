"""Tables are held until they are complete, and then stand in columns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from styled import markdown, marked, plain, style
from wcwidth import wcswidth

HEAD = "| Name | n |\n|---|--:|\n"


def test_columns() -> None:
    assert plain(style("| Name | n | mid |\n|:--|--:|:-:|\n| a | 1 | x |\n| longer | 22 | |")) == (
        "| Name   |   n | mid |\n|--------|----:|:---:|\n| a      |   1 |  x  |\n| longer |  22 |     |"
    )


def test_looks() -> None:
    lines = marked(style(HEAD + "| **a** | `1` |\n")).split("\n")
    assert lines == [
        "{2:|} {1:Name}  {2:|}   {1:n} {2:|}",
        "{2:|-------|----:|}",
        "{2:|} {2:**}{1:a}{2:**} {2:|} {2:`}{36:1}{2:`} {2:|}",
        "",
    ]


def test_it_is_held_and_says_so() -> None:
    reply = markdown()
    assert reply.feed("Look:\n\n| a") == "Look:\n\n"
    assert reply.holding == "table"
    assert reply.feed(" | b |\n|--") == ""
    assert reply.feed("-|---|\n") == "" and reply.holding == "table"
    assert reply.feed("| 1 | 2 |\n") == "" and reply.holding == "table, 1 row"
    assert reply.pause() == ""
    assert reply.feed("| 3 | 4 |\n| 5") == "" and reply.holding == "table, 2 rows"
    assert plain(reply.feed(" |\nAfter")).endswith("| 5   |     |\nAfter") and reply.holding == ""


def test_wide_characters_take_their_cells() -> None:
    text = plain(style("| 数据 | b |\n|---|---|\n| 👩‍💻 | e\u0301 |\n| abcdef | x |\n"))
    assert len({wcswidth(line) for line in text.splitlines()}) == 1


def test_cells_wrap_where_the_window_is_narrow() -> None:
    rows = "| a | a longer text that has to be wrapped, and 数据数据数据数据数据数据 |\n| b | x |\n"
    text = plain(style("| k | What it is |\n|---|---|\n" + rows, columns=30))
    assert all(wcswidth(line) <= 30 for line in text.splitlines())
    assert text == (
        "| k   | What it is           |\n"
        "|-----|----------------------|\n"
        "| a   | a longer text that   |\n"
        "|     | has to be wrapped,   |\n"
        "|     | and                  |\n"
        "|     | 数据数据数据数据数据 |\n"
        "|     | 数据                 |\n"
        "| b   | x                    |\n"
    )


def test_a_window_that_is_far_too_narrow_gets_the_source() -> None:
    source = HEAD + "| some words | and more of them |\n"
    assert plain(style(source, columns=12)) == source


@pytest.mark.parametrize(
    "text",
    [
        "| not a table\n",
        "| not\n| a table\n",
        "| a | b |\nx\n",
        "| a | b |\n|---|\n",
        "| a | b |\n|---|---x\n",
        "| a | b |\n\n|---|---|\n",
        "| a | b |\n|---|:-:-|\n",
        "> | a |\n> |---|\n",
        "- | a |\n",
        "| " + "x" * 5000 + "\n|---|\n",
    ],
)
def test_what_is_no_table_stays_as_it_is(text: str) -> None:
    assert plain(style(text)) == text
    assert plain(style(*text)) == text


def test_a_beginning_that_is_none_is_shown_when_that_is_clear() -> None:
    reply = markdown()
    assert reply.feed("| a | b |\n|--") == ""
    assert plain(reply.feed("x")) == "| a | b |\n|--x"
    assert reply.holding == ""


def test_an_interrupt_shows_what_was_held() -> None:
    for text in ("| a", "| a |\n", "| a |\n|--", "| a |\n|--|\n"):
        reply = markdown()
        reply.feed(text)
        assert plain(reply.finish()).replace(" ", "").replace("-", "").replace("|", "").replace("\n", "") == "a"
    reply = markdown()
    reply.feed(HEAD + "| one | 2 |\n| thr")
    assert plain(reply.finish()) == "| Name |   n |\n|------|----:|\n| one  |   2 |\n| thr  |     |"


def test_a_notice_in_the_middle_shows_the_rows_so_far() -> None:
    reply = markdown()
    reply.feed(HEAD + "| one | 2 |\n| thr")
    assert plain(reply.flush()) == "| Name |   n |\n|------|----:|\n| one  |   2 |\n| thr"
    assert plain(reply.feed("ee | 4 |\n| five | 5 |\nend")) == "ee | 4 |\n| five |   5 |\nend"


def test_a_notice_in_a_beginning_shows_it() -> None:
    for text in ("| a", "| a |\n", "| a |\n|--"):
        reply = markdown()
        reply.feed(text)
        assert plain(reply.flush()) == text
        assert plain(reply.feed("-|\n| b |\n") + reply.finish()) == "-|\n| b |\n"


def test_what_is_held_can_be_shown_for_the_time_being() -> None:
    reply = markdown()
    assert reply.held == []
    reply.feed("| Name | n |\n|:--")
    assert reply.held == ["| Name | n |", "|:--"]
    reply.feed("---|--:|\n| one | 2 |\n| tw")
    assert [plain(line) for line in reply.held] == ["| Name |   n |", "|------|----:|", "| one  |   2 |", "| tw"]
    assert plain(reply.feed("o | 3 |\n") + reply.finish()).endswith("| one  |   2 |\n| two  |   3 |\n")
    assert reply.held == []


def test_a_table_without_end_is_not_held_for_ever() -> None:
    reply = markdown()
    shown = reply.feed(HEAD)
    held = 0
    for number in range(1000):
        shown += reply.feed(f"| {number} | 2 |\n")
        held = max(held, number + 1 - shown.count("\n"))
    assert held < 110
    assert plain(shown + reply.finish()).count("\n") == 1002


def test_a_row_without_end_is_not_held_for_ever() -> None:
    reply = markdown()
    reply.feed(HEAD)
    shown = "".join(reply.feed("x" if number else "|") for number in range(5000))
    assert plain(shown + reply.finish()).endswith("|" + "x" * 4999)


def test_more_and_fewer_cells_than_columns() -> None:
    assert plain(style("| a | b |\n|---|---|\n| 1 | 2 | 3 |\n| 4 |\n")) == (
        "| a   | b   |     |\n|-----|-----|-----|\n| 1   | 2   | 3   |\n| 4   |     |     |\n"
    )


def test_a_bar_that_is_quoted_parts_nothing() -> None:
    assert plain(style("| a |\n|---|\n| x \\| y |\n")) == "| a      |\n|--------|\n| x \\| y |\n"


words = st.text(st.characters(codec="utf-8", exclude_characters="|\\\n`", exclude_categories=("Cc", "Zl", "Zp", "Cs")))


@given(st.lists(st.lists(words, min_size=2, max_size=2), max_size=5), st.integers(8, 100))
def test_every_character_of_every_cell_is_there(rows: list[list[str]], columns: int) -> None:
    source = "| a | b |\n|---|---|\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    assert _characters(plain(style(*source, columns=columns))) == _characters(source)


def _characters(text: str) -> list[str]:
    return sorted(char for char in text if not char.isspace() and char not in "|-:")


def test_in_a_list() -> None:
    assert plain(style("- x\n  | a |\n  |---|\n  | bcde |\n")) == "- x\n  | a    |\n  |------|\n  | bcde |\n"
