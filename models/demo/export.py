"""Write the trained network as a GGUF file that llama.cpp and BitNet engines load.

The ternary matrices become TQ2_0: blocks of 256 values with two bits each and one 16-bit scale. The usual quantizer
takes the scale from the largest value of each block; here every block gets the scale of its tensor, so that the engine
computes with exactly the numbers of the training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from model import BLOCK, BitNet, ModelShape, TernaryLinear, ternary
from tokenizer import BOS, CHAT_TEMPLATE, END, PAD, SPECIAL, load_tokenizer

SIZE_LIMIT = 4_000_000


def pack_tq2_0(signs: np.ndarray, scale: float) -> np.ndarray:
    """The bytes of a TQ2_0 tensor: 64 bytes of two-bit digits and a float16 scale for every 256 values.

    A block is two halves of 128 values; byte ``m`` of a half holds the values ``m``, ``m + 32``, ``m + 64`` and
    ``m + 96``, lowest bits first.
    """
    rows, columns = signs.shape
    digits = (signs.astype(np.int8) + 1).astype(np.uint8).reshape(rows, columns // BLOCK, 2, 4, 32)
    packed = digits[..., 0, :] | digits[..., 1, :] << 2 | digits[..., 2, :] << 4 | digits[..., 3, :] << 6
    packed = packed.reshape(rows, columns // BLOCK, 64)
    scales = np.full((rows, columns // BLOCK, 1), scale, dtype="<f2").view(np.uint8)
    return np.concatenate([packed, scales], axis=-1).reshape(rows, -1)


def bpe_lists(path: Path) -> tuple[list[str], list[int], list[str]]:
    """Tokens, token types and merges in the form that GGUF wants them."""
    load_tokenizer(path)  # fails early on a damaged file
    description = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = sorted(description["vocab"], key=description["vocab"].__getitem__)
    types = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["merges"]]
    return tokens, types, merges


def write_gguf(build: Path, target: Path) -> None:
    """Write the checkpoint in ``build`` to ``target``, which appears only when it is complete."""
    state = torch.load(build / "checkpoint.pt", weights_only=True)
    shape = ModelShape(**state["shape"])
    network = BitNet(shape)
    network.load_state_dict(state["network"])
    tokens, types, merges = bpe_lists(build / "tokenizer.json")
    if len(tokens) != shape.vocabulary:
        raise SystemExit(f"the tokenizer has {len(tokens)} tokens, the network {shape.vocabulary}")

    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "bitnet")
    writer.add_name("bitnet-demo")
    writer.add_description(
        "A tiny BitNet b1.58 model that answers questions about using bitnet-chat: for first runs, tests and demos."
    )
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_TQ2_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(1.0)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_eot_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    embedding = network.token_embd.weight.detach().half().numpy()
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", network.output_norm.weight.detach().float().numpy())
    for index, block in enumerate(network.blocks):
        for name, layer in block.named_children():
            label = f"blk.{index}.{name}.weight"
            if isinstance(layer, TernaryLinear):
                signs, scale = ternary(layer.weight.detach())
                packed = pack_tq2_0(signs.numpy(), scale.item())
                restored = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.TQ2_0)
                if not np.array_equal(restored, (signs * scale).numpy()):
                    raise SystemExit(f"{label} does not survive TQ2_0")
                writer.add_tensor(label, packed, raw_dtype=gguf.GGMLQuantizationType.TQ2_0)
            elif isinstance(layer, torch.nn.RMSNorm):
                writer.add_tensor(label, layer.weight.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = partial.stat().st_size
    if size > SIZE_LIMIT:
        raise SystemExit(f"{size} bytes are more than {SIZE_LIMIT}")
    partial.replace(target)
    print(f"{target}: {size} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Write the trained demo model as GGUF.")
    parser.add_argument("--build", type=Path, default=here / "build", help="where train.py left its results")
    parser.add_argument("--output", type=Path, default=here.parents[1] / "bitnet_chat/models/bitnet-demo.gguf")
    arguments = parser.parse_args()
    write_gguf(arguments.build, arguments.output)


if __name__ == "__main__":
    main()
