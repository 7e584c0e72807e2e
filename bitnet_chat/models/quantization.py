"""How weights are packed: names and sizes of tensor types, and of the mixtures that files are called after. Pure.

Sources: ``enum ggml_type`` and the type traits of ggml (llama.cpp 0c1e570, what ``engine install`` builds), ``enum
llama_ftype`` of llama.h. BitNet's llama.cpp has types of its own, numbered from 36 on where the original had gaps at
the time: I2_S 36, I8_S 37, TL1 38, TL2 39 (its ``ggml.h``; the original uses 39 for MXFP4 now).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class TensorType:
    """``block`` elements take ``size`` bytes; ``size`` 0: not known here."""

    name: str
    block: int
    size: int
    bitnet: bool = False
    """Only BitNet builds of llama.cpp know it."""

    def bytes_of(self, shape: tuple[int, ...]) -> int | None:
        """What a tensor of this shape takes; None where that is not known."""
        elements = prod(shape)
        if self.name == "I2_S":
            return elements // 4 + 32  # docs/I2_s.md of BitNet: the scale stands behind the weights, eight times
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
    36: TensorType("I2_S", 4, 0, bitnet=True),
    37: TensorType("I8_S", 1, 0, bitnet=True),
    38: TensorType("TL1", 4, 0, bitnet=True),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}
_TL2 = TensorType("TL2", 4, 0, bitnet=True)
BITNET_TYPES = frozenset((*(kind.name for kind in _TYPES.values() if kind.bitnet), _TL2.name))

_FILE_TYPES = dict(
    zip(
        (*range(4), *range(7, 33), *range(36, 42)),  # the gaps were other types, which no file has any more
        (
            *("F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S"),
            *("Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"),
            *("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"),
            *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"),
        ),
        strict=True,
    )
)


def tensor_type(number: int, architecture: str = "") -> TensorType | None:
    """None for a number that nobody here knows. The architecture decides where two projects use the same one."""
    if number == 39 and architecture.startswith("bitnet"):
        return _TL2
    return _TYPES.get(number)


def quantization(file_type: object, weights: Iterable[tuple[str, int]]) -> str:
    """What people call a file: ``Q4_K_M``, ``I2_S``, ``TQ2_0``; empty when nothing tells.

    ``weights``: tensor types and how many elements are of each. The number in ``general.file_type`` is believed where
    it names a mixture; but BitNet's 38 to 40 are other types in llama.cpp, so its own tensor types win over it.
    """
    elements = dict(weights)
    most = max(elements, key=lambda name: elements[name], default="")
    ternary = BITNET_TYPES & elements.keys()
    if ternary:
        return max(ternary, key=lambda name: elements[name])
    named = _FILE_TYPES.get(file_type) if type(file_type) is int else None
    return named or most
