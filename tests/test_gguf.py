"""The header reader, on the bundled model and on files that are none."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.errors import ModelError
from bitnet_chat.models.gguf import read_header


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def texts(values: list[str]) -> bytes:
    return struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))


PAIRS = [
    pair("general.architecture", 8, text("llama")),
    pair("general.name", 8, text("Tiny")),
    pair("llama.context_length", 4, struct.pack("<I", 4096)),
    pair("general.alignment", 4, struct.pack("<I", 32)),
    pair("some.floats", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3)),
    pair("tokenizer.ggml.model", 8, text("llama")),
    pair("tokenizer.ggml.tokens", 9, texts(["a", "<s>", "</s>", "b"])),
    pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ4i", 5, 4, 1, 3, 3, 1)),
    pair("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)),
    pair("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2)),
    pair("tokenizer.ggml.add_bos_token", 7, b"\x01"),
    pair("tokenizer.chat_template", 8, text("{{ messages }}")),
]
WHOLE = b"GGUF" + struct.pack("<IQQ", 3, 0, len(PAIRS)) + b"".join(PAIRS)


def test_the_bundled_model(model: Path) -> None:
    header = read_header(model)
    assert header.architecture == "bitnet"
    assert header.size <= 4_000_000
    assert header.context_length == 2048
    assert {header.bos, header.eos} <= header.control_tokens
    assert header.eos == "<|im_end|>"
    assert "<|im_start|>" in header.chat_template
    assert header.adds_bos


def test_what_a_header_says(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(WHOLE)
    header = read_header(path)
    assert (header.architecture, header.name, header.label) == ("llama", "Tiny", "Tiny")
    assert (header.context_length, header.bos, header.eos, header.adds_bos) == (4096, "<s>", "</s>", True)
    assert header.control_tokens == {"<s>", "</s>"}
    assert header.chat_template == "{{ messages }}"


@pytest.mark.parametrize("length", range(4, len(WHOLE) - 1, 7))
def test_a_file_that_was_cut_off(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a GGUF model"),
        (b"#!/bin/sh\n", "is not a GGUF model"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("a", 9, struct.pack("<IQ", 8, 1 << 61)), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("a", 9, struct.pack("<IQ", 10, 1 << 20)), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("a", 99, b""), "damaged"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_header(path)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(ModelError, match="is a directory"):
        read_header(tmp_path)


@given(st.data())
def test_a_damaged_header_is_an_error_and_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(WHOLE)
    for at in data.draw(st.lists(st.integers(4, len(WHOLE) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged)
    with contextlib.suppress(ModelError):
        read_header(path)
