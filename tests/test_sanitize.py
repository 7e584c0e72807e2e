"""Nothing that a terminal acts on gets through, and nothing else is touched."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitnet_chat.stream.sanitize import Sanitizer, one_line, visible

any_text = st.text(st.characters(codec=None, categories=None) | st.sampled_from("\r\n\t\x1b\x9b\u202e\udcf0"))


def is_dangerous(character: str) -> bool:
    return (
        (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


@given(any_text)
@example("".join(map(chr, range(0x2100))))
@example("".join(map(chr, range(0xD800, 0xE000))))
def test_nothing_dangerous_is_left(text: str) -> None:
    assert not any(map(is_dangerous, visible(text)))
    assert not any(map(is_dangerous, one_line(text)))
    visible(text).encode()


@given(any_text.map(lambda text: "".join(char for char in text if not is_dangerous(char))))
@example("tab\there\nand 数据 👩‍💻 e\u0301 \ufeff \u200e שלום")
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


@given(any_text)
def test_it_is_done_after_one_pass(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@given(st.lists(any_text))
@example(["a\r", "\nb\r", "\r", "c\r"])
def test_any_cut_gives_the_whole(parts: list[str]) -> None:
    sanitizer = Sanitizer()
    assert "".join(map(sanitizer.feed, parts)) + sanitizer.flush() == visible("".join(parts))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("\x00\x07\x08\x7f", "␀␇␈␡"),
        ("one\r\ntwo\rthree", "one\ntwo␍three"),
        ("\x9b2J", "<U+009B>2J"),
        ("\u202eabc\u2066", "<U+202E>abc<U+2066>"),
        ("\u2028", "<U+2028>"),
        ("\udcf0\udc9f", "<F0><9F>"),
        ("\ud800\udfff", "\ufffd\ufffd"),
    ],
)
def test_what_things_become(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_one_line() -> None:
    assert one_line(" a\n\tb \r\n c\x1b[0m ") == "a b c␛[0m"
