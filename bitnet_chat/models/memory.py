"""How much memory a model needs, and how much there is.

The need is an upper bound for llama.cpp on a CPU, in bytes::

    file size                                                   the weights, mapped and used whole
    + context x heads_kv x head_size x 2                        keys and values of every layer, 16 bits each
    + 512 x 4 x (max(vocabulary, (heads + 1) x context) + 8 x width)    a batch of 512 on its way through
    + 64,000,000                                                the program, its tokenizer and buffers of fixed size

``heads_kv`` counts the key-value heads of all layers together, ``head_size`` the elements of a key plus a value.
The third line is what llama.cpp 0c1e570 reports as its compute buffer without flash attention: for the bundled model
23.5 MiB with 2,048 tokens and 83.5 MiB with 8,192, against 24 and 84 by this formula. With flash attention it is less,
and models whose layers look back over a short window only need less for keys and values too.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CONTEXT = 8192  # what a conversation gets unless --ctx says otherwise, or the model was trained for less
_PAGE = 256
_BATCH = 512
_FIXED = 64_000_000


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The measures of a model that its memory depends on; 0 where a file does not say."""

    heads_kv: int = 0
    """Key-value heads of all layers together."""
    head_size: int = 0
    """Elements of a key and a value together."""
    heads: int = 0
    """Query heads of one layer."""
    width: int = 0
    """Elements of the embedding of a token."""
    vocabulary: int = 0


def need(size: int, shape: ModelShape, context: int) -> int:
    """Bytes for a model file of ``size`` bytes with a window of ``context`` tokens. Pure."""
    cache = context * shape.heads_kv * shape.head_size * 2
    batch = _BATCH * 4 * (max(shape.vocabulary, (shape.heads + 1) * context) + 8 * shape.width)
    return size + cache + batch + _FIXED


def context_for(trained: int | None, wanted: int = 0) -> int:
    """The window of a conversation: ``wanted`` (--ctx), or the training context up to a limit.

    Whole pages, as newer engines use in any case: for another value llama-completion 0.5.0 has a window of whole pages
    and a batch of the requested size, and aborts at a message between the two.
    """
    return -(-(wanted or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)) // _PAGE) * _PAGE
