"""BitNet b1.58 in PyTorch, computed as the ``bitnet`` graph of llama.cpp computes it.

The weights of every linear layer are ternary with one scale per tensor (the mean of the absolute values); the
activations going in are 8-bit, one scale per block of 256 values, which is how the engine quantizes them for TQ2_0.
Both are rounded in the forward pass and passed through as they are in the backward pass (straight-through), so the
network that is trained is the network that is exported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 256


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model; widths are multiples of 256, the block size of TQ2_0."""

    vocabulary: int = 1536
    width: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 768
    context: int = 2048
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5
    dropout: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class RoundActivations(torch.autograd.Function):
    """8-bit activations, one scale for 256 values; the gradient ignores the rounding."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        blocks = values.unflatten(-1, (-1, BLOCK))
        scale = blocks.abs().amax(-1, keepdim=True).clamp_(min=1e-6).div_(127.0)
        return (blocks / scale).round_().mul_(scale).flatten(-2)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight as -1, 0, 1 and the scale, which is rounded to 16 bits because the file stores it so."""
    scale = weight.abs().mean().clamp(min=1e-5).half().float()
    return (weight / scale).round().clamp(-1, 1), scale


class TernaryLinear(nn.Module):
    """A linear layer without bias that computes with ternary weights; its input is already rounded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            signs, scale = ternary(self.weight)
            delta = signs * scale - self.weight
        return F.linear(values, (self.weight + delta).to(values.dtype))


class FeatureDropout(nn.Module):
    """Dropout of whole features of a row: one random number for many positions, which a CPU can afford."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.share:
            return values
        rows, _, width = values.shape
        kept = torch.rand(rows, 1, width) >= self.share
        return values * (kept / (1 - self.share)).to(values.dtype)


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the half-split (NeoX) order, which is llama.cpp's order for this architecture."""
    first, second = values.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Block(nn.Module):
    """Attention and feed-forward, each with a norm before it and a second one before its last projection."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.dropout = FeatureDropout(shape.dropout)
        width, inner, epsilon = shape.width, shape.feed_forward, shape.norm_epsilon
        self.attn_norm = nn.RMSNorm(width, epsilon)
        self.attn_q = TernaryLinear(width, width)
        self.attn_k = TernaryLinear(width, width)
        self.attn_v = TernaryLinear(width, width)
        self.attn_sub_norm = nn.RMSNorm(width, epsilon)
        self.attn_output = TernaryLinear(width, width)
        self.ffn_norm = nn.RMSNorm(width, epsilon)
        self.ffn_gate = TernaryLinear(width, inner)
        self.ffn_up = TernaryLinear(width, inner)
        self.ffn_sub_norm = nn.RMSNorm(inner, epsilon)
        self.ffn_down = TernaryLinear(inner, width)

    def forward(self, stream: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        rows, length, width = stream.shape
        rounded = RoundActivations.apply(self.attn_norm(stream)).to(dtype)
        query, key, value = (
            layer(rounded).view(rows, length, self.heads, -1).transpose(1, 2)
            for layer in (self.attn_q, self.attn_k, self.attn_v)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        mixed = mixed.transpose(1, 2).reshape(rows, length, width).float()
        rounded = RoundActivations.apply(self.attn_sub_norm(mixed)).to(dtype)
        stream = stream + self.dropout(self.attn_output(rounded)).float()
        rounded = RoundActivations.apply(self.ffn_norm(stream)).to(dtype)
        hidden = (F.silu(self.ffn_gate(rounded)) * self.ffn_up(rounded)).float()
        rounded = RoundActivations.apply(self.ffn_sub_norm(hidden)).to(dtype)
        return stream + self.dropout(self.ffn_down(rounded)).float()


class BitNet(nn.Module):
    """The whole network; the embedding is also the output layer."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        nn.init.normal_(self.token_embd.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        half = shape.width // shape.heads // 2
        frequencies = shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(shape.context, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        chosen: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Logits for all positions, or only for the ``chosen`` ones of the flattened batch."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length].to(dtype), self.sin[:length].to(dtype)
        stream = self.token_embd(tokens)
        for block in self.blocks:
            stream = block(stream, cos, sin, mask, dtype)
        if chosen is not None:
            stream = stream.flatten(0, 1)[chosen]
        normed = self.output_norm(stream).to(dtype)
        return F.linear(normed, self.token_embd.weight.to(dtype)).float()
