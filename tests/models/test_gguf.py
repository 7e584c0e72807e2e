"""The header reader, on the bundled model, against the ``gguf`` package, and on files that are none."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_chat.errors import ModelError
from bitnet_chat.models import tensor_types
from bitnet_chat.models.gguf import opened, read_header
from bitnet_chat.models.info import ModelInfo, read_info, template_family

MEMORY = 10_000_000
"""Bytes that the worst file may cost."""


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
    assert (header.architecture, header.name, header.label) == ("llama", "Tiny", "tiny")
    assert (header.context_length, header.bos, header.eos, header.adds_bos) == (4096, "<s>", "</s>", True)
    assert header.control_tokens == {"<s>", "</s>"}
    assert header.chat_template == "{{ messages }}"
    assert header.shares_context


@pytest.mark.parametrize("key", ["llama.attention.sliding_window", "llama.ssm.conv_kernel"])
def test_layers_whose_memory_grows_with_the_sequences(tmp_path: Path, key: str) -> None:
    path, pairs = tmp_path / "windows.gguf", [*PAIRS, pair(key, 4, struct.pack("<I", 512))]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
    assert not read_header(path).shares_context


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
    with pytest.raises(ModelError, match="does not exist"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(ModelError, match="is a directory"):
        read_header(tmp_path)


@settings(deadline=None)
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
        read_info(path)


# Against the package that llama.cpp writes its files with.


def written(path: Path, tensors: int = 0) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    for number in range(tensors):
        writer.add_tensor(f"blk.{number}.weight", numpy.zeros((4, 8), dtype=numpy.float32))
    return writer


def closed(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def contents(path: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """All values and arrays, as our reader has them."""
    with opened(path) as cursor:
        found = cursor.contents()
        arrays: dict[str, list[Any]] = {}
        for key, array in found.arrays.items():
            numbers = array.kind != 8
            arrays[key] = (
                [each for part in cursor.numbers(array) for each in part] if numbers else list(cursor.strings(array))
            )
        return dict(found.values), arrays


def test_every_type_of_value_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "types.gguf"
    writer = written(path, tensors=1)
    numbers = {
        "uint8": 200, "int8": -100, "uint16": 60_000, "int16": -30_000, "uint32": 4_000_000_000,
        "int32": -2_000_000_000, "uint64": 1 << 63, "int64": -(1 << 62), "float32": 0.5, "float64": 0.1, "bool": True,
    }  # fmt: skip
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(f"some.{kind}", value)
    writer.add_name("Tiny é 🙂")
    writer.add_array("some.texts", ["a", "", "é🙂"])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_array("some.floats", [0.5, 1.5])
    writer.add_array("some.truths", [True, False])
    closed(writer)
    values, arrays = contents(path)
    assert {key: values[f"some.{key}"] for key in numbers} == numbers
    assert values["general.name"] == "Tiny é 🙂"
    assert arrays["some.texts"] == [b"a", b"", "é🙂".encode()]
    assert arrays["some.numbers"] == [1, -2, 3]
    assert arrays["some.floats"] == [0.5, 1.5]
    assert arrays["some.truths"] == [True, False]


def test_the_bundled_model_is_read_as_the_package_reads_it(model: Path) -> None:
    reader = gguf.GGUFReader(model)
    values, arrays = contents(model)
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        expected = field.contents()
        if key in arrays:
            ours = [each.decode() if isinstance(each, bytes) else each for each in arrays[key]]
            assert ours == expected, key
        elif key in values:
            assert values[key] == expected, key
        else:
            assert isinstance(expected, str), key  # a text that nobody here asks for
    info = read_info(model)
    assert dict(info.tensor_types) == {"TQ2_0": 28, "F32": 17, "F16": 1}
    assert info.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert info.whole_size == info.header.size == max(int(each.data_offset + each.n_bytes) for each in reader.tensors)
    assert (info.quantization, info.license, info.split, info.is_cut_off) == ("TQ2_0", "MIT", None, False)
    assert info.header.vocabulary_size == 1536


def test_tensor_types_are_those_of_the_package() -> None:
    for kind in gguf.GGMLQuantizationType:
        ours = tensor_types.tensor_type(kind.value, "llama")
        assert ours is not None
        assert (ours.name, (ours.block, ours.size)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])
    for mixture in gguf.LlamaFileType:
        if mixture is not gguf.LlamaFileType.GUESSED:
            name = mixture.name.partition("_")[2].removesuffix("_MOE")
            assert tensor_types.quantization(mixture.value, [("F32", 1)]) == name


@pytest.mark.parametrize(
    ("file_type", "elements", "expected"),
    [
        (15, {"Q4_K": 900, "Q6_K": 100, "F32": 5}, "Q4_K_M"),
        (None, {"Q4_K": 900, "Q6_K": 100}, "Q4_K"),
        (40, {"I2_S": 900, "F16": 2000}, "I2_S"),  # 40 is Q1_0 to llama.cpp
        (7777, {"F16": 1}, "F16"),
        (None, {}, ""),
    ],
)
def test_what_a_file_is_called_after(file_type: object, elements: dict[str, int], expected: str) -> None:
    assert tensor_types.quantization(file_type, elements.items()) == expected


# What a file says about itself.


def made(path: Path, pairs: list[bytes], tensors: list[bytes] = [], data: int = 0) -> Path:  # noqa: B006
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    path.write_bytes(head + b"\0" * (-len(head) % 32 + data))
    return path


def tensor(name: str, kind: int, shape: tuple[int, ...], offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def bitnet(path: Path, data: int = 160 * 64 // 4 + 32) -> Path:
    """A file like those of BitNet: I2_S is type 36, and file type 40."""
    pairs = [
        pair("general.architecture", 8, text("bitnet-b1.58")),
        pair("general.file_type", 4, struct.pack("<I", 40)),
        pair("bitnet-b1.58.block_count", 4, struct.pack("<I", 30)),
        pair("bitnet-b1.58.attention.head_count", 4, struct.pack("<I", 20)),
        pair("bitnet-b1.58.attention.head_count_kv", 4, struct.pack("<I", 5)),
        pair("bitnet-b1.58.embedding_length", 4, struct.pack("<I", 2560)),
    ]
    return made(path, pairs, [tensor("blk.0.attn_q.weight", 36, (160, 64))], data)


def test_a_bitnet_file(tmp_path: Path) -> None:
    info = read_info(bitnet(tmp_path / "b.gguf"))
    assert (info.quantization, info.needs_bitnet, info.is_cut_off) == ("I2_S", True, False)
    assert (info.shape.heads_kv, info.shape.head_size) == (150, 256)
    assert read_info(bitnet(tmp_path / "c.gguf", 2000)).is_cut_off


def test_layers_with_different_heads_and_types_nobody_knows(tmp_path: Path) -> None:
    pairs = [
        pair("general.architecture", 8, text("mixed")),
        pair("mixed.block_count", 4, struct.pack("<I", 3)),
        pair("mixed.attention.head_count", 4, struct.pack("<I", 8)),
        pair("mixed.attention.head_count_kv", 9, struct.pack("<IQ3I", 4, 3, 8, 0, 2)),
        pair("mixed.attention.key_length", 4, struct.pack("<I", 64)),
        pair("mixed.attention.value_length", 4, struct.pack("<I", 32)),
    ]
    info = read_info(made(tmp_path / "m.gguf", pairs, [tensor("a", 99, (8,))]))
    assert (info.shape.heads_kv, info.shape.head_size) == (10, 96)
    assert (info.tensor_types, info.whole_size, info.is_cut_off) == ((("type 99", 1),), None, False)


@pytest.mark.parametrize(
    ("name", "pairs", "expected"),
    [
        ("x-00002-of-00003.gguf", [], (2, 3)),
        ("x.gguf", [pair("split.no", 2, b"\0\0"), pair("split.count", 2, struct.pack("<H", 4))], (1, 4)),
        ("x.gguf", [pair("split.no", 2, b"\0\0"), pair("split.count", 2, struct.pack("<H", 1))], None),
    ],
)
def test_a_file_that_is_a_part(tmp_path: Path, name: str, pairs: list[bytes], expected: tuple[int, int] | None) -> None:
    assert read_info(made(tmp_path / name, pairs)).split == expected


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("", "none"),
        ("{{ '<|im_start|>' }}", "chatml"),
        ("<|start_header_id|>x<|eot_id|>", "llama3"),
        ("<|eot_id|>", "bitnet"),
        ("[INST] x [/INST]", "mistral"),
        ("<start_of_turn>", "gemma"),
        ("{{ messages }}", "own"),
    ],
)
def test_families_of_templates(template: str, family: str) -> None:
    assert template_family(template) == family


# What is strange is told, and costs nothing.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<III", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "GGUF version 4"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + PAIRS[0] * 2, "is present twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("a", 9, struct.pack("<IQ", 9, 1)), "an array of arrays"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("a", 8, struct.pack("<Q", 1 << 63)), "ends too early"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("general.alignment", 4, struct.pack("<I", 0)), "alignment of 0"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("general.alignment", 4, struct.pack("<I", 24)), "alignment of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("general.alignment", 8, text("x")), "alignment of x"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor("a", 0, (1,), 7), "not a multiple of 32"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor("a", 0, (1, 1, 1, 1, 1)), "5 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<I", 1 << 31), "dimensions"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_info(path)


def test_cut_off_at_every_byte(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole.gguf", PAIRS, [tensor("a", 0, (8, 4)), tensor("b", 35, (256,), 128)], 194)
    assert not read_info(whole).is_cut_off
    for length in range(whole.stat().st_size - 1, -1, -1):
        os.truncate(whole, length)
        try:
            info: ModelInfo | None = read_info(whole)
        except ModelError:
            info = None
        assert info is None or info.is_cut_off, length


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="is not a file"):
        read_header(tmp_path / "pipe.gguf")


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    many = 100_000
    tokens = pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, many) + text("token") * many)
    path = made(tmp_path / "shrinking.gguf", [tokens])
    with pytest.raises(ModelError, match="ends too early"), opened(path) as cursor:
        found = cursor.contents()
        os.truncate(path, 100)  # in a mapped file, the next page that is touched would end the process
        list(cursor.strings(found.arrays["tokenizer.ggml.tokens"]))


def costs(path: Path) -> int:
    """Bytes at the worst moment of reading a file, whatever comes of it."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ModelError):
            read_info(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bombs() -> dict[str, bytes]:
    """Files that want much for little, each with all that its claims need to be true."""
    many = 1 << 17
    tokens = pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, many) + bytes(8 * many))
    controls = pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, many) + struct.pack("<i", 3) * many)
    long = [pair(f"general.{name}", 8, text("🙂" * 60_000)) for name in ("architecture", "name", "license", "type")]
    head = struct.Struct("<IQQ")
    return {
        "control tokens": b"GGUF" + head.pack(3, 0, 2) + tokens + controls,
        "pairs": b"GGUF" + head.pack(3, 0, 4096) + b"".join(pair(f"{n:0>240}", 0, b"1") for n in range(4096)),
        "long keys": b"GGUF" + head.pack(3, 0, 400) + b"".join(pair(f"{n:0>65000}", 0, b"1") for n in range(400)),
        "wide texts": b"GGUF" + head.pack(3, 0, 4) + b"".join(long),
        "a template": b"GGUF" + head.pack(3, 0, 1) + pair("tokenizer.chat_template", 8, text("x" * (1 << 24))),
        "a token": b"GGUF"
        + head.pack(3, 0, 2)
        + pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 1) + text("x" * (1 << 24)))
        + pair("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 0)),
        "tensors": b"GGUF"
        + head.pack(3, 1 << 14, 0)
        + b"".join(tensor("a", n, (1 << 63,) * 4) for n in range(1 << 14)),
        "claims": b"GGUF" + head.pack(3, (1 << 64) - 1, (1 << 64) - 1),
        "numbers": b"GGUF" + head.pack(3, 0, 1) + pair("a", 9, struct.pack("<IQ", 12, (1 << 64) - 1)),
    }


def test_no_file_costs_more_than_ten_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gguf"
    for name, content in bombs().items():
        path.write_bytes(content)
        assert costs(path) < MEMORY, name


def test_mutations_of_a_real_file_cost_little_and_end(tmp_path: Path, model: Path) -> None:
    """Bytes changed, runs cut out, runs doubled, and numbers that mean much: in the header of the bundled model."""
    whole = model.read_bytes()[:120_000]
    dice = random.Random(20260101)
    path = tmp_path / "mutant.gguf"
    began = time.monotonic()
    for turn in range(300):
        mutant = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(4, 60_000)
            match dice.randrange(4):
                case 0:
                    mutant[at] ^= 1 << dice.randrange(8)
                case 1:
                    del mutant[at : at + dice.randrange(64)]
                case 2:
                    mutant[at:at] = mutant[at : at + dice.randrange(64)]
                case _:
                    mutant[at : at + 8] = dice.choice((b"\xff" * 8, bytes(8), struct.pack("<Q", 1 << 62)))
        path.write_bytes(mutant)
        if turn % 10:
            with contextlib.suppress(ModelError):
                read_info(path)
        else:
            assert costs(path) < MEMORY
    assert time.monotonic() - began < 60
