"""Whether an engine knows the tensor types of BitNet: its binary holds the names of all types that it knows."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_BITNET = b"i2_s\0"
_ANY = b"q4_K\0"
"""A name that every llama.cpp has: where it is missing, the table is in a library."""
_LARGEST = 1 << 30


def knows_bitnet(engine: Path) -> bool | None:
    """None where no table of types is found in the program or in a library near it."""
    for path in (engine.resolve(), *_libraries(engine.resolve())):
        found = _in_file(path)
        if found is not None:
            return found
    return None


def _in_file(path: Path) -> bool | None:
    try:
        if not 0 < path.stat().st_size <= _LARGEST:
            return None
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_BITNET) >= 0 if data.find(_ANY) >= 0 else None
    except (OSError, ValueError):
        return None


def _libraries(engine: Path) -> Iterator[Path]:
    """Where builds with shared libraries have them: beside the program, in ``lib``, or in the tree of the build."""
    folder = engine.parent
    for place in (folder, folder.parent / "lib", *_build_tree(folder.parent)):
        for pattern in ("*ggml*.so*", "*ggml*.dylib", "*ggml*.dll"):
            try:
                yield from sorted(place.glob(pattern))[:16]
            except OSError:
                continue


def _build_tree(build: Path) -> Iterator[Path]:
    for base in (build / "3rdparty" / "llama.cpp", build):
        yield from (base / "ggml" / "src", base / "src")
