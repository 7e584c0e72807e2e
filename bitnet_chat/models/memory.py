"""The memory that a model needs.

The need is an upper bound for llama.cpp on a CPU, in bytes::

    file size                                                   the weights, which are mapped and all used
    + context x heads_kv x head_size x 2                        keys and values of all layers, 16 bits each
    + 512 x 4 x (max(vocabulary, (heads + 1) x context) + 8 x width)    compute buffer for a batch of 512 tokens
    + 64,000,000                                                the program, its tokenizer and buffers of fixed size

``heads_kv`` is the number of key-value heads of all layers, ``head_size`` the number of elements of a key plus a value.
The third line is the compute buffer that llama.cpp 0c1e570 reports without flash attention: for the bundled model 23.5
MiB with 2,048 tokens and 83.5 MiB with 8,192; the formula gives 24 and 84. Flash attention needs less, and models with
sliding-window layers need less for keys and values too.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CONTEXT = 8192  # tokens; the window without --ctx, unless the model was trained for less
_PAGE = 256
_BATCH = 512
_FIXED = 64_000_000


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a model that determine its memory; 0 if the file does not specify them."""

    heads_kv: int = 0
    """Number of key-value heads of all layers."""
    head_size: int = 0
    """Elements of a key plus elements of a value."""
    heads: int = 0
    """Number of query heads of one layer."""
    width: int = 0
    """Elements of the embedding of a token."""
    vocabulary: int = 0
    """Number of tokens."""


def need(size: int, shape: ModelShape, context: int) -> int:
    """Return the bytes of memory for a file of ``size`` bytes with a window of ``context`` tokens. Pure."""
    cache = context * shape.heads_kv * shape.head_size * 2
    batch = _BATCH * 4 * (max(shape.vocabulary, (shape.heads + 1) * context) + 8 * shape.width)
    return size + cache + batch + _FIXED


def context_for(trained: int | None, wanted: int = 0) -> int:
    """Return the window of a conversation in tokens: ``wanted`` (--ctx), or the training context up to 8,192.

    The result is a multiple of 256, to which newer engines round it anyway: llama-completion 0.5.0 rounds the window
    but not the batch size, and aborts at a message whose length is between the two.
    """
    return -(-(wanted or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)) // _PAGE) * _PAGE
