"""Writing of GGUF files: metadata, then tensors. :mod:`bitnet_chat.models.gguf` describes the format."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

Value = str | int | float | bool | Sequence[str] | Sequence[int] | Sequence[float]

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to write. ``kind``: the ggml_type. ``shape``: row length first. ``data``: its bytes in chunks, ``size``
    bytes in total."""

    name: str
    kind: int
    shape: tuple[int, ...]
    size: int
    data: Iterable[bytes]


def write(file: BinaryIO, values: Mapping[str, Value], tensors: Sequence[NewTensor]) -> None:
    """Write a file. Integers become u32 (in lists i32), floats f32.

    Raises ValueError if the data of a tensor does not have the announced size.
    """
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)))
    for key, value in values.items():
        file.write(_text(key) + _value(value))
    offset = 0
    for tensor in tensors:
        file.write(_text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        file.write(struct.pack("<IQ", tensor.kind, offset))
        offset += tensor.size + -tensor.size % _ALIGNMENT
    file.write(bytes(-file.tell() % _ALIGNMENT))
    for tensor in tensors:
        written = sum(map(file.write, tensor.data))
        if written != tensor.size:
            raise ValueError(f"{tensor.name}: {written} bytes instead of {tensor.size}")
        file.write(bytes(-written % _ALIGNMENT))


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
    kind = {str: _STRING, int: _I32, float: _F32}[type(value[0]) if value else str]
    head = struct.pack("<IIQ", _ARRAY, kind, len(value))
    if kind == _STRING:
        return head + b"".join(_text(str(each)) for each in value)
    return head + struct.pack(f"<{len(value)}{'i' if kind == _I32 else 'f'}", *value)
