"""Bytes become characters as soon as their last byte is there, and no byte is lost."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.text.utf8 import TextBuffer, Utf8Decoder, encode, rejoined, well_formed


@given(st.binary(), st.lists(st.integers(0, 200)))
def test_bytes_come_back_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    decoder = Utf8Decoder()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    text, start = "", 0
    for end in ends:
        text += decoder.decode(data[start:end])
        start = end
    assert encode(text + decoder.flush()) == data


def test_a_character_is_there_with_its_last_byte() -> None:
    decoder = Utf8Decoder()
    assert [decoder.decode(bytes([byte])) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert decoder.flush() == ""


def test_what_is_held_comes_with_the_end_as_surrogates_and_is_forgotten() -> None:
    decoder = Utf8Decoder()
    assert decoder.decode(b"a\xf0\x9f\x99") == "a"
    assert decoder.flush() == "\udcf0\udc9f\udc99"
    assert decoder.decode(b"b") == "b" and decoder.flush() == ""


def test_bytes_in_two_parts_are_one_character_again() -> None:
    assert rejoined("a\udcc3" + "\udca9b") == "aéb"
    assert rejoined("\udcff") == "\udcff"
    assert rejoined("plain é") == "plain é"


@pytest.mark.parametrize(("text", "written"), [("plain", "plain"), ("é", "é"), ("a\udcffb\ud800", "a\ufffdb\ufffd")])
def test_what_is_written_is_utf_8(text: str, written: str) -> None:
    assert well_formed(text) == written
    assert written.encode()


@given(st.lists(st.text(max_size=3), max_size=200))
def test_a_buffer_is_the_text_of_its_pieces(pieces: list[str]) -> None:
    buffer = TextBuffer()
    for number, piece in enumerate(pieces, 1):
        buffer.add(piece)
        if number % 7 == 0:
            assert buffer.text == "".join(pieces[:number])
    assert buffer.text == "".join(pieces)


def test_a_buffer_takes_little_more_memory_than_its_text() -> None:
    """Pieces by themselves take 25 bytes or more for each of these characters."""
    buffer = TextBuffer()
    tracemalloc.start()
    try:
        for number in range(20_000):
            buffer.add(f"{number % 90 + 10}")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 3 * len(buffer.text) == 120_000
