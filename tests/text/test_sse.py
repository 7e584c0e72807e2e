"""Server-sent events and lines of JSON: whatever the cuts, the same comes out."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import check_immutable

from bitnet_chat.text.sse import NdjsonDecoder, ServerSentEvent, SseDecoder


def decoded(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.flush()


def byte_by_byte(data: bytes) -> list[ServerSentEvent]:
    return decoded(*(data[at : at + 1] for at in range(len(data))))


CASES = {
    "one": (b"data: a\n\n", [ServerSentEvent("a")]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [ServerSentEvent("a"), ServerSentEvent("b")]),
    "cr": (b"data: a\r\rdata: b\r\r", [ServerSentEvent("a"), ServerSentEvent("b")]),
    "mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\r", [ServerSentEvent(each) for each in "abc"]),
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [ServerSentEvent("a")]),
    "bom on the second line": (b"\n\xef\xbb\xbfdata: a\n\n", []),
    "bom later": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [ServerSentEvent("a")]),
    "comments": (b": ping\n\n:\ndata: a\n: more\n\n", [ServerSentEvent("a")]),
    "no space": (b"data:a\n\n", [ServerSentEvent("a")]),
    "two spaces": (b"data:  a\n\n", [ServerSentEvent(" a")]),
    "lines": (b"data: a\ndata\ndata: b\n\n", [ServerSentEvent("a\n\nb")]),
    "empty data": (b"data\n\n", [ServerSentEvent("")]),
    "no data": (b"event: x\n\ndata: a\n\n", [ServerSentEvent("a")]),
    "named": (b"event: start\nid: 7\ndata: a\n\ndata: b\n\n", [
        ServerSentEvent("a", "start", "7"), ServerSentEvent("b", "message", "7"),
    ]),
    "id with nul": (b"id: 1\0\ndata: a\n\n", [ServerSentEvent("a")]),
    "unknown": (b"what: x\nData: y\ndata: a\n\n", [ServerSentEvent("a")]),
    "cut end": (b"data: a\n\ndata: [DONE]", [ServerSentEvent("a"), ServerSentEvent("[DONE]")]),
    "utf-8": ("data: 数据 👩‍💻\n\n".encode(), [ServerSentEvent("数据 👩‍💻")]),
    "bytes": (b"data: \xf0\x9f\n\n", [ServerSentEvent("\udcf0\udc9f")]),
    "nothing": (b"", []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_events(case: str) -> None:
    data, expected = CASES[case]
    assert decoded(data) == expected
    assert byte_by_byte(data) == expected


@settings(max_examples=50)
@given(
    st.lists(st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), max_size=8)),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 200), max_size=10),
)
def test_any_cut_gives_the_same(texts: list[str], end: bytes, cuts: list[int]) -> None:
    data = b"".join(b"data: " + text.encode() + end + end for text in texts)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[a:b] for a, b in itertools.pairwise(places)]
    assert decoded(*chunks) == [ServerSentEvent(text) for text in texts]


def test_a_cr_ends_its_line_at_once() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [ServerSentEvent("a")]
    assert decoder.feed(b"\ndata: b\r") == []
    assert decoder.feed(b"\n\r") == [ServerSentEvent("b")]


def test_an_empty_chunk_changes_nothing() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r") == decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r\n\r\n") == [ServerSentEvent("a\nb")]


def test_a_decoder_is_new_after_the_end_but_for_the_id() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"id: 7\nevent: x\ndata: a\r") == []
    assert decoder.flush() == [ServerSentEvent("a", "x", "7")]
    assert decoder.feed(b"\xef\xbb\xbfdata: b\n\n") == [ServerSentEvent("b", "message", "7")]
    assert decoder.flush() == []
    assert decoder.feed(b"\n\xef\xbb\xbfdata: c\n\n") == [], "the mark is not on the first line"


@pytest.mark.parametrize(
    ("lines", "retry"),
    [
        (b"retry: 2500\nretry: soon\nretry: 99999999999\n", 2500),
        (b"retry:0\n", 0),
        (b"retry: 999999999\nretry: 1000000000\nretry: -1\nretry:\n", 999_999_999),
        (b"data: 5\n", None),
    ],
)
def test_the_delay_of_a_reconnect(lines: bytes, retry: int | None) -> None:
    decoder = SseDecoder()
    decoder.feed(lines)
    assert decoder.retry == retry


def test_an_event_is_immutable() -> None:
    check_immutable(ServerSentEvent("a"))


@pytest.mark.parametrize("data", [b"x" * 200, b"data: " + b"x" * 200, b"data: xxxxxxxxx\n" * 20])
def test_an_event_has_an_end(data: bytes) -> None:
    for cut in (1, 7, len(data)):
        decoder = SseDecoder(limit=100)
        with pytest.raises(ValueError, match="more than 100 bytes"):
            for at in range(0, len(data), cut):
                decoder.feed(data[at : at + cut])


def test_the_limit_is_that_of_one_event() -> None:
    decoder = SseDecoder(limit=100)
    assert len(decoder.feed(b"data: 0123456789\n\n" * 50)) == 50


def test_the_limit_is_exact() -> None:
    """The bytes of the data, and those of a line that has not ended."""
    decoder = SseDecoder(limit=10)
    for _ in range(2):
        assert decoder.feed(b"data:12345") == []
        assert decoder.feed(b"\n\n") == [ServerSentEvent("12345")]
        assert decoder.feed(b"data:12345\ndata:67890\n\n") == [ServerSentEvent("12345\n67890")]
        decoder.feed(b"data:12345")
        assert decoder.flush() == [ServerSentEvent("12345")]
        decoder.feed(b"data:12345")
        assert decoder.flush() == [ServerSentEvent("12345")]
        assert decoder.feed(b": a comment is not part of it, in a whole line\n") == []
    decoder.feed(b"data:12345")
    with pytest.raises(ValueError, match="an event of more than 10 bytes"):
        decoder.feed(b"6")
    decoder = SseDecoder(limit=10)
    decoder.feed(b"data:12345\ndata:6\n")
    decoder.feed(b"data")
    with pytest.raises(ValueError, match="an event of more than 10 bytes"):
        decoder.feed(b":")


def test_a_line_of_json_has_an_exact_limit() -> None:
    decoder = NdjsonDecoder(limit=5)
    for _ in range(2):
        assert decoder.feed(b"12345") == [] and decoder.feed(b"\n123") == ["12345"]
        assert decoder.feed(b"45") == [] and decoder.flush() == ["12345"]
    assert decoder.feed(b"1\n12345") == ["1"]
    with pytest.raises(ValueError, match="a line of more than 5 bytes"):
        decoder.feed(b"6")


@pytest.mark.parametrize("decoder", [SseDecoder, NdjsonDecoder])
def test_without_a_limit_it_is_16_mib(decoder: type[SseDecoder | NdjsonDecoder]) -> None:
    made = decoder()
    assert made.feed(bytes(2**24)) == []
    with pytest.raises(ValueError, match="more than 16777216 bytes"):
        made.feed(b"x")


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=3)), st.lists(st.integers(0, 300)))
def test_lines_of_json(objects: list[dict[str, str]], cuts: list[int]) -> None:
    data = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects).encode("utf-8", "surrogatepass")
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    decoder = NdjsonDecoder()
    lines = [line for a, b in itertools.pairwise(places) for line in decoder.feed(data[a:b])]
    whole = NdjsonDecoder()
    assert lines == whole.feed(data)
    assert len(lines) == len(objects)
    assert decoder.flush() == whole.flush() == []


def test_lines_that_are_not_so_tidy() -> None:
    decoder = NdjsonDecoder(limit=20)
    assert decoder.feed(b'\xef\xbb\xbf{"a":1}\r\n\r\n  \n{"b"') == ['{"a":1}']
    assert decoder.flush() == ['{"b"']
    assert decoder.feed(b'"\xf0"\n\xef\xbb\xbf1\n') == ['"\udcf0"', "\ufeff1"], "only the first line has a mark"
    assert decoder.flush() == []
    assert decoder.feed(b"\xef\xbb\xbf2\n") == ["2"], "a new stream"
    with pytest.raises(ValueError, match="more than 20 bytes"):
        decoder.feed(b"x" * 21)
