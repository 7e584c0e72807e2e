"""The facts about a model file that ``models info`` shows and that the choice of a model requires."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from bitnet_chat.errors import ModelError
from bitnet_chat.models.gguf import GGUFContents, GGUFReader, ModelHeader, header, opened, text
from bitnet_chat.models.memory import ModelShape
from bitnet_chat.models.names import part
from bitnet_chat.models.tensor_types import BITNET_TYPES, quantization, tensor_type


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A header, a summary of the tensors, and derived facts. Missing values are empty, 0 or None."""

    header: ModelHeader
    version: int
    """Version of the GGUF format."""
    quantization: str
    """The usual name: ``Q4_K_M``, ``I2_S``."""
    tensor_types: tuple[tuple[str, int], ...]
    """Names of tensor types with the number of tensors, most frequent first. ``type 99``: an unknown number."""
    parameters: int
    """Number of elements of all tensors."""
    kind: str
    """``model``, ``adapter``, ``mmproj`` …; empty in older files."""
    size_label: str
    license: str
    shape: ModelShape
    whole_size: int | None
    """Bytes of the complete file, up to the end of the last tensor; None if a tensor type is unknown."""
    split: tuple[int, int] | None
    """Number and count of the part; None for a whole model, even if it was read from several files."""
    cut: tuple[Path, ...] = ()
    """Truncated files of a model in parts."""
    embeds: bool = False
    """Whether it makes embeddings or ranks texts instead of generating replies."""

    @property
    def needs_bitnet(self) -> bool:
        """Whether only builds of BitNet support its weights."""
        return any(kind in BITNET_TYPES for kind, _ in self.tensor_types)

    @property
    def is_cut_off(self) -> bool:
        """Whether the file is truncated."""
        return self.whole_size is not None and self.header.size < self.whole_size

    @property
    def shortness(self) -> str:
        """A sentence about the missing bytes of a truncated file."""
        names = ", ".join(path.name for path in self.cut or (self.header.path,))
        of = " of the model" if self.cut else ""
        return (
            f"{names} ends too early: {self.header.size:,} bytes{of} are present, its tensors need {self.whole_size:,}"
        )


def read_info(path: Path) -> ModelInfo:
    """Read a model; for a model in parts all parts, if ``path`` is the first and the others are in the same directory.

    Raises ModelError like :func:`bitnet_chat.models.gguf.read_header`, also for an invalid table of tensors.
    """
    first = part(path.name)
    if first is not None and first.number == 1 and first.count > 1:
        paths = [path.with_name(name) for name in first.all()]
        if all(each.is_file() for each in paths):
            return read_parts(paths)
    return _read(path)


def read_parts(paths: Sequence[Path]) -> ModelInfo:
    """Read the model in these files, in order. Raises ModelError, also for parts of different models."""
    infos = [_read(path) for path in paths]
    first, count = infos[0], len(infos)
    for number, each in enumerate(infos, 1):
        if each.split not in ((None,) if count == 1 else ((number, count),)):
            description = "{} of {}".format(*each.split) if each.split else "a whole model"
            raise ModelError(
                f"{each.header.path} is {description}, not part {number} of {count}", remedy="download the model again"
            )
    if count == 1:
        return first
    types = Counter[str]()
    for each in infos:
        types.update(dict(each.tensor_types))
    sizes = [max(each.header.size, each.whole_size) for each in infos if each.whole_size is not None]
    size = sum(each.header.size for each in infos)
    tensors = sum(each.header.tensor_count for each in infos)
    return replace(
        first,
        header=replace(first.header, size=size, tensor_count=tensors, split=None),
        quantization=first.quantization or next((each.quantization for each in infos if each.quantization), ""),
        tensor_types=tuple(sorted(types.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(each.parameters for each in infos),
        whole_size=sum(sizes) if len(sizes) == count else None,
        split=None,
        cut=tuple(each.header.path for each in infos if each.is_cut_off),
    )


def _read(path: Path) -> ModelInfo:
    with opened(path) as cursor:
        contents = cursor.contents()
        return _info(cursor, contents, header(cursor, contents))


def _info(cursor: GGUFReader, contents: GGUFContents, found: ModelHeader) -> ModelInfo:
    counts: dict[str, int] = {}
    elements: dict[str, int] = {}
    whole: int | None = 0
    alignment = int(contents.values.get("general.alignment", 32))
    for tensor in cursor.tensors(contents):
        kind = tensor_type(tensor.kind, found.architecture, contents.values.get("general.file_type"))
        name = kind.name if kind else f"type {tensor.kind}"
        size = kind.bytes_of(tensor.shape) if kind else None
        if tensor.offset % alignment:
            raise ValueError(f"a tensor at {tensor.offset}, which is not a multiple of {alignment}")
        if len(counts) > 64:
            raise ValueError("more than 64 types of tensors")
        counts[name] = counts.get(name, 0) + 1
        elements[name] = elements.get(name, 0) + prod(tensor.shape)
        whole = None if whole is None or size is None else max(whole, tensor.offset + size)
    data = -(-cursor.position // alignment) * alignment
    values = contents.values
    return ModelInfo(
        header=found,
        version=contents.version,
        quantization=quantization(values.get("general.file_type"), elements.items()),
        tensor_types=tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(elements.values()),
        kind=text(values.get("general.type")),
        size_label=text(values.get("general.size_label")),
        license=text(values.get("general.license")) or text(values.get("general.license.name")),
        shape=_shape(cursor, contents, found),
        whole_size=None if whole is None else data + whole if counts else cursor.position,
        split=found.split,
        # llama.cpp pools the output of embedding and ranking models only.
        embeds=type(pooled := values.get(f"{found.architecture}.pooling_type")) is int and pooled > 0,
    )


def _shape(cursor: GGUFReader, contents: GGUFContents, found: ModelHeader) -> ModelShape:
    """The dimensions that determine the memory of a context.

    ``head_count_kv`` is a list in models whose layers differ.
    """
    values = contents.values

    def number(key: str) -> int:
        value = values.get(f"{found.architecture}.{key}", 0)
        return value if type(value) is int and 0 < value < 1 << 31 else 0

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    listed = contents.arrays.get(f"{found.architecture}.attention.head_count_kv")
    if listed is not None and listed.length <= 4096:
        heads_kv = sum(max(0, int(each)) for part in cursor.numbers(listed) for each in part)
    else:
        heads_kv = layers * (number("attention.head_count_kv") or heads)
    head = width // heads if heads else 0
    return ModelShape(
        heads_kv=heads_kv,
        head_size=(number("attention.key_length") or head) + (number("attention.value_length") or head),
        heads=heads,
        width=width,
        vocabulary=found.vocabulary_size,
    )


# The first marker that occurs decides; markers of a single family come before shared ones.
_FAMILIES = (
    ("llama3", "<|start_header_id|>"),
    ("harmony", "<|channel|>"),
    ("gemma", "<start_of_turn>"),
    ("chatml", "<|im_start|>"),
    ("deepseek", "<｜Assistant｜>"),
    ("mistral", "[INST]"),
    ("zephyr", "<|assistant|>"),
    ("bitnet", "<|eot_id|>"),
)


def template_family(template: str) -> str:
    """Return the family of a chat template, by its markers: ``own`` for an unknown one, ``none`` for an empty text."""
    if not template.strip():
        return "none"
    return next((name for name, marker in _FAMILIES if marker in template), "own")
