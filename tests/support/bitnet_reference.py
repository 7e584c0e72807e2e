"""The models that engines are checked with, computed in float64: ternary weights, squared ReLU, sub-norms, rotary
embedding, grouped queries, tied embedding. ``python tests/bitnet_reference.py`` prints the table of known answers anew.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bitnet_chat.engine.known_answer_model import SmallModel

Array = NDArray[np.float64]


def ternary(codes: NDArray[np.uint8]) -> Array:
    return codes.astype(np.float64) - 1.0


def i2_s(data: bytes, count: int) -> Array:
    """128 weights in 32 bytes, the first 32 of them in the highest bits; then the scale."""
    packed = np.frombuffer(data[: count // 4], np.uint8).reshape(-1, 1, 32)
    shifts = np.array([6, 4, 2, 0], np.uint8).reshape(1, 4, 1)
    return ternary(packed >> shifts & 3).reshape(-1) * struct.unpack_from("<f", data, count // 4)[0]


def iq2_bn(data: bytes, rows: int, columns: int) -> Array:
    """Rows of a scale and of blocks of 64 weights in 16 bytes, the first 16 of them in the lowest bits."""
    whole = np.frombuffer(data, np.uint8).reshape(rows, 4 + columns // 4)
    scales = whole[:, :4].copy().view("<f4").astype(np.float64)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ternary(whole[:, 4:].reshape(rows, -1, 1, 16) >> shifts & 3).reshape(rows, columns) * scales


def iq2_bn_r4(data: bytes, rows: int, columns: int) -> Array:
    """Groups of four rows: their scales, and blocks of 16 weights of each row in 16 bytes, four bytes a row."""
    whole = np.frombuffer(data, np.uint8).reshape(rows // 4, 16 + columns)
    scales = whole[:, :16].copy().view("<f4").astype(np.float64)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 1, 4, 1)
    codes = whole[:, 16:].reshape(rows // 4, columns // 16, 4, 1, 4) >> shifts & 3  # group, block, row, shift, byte
    return (ternary(codes).transpose(0, 2, 1, 3, 4).reshape(rows // 4, 4, columns) * scales[:, :, None]).reshape(
        rows, columns
    )


def iq1_bn(data: bytes, rows: int, columns: int) -> Array:
    """Rows of a scale in F16 and of blocks of 64 weights in 13 bytes. Twelve have five ternary digits, the last of
    which is the first weight; the last byte has weights 15, 31, 47 and 63 in its last four digits.
    """
    whole = np.frombuffer(data, np.uint8).reshape(rows, 2 + columns // 64 * 13)
    scales = whole[:, :2].copy().view("<f2").astype(np.float64)
    blocks = whole[:, 2:].reshape(rows, columns // 64, 13).astype(np.int64)
    digits = np.stack([(blocks * 3**place % 256 * 3) >> 8 for place in range(5)], axis=-1)
    codes = np.empty((rows, columns // 64, 64), np.uint8)
    for at in range(12):
        first = 16 * (at // 3) + 5 * (at % 3)
        codes[:, :, first : first + 5] = digits[:, :, at, ::-1]
    codes[:, :, 15::16] = digits[:, :, 12, :0:-1]
    return ternary(codes).reshape(rows, columns) * scales


def write_f32(small: SmallModel, target: Path) -> None:
    """Write a small model with F32 weights of the same values, which every engine loads."""
    from bitnet_chat.models.gguf_writer import NewTensor, write

    small.write(target)
    model, tensors = Model(target), []
    for name, weights in model.weights.items():
        data = weights.astype("<f4").tobytes()
        tensors.append(NewTensor(name, 0, weights.shape[::-1], len(data), (data,)))
    values = {name: value for name, value in small._values().items() if name != "general.file_type"}
    with target.open("wb") as file:
        write(file, values, tensors)


class Model:
    """A file of such a model, of which everything is read."""

    def __init__(self, path: Path) -> None:
        from bitnet_chat.models.gguf import opened

        self.weights: dict[str, Array] = {}
        with opened(path) as cursor:
            contents = cursor.contents()
            self.values = contents.values
            tensors = list(cursor.tensors(contents))
            start = -(-cursor.position // 32) * 32
        raw = path.read_bytes()
        for tensor in tensors:
            data, shape = raw[start + tensor.offset :], tensor.shape[::-1]
            size = int(np.prod(shape))
            if tensor.kind == 36:
                values = i2_s(data, size)
            elif tensor.kind == 135:
                values = iq2_bn(data[: shape[0] * (4 + shape[1] // 4)], *shape)
            elif tensor.kind == 335:
                values = iq2_bn_r4(data[: shape[0] * (4 + shape[1] // 4)], *shape)
            elif tensor.kind == 134:
                values = iq1_bn(data[: shape[0] * (2 + shape[1] // 64 * 13)], *shape)
            else:
                kind = gguf.GGMLQuantizationType(tensor.kind)
                block, length = gguf.GGML_QUANT_SIZES[kind]
                blocks = np.frombuffer(data[: size // block * length], np.uint8).reshape(shape[0], -1)
                values = gguf.quants.dequantize(blocks, kind).astype(np.float64)
            self.weights[tensor.name.decode()] = np.asarray(values, np.float64).reshape(shape)

    def number(self, name: str) -> Any:
        return self.values[f"{self.architecture}.{name}"]

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])

    def logits(self, tokens: list[int]) -> Array:
        """Of the token behind the last one."""
        heads, kv = self.number("attention.head_count"), self.number("attention.head_count_kv")
        eps, base = self.number("attention.layer_norm_rms_epsilon"), self.number("rope.freq_base")
        is_llama = self.architecture == "llama"
        x = self.weights["token_embd.weight"][tokens]
        n, width = x.shape
        head = width // heads

        def normed(values: Array, name: str) -> Array:
            result = values / np.sqrt((values * values).mean(-1, keepdims=True) + eps)
            return result * self.weights[f"{name}.weight"] if name else result

        for layer in range(self.number("block_count")):
            at = f"blk.{layer}."

            def by(values: Array, name: str, at: str = at) -> Array:
                result: Array = values @ self.weights[f"{at}{name}.weight"].T
                return result

            h = normed(x, f"{at}attn_norm")
            q = _rotated(by(h, "attn_q").reshape(n, heads, head), base, interleaved=is_llama)
            k = _rotated(by(h, "attn_k").reshape(n, kv, head), base, interleaved=is_llama)
            v = by(h, "attn_v").reshape(n, kv, head)
            mixed = np.zeros((n, heads, head))
            for each in range(heads):
                scores = q[:, each] @ k[:, each * kv // heads].T / np.sqrt(head)
                scores = np.where(np.tril(np.ones((n, n))) > 0, scores, -np.inf)
                p = np.exp(scores - scores.max(-1, keepdims=True))
                mixed[:, each] = p / p.sum(-1, keepdims=True) @ v[:, each * kv // heads]
            out = mixed.reshape(n, width)
            x = x + by(out if is_llama else normed(out, f"{at}attn_sub_norm"), "attn_output")
            h = normed(x, f"{at}ffn_norm")
            gate = by(h, "ffn_gate")
            # Only bitnet-b1.58 has the squared ReLU.
            gate = np.maximum(gate, 0) ** 2 if self.architecture == "bitnet-b1.58" else gate / (1 + np.exp(-gate))
            inner = gate * by(h, "ffn_up")
            x = x + by(inner if is_llama else normed(inner, f"{at}ffn_sub_norm"), "ffn_down")
        result: Array = normed(x[-1], "output_norm") @ self.weights["token_embd.weight"].T
        return result

    def reply(self, tokens: list[int], count: int, enough: float = 0.0) -> tuple[list[int], float]:
        """The next tokens, and how far the least certain of them is ahead, in standard deviations of all logits that
        can win; no more of them after one that is not ``enough`` ahead."""
        said: list[int] = []
        least = np.inf
        for _ in range(count):
            logits = self.logits(tokens + said)
            order = np.argsort(logits)
            lead = (logits[order[-1]] - logits[order[-2]]) / np.sort(logits)[-52:].std()
            least = min(least, float(lead))
            said.append(int(order[-1]))
            if least < enough:
                break
        return said, float(least)


def _rotated(x: Array, base: float, *, interleaved: bool) -> Array:
    """NEOX: the two halves of a head belong together; llama: neighbours."""
    size = x.shape[-1]
    angle = np.arange(x.shape[0])[:, None] * base ** (-np.arange(0, size, 2) / size)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    first, second = (
        (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(size // 2), slice(size // 2, None))
    )
    a, b = x[..., first], x[..., second]
    out = x.copy()
    out[..., first], out[..., second] = a * c - b * s, a * s + b * c
    return out


_LEAD = 0.4
"""What engines round differently moves a logit by 0.05 standard deviations (correlation 0.999)."""


def main(names: list[str]) -> None:
    from bitnet_chat.engine import known_answer_model

    rows = [SmallModel(name) for name in known_answer_model.FORMS]
    rows += [SmallModel("TQ2_0", "bitnet"), SmallModel("IQ2_BN", "bitnet"), SmallModel("I2_S", "bitnet")]
    rows += [SmallModel("IQ2_BN", "bitnet-b1.58"), SmallModel("I2_S", "bitnet-b1.58")]
    rows += [SmallModel("IQ1_BN", "bitnet-b1.58"), SmallModel("IQ2_BN_R4", "bitnet-b1.58")]
    rows = [row for row in rows if not names or row.weights in names]
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.gguf"
            row.write(path)
            model = Model(path)
        found: list[tuple[float, int, str]] = []
        for number in count():
            said, lead = model.reply(known_answer_model.tokens(known_answer_model.question(number)), 3, _LEAD)
            text = bytes(said).decode()
            # All prompts end alike: where the matrices count for nothing, so do the replies.
            if lead >= _LEAD and text[0] not in [each[0] for _, _, each in found]:
                found.append((lead, number, text))
            if len(found) == 4:
                break
        answers = ", ".join(f'({number}, "{text}")' for _, number, text in found)
        name = f'SmallModel("{row.weights}"' + (")" if row.architecture == "llama" else f', "{row.architecture}")')
        print(f"    {name}: ({answers}),  # {min(found)[0]:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
