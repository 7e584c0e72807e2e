"""Files that look like models and engines, as far as their headers are read."""

from __future__ import annotations

import struct
from pathlib import Path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def model_file(path: Path, kind: int, architecture: str = "llama") -> Path:
    """A model of one tensor, and of a vocabulary of none."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.architecture") + struct.pack("<I", 8)
    head += text(architecture) + text("a") + struct.pack("<IQIQ", 1, 256, kind, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(4096))
    return path


def engine_file(path: Path, *words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF" + b"\0".join(word.encode() for word in ("x", *words, "y")))
    return path
