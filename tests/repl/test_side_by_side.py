"""Columns: no character is lost or altered, whatever the width, the pieces of the texts, and the size of the window."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from bitnet_chat.repl.side_by_side import SideBySide, cells_of
from bitnet_chat.text.wrap import OFF, RowWrapper

LETTERS = "ab  \n\tx.,)(-—数据、「」한국e\u0301👩\u200d💻🇩🇪ü😀"
TEXTS = st.text(st.sampled_from(LETTERS), max_size=80)
SIMPLE = st.text(st.sampled_from("abc  \n数据,."), max_size=120)


def solid(text: str) -> str:
    return re.sub(r"[ \t\n]|\x1b\[[0-9;]*m", "", text)


def pieces(draw: st.DrawFn, text: str) -> Iterator[str]:
    while text:
        size = draw(st.integers(1, len(text)))
        yield text[:size]
        text = text[size:]


# Rows


@given(st.data(), TEXTS, st.integers(2, 20))
def test_rows_hold_the_whole_text_and_fit(data: st.DataObject, text: str, columns: int) -> None:
    wrapper = RowWrapper(columns)
    rows = [row for piece in pieces(data.draw, text) for row in wrapper.feed(piece)]
    rows.append(wrapper.row)
    assert "".join(row.source for row in rows) == text
    assert solid("".join(row.text for row in rows)) == solid(text)
    assert all(wcswidth(row.text) <= columns for row in rows)


@given(st.data(), SIMPLE, st.integers(2, 20))
def test_rows_do_not_depend_on_the_pieces(data: st.DataObject, text: str, columns: int) -> None:
    whole, cut = RowWrapper(columns), RowWrapper(columns)
    expected = [*whole.feed(text), whole.row]
    assert [*(row for piece in pieces(data.draw, text) for row in cut.feed(piece)), cut.row] == expected


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("one\n\ntwo", 8, ["one", "", "two"]),
        ("a verylongword b", 6, ["a", "verylo", "ngword", "b"]),
        ("    indented", 8, ["    inde", "nted"]),
        ("数据和、模型", 6, ["数据", "和、模", "型"]),
        ("12345678 x", 8, ["12345678", "x"]),
        ("12345678    x", 8, ["12345678", "x"]),
        ("a\tb", 12, ["a       b"]),
        (f"\x1b[1mbold words{OFF} plain", 5, [f"\x1b[1mbold{OFF}", f"\x1b[1mwords{OFF}", "plain"]),
    ],
)
def test_breaks(text: str, columns: int, rows: list[str]) -> None:
    wrapper = RowWrapper(columns)
    found = [row.text for row in (*wrapper.feed(text), wrapper.row)]
    assert [each if each != f"\x1b[1m{OFF}" else "" for each in found] == rows


# The screen


class Screen:
    """A terminal, and all that it has scrolled."""

    def __init__(self, columns: int, lines: int) -> None:
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000, ratio=0.5)
        self._screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self._screen)

    def write(self, text: str) -> None:
        self._stream.feed(text)

    @property
    def rows(self) -> list[str]:
        columns = self._screen.columns
        top = ["".join(row[x].data for x in range(columns)).rstrip() for row in self._screen.history.top]
        return [*top, *(line.rstrip() for line in self._screen.display)]

    @property
    def cursor(self) -> tuple[int, int]:
        return self._screen.cursor.x, len(self._screen.history.top) + self._screen.cursor.y


def columns_of(rows: list[str], cells: int, count: int) -> list[str]:
    """The text of each column, without blanks."""
    starts = [number * (cells + 3) for number in range(count)]
    return [solid("".join(row[start : start + cells] for row in rows)) for start in starts]


NARROW = st.text(st.sampled_from("abcdef  \n.,"), max_size=200)


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(30, 60), st.integers(1, 12))
def test_all_of_every_text_is_in_the_scrollback(data: st.DataObject, count: int, columns: int, lines: int) -> None:
    texts = data.draw(st.lists(NARROW, min_size=count, max_size=count))
    screen, side = Screen(columns, lines), SideBySide(count, (columns, lines))
    screen.write("before\r\n")
    left = [list(pieces(data.draw, text)) for text in texts]
    while any(left):
        number = data.draw(st.sampled_from([number for number in range(count) if left[number]]))
        side.feed(number, left[number].pop(0))
        if not left[number]:
            side.end(number)
        elif data.draw(st.booleans()):
            side.status(number, "waiting")
        if data.draw(st.booleans()):
            screen.write(side.draw((columns, lines)))
    for number in range(count):
        side.end(number)
    screen.write(side.draw((columns, lines)))
    assert screen.cursor[0] == 0
    rows, (_, end) = screen.rows, screen.cursor
    assert rows[0] == "before"
    assert columns_of(rows[1:end], cells_of(columns, count), count) == [solid(text) for text in texts]
    assert not "".join(rows[end:]).strip()
    expected = []
    for text in texts:
        wrapper = RowWrapper(cells_of(columns, count))
        wrapped = [*wrapper.feed(text), *([wrapper.row] if wrapper.row.source else [])]
        expected.append("\n".join(row.text for row in wrapped).rstrip("\n").split("\n") if solid(text) else [])
    height = max(map(len, expected))
    assert end - 1 == height


def test_only_what_changes_is_drawn() -> None:
    side = SideBySide(2, (80, 24))
    side.feed(0, "one")
    side.draw((80, 24))
    side.feed(0, " two")
    assert side.draw((80, 24)) == "\x1b[4G two\r"
    assert side.draw((80, 24)) == ""
    side.feed(1, "x")
    assert side.draw((80, 24)) == "\x1b[42Gx\r"


@pytest.mark.parametrize("number", [0, 1])
def test_a_terminal_that_draws_a_character_wider(number: int) -> None:
    """As tmux does with conjuncts of Devanagari: the line between the columns stays, and no row is added."""
    screen, side = Screen(40, 10), SideBySide(2, (40, 10))
    cells = cells_of(40, 2)
    side.feed(1 - number, "other")
    for text in ("éé ", "n" * (cells - 3), "n", " words\n"):
        side.feed(number, text)
        screen.write(side.draw((40, 10)).replace("é", "éé"))
    side.end(0)
    side.end(1)
    screen.write(side.draw((40, 10)).replace("é", "éé"))
    rows = screen.rows[: screen.cursor[1]]
    assert [row[cells : cells + 3].rstrip() for row in rows] == [" │"] * 3
    assert "other" in rows[0] and "words" in rows[2]


@settings(deadline=None)
@given(st.data(), st.integers(2, 12))
def test_a_width_that_changes_loses_nothing(data: st.DataObject, lines: int) -> None:
    """Wide characters too. The letters of each column are its own: their order shows that all are there."""
    letters = ["abc数据 \n", "xyz模型 \n"]
    texts = [data.draw(st.text(st.sampled_from(each), max_size=150)) for each in letters]
    screen, side = Screen(90, lines), SideBySide(2, (80, lines))
    left = [list(pieces(data.draw, text)) for text in texts]
    columns = 80
    while any(left):
        number = data.draw(st.sampled_from([number for number in range(2) if left[number]]))
        side.feed(number, left[number].pop(0))
        columns = data.draw(st.sampled_from([columns, columns, 90, 60, 45]))
        screen.write(side.draw((columns, lines)))
        if data.draw(st.integers(0, 9)) == 0:
            screen.write(side.redraw())
    for number in range(2):
        side.end(number)
    screen.write(side.draw((columns, lines)))
    whole = "".join(screen.rows)
    for each, text in zip(letters, texts, strict=True):
        assert "".join(char for char in whole if char in each.strip()) == solid(text)


def test_styles_end_with_their_rows_and_go_on_after_a_resize() -> None:
    side = SideBySide(1, (12, 24))
    side.feed(0, "\x1b[1mone two three four")
    first = side.draw((12, 24))
    assert f"\x1b[1mone two{OFF}" in first
    assert f"\x1b[1mthree four{OFF}" in side.draw((17, 24))


def test_a_low_window_shows_the_last_rows() -> None:
    screen, side = Screen(80, 4), SideBySide(2, (80, 4))
    side.feed(0, "".join(f"line {number}\n" for number in range(9)))
    side.status(1, "waiting")
    screen.write(side.draw((80, 4)))
    assert [row[:12].rstrip() for row in screen.rows] == ["… 8 rows abo", "line 8", "", ""]
    side.end(0)
    side.end(1)
    screen.write(side.draw((80, 4)))
    assert [row.split("│")[0].strip() for row in screen.rows if row] == [f"line {number}" for number in range(9)]
