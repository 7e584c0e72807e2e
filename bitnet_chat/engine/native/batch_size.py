"""Number of tokens of a prompt that are evaluated at once. Pure.

Progress is reported between two batches, and llama.cpp checks for a stop only there, as its server does, so a batch
should take less than half a second. Behind 6,000 tokens a small model takes three times as long for one as at the
beginning. What a small one costs was measured with one thread: 2B4T's shape in TQ2_0 reads 21.8 tokens/s in batches of
16 and 22.1 in those of 128, SmolLM2-135M in Q4_1 118 and 157; ik_llama.cpp reads 2B4T in IQ2_BN as fast by 32 as by
256.
"""

from __future__ import annotations

import re

MOST = 512
_RATE = 1.5e9
"""Bytes of a model times tokens that a thread reads in 0.1 s, at the least of those that were measured."""
LEAST = 16
"""Less makes llama.cpp slower."""
_PARTS = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def batch_size(file_name: str, file_size: int, threads: int, least: int = LEAST) -> int:
    """A power of two from ``least`` to :data:`MOST`. ``file_size``: of the model in bytes, or of its first part."""
    parts = _PARTS.search(file_name)
    size = max(file_size, 1) * (int(parts[1]) if parts else 1)
    wanted = max(_RATE * threads / size, 1)
    return max(least, min(MOST, 1 << (int(wanted).bit_length() - 1)))
