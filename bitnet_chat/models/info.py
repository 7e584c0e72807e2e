"""The contents of a model file: for ``models info`` and for the choice between models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from bitnet_chat.errors import ModelError
from bitnet_chat.models.gguf import GGUFContents, GGUFReader, ModelHeader, header, opened, text
from bitnet_chat.models.memory import ModelShape
from bitnet_chat.models.parts import part
from bitnet_chat.models.tensor_types import BITNET_TYPES, quantization, tensor_type


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A header, a summary of its tensors, and derived facts. Empty, 0 or None for missing values."""

    header: ModelHeader
    version: int
    quantization: str
    """The usual name: ``Q4_K_M``, ``I2_S``."""
    tensor_types: tuple[tuple[str, int], ...]
    """Names with the number of tensors of each, the most frequent first. ``type 99``: an unknown number."""
    parameters: int
    """Elements of all tensors."""
    kind: str
    """``model``, ``adapter``, ``mmproj`` …; empty in older files."""
    size_label: str
    license: str
    shape: ModelShape
    whole_size: int | None
    """Bytes that the file must have for a complete last tensor; None if a tensor type is unknown."""
    split: tuple[int, int] | None
    """Number and count of the part; None for a whole model, in one file or in several that were read."""
    cut: tuple[Path, ...] = ()
    """Truncated files of a model in parts."""
    embeds: bool = False
    """It makes embeddings or ranks texts, and generates no replies."""

    @property
    def needs_bitnet(self) -> bool:
        """Whether only builds of BitNet support its weights."""
        return any(kind in BITNET_TYPES for kind, _ in self.tensor_types)

    @property
    def is_cut_off(self) -> bool:
        return self.whole_size is not None and self.header.size < self.whole_size

    @property
    def shortness(self) -> str:
        """The missing bytes of a truncated file, in words."""
        names = ", ".join(path.name for path in self.cut or (self.header.path,))
        of = " of the model" if self.cut else ""
        return (
            f"{names} ends too early: {self.header.size:,} bytes{of} are present, its tensors need {self.whole_size:,}"
        )


def read_info(path: Path) -> ModelInfo:
    """Of a model in parts all parts are read, if ``path`` is the first and the others are beside it.

    Raises ModelError as :func:`bitnet_chat.models.gguf.read_header` does, also for an invalid table of tensors.
    """
    first = part(path.name)
    if first is not None and first.number == 1 and first.count > 1:
        paths = [path.with_name(name) for name in first.all()]
        if all(each.is_file() for each in paths):
            return read_parts(paths)
    return _read(path)


def read_parts(paths: Sequence[Path]) -> ModelInfo:
    """The model in these files, in order. Raises ModelError, also for files that are parts of different models."""
    infos = [_read(path) for path in paths]
    first, count = infos[0], len(infos)
    for number, each in enumerate(infos, 1):
        if each.split not in ((None,) if count == 1 else ((number, count),)):
            said = "{} of {}".format(*each.split) if each.split else "a whole model"
            raise ModelError(
                f"{each.header.path} is {said}, not part {number} of {count}", remedy="download the model again"
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
        # llama.cpp pools the output of such models, and of no other.
        embeds=type(pooled := values.get(f"{found.architecture}.pooling_type")) is int and pooled > 0,
    )


def _shape(cursor: GGUFReader, contents: GGUFContents, found: ModelHeader) -> ModelShape:
    """The dimensions that determine the memory of a context. Models with layers of different kinds give a list of
    heads.
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


# The first that matches; a marker that only one family writes stands before those that several do.
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
    """The kind of a chat template, by its markers; ``own`` for all others, ``none`` for an empty text."""
    if not template.strip():
        return "none"
    return next((name for name, marker in _FAMILIES if marker in template), "own")
