"""What a repository of the hub offers: its models by quantization, each one file or several parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitnet_chat.errors import UsageError
from bitnet_chat.models.parts import part, stem_of
from bitnet_chat.models.source import Source, chosen, named

# As llama-quantize and the people who publish files write them: Q4_K_M, IQ2_XXS, TQ2_0, I2_S, UD-Q4_K_XL, MXFP4, BF16.
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]{1,3}){1,3}|TQ[12]_0|I2_S|TL[12]|(?:MX|NV)FP4(?:_MOE)?|B?F16|FP?32|FP16)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"mmproj|imatrix|(?:^|/)mtp-", re.IGNORECASE)
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class File:
    """One file of a repository."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A model of a repository."""

    file: str
    """The only file, or the first part."""
    quantization: str
    """In capital letters; empty where the name does not tell."""
    size: int
    """Bytes of all parts."""
    parts: int


def offered(files: Iterable[File]) -> list[Offered]:
    """The models among the files, the smallest first. Projectors of images, importance matrices, heads that predict
    several tokens, and models of which a part is missing are none."""
    sizes = {file.path: file.size for file in files if file.path.endswith(".gguf") and not _NO_MODEL.search(file.path)}
    found = []
    for path, size in sizes.items():
        piece = part(path)
        if piece is None:
            found.append(Offered(path, quantization_of(path), size, 1))
        elif piece.number == 1 and all(each in sizes for each in piece.all()):
            total = sum(sizes[each] for each in piece.all())
            found.append(Offered(path, quantization_of(path), total, piece.count))
    return sorted(found, key=lambda each: (each.size, each.file))


def quantization_of(path: str) -> str:
    """The last that the file's name tells, else the last of its folders' names."""
    for name in reversed(path.split("/")):
        if found := _QUANTIZATION.findall(stem_of(name)):
            return str(found[-1]).upper()
    return ""


def pick(source: Source, models: Sequence[Offered]) -> Source:
    """The source with the one file of its quantization. Raises UsageError where there is none, or more than one."""
    wanted = source.quantization.upper()
    fitting = [each for each in models if each.quantization == wanted] or [
        each for each in models if each.quantization.removeprefix("UD-") == wanted
    ]
    if len(fitting) == 1:
        return named(chosen(source, fitting[0].file))
    if not fitting:
        raise UsageError(
            f"hf:{source.repo} has no model of the quantization {source.quantization}",
            remedy="it has: " + (", ".join(dict.fromkeys(each.quantization or each.file for each in models)) or "none"),
        )
    listed = ", ".join(f"hf:{source.repo}/{each.file}" for each in fitting[:_SHOWN])
    raise UsageError(
        f"hf:{source.repo} has {len(fitting)} models of the quantization {source.quantization}",
        remedy=f"name the file: {listed}",
    )
