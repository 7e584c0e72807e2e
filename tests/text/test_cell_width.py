"""Cells of a terminal, and lines cut to a number of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.text.cell_width import clip, clip_styled, tail, width

RED, PLAIN = "\x1b[31m", "\x1b[0m"


@pytest.mark.parametrize(
    ("text", "cells"),
    [("", 0), ("abc", 3), ("é", 1), ("世界", 4), ("🙂", 2), ("e\u0301", 1), ("👩‍🚀", 2), ("\u0301", 0), ("é\x07", 0)],
)
def test_widths(text: str, cells: int) -> None:
    assert width(text) == cells


@pytest.mark.parametrize(
    ("text", "columns", "begun", "ended"),
    [
        ("abcdef", 6, "abcdef", "abcdef"),
        ("abcdef", 5, "abcd…", "…cdef"),
        ("abcdef", 1, "…", "…"),
        ("abcdefghijkl", 10, "abcdefghi…", "…defghijkl"),
        ("abcdef", 0, "", ""),
        ("abcdef", -3, "", ""),
        ("世界人", 6, "世界人", "世界人"),
        ("世界人", 5, "世界…", "…界人"),
        ("世界人", 4, "世…", "…人"),
        ("世界人", 2, "…", "…"),
        ("世界人", 1, "…", "…"),
        ("👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦", 5, "👩‍👩‍👧‍👦👩‍👩‍👧‍👦…", "…👩‍👩‍👧‍👦👩‍👩‍👧‍👦"),
    ],
)
def test_a_line_is_cut_between_characters(text: str, columns: int, begun: str, ended: str) -> None:
    assert clip(text, columns) == begun
    assert tail(text, columns) == ended


@given(st.text("ab世🙂é", max_size=40), st.integers(0, 30))
def test_what_was_cut_fits(text: str, columns: int) -> None:
    assert width(clip(text, columns)) <= columns
    assert width(tail(text, columns)) <= columns
    assert text.startswith(clip(text, columns).removesuffix("…"))
    assert text.endswith(tail(text, columns).removeprefix("…"))


def test_styles_take_no_cells() -> None:
    line = f"{RED}abc{PLAIN}def"
    assert clip_styled(line, 6) == line
    assert clip_styled(line, 5) == f"{RED}abc{PLAIN}d…"
    assert clip_styled(line, 3) == f"{RED}abc{PLAIN}"
    assert clip_styled(line, 2) == f"{RED}a…{PLAIN}"
    assert clip_styled(line, 1) == f"{RED}…{PLAIN}"
    assert clip_styled(line, 0) == f"{RED}{PLAIN}"
