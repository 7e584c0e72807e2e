"""Small models for known answers: two layers with fixed pseudo-random weights, in each type that is checked.

The files (1 to 8 MB) are generated when they are needed, in less than 0.1 s, with SHAKE-256: the same bytes on every
computer. A token is a byte; only letters are generated, so that replies are plain text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import shake_256
from pathlib import Path
from string import ascii_letters
from typing import Literal

from bitnet_chat.models.gguf_writer import NewTensor, Value, write
from bitnet_chat.models.tensor_types import I2_S_FILE

Architecture = Literal["llama", "bitnet", "bitnet-b1.58"]

LAYERS, HEAD, CONTEXT = 2, 64, 2048
EPSILON, ROPE_BASE = 1e-6, 500_000.0
_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
FIRST_TOKEN = _SPECIAL[0]
VOCABULARY = 256 + len(_SPECIAL)
BOS, EOS, EOT = 256, 257, 258
LOUD, QUIET = 0.08, 0.01
"""Largest values in the embeddings of letters, and of other tokens, which are therefore never generated."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Sizes of a model. ``width``: of the embedding. ``inner``: of the feed-forward layer. The size of a head is 64."""

    width: int
    inner: int
    heads: int
    heads_kv: int


_ODD = TensorShape(320, 544, 5, 1)
"""A shape whose rows have a number of blocks of 32 that is not a multiple of four. ik_llama.cpp computes Q4_1 wrongly
in such rows, for example in SmolLM2-135M (18 blocks), and correctly in others.
"""
_EVEN = TensorShape(512, 768, 8, 2)
"""A shape for blocks of 256, and for IQ2_BN, which requires rows of 512."""

_ANY = bytes(range(256))
_TERNARY = bytes(sum((byte // 3**place % 3) << 2 * place for place in range(4)) for byte in range(256))
"""Bytes of four 2-bit codes, each 0, 1 or 2, the codes of ternary weights."""
_EQUAL_NIBBLES = bytes(0x11 * (8 + byte % 8) for byte in range(256))
"""Bytes of a 4-bit scale and an equal 4-bit minimum."""


@dataclass(frozen=True, slots=True)
class RandomValues:
    """A part of a block: ``count`` pseudo-random bytes, each mapped by ``table``."""

    count: int
    table: bytes = _ANY


@dataclass(frozen=True, slots=True)
class Scale:
    """A part of a block: its scale times ``factor``. ``form``: a format of :mod:`struct`."""

    factor: float = 1.0
    form: str = "<e"


@dataclass(frozen=True, slots=True)
class Exponent:
    """A part of a block: the exponent of its scale, a power of two, in eight bits."""


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """The format of a tensor type. ``number``: that in ggml. ``block``: weights in a block; 0: a row is a block.
    ``spread``: standard deviation of the weights with the scale 1. ``parts``: the parts of a block, in order.
    """

    number: int
    block: int
    spread: float
    parts: tuple[RandomValues | Scale | Exponent, ...]


_UNIFORM = 73.9  # standard deviation of -127.5, -126.5 … 127.5
FORMS = {
    "F32": TensorFormat(0, 1, _UNIFORM, ()),
    "F16": TensorFormat(1, 1, _UNIFORM, ()),
    "BF16": TensorFormat(30, 1, _UNIFORM, ()),
    "Q4_0": TensorFormat(2, 32, 4.6, (Scale(), RandomValues(16))),
    "Q4_1": TensorFormat(3, 32, 4.6, (Scale(), Scale(-7.5), RandomValues(16))),
    "Q5_0": TensorFormat(6, 32, 9.2, (Scale(), RandomValues(20))),
    "Q5_1": TensorFormat(7, 32, 9.2, (Scale(), Scale(-15.5), RandomValues(20))),
    "Q8_0": TensorFormat(8, 32, _UNIFORM, (Scale(), RandomValues(32))),
    "Q2_K": TensorFormat(10, 256, 13, (RandomValues(16, _EQUAL_NIBBLES), RandomValues(64), Scale(), Scale(1.5))),
    "Q3_K": TensorFormat(11, 256, 42, (RandomValues(108), Scale())),
    "Q4_K": TensorFormat(12, 256, 258, (Scale(), Scale(7.5), RandomValues(140))),
    "Q5_K": TensorFormat(13, 256, 527, (Scale(), Scale(15.5), RandomValues(172))),
    "Q6_K": TensorFormat(14, 256, 1367, (RandomValues(208), Scale())),
    "IQ4_NL": TensorFormat(20, 32, 70, (Scale(), RandomValues(16))),
    "IQ4_XS": TensorFormat(23, 256, 1300, (Scale(), RandomValues(134))),
    "MXFP4": TensorFormat(39, 32, 2.9, (Exponent(), RandomValues(16))),
    "TQ1_0": TensorFormat(34, 256, 0.82, (RandomValues(52), Scale())),
    "TQ2_0": TensorFormat(35, 256, 0.82, (RandomValues(64, _TERNARY), Scale())),
    "I2_S": TensorFormat(36, 0, 0.82, ()),
    "IQ1_BN": TensorFormat(134, 0, 0.82, ()),
    "IQ2_BN": TensorFormat(135, 0, 0.82, ()),
    "IQ2_BN_R4": TensorFormat(335, 0, 0.82, ()),
}


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A small model. ``weights``: a key of :data:`FORMS`."""

    weights: str
    architecture: Architecture = "llama"

    @property
    def shape(self) -> TensorShape:
        """The sizes of the model."""
        return _ODD if 0 < FORMS[self.weights].block <= 32 else _EVEN

    @property
    def name(self) -> str:
        """The name under which results are stored."""
        return self.weights if self.architecture == "llama" else f"{self.weights} ({self.architecture})"

    def write(self, path: Path) -> None:
        """Write the model as a GGUF file. Raises OSError."""
        with path.open("wb") as file:
            write(file, self._values(), list(self._tensors()))

    def _values(self) -> dict[str, Value]:
        of, shape = self.architecture, self.shape
        return {
            "general.architecture": of,
            "general.name": "known answers",
            f"{of}.vocab_size": VOCABULARY,
            f"{of}.context_length": CONTEXT,
            f"{of}.embedding_length": shape.width,
            f"{of}.block_count": LAYERS,
            f"{of}.feed_forward_length": shape.inner,
            f"{of}.rope.dimension_count": HEAD,
            f"{of}.attention.head_count": shape.heads,
            f"{of}.attention.head_count_kv": shape.heads_kv,
            f"{of}.attention.layer_norm_rms_epsilon": EPSILON,
            f"{of}.rope.freq_base": ROPE_BASE,
            f"{of}.rope.scaling.type": "linear",  # without it llama.cpp refuses the architecture bitnet
            f"{of}.rope.scaling.factor": 1.0,
            **({"general.file_type": I2_S_FILE} if self.weights == "I2_S" else {}),
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": [*spelled(), *_SPECIAL],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(_SPECIAL),
            "tokenizer.ggml.merges": ["Ā ā"],  # two control characters, which prompts do not contain
            "tokenizer.ggml.bos_token_id": BOS,
            "tokenizer.ggml.eos_token_id": EOS,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.chat_template": TEMPLATE,
            "general.quantization_version": 2,
        }

    def _tensors(self) -> Iterator[NewTensor]:
        width, inner, kv = self.shape.width, self.shape.inner, HEAD * self.shape.heads_kv
        yield _embedding(width)
        for layer in range(LAYERS):
            # The factor 2 separates attention scores as in a trained model, so that earlier tokens affect the result.
            for name, rows, columns, factor in (
                ("attn_q", width, width, 2.0),
                ("attn_k", kv, width, 2.0),
                ("attn_v", kv, width, 1.0),
                ("attn_output", width, width, 1.0),
                ("ffn_gate", inner, width, 1.0),
                ("ffn_up", inner, width, 1.0),
                ("ffn_down", width, inner, 1.0),
            ):
                yield self._matrix(f"blk.{layer}.{name}.weight", rows, columns, factor)
            yield _ones(f"blk.{layer}.attn_norm.weight", width)
            yield _ones(f"blk.{layer}.ffn_norm.weight", width)
            if self.architecture != "llama":
                yield _ones(f"blk.{layer}.attn_sub_norm.weight", width)
                yield _ones(f"blk.{layer}.ffn_sub_norm.weight", inner)
        yield _ones("output_norm.weight", width)

    def _matrix(self, name: str, rows: int, columns: int, factor: float) -> NewTensor:
        form = FORMS[self.weights]
        data = _packed(self.weights, form, name, rows, columns, factor / (form.spread * columns**0.5))
        return NewTensor(name, form.number, (columns, rows), len(data), (data,))


def _packed(weights: str, form: TensorFormat, name: str, rows: int, columns: int, scale: float) -> bytes:
    count = rows * columns
    match weights:
        case "F32" | "F16" | "BF16":
            table = [_number(weights, scale * (byte - 127.5)) for byte in range(256)]
            return b"".join(map(table.__getitem__, _random(name, count)))
        case "I2_S":  # docs/I2_s.md of BitNet: the scale follows the weights, eight times
            return _random(name, count // 4).translate(_TERNARY) + struct.pack("<8f", *[scale] * 8)
        case "IQ2_BN" | "IQ2_BN_R4":  # each row, or group of four rows, begins with its scales
            together = 4 if weights == "IQ2_BN_R4" else 1
            codes = _random(name, count // 4).translate(_TERNARY)
            size, head = together * columns // 4, struct.pack(f"<{together}f", *[scale] * together)
            return b"".join(head + codes[at : at + size] for at in range(0, len(codes), size))
        case "IQ1_BN":  # each row begins with its scale; 64 weights in 12 bytes of five, and one of four
            size, head, data = columns // 64 * 13, struct.pack("<e", scale), bytearray(_random(name, count // 64 * 13))
            data[:] = bytes(_of_base_3(byte % 81 if at % 13 == 12 else byte % 243) for at, byte in enumerate(data))
            return b"".join(head + data[at : at + size] for at in range(0, len(data), size))
    columns_of_parts = [_part(f"{name}.{at}", part, count // form.block, scale) for at, part in enumerate(form.parts)]
    return b"".join(b"".join(block) for block in zip(*columns_of_parts, strict=True))


def _of_base_3(number: int) -> int:
    """Return the byte of a number of five ternary digits: its multiple by 3 has the first digit above the byte."""
    return (number * 256 + 242) // 243


def _part(seed: str, part: RandomValues | Scale | Exponent, blocks: int, scale: float) -> list[bytes]:
    """Return the bytes of one part for each block."""
    match part:
        case RandomValues(count, table):
            data = _random(seed, blocks * count).translate(table)
            return [data[at : at + count] for at in range(0, len(data), count)]
        case Scale(factor, form):
            return [struct.pack(form, scale * factor)] * blocks
        case Exponent():
            return [bytes((struct.unpack("<I", struct.pack("<f", scale))[0] >> 23 & 0xFF,))] * blocks


def _embedding(width: int) -> NewTensor:
    """Return the embedding, which is also the output matrix, in F16 for all types."""
    loud, quiet = ([_number("F16", most / 127.5 * (byte - 127.5)) for byte in range(256)] for most in (LOUD, QUIET))
    letters = frozenset(ascii_letters.encode())
    rows = _random("token_embd.weight", VOCABULARY * width)
    data = b"".join(
        b"".join(map((loud if token in letters else quiet).__getitem__, rows[token * width : (token + 1) * width]))
        for token in range(VOCABULARY)
    )
    return NewTensor("token_embd.weight", FORMS["F16"].number, (width, VOCABULARY), len(data), (data,))


def _ones(name: str, count: int) -> NewTensor:
    return NewTensor(name, FORMS["F32"].number, (count,), 4 * count, (struct.pack("<f", 1.0) * count,))


def _number(form: str, value: float) -> bytes:
    single = struct.pack("<f", value)
    return {"F32": single, "F16": struct.pack("<e", value), "BF16": single[2:]}[form]


def _random(seed: str, count: int) -> bytes:
    return shake_256(seed.encode()).digest(count)


def spelled() -> list[str]:
    """Return the text of each byte in a byte-level vocabulary (``bytes_to_unicode`` of GPT-2)."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def question(number: int, length: int = 90) -> str:
    """Return a text of ``length`` pseudo-random letters, the same for the same number."""
    return "".join(ascii_letters[byte % len(ascii_letters)] for byte in _random(f"question {number}", length))


def prompt_text(message: str) -> str:
    """Return the prompt with a first message, as rendered by :data:`TEMPLATE`, without the first token."""
    return f"user: {message}<|eot_id|>assistant: "


def tokens(message: str) -> list[int]:
    """Return the tokens of the prompt with a first message, as rendered by :data:`TEMPLATE`."""
    return [BOS, *f"user: {message}".encode(), EOT, *b"assistant: "]
