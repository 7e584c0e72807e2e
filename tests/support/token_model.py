"""A small model that any engine loads, whose replies are ``ok`` and the end of the turn, whatever was asked.

Its layer adds nothing, so that the next token follows from the last one alone: behind what a prompt ends with comes
``o``, behind that ``k``, behind that the token that ends a turn. The vocabulary has the 256 bytes, a few pieces that
join characters over the places where a template meets a message, and the special tokens of a family.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

# What text is joined to at the seams of templates: a space in front of a word, line feeds, a sign before them.
_JOINED = {
    "gpt2": ["Ġ W", "Ġ l", "Ċ Ċ", ". Ċ", "? Ċ", ": Ġ", ". Ġ", "u s", "us e", "use r", "Ġ Ġ", "] Ġ"],
    "llama": ["▁W", "▁l", "\n\n", ".\n", "?\n", ":▁", "▁[", "US", "us", "▁▁", "]▁", "▁A"],
}
_CONTROL, _NORMAL, _BYTE = 3, 1, 6


def write(
    path: Path,
    *,
    template: str,
    bos: str,
    eos: str,
    adds_bos: bool,
    special: Sequence[str],
    last: str,
    end: str,
    kind: str = "gpt2",
    name: str = "token-model",
) -> Path:
    """``last``: the token that a prompt ends with, a special one or a character; with a space behind it the reply is
    `` ok``. ``end``: the token that ends a reply.
    ``kind``: ``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece)."""
    pieces, kinds, merges = _vocabulary(kind, special)
    size = len(pieces)
    number = {piece: index for index, piece in enumerate(pieces)}
    spelled = {"\n": "Ċ", "\n\n": "ĊĊ", " ": "Ġ"} if kind == "gpt2" else {" ": "▁"}
    first = spelled.get(last, last.removesuffix(" "))
    follows = {first: "o", "o": "k", "k": end}
    if first != spelled.get(last, last):
        follows |= {first: spelled[" "], spelled[" "]: "o"}
    output = np.zeros((size, size), np.float32)
    for before, after in follows.items():
        output[number[after], number[before]] = 10.0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(4096)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(size // 16)
    writer.add_head_count_kv(size // 16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model(kind)
    if kind == "gpt2":
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_merges(merges)
    else:
        writer.add_token_scores([-float(len(_JOINED[kind]) - index) for index in range(size)])
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(number[bos])
    writer.add_eos_token_id(number[eos])
    if end != eos:
        writer.add_eot_token_id(number[end])
    writer.add_add_bos_token(adds_bos)
    writer.add_chat_template(template)
    ones, zeros = np.ones(size, np.float32), np.zeros((size, size), np.float32)
    tensors = {"token_embd.weight": np.eye(size, dtype=np.float32), "output_norm.weight": ones, "output.weight": output}
    tensors |= {f"blk.0.{each}_norm.weight": ones for each in ("attn", "ffn")}
    tensors |= {f"blk.0.attn_{each}.weight": zeros for each in ("q", "k", "v", "output")}
    tensors |= {f"blk.0.ffn_{each}.weight": np.zeros((32, size), np.float32) for each in ("gate", "up")}
    tensors["blk.0.ffn_down.weight"] = np.zeros((size, 32), np.float32)
    for each, data in tensors.items():
        writer.add_tensor(each, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(kind: str, special: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    if kind == "gpt2":
        plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        others = [byte for byte in range(256) if byte not in plain]
        pieces = [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]
        kinds = [_NORMAL] * 256
        joined = [merge.replace(" ", "") for merge in _JOINED[kind]]
    else:
        pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        pieces += [chr(code) for code in range(0x21, 0x7F)] + ["\n", "▁"]
        kinds = [_BYTE] * 256 + [_NORMAL] * (len(pieces) - 256)
        joined = _JOINED[kind]
    pieces += joined
    kinds += [_NORMAL] * len(joined)
    pieces += special
    kinds += [_CONTROL] * len(special)
    fill = -len(pieces) % 64
    pieces += [f"<|fill_{index}|>" for index in range(fill)]
    kinds += [_CONTROL] * fill
    return pieces, kinds, _JOINED["gpt2"]
