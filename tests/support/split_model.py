"""A model in several files, as ``llama-gguf-split`` makes them: all facts in the first, the tensors divided."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

from bitnet_chat.models.gguf import opened
from bitnet_chat.models.names import suffix

_ALIGNMENT = 32


def split(model: Path, count: int) -> list[bytes]:
    content = model.read_bytes()
    with opened(model) as cursor:
        contents = cursor.contents()
        facts = content[24 : contents.tensors_at]
        number = len(contents.values) + len(contents.arrays)
        pairs = struct.unpack_from("<Q", content, 16)[0]
        assert number <= pairs
        tensors = list(cursor.tensors(contents))
        data = -(-cursor.position // _ALIGNMENT) * _ALIGNMENT
    ends = [*sorted({each.offset for each in tensors}), len(content) - data]
    size = {begin: end - begin for begin, end in pairwise(ends)}
    share = -(-len(tensors) // count)
    parts = []
    for index in range(count):
        some = tensors[index * share : (index + 1) * share]
        table, blob = b"", b""
        for each in some:
            table += struct.pack("<Q", len(each.name)) + each.name + struct.pack("<I", len(each.shape))
            table += struct.pack(f"<{len(each.shape)}Q", *each.shape) + struct.pack("<IQ", each.kind, len(blob))
            blob += content[data + each.offset : data + each.offset + size[each.offset]]
            blob += bytes(-len(blob) % _ALIGNMENT)
        own = _pair("split.no", 2, struct.pack("<H", index)) + _pair("split.count", 2, struct.pack("<H", count))
        own += _pair("split.tensors.count", 5, struct.pack("<i", len(tensors)))
        head = b"GGUF" + struct.pack("<IQQ", 3, len(some), 3 + (pairs if index == 0 else 0))
        head += (facts if index == 0 else b"") + own + table
        parts.append(head + bytes(-len(head) % _ALIGNMENT) + blob)
    return parts


def written(model: Path, count: int, folder: Path, name: str) -> list[Path]:
    """The parts as files ``NAME-00001-of-00003.gguf`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix(number, count)}.gguf" for number in range(1, count + 1)]
    for path, content in zip(paths, split(model, count), strict=True):
        path.write_bytes(content)
    return paths


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value
