"""A model that says the same as the bundled one, at the pace of a model of natural size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, ReaderField, ReaderTensor

_SILENT = ("attn_output.weight", "ffn_down.weight")


def write(model: Path, target: Path, layers: int) -> None:
    """``model`` with ``layers`` more behind its own. They are copies of its last one, but that what they add to the
    residual stream is nothing: all is computed, and not a character changes. For models of the architecture bitnet."""
    reader = GGUFReader(model)
    architecture = str(reader.fields["general.architecture"].contents())
    count = int(reader.fields[f"{architecture}.block_count"].contents())
    writer = GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name == f"{architecture}.block_count":
            writer.add_block_count(count + layers)
        elif not field.name.startswith("GGUF.") and field.name != "general.architecture":
            _copy(writer, field)
    last = f"blk.{count - 1}."
    for tensor in reader.tensors:
        _add(writer, tensor.name, tensor, tensor.data)
    for number in range(count, count + layers):
        for tensor in reader.tensors:
            if tensor.name.startswith(last):
                name = tensor.name.removeprefix(last)
                # Zero bytes are digits of -1 with a scale of zero.
                data = np.zeros_like(tensor.data) if name in _SILENT else tensor.data
                _add(writer, f"blk.{number}.{name}", tensor, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy(writer: GGUFWriter, field: ReaderField) -> None:
    inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), field.types[0], inner)


def _add(writer: GGUFWriter, name: str, tensor: ReaderTensor, data: np.ndarray) -> None:
    writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
