"""Texts on their way into SQLite and back, and what a search makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Message, ToolCall
from bitnet_chat.journal.codec import (
    contains_all,
    decode_column,
    decode_text,
    decode_tool_calls,
    encode_text,
    encode_tool_calls,
    fts_query,
    has_unindexed,
    is_valid_text,
    searchable,
    snippet,
)


@given(st.text(st.characters(codec=None)))  # type: ignore[arg-type]  # lone surrogates included
def test_any_text_comes_back(text: str) -> None:
    kept = encode_text(text)
    assert decode_text(kept) == text
    assert isinstance(kept, bytes) == any("\ud800" <= each <= "\udfff" for each in text)
    assert is_valid_text(kept)


@pytest.mark.parametrize(
    ("value", "text", "whole"),
    [
        (None, "", False),
        (5, "", False),
        (2.5, "", False),
        ("é", "é", True),
        (b"\xc3\xa9", "é", True),
        (b"\xff", "\udcff", False),
        (b"a\xffb", "a\udcffb", False),
        (b"\xed\xa0\x80", "\ud800", True),
        ("\udcff", "\udcff", False),
    ],
)
def test_what_another_program_has_written(value: object, text: str, whole: bool) -> None:
    assert decode_text(value) == text
    assert is_valid_text(value) is whole


def test_a_column_of_text_with_other_bytes() -> None:
    assert decode_column(b"caf\xe9 \xc3\xa9") == "caf\udce9 é"


@pytest.mark.parametrize(
    ("text", "indexed"),
    [
        ("two words", "two words"),
        ("世界 ok", " 世  界  ok"),
        ("ไทย", " ไ  ท  ย "),
        ("한국", " 한  국 "),
        ("\U00020000", " \U00020000 "),
        ("a\x00b\udcffc", "a b c"),
    ],
)
def test_scripts_without_blanks_are_indexed_by_character(text: str, indexed: str) -> None:
    assert searchable(text) == indexed


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ""),
        (["hello"], '"hello" *'),
        (["two", "words"], '"two" * AND "words" *'),
        (['say "hi"'], '"say ""hi""" *'),
        (["世界"], '"世  界" *'),
        (["++", "a"], '"a" *'),
        (["🙂", "..."], ""),
        (["4"], '"4" *'),
    ],
)
def test_a_query_asks_for_all_words(words: list[str], found: str) -> None:
    assert fts_query(words) == found


@pytest.mark.parametrize(
    ("word", "signs"),
    [
        ("plain", False),
        ("C++", True),
        ("C#", True),
        ("🙂", True),
        ("it's", False),
        ("a-b", False),
        ("é", False),
        ("x=1", True),
    ],
)
def test_signs_are_what_the_index_does_not_know(word: str, signs: bool) -> None:
    assert has_unindexed(word) is signs


def test_all_words_are_looked_for_whatever_their_case() -> None:
    holds = contains_all(["C++", "STRASSE"])
    assert holds("c++ in der Straße")
    assert not holds("c++ alone")
    assert not holds("strasse alone")
    assert contains_all([])("anything")


@pytest.mark.parametrize(
    ("text", "words", "room", "shown"),
    [
        ("short text", ["text"], 100, "short text"),
        ("a\n b\tc", ["b"], 100, "a b c"),
        ("0123456789" * 3, ["nothing"], 10, "0123456789…"),
        ("x" * 50 + "Needle" + "y" * 50, ["needle"], 20, "…xxxxxNeedleyyyyyyyyy…"),
        ("x" * 50 + "Needle", ["needle"], 20, "…" + "x" * 14 + "Needle"),
        ("Ein STRASSEN-Fest", ["straSSen"], 100, "Ein STRASSEN-Fest"),
        ("a" * 20 + "b" * 20, ["b", "nothing"], 8, "…aabbbbbb…"),
        ("needle" + "x" * 50, ["x", "needle"], 8, "needlexx…"),
        ("0123456789" * 3, [], 10, "0123456789…"),
        ("0123456789", [], 3, "012…"),
        ("ß" * 10 + "y" * 30 + "needle" + "z" * 40, ["NEEDLE"], 8, "…yyneedle…"),
        ("x" * 30 + "ß" + "z" * 40, ["ß"], 8, "…xxßzzzzz…"),
        ("b" * 30 + "second" + "a" * 30 + "first", ["first", "second"], 12, "…bbbsecondaaa…"),
    ],
)
def test_a_snippet_shows_the_first_word_that_is_found(text: str, words: list[str], room: int, shown: str) -> None:
    assert snippet(text, words, room) == shown


def test_a_snippet_has_a_hundred_characters() -> None:
    assert snippet("x" * 300, ["y"]) == "x" * 100 + "…"


def test_tool_calls_and_results_come_back() -> None:
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "é\udcff", "{}"))
    asked = Message("assistant", "", tool_calls=calls)
    result = Message("tool", "3", call_id="c1", tool_name="add")
    assert decode_tool_calls(encode_tool_calls(asked)) == ((calls, "", ""), True)
    assert decode_tool_calls(encode_tool_calls(result)) == (((), "c1", "add"), True)
    assert encode_tool_calls(Message("user", "hello")) == ""
    assert decode_tool_calls("") == (((), "", ""), True)


@pytest.mark.parametrize(
    "text", ["{", "[]", "5", '{"tool_calls": [{}]}', '{"tool_calls": [5]}', '{"tool_calls": 5}', "[" * 100_000]
)
def test_tool_calls_that_cannot_be_read_are_said_to_be_so(text: str) -> None:
    assert decode_tool_calls(text) == (((), "", ""), False)
