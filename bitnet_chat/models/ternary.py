"""Rows of ternary weights, as BitNet's I2_S and ik_llama.cpp's IQ2_BN pack them. Pure.

I2_S: 128 weights in 32 bytes, byte j holds the weights j, j + 32, j + 64 and j + 96 from its highest bits down; behind
all rows stands the scale of the tensor. IQ2_BN: a row begins with its scale; then 64 weights in 16 bytes, byte j holds
the weights j, j + 16, j + 32 and j + 48 from its lowest bits up. A code of two bits is the weight plus 1.
"""

from __future__ import annotations

import struct

I2_S, IQ2_BN = 36, 135
"""As ggml numbers the types."""


def row_size(kind: int, columns: int) -> int:
    """Bytes."""
    return columns // 4 + (4 if kind == IQ2_BN else 0)


def codes(kind: int, row: bytes) -> bytes:
    """One byte for each weight: 0, 1 or 2."""
    packed, length, shifts = (row[4:], 16, (0, 2, 4, 6)) if kind == IQ2_BN else (row, 32, (6, 4, 2, 0))
    return b"".join(
        bytes(byte >> shift & 3 for byte in packed[at : at + length])
        for at in range(0, len(packed), length)
        for shift in shifts
    )


def scale(data: bytes) -> float:
    """The number that begins a row of IQ2_BN and follows the rows of I2_S."""
    return float(struct.unpack_from("<f", data)[0])
