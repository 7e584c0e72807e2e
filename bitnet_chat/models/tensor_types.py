"""Tensor types: names and sizes, quantization names of files, and the packing of ternary weights. Pure.

Sources: ``enum ggml_type`` and the type traits of ggml (llama.cpp 0c1e570, the version of ``engine install``), and
``enum llama_ftype`` of llama.h. The llama.cpp of BitNet has additional types, which it numbers from 36 on, in gaps of
that time: I2_S 36, I8_S 37, TL1 38, TL2 39 (its ``ggml.h``; llama.cpp now uses 39 for MXFP4). ik_llama.cpp numbers its
types from 133 on (``ggml.h`` of 0.1.5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal

Fork = Literal["", "bitnet", "ik"]
"""A fork of llama.cpp with additional types; empty for llama.cpp."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor type: ``block`` elements take ``size`` bytes; 0 if unknown."""

    name: str
    block: int
    size: int
    fork: Fork = ""
    """The only fork of llama.cpp that supports it."""

    def bytes_of(self, shape: tuple[int, ...]) -> int | None:
        """Return the bytes of a tensor of this shape; None if unknown."""
        elements = prod(shape)
        if self.name == "I2_S":
            return elements // 4 + 32  # docs/I2_s.md of BitNet: the scale follows the weights, eight times
        return -(-elements // self.block) * self.size if self.size else None


_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 40),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    36: TensorType("I2_S", 4, 0, fork="bitnet"),
    37: TensorType("I8_S", 1, 0, fork="bitnet"),
    38: TensorType("TL1", 4, 0, fork="bitnet"),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}
_TL2 = TensorType("TL2", 4, 0, fork="bitnet")
_IK_TYPES = """
133 Q6_0 134 IQ1_BN 135 IQ2_BN 136 Q8_K64 137 IQ2_K 138 IQ3_K 139 IQ4_K 140 IQ5_K 141 IQ6_K 144 IQ4_KS 145 IQ2_KS
146 IQ4_KSS 147 Q8_K16 148 Q8_K32 149 Q8_KR8 150 Q8_K128 151 Q8_KV 152 IQ5_KS 153 IQ2_KT 154 IQ3_KT 155 IQ4_KT
156 IQ3_KS 157 IQ2_KL 158 IQ1_KT 202 Q4_0_R8 206 Q5_0_R4 208 Q8_0_R8 210 Q2_K_R4 211 Q3_K_R4 212 Q4_K_R4 213 Q5_K_R4
214 Q6_K_R4 216 IQ2_XXS_R4 217 IQ2_XS_R4 218 IQ3_XXS_R4 219 IQ1_S_R4 220 IQ4_NL_R4 221 IQ3_S_R4 222 IQ2_S_R4
223 IQ4_XS_R8 229 IQ1_M_R4 230 BF16_R16 233 Q6_0_R4 335 IQ2_BN_R4 337 IQ2_K_R4 338 IQ3_K_R4 339 IQ4_K_R4 340 IQ5_K_R4
344 IQ4_KS_R4 352 IQ5_KS_R4 397 Q8_K_R16 398 Q8_KV_R8 399 Q8_K_R8
"""
for _number, _name in re.findall(r"(\d+) (\w+)", _IK_TYPES):
    _TYPES[int(_number)] = TensorType(_name, 1, 0, fork="ik")
BITNET_TYPES = frozenset(kind.name for kind in (*_TYPES.values(), _TL2) if kind.fork == "bitnet")
IK_TYPES = frozenset(kind.name for kind in _TYPES.values() if kind.fork == "ik")

_FILE_TYPES = dict(
    zip(
        (*range(4), *range(7, 33), *range(36, 42)),  # the gaps are removed types
        (
            *("F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S"),
            *("Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"),
            *("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"),
            *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"),
        ),
        strict=True,
    )
)


I2_S_FILE, _TL2_FILE = 40, 39
"""``general.file_type`` of BitNet files with I2_S; ``_TL2_FILE``: with TL2. In llama.cpp 39 is NVFP4, with tensors of
type 40."""


def tensor_type(number: int, architecture: str = "", file_type: object = None) -> TensorType | None:
    """Return the type with this number; None if unknown.

    Two projects use the number 39; architecture and file type decide between them.
    """
    if number == 39 and (architecture.startswith("bitnet") or file_type == _TL2_FILE):
        return _TL2
    return _TYPES.get(number)


def quantization(file_type: object, weights: Iterable[tuple[str, int]]) -> str:
    """Return the usual name of a file: ``Q4_K_M``, ``I2_S``, ``TQ2_0``; empty if unknown.

    ``weights``: tensor types with their numbers of elements. ``general.file_type`` decides if it names a mixture.
    Tensor types of forks take precedence, since forks use numbers of ``general.file_type`` that mean other types in
    llama.cpp.
    """
    elements = dict(weights)
    most = max(elements, key=lambda name: elements[name], default="")
    ternary = (BITNET_TYPES | IK_TYPES) & elements.keys()
    if ternary:
        return max(ternary, key=lambda name: elements[name])
    named = _FILE_TYPES.get(file_type) if type(file_type) is int else None
    return named or most


# Packing of ternary weights in I2_S of BitNet and IQ2_BN of ik_llama.cpp. A code of two bits is the weight plus 1.
#
# I2_S: 128 weights in 32 bytes; byte j contains the weights j, j + 32, j + 64 and j + 96, from the highest bits down.
# The scale of the tensor follows all rows. IQ2_BN: a row begins with its scale; then 64 weights in 16 bytes; byte j
# contains the weights j, j + 16, j + 32 and j + 48, from the lowest bits up.

I2_S, IQ2_BN = 36, 135
"""The ggml_type numbers of the two types."""


def row_size(kind: int, columns: int) -> int:
    """Return the bytes of a row of ``columns`` weights."""
    return columns // 4 + (4 if kind == IQ2_BN else 0)


def codes(kind: int, row: bytes) -> bytes:
    """Unpack a row into one byte per weight: 0, 1 or 2."""
    packed, length, shifts = (row[4:], 16, (0, 2, 4, 6)) if kind == IQ2_BN else (row, 32, (6, 4, 2, 0))
    return b"".join(
        bytes(byte >> shift & 3 for byte in packed[at : at + length])
        for at in range(0, len(packed), length)
        for shift in shifts
    )


def scale(data: bytes) -> float:
    """Return the scale, an f32 at the beginning of an IQ2_BN row or after the rows of I2_S."""
    return float(struct.unpack_from("<f", data)[0])
