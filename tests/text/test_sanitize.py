"""Nothing that a terminal acts on gets through, and nothing else is touched."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitnet_chat.text.sanitize import Sanitizer, one_line, visible, visible_characters

ODD = "\r\n\t\x1b\x9b\u202e\udcf0\u200d\u200c\ufe0f\u200f\U0001f3f4\U000e0067\U000e007f\u05d0a\U0001f469\u0e01\u200b"
any_text = st.text(st.characters(codec=None, categories=None) | st.sampled_from(ODD))


def is_dangerous(character: str) -> bool:
    return (
        (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


def is_without_a_glyph(character: str) -> bool:
    fillers = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
    selects = "\ufe00" <= character <= "\ufe0f" or "\u180b" <= character <= "\u180f"
    of_plane_14 = "\U000e0000" <= character <= "\U000e0fff"
    return selects or of_plane_14 or character in fillers or unicodedata.category(character) == "Cf"


@given(any_text)
@example("".join(map(chr, range(0x2100))))
@example("".join(map(chr, range(0xD800, 0xE000))))
def test_nothing_dangerous_is_left(text: str) -> None:
    assert not any(map(is_dangerous, visible(text)))
    assert not any(map(is_dangerous, one_line(text)))
    visible(text).encode()


@given(any_text.map(lambda text: "".join(c for c in text if not (is_dangerous(c) or is_without_a_glyph(c)))))
@example("tab\there\nand 数据 👩\u200d💻 ❤\ufe0f\u200d🔥 1\ufe0f\u20e3 e\u0301 \u200eשלום\u200f. می\u200cخواهم")
@example("葛\U000e0100 กข\u200bก ᠠ\u180b 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f क\u094d\u200dष")
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


@given(any_text)
def test_it_is_done_after_one_pass(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@given(st.lists(any_text))
@example(["a\r", "\nb\r", "\r", "c\r"])
@example(
    [
        "👩",
        "\u200d",
        "💻\ufe0f",
        "\ufe0f\u200d",
        "x",
        "🏴\U000e0067\U000e0062\U000e0065",
        "\U000e006e\U000e0067",
        "\U000e007f",
    ]
)
@example(["🏴", *["\U000e0067"] * 100, "\U000e007f"])
def test_any_cut_gives_the_whole(parts: list[str]) -> None:
    sanitizer = Sanitizer()
    assert "".join(map(sanitizer.feed, parts)) + sanitizer.flush() == visible("".join(parts))
    line = "".join(parts).replace("\r", "")
    assert "".join(visible_characters(line)) == visible(line)


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
        ("ig\u200dn\u200core", "ig<U+200D>n<U+200C>ore"),
        ("see\U000e0068\U000e0069", "see<U+E0068><U+E0069>"),
        ("🏴\U000e0068\U000e0069\U000e007f", "🏴<U+E0068><U+E0069><U+E007F>"),
        ("😀\ufe01\ufe02\U000e0101", "😀\ufe01<U+FE02><U+E0101>"),
        ("a\ufe0f\u180e\u115f\u3164\uffa0", "a<U+FE0F><U+180E><U+115F><U+3164><U+FFA0>"),
        ("ab\u200e\u200f\u061c", "ab<U+200E><U+200F><U+061C>"),
        ("\ufff9\ufffa\ufffb\u206a\u206f\u2060\u2063", "<U+FFF9><U+FFFA><U+FFFB><U+206A><U+206F><U+2060><U+2063>"),
        ("\ufeffsoft\u00adhyphen\u200b", "<U+FEFF>soft<U+00AD>hyphen<U+200B>"),
    ],
)
def test_what_things_become(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_one_line() -> None:
    assert one_line(" a\n\tb \r\n c\x1b[0m ") == "a b c␛[0m"


def test_what_has_no_glyph_is_linear_in_time() -> None:
    """Counted, not timed: each place is looked at once."""
    text = "\u200d\U000e0041" * 5_000
    assert len(visible(text)) == 5_000 * len("<U+200D><U+E0041>")
    sanitizer = Sanitizer()
    assert "".join(map(sanitizer.feed, text)) + sanitizer.flush() == visible(text)
