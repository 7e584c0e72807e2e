#!/usr/bin/env python3
"""Random-weight model of the exact shape and metadata of BitNet b1.58 2B4T, for loading, speed, memory and template.

    python bench/make_bitnet.py OUT.gguf                              # as Microsoft packs it: I2_S, 1.2 GB
    python bench/make_bitnet.py OUT.gguf --type tq2_0 --arch bitnet   # the same weights for llama.cpp
    python bench/make_bitnet.py OUT.gguf --layers 2 --width 512 --inner 768 --heads 8 --heads-kv 2

The metadata is that of ggml-model-i2_s.gguf: 24 keys in that order, without tokenizer.ggml.pre, with the placeholder
that the converter writes as the template (``--template card``: the right one). The vocabulary has the size and the
special tokens of Llama 3's; its other pieces come from ``--vocab FILE.gguf``, or are made up (bytes, pairs, words).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from bitnet_chat.engine.known_answer_model import spelled
from bitnet_chat.models.gguf_writer import NewTensor, Value, write
from bitnet_chat.templates.builtin import TEMPLATES

VOCABULARY, BOS, EOS, EOT = 128_256, 128_000, 128_001, 128_009
CONVERTER = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ 'Human: ' + message['content'] + '\\n\\nBITNETAssistant: ' + eos_token }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
FORMATS = {"f32": (0, 0), "f16": (1, 1), "tq2_0": (35, 37), "i2_s": (36, 40)}
"""ggml_type and general.file_type."""


def pieces() -> tuple[list[str], list[str]]:
    """A vocabulary of the gpt2 kind and its merges: bytes, pairs of letters, words made of two pairs."""
    letters = "etaoinshrdlcumwfgypbvk"
    pairs = ["".join(pair) for pair in product(letters, letters)]
    merges = [f"{a} {b}" for a, b in pairs]
    words = [f"{a} {b}" for a, b in product(pairs, pairs)]
    made = [*spelled(), *pairs, *(word.replace(" ", "") for word in words)]
    merges += words[: BOS - len(made) + len(words)]
    made = made[:BOS]
    special = {BOS: "<|begin_of_text|>", EOS: "<|end_of_text|>", EOT: "<|eot_id|>"}
    made += [special.get(number, f"<|reserved_special_token_{number - BOS}|>") for number in range(BOS, VOCABULARY)]
    return made, merges


def pieces_of(path: Path) -> tuple[list[str], list[str]]:
    """Those of a file."""
    fields = gguf.GGUFReader(path).fields
    both = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges"))
    tokens, merges = ([bytes(f.parts[at]).decode("utf-8", "surrogateescape") for at in f.data] for f in both)
    if len(tokens) != VOCABULARY:
        sys.exit(f"{path} has {len(tokens)} pieces, Llama 3 has {VOCABULARY}")
    return tokens, merges


def values(flags: argparse.Namespace) -> dict[str, Value]:
    tokens, merges = pieces_of(flags.vocab) if flags.vocab else pieces()
    of = flags.arch
    found: dict[str, Value] = {
        "general.architecture": of,
        "general.name": "bitnet2b",
        f"{of}.vocab_size": VOCABULARY,
        f"{of}.context_length": 4096,
        f"{of}.embedding_length": flags.width,
        f"{of}.block_count": flags.layers,
        f"{of}.feed_forward_length": flags.inner,
        f"{of}.rope.dimension_count": flags.width // flags.heads,
        f"{of}.attention.head_count": flags.heads,
        f"{of}.attention.head_count_kv": flags.heads_kv,
        "tokenizer.ggml.add_bos_token": True,
        f"{of}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{of}.rope.freq_base": 500_000.0,
        "general.file_type": FORMATS[flags.type][1],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * VOCABULARY,
        "tokenizer.ggml.token_type": [1] * BOS + [3] * (VOCABULARY - BOS),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.padding_token_id": EOS,
        "tokenizer.chat_template": {"converter": CONVERTER, "card": TEMPLATES["bitnet"]}[flags.template],
        "general.quantization_version": 2,
    }
    if of == "bitnet":  # llama.cpp wants these
        found |= {"bitnet.rope.scaling.type": "linear", "bitnet.rope.scaling.factor": 1.0}
    return found


def tensors(flags: argparse.Namespace) -> Iterator[NewTensor]:
    width, inner = flags.width, flags.inner
    kv = width // flags.heads * flags.heads_kv
    embedding = "f32" if flags.type == "f32" else "f16"
    yield made("token_embd.weight", embedding, VOCABULARY, width, flags.seed)
    for layer in range(flags.layers):
        for name, rows, columns in (
            ("attn_norm", 1, width),
            ("ffn_down", width, inner),
            ("ffn_sub_norm", 1, inner),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_norm", 1, width),
            ("attn_sub_norm", 1, width),
            ("attn_k", kv, width),
            ("attn_output", width, width),
            ("attn_q", width, width),
            ("attn_v", kv, width),
        ):
            full = f"blk.{layer}.{name}.weight"
            yield ones(full, columns) if rows == 1 else made(full, flags.type, rows, columns, flags.seed)
    yield ones("output_norm.weight", width)


def ones(name: str, count: int) -> NewTensor:
    return NewTensor(name, 0, (count,), 4 * count, (np.ones(count, "<f4").tobytes(),))


def made(name: str, form: str, rows: int, columns: int, seed: int) -> NewTensor:
    """The same weights in each form."""
    count = rows * columns
    size = {"f32": 4 * count, "f16": 2 * count, "i2_s": count // 4 + 32, "tq2_0": count // 256 * 66}[form]
    return NewTensor(name, FORMATS[form][0], (columns, rows), size, parts(name, form, rows, columns, seed))


def parts(name: str, form: str, rows: int, columns: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng((seed, *name.encode()))
    step = max(1, (1 << 24) // columns)
    scale = float(np.float16(math.sqrt(1.5 / columns)))
    for at in range(0, rows, step):
        shape = (min(step, rows - at), columns)
        if name == "token_embd.weight":
            yield (random.standard_normal(shape, np.float32) * 0.02).astype("<f4" if form == "f32" else "<f2").tobytes()
        else:
            yield packed(random.integers(0, 3, shape, np.uint8), form, scale)
    if form == "i2_s":  # docs/I2_s.md of BitNet: the scale stands behind the weights, eight times
        yield np.full(8, scale, "<f4").tobytes()


def packed(codes: NDArray[np.uint8], form: str, scale: float) -> bytes:
    if form == "i2_s":  # 128 weights in 32 bytes, the first 32 of them in the highest bits
        groups = codes.reshape(-1, 4, 32)
        return (groups[:, 0] << 6 | groups[:, 1] << 4 | groups[:, 2] << 2 | groups[:, 3]).tobytes()
    weights = (codes.astype(np.float32) - 1) * np.float32(scale)
    if form == "tq2_0":
        return bytes(gguf.quants.quantize(weights, gguf.GGMLQuantizationType.TQ2_0).tobytes())
    return weights.astype("<f4" if form == "f32" else "<f2").tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=tuple(FORMATS), default="i2_s")
    parser.add_argument("--arch", choices=("bitnet-b1.58", "bitnet"), default="bitnet-b1.58")
    parser.add_argument("--template", choices=("converter", "card"), default="converter")
    parser.add_argument("--vocab", type=Path, metavar="FILE", help="GGUF file with the vocabulary of Llama 3")
    shape = {"layers": 30, "width": 2560, "inner": 6912, "heads": 20, "heads-kv": 5, "seed": 158}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    flags = parser.parse_args()
    part = flags.out.with_suffix(".part")
    with part.open("wb") as file:
        write(file, values(flags), list(tensors(flags)))
    part.replace(flags.out)
    print(f"{flags.out}: {flags.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
