"""A model file with Llama 3's vocabulary as far as it is recognised by, and the metadata of Microsoft's 2B4T.

It computes with two numbers: behind a space it says ``yes``, and behind that ``<|eot_id|>``, whatever stood before. So
its reply tells whether a prompt ends as the right template ends it, and whether that token ends a turn. The pieces are
the bytes and ``'s``, which is one token only where words are split as Llama 3 splits them.
"""

from __future__ import annotations

import struct
from pathlib import Path

PLACEHOLDER = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ 'Human: ' + message['content'] + '\\n\\nBITNETAssistant: ' + eos_token }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
CHATML_UNBEGUN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
)
SIZE, WIDTH = 128_256, 32
_BOS, _EOS, _EOT = 128_000, 128_001, 128_009
_SPECIAL = {_BOS: "<|begin_of_text|>", _EOS: "<|end_of_text|>", _EOT: "<|eot_id|>"}
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _pair(key: str, kind: int, value: object) -> bytes:
    data = _text(str(value)) if kind == _STRING else struct.pack({_U32: "<I", _F32: "<f", _BOOL: "<?"}[kind], value)
    return _text(key) + struct.pack("<I", kind) + data


def _list(key: str, kind: int, values: list[bytes]) -> bytes:
    return _text(key) + struct.pack("<IIQ", _ARRAY, kind, len(values)) + b"".join(values)


def _pieces() -> list[str]:
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in plain)
    spelling = {byte: chr(byte) for byte in plain} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    pieces = [*spelling.values(), "'s", "yes"]
    pieces += [f"piece{number}" for number in range(len(pieces), SIZE)]
    for number in range(_BOS, SIZE):
        pieces[number] = _SPECIAL.get(number, f"<|reserved_special_token_{number}|>")
    return pieces


def write(
    path: Path,
    *,
    template: str = PLACEHOLDER,
    pre: str | None = None,
    kind: int = 0,
    file_type: int = 0,
    silent: bool = False,
) -> Path:
    """``kind``: number of the type that its matrices are said to be of; their data is that of type 0.
    ``silent``: it says ``<|eot_id|>`` at once."""
    pieces = _pieces()
    pairs = [
        _pair("general.architecture", _STRING, "llama"),
        _pair("general.name", _STRING, "b"),
        *(
            _pair(f"llama.{key}", _U32, value)
            for key, value in {
                "vocab_size": SIZE,
                "context_length": 4096,
                "embedding_length": WIDTH,
                "block_count": 1,
                "feed_forward_length": WIDTH,
                "rope.dimension_count": WIDTH,
                "attention.head_count": 1,
                "attention.head_count_kv": 1,
            }.items()
        ),
        _pair("llama.attention.layer_norm_rms_epsilon", _F32, 1e-5),
        _pair("general.file_type", _U32, file_type),
        _pair("tokenizer.ggml.model", _STRING, "gpt2"),
        _list("tokenizer.ggml.tokens", _STRING, [*map(_text, pieces)]),
        _list("tokenizer.ggml.token_type", _I32, [struct.pack("<i", 3 if at >= _BOS else 1) for at in range(SIZE)]),
        _list("tokenizer.ggml.merges", _STRING, [_text("' s"), _text("y e"), _text("ye s")]),
        _pair("tokenizer.ggml.add_bos_token", _BOOL, True),
        _pair("tokenizer.ggml.bos_token_id", _U32, _BOS),
        _pair("tokenizer.ggml.eos_token_id", _U32, _EOS),
    ]
    if template:
        pairs.append(_pair("tokenizer.chat_template", _STRING, template))
    if pre is not None:
        pairs.append(_pair("tokenizer.ggml.pre", _STRING, pre))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(_tensors(kind, silent=silent)), len(pairs)) + b"".join(pairs))
    with path.open("ab") as file:
        offset = 0
        for tensor, number, shape, data in _tensors(kind, silent=silent):
            file.write(_text(tensor) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            file.write(struct.pack("<IQ", number, offset))
            offset += len(data)
        file.write(bytes(-file.tell() % 32))
        for _, _, _, data in _tensors(kind, silent=silent):
            file.write(data)
    return path


def _tensors(kind: int, *, silent: bool) -> list[tuple[str, int, tuple[int, ...], bytes]]:
    rows = bytearray(SIZE * WIDTH * 4)
    pieces = _pieces()
    for number, values in (
        (pieces.index("Ġ"), (0, 1) if silent else (1, 0)),
        (pieces.index("yes"), (3, 1)),
        (_EOT, (0, 20)),
    ):
        struct.pack_into("<2f", rows, number * WIDTH * 4, *values)
    ones, zeros = struct.pack("<f", 1.0) * WIDTH, bytes(4 * WIDTH * WIDTH)
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return [
        ("token_embd.weight", 0, (WIDTH, SIZE), bytes(rows)),
        ("output_norm.weight", 0, (WIDTH,), ones),
        ("blk.0.attn_norm.weight", 0, (WIDTH,), ones),
        ("blk.0.ffn_norm.weight", 0, (WIDTH,), ones),
        *((f"blk.0.{each}.weight", kind, (WIDTH, WIDTH), zeros) for each in matrices),
    ]
