"""Words stay whole at the edge, each character is there at once and only once, whatever the window does."""

from __future__ import annotations

import re

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records import check_immutable
from styled import rows
from wcwidth import iter_graphemes

from bitnet_chat.text.cell_width import width
from bitnet_chat.text.wrap import RowWrapper, WordWrapper, wrapped

TEXT = """\
The quick brown fox jumped over the surrounded lazy dog, see https://example.org/a/very/long/address?x=1&y=2 and so on.
数据模型，是一种“抽象”。模型组织了数据元素并标准化它们 and mixed 文字abc文字. 한국어 단어는 나누지 않습니다 정말로.
  \x1b[1mbold words that go\x1b[0m on   and on\tand on
- item
> quotation — 👍🏽👍🏽👍🏽👍🏽👍🏽 สวัสดีครับผมชื่อจอห์นและนี่
"""
CODE = "```python\ndef answer(x): return 'a string that is long'  # and a comment\n```\nthe last words of it all\n"
SHORT = (
    "a",
    "word",
    "surrounded",
    "\x1b[1mbold 数 words\x1b[0m",
    "数据。",
    "“数”",
    "👩\u200d💻",
    "e\u0301",
    "❤\ufe0f",
    "한국어",
    "กข",
)
WORDS = st.sampled_from((*SHORT, "x" * 50, " ", "  ", "\n", "```\n", "- ", "> ", "—"))
texts = st.lists(WORDS, max_size=60).map("".join)


def screen(*parts: str, columns: int) -> str:
    """What a terminal shows that has got these parts."""
    wrapper, shown = WordWrapper(lambda: columns), pyte.Screen(columns, 60)
    shown.set_mode(pyte.modes.LNM)
    stream = pyte.Stream(shown)
    for part in parts:
        stream.feed(wrapper.feed(part))
    return "\n".join(line.rstrip() for line in shown.display).rstrip()


def pieces(text: str) -> list[str]:
    return [match[0] for match in re.finditer(r"\x1b\[[0-9;]*m|[\s\S]", text)]


@pytest.mark.parametrize("columns", [100, 80, 40, 23])
def test_words_stay_whole_whatever_the_parts(columns: int) -> None:
    text = TEXT.rpartition("\n>")[0]  # pyte knows nothing of characters of several code points
    whole = screen(text, columns=columns)
    assert screen(*pieces(text), columns=columns) == whole
    shown = whole.split("\n")
    for word in re.findall(r"[a-zA-Z가-힣,.]{2,}", re.sub(r"https\S+|\x1b\[\dm", "", text)):
        assert any(word in line for line in shown), f"{word} was broken"
    assert not any(line[0] in "，。”" or line[-1] == "“" for line in shown if line)
    assert "文字abc文" in whole.replace("\n", "")
    if columns == 40:
        assert "https://example.org/a/very/long/address?" in shown and "x=1&y=2 and so on." in shown


@pytest.mark.parametrize("columns", [80, 40])
def test_code_is_left_to_the_terminal(columns: int) -> None:
    """What is copied from the screen is the line as it is."""
    for parts in ([CODE], pieces(CODE)):
        wrapper = WordWrapper(lambda: columns)
        assert "".join(map(wrapper.feed, parts)).startswith(CODE.partition("the last")[0])
    assert rows(WordWrapper(lambda: 20).feed(CODE))[-3:] == ["the last words of", "it all", ""]


def test_the_word_under_way_is_written_again_and_nothing_else() -> None:
    wrapper = WordWrapper(lambda: 20)
    assert wrapper.feed("The quick brown fo") == "The quick brown fo"
    assert wrapper.feed("x") == "x"
    assert wrapper.feed("es") == "\x1b[4D\x1b[K\nfoxes"
    assert wrapper.feed(" jump over") == " jump over"
    assert wrapper.feed(" surrounded") == "\nsurrounded"


def test_blanks_before_a_word_are_erased_with_it() -> None:
    wrapper = WordWrapper(lambda: 12)
    assert [wrapper.feed(text) for text in ("word ", " ", "lon")] == ["word ", " ", "lon"]
    assert wrapper.feed("gerr") == "\x1b[5D\x1b[K\nlongerr"
    assert WordWrapper(lambda: 10).feed("abcdefgh ") == "abcdefgh ", "a blank may be in the last cell that is used"


def test_a_word_that_does_not_fit_takes_its_style_along() -> None:
    wrapper = WordWrapper(lambda: 10)
    wrapper.feed("word ")
    assert wrapper.feed("\x1b[1mlonger") == "\n\x1b[1mlonger"


def test_a_look_does_not_reach_into_the_next_row() -> None:
    wrapper = WordWrapper(lambda: 20)
    assert wrapper.feed("\x1b[1mThe quick brown fo") == "\x1b[1mThe quick brown fo"
    assert wrapper.feed("xes\x1b[0m") == "\x1b[3D\x1b[K\x1b[0m\n\x1b[1mfoxes\x1b[0m"


@settings(deadline=None, max_examples=50)
@given(texts, st.lists(st.tuples(st.integers(1, 12), st.integers(2, 60)), min_size=1))
@example("x" * 45 + " and surrounded words of it", [(44, 60), (99, 30)])
@example("word数据。", [(3, 3)])
def test_no_character_is_lost_or_written_twice(text: str, parts: list[tuple[int, int]]) -> None:
    """In any parts, and with a window that changes between them."""
    size = 30
    wrapper, shown, left, number = WordWrapper(lambda: size), "", pieces(text), 0
    while left:
        count, size = parts[number % len(parts)]
        number += 1
        shown += wrapper.feed("".join(left[:count]))
        del left[:count]
    assert "".join("".join(rows(shown)).split()) == "".join(re.sub(r"\x1b\[\d*m", "", text).split())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(SHORT), max_size=60).map(" ".join), st.integers(13, 60))
def test_no_row_is_too_long(text: str, columns: int) -> None:
    whole, wrapper = WordWrapper(lambda: columns).feed(text), WordWrapper(lambda: columns)
    for row in rows(whole):
        assert row == row.strip()
        # Where a terminal shows the parts of an emoji side by side, it fits as well.
        assert sum(max(width(each), sum(map(width, each))) for each in iter_graphemes(row)) < columns
    assert "".join(map(wrapper.feed, pieces(text))).count("\n") == whole.count("\n")


def test_a_long_word_with_an_accent_ends_where_one_without_it_does() -> None:
    texts = [WordWrapper(lambda: 20).feed(char * 23 + " and so on it goes") for char in "eé"]
    assert texts == [char * 23 + " and so on it\ngoes" for char in "eé"]


def test_nothing_is_broken_where_no_terminal_is() -> None:
    wrapper = WordWrapper(None)
    assert wrapper.feed("word " * 100) == "word " * 100
    assert not wrapper.fresh
    wrapper.feed("\n")
    assert wrapper.fresh


def test_lines_of_our_own() -> None:
    assert wrapped("a notice that is long", 10) == "a notice\nthat is\nlong"
    assert wrapped("It died\n  do this and that\n  | the log of it", 12) == (
        "It died\n  do this\n  and that\n  | the log\n    of it"
    )
    assert wrapped("/help   this list of it", 20) == "/help   this list\n        of it"
    assert wrapped("/export FORMAT [FILE]  the same of it", 20) == "/export FORMAT\n    [FILE]  the\n    same of it"
    assert wrapped("``` one two three", 8) == "``` one\ntwo\nthree"
    assert wrapped("> quoted words", 10) == "> quoted\n  words"
    assert wrapped("\x1b[2mdim words that go on\x1b[0m", 12) == "\x1b[2mdim words\x1b[0m\n\x1b[2mthat go on\x1b[0m"
    assert wrapped("", 10) == "" and wrapped("word", 1) == "word"
    assert wrapped("/help   this list", 14) == "/help   this\n        list", "a column of commands takes up to 60 %"
    assert wrapped("/help   this list", 13) == "/help   this\n    list"
    assert wrapped("/helps   this list", 15) == "/helps   this\n         list"
    assert wrapped("> > > quotes", 12) == "> > > quotes"[:5] + "\n      quotes"
    assert wrapped("> > > quotes", 11) == "> > >\nquotes"


@pytest.mark.parametrize(("before", "room"), [("ab\t", 11), ("abcdefg\t", 11), ("a 2345678\t", 3)])
def test_a_tab_reaches_to_the_next_eighth_column(before: str, room: int) -> None:
    assert wrapped(before + "x" * room, 20) == before + "x" * room
    assert wrapped(before + "x" * (room + 1), 20) == before.rstrip() + "\n" + "x" * (room + 1)


@pytest.mark.parametrize(
    ("before", "in_code"),
    [
        ("```\n", True),
        ("```python\n", True),
        ("~~~ a `b\n", True),
        ("- ```\n", True),
        ("12. ~~~\n", True),
        ("> ```\n", True),
        ("\t```\n", True),
        ("``\n", False),
        ("```a`b\n", False),
        ("x ```\n", False),
        ("-```\n", False),
        ("```\n```\n", False),
        ("```\n````\n", False),
        ("```\n> ``` \n", False),
        ("````\n```\n", True),
        ("```\n~~~\n", True),
        ("```\n``~\n", True),
        ("```\n``` x\n", True),
        ("``` " + "x" * 115 + " `\n", True),
        ("``` " + "x" * 114 + " `\n", False),
    ],
)
def test_what_is_code(before: str, in_code: bool) -> None:
    """Its lines are not broken. Only the first 120 characters of a fence are looked at."""
    for parts in ([before], list(before)):
        wrapper = WordWrapper(lambda: 20)
        for part in parts:
            wrapper.feed(part)
        assert (wrapper.feed("word " * 10) == "word " * 10) == in_code
    plain = WordWrapper(lambda: 20, code=False)
    plain.feed(before)
    assert plain.feed("word " * 10) != "word " * 10


def fed(text: str, columns: int = 20) -> WordWrapper:
    wrapper = WordWrapper(lambda: columns)
    wrapper.feed(text)
    return wrapper


@pytest.mark.parametrize(
    ("before", "size"),
    [
        ("```\n" + "x" * 10, 4),
        ("```\n" + "x" * 25, 7),
        ("```\n" + "x" * 45, 7),
        ("```\n\tx", 5),
        ("```\nab\t", 5),
        ("```\n\t\t", 1),
        ("x" * 30, 4),
        ("é" * 30, 4),
        ("x" * 22 + "数", 7),
        ("```\n", 9),
    ],
)
def test_how_much_stays_in_the_row_of_the_cursor(before: str, size: int) -> None:
    """Of characters that may be two cells wide each."""
    assert fed(before).stays("x" * size) and not fed(before).stays("x" * (size + 1))


def test_words_leave_their_row_with_a_newline() -> None:
    assert fed("word " * 10).stays("x" * 1000)


@pytest.mark.parametrize(
    ("text", "settled", "fresh"),
    [
        ("", True, True),
        ("a", True, False),
        ("a\n", True, True),
        (" ", True, False),
        ("```\n" + "x" * 19, True, False),
        ("```\n" + "x" * 20, False, False),
        ("```\n" + "x" * 21, True, False),
        ("👩\u200d💻", False, False),
        ("👩\u200d💻 a", False, False),
        ("👩\u200d💻\n", True, True),
        ("数", True, False),
    ],
)
def test_where_the_cursor_is(text: str, settled: bool, fresh: bool) -> None:
    assert (fed(text).settled, fed(text).fresh) == (settled, fresh)


def test_a_resized_window_hides_the_place_of_the_cursor() -> None:
    columns = 20
    wrapper = WordWrapper(lambda: columns)
    wrapper.feed("0123456789")
    columns = 11
    wrapper.feed("")
    assert wrapper.settled, "the row is still a row"
    columns = 10
    wrapper.feed("")
    assert not wrapper.settled and not wrapper.fresh and not wrapper.stays("a")
    assert wrapper.feed("ab cd") == "ab\ncd" and wrapper.settled
    columns = 40
    assert wrapper.feed(" " + "e" * 20) == " " + "e" * 20 and wrapper.settled


def test_a_combining_mark_takes_no_cell() -> None:
    for mark in ("\u0300", "\u0301"):
        assert WordWrapper(lambda: 6).feed(f"a cde{mark}") == f"a cde{mark}"
        assert WordWrapper(lambda: 6).feed(f"a cdef{mark}") == f"a\ncdef{mark}"
        wrapper = WordWrapper(lambda: 6)
        assert [wrapper.feed(each) for each in ("a cde", mark, "f")] == ["a cde", mark, f"\x1b[4D\x1b[K\ncde{mark}f"]


def test_another_text_begins_behind_one_that_was_written() -> None:
    wrapper = fed("```\n")
    wrapper.begin()
    assert wrapper.fresh and wrapper.feed("word " * 5) != "word " * 5, "the fence is forgotten"
    wrapper.begin("```\nx\n")
    assert wrapper.feed("word " * 5) == "word " * 5, "it goes on in code"
    wrapper.begin("word")
    assert wrapper.feed("```\n") == "```\n" and wrapper.feed("word " * 5) != "word " * 5, "no fence in mid-line"
    wrapper.begin("word\n")
    wrapper.feed("```\n")
    assert wrapper.feed("word " * 5) == "word " * 5
    wrapper.begin("\x1b[1mbold")
    assert wrapper.look == "\x1b[1m"
    wrapper.begin()
    assert wrapper.look == ""


def test_a_moved_emoji_may_take_more_cells_in_its_new_row_too() -> None:
    programmer = "👩\u200d💻"
    assert WordWrapper(lambda: 10).feed(f"aaaa {programmer}! bbb") == f"aaaa\n{programmer}! bbb"
    assert WordWrapper(lambda: 10).feed(f"aaaa {programmer}! bbbb") == f"aaaa\n{programmer}!\nbbbb"


BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


@pytest.mark.parametrize(
    ("cells", "text", "rows"),
    [
        (10, "one two   three", [("one two", "one two   "), ("three", "three")]),
        (10, "a\n\nb\n", [("a", "a\n"), ("", "\n"), ("b", "b\n"), ("", "")]),
        (5, "   ", [("", "   ")]),
        (5, "ab   \nc", [("ab", "ab   \n"), ("c", "c")]),
        (5, "abcde f", [("abcde", "abcde "), ("f", "f")]),
        (5, "abcd f", [("abcd", "abcd "), ("f", "f")]),
        (4, " ab cd", [(" ab", " ab "), ("cd", "cd")]),
        # a tab
        (10, "a\tb\tc", [("a       b", "a\tb\t"), ("c", "c")]),
        (8, "a\tb", [("a", "a\t"), ("b", "b")]),
        (20, "\t\tab", [(" " * 16 + "ab", "\t\tab")]),
        (6, "abc\tdef", [("abc", "abc\t"), ("def", "def")]),
        # words that are longer than a row
        (4, "abcdefghi", [("abcd", "abcd"), ("efgh", "efgh"), ("i", "i")]),
        (4, "abcd   ef", [("abcd", "abcd   "), ("ef", "ef")]),
        (6, "  abcdefgh", [("  abcd", "  abcd"), ("efgh", "efgh")]),
        (1, "abc", [("ab", "ab"), ("c", "c")]),
        # scripts without blanks, opening and closing marks
        (5, "数据模型", [("数据", "数据"), ("模型", "模型")]),
        (4, "数据，模型", [("数", "数"), ("据，", "据，"), ("模型", "模型")]),
        (7, "(数)数(数)", [("(数)数", "(数)数"), ("(数)", "(数)")]),
        (6, "a—b—cdef", [("a—b—", "a—b—"), ("cdef", "cdef")]),
        (6, "ab 가가", [("ab", "ab "), ("가가", "가가")]),
        (6, "ab \u1100\u1100", [("ab", "ab "), ("\u1100\u1100", "\u1100\u1100")]),
        (6, "ab \u1e01\u1e01\u1e01\u1e01", [("ab", "ab "), ("\u1e01" * 4, "\u1e01" * 4)]),
        (6, "ab 한국어", [("ab", "ab "), ("한국어", "한국어")]),
        (7, "a สวัสดีครับ", [("a สวัสดีค", "a สวัสดีค"), ("รับ", "รับ")]),
        # grapheme clusters
        (6, "👨\u200d👩\u200d👧ab", [("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"), ("ab", "ab")]),
        (5, "e\u0301" * 6, [("e\u0301" * 5, "e\u0301" * 5), ("e\u0301", "e\u0301")]),
        (6, "👩\u200d💻abcd", [("👩\u200d💻", "👩\u200d💻"), ("abcd", "abcd")]),
        (5, "❤\ufe0f❤\ufe0f❤", [("❤\ufe0f❤\ufe0f❤", "❤\ufe0f❤\ufe0f❤")]),
        # styles: a row ends with its style, and the next one begins with it
        (12, f"one {BOLD}two{PLAIN}", [(f"one {BOLD}two{PLAIN}", f"one {BOLD}two{PLAIN}")]),
        (
            12,
            f"{BOLD}bold words here{PLAIN} x",
            [(f"{BOLD}bold words{PLAIN}", f"{BOLD}bold words "), (f"{BOLD}here{PLAIN} x{PLAIN}", f"here{PLAIN} x")],
        ),
        (5, f"ab {BOLD}cdef{PLAIN}", [("ab", "ab "), (f"{BOLD}cdef{PLAIN}", f"{BOLD}cdef{PLAIN}")]),
        (5, f"{BOLD}ab{PLAIN} cdef", [(f"{BOLD}ab{PLAIN}", f"{BOLD}ab{PLAIN} "), ("cdef", "cdef")]),
        (5, "\x1b", [("", "\x1b")]),
    ],
)
def test_rows_of_a_column(cells: int, text: str, rows: list[tuple[str, str]]) -> None:
    for parts in ([text], pieces(text)):
        wrapper = RowWrapper(cells)
        found = [row for part in parts for row in wrapper.feed(part)]
        assert [(row.text, row.source) for row in [*found, wrapper.row]] == rows


def test_a_row_keeps_the_style_before_it() -> None:
    wrapper = RowWrapper(6, BOLD)
    rows = [*wrapper.feed(f"bold words{PLAIN} plain"), wrapper.row]
    assert [row.look for row in rows] == [BOLD, BOLD, ""]
    check_immutable(rows[0])
    check_immutable(wrapper._items[0])
    assert [row.text for row in rows] == [f"{BOLD}bold{PLAIN}", f"{BOLD}words{PLAIN}", "plain"]
