"""One thing that happened between us and an engine, and its form on the disk. Pure.

A segment is :data:`MAGIC` and frames. A frame is a head of 15 bytes, little endian (u8 kind, u16 number of the
process, f64 seconds since the start of the session, u32 length), and that many bytes. A file that ends in the middle of
a frame was cut off by a death; what stands before that is whole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MAGIC = b"BCREC1\n"
LARGEST = 1 << 18
"""Bytes of one frame: what an engine writes comes in smaller pieces, and what is written to it is cut there."""
_HEAD = struct.Struct("<BHdI")


class Kind(IntEnum):
    """Told in a transcript by the name in small letters."""

    ABOUT = 0
    """Of the session; the bytes are a JSON object."""
    SPAWN = 1
    """An engine was started; the bytes are a JSON object with ``argv``."""
    OUT = 2
    ERR = 3
    IN = 4
    COMMAND = 5
    """Input that is no message, such as ``/clear``."""
    SIGNAL = 6
    """Its name."""
    EXIT = 7
    """The code, in decimal; negative: minus the number of a signal."""
    GAP = 8
    """Bytes that were not kept, in decimal."""
    KILLED = 9
    """Whoever recorded it ended the engine here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``at``: seconds since the start of the session. ``process``: which engine, from 1; 0: the session itself."""

    at: float
    kind: Kind
    process: int = 0
    data: bytes = b""

    @property
    def facts(self) -> dict[str, Any]:
        """The object of an ABOUT or SPAWN; empty where it is none."""
        try:
            value = json.loads(self.data)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "surrogateescape")

    @property
    def number(self) -> int:
        """Of an EXIT or GAP; 0 where it is none."""
        try:
            return int(self.data)
        except ValueError:
            return 0

    @property
    def argv(self) -> tuple[str, ...]:
        argv = self.facts.get("argv")
        return tuple(map(str, argv)) if isinstance(argv, list) else ()


def of_facts(at: float, kind: Kind, process: int, facts: Mapping[str, object]) -> Entry:
    # Escaped: an argument may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    return Entry(at, kind, process, json.dumps(dict(facts)).encode())


def pack(entry: Entry) -> bytes:
    data = entry.data[:LARGEST]
    return _HEAD.pack(entry.kind, entry.process & 0xFFFF, entry.at, len(data)) + data


def unpack(segment: bytes) -> Iterator[Entry]:
    """The entries of a segment as far as it is whole. Raises ValueError for what is no segment or has other bytes
    where a frame should begin."""
    if not segment.startswith(MAGIC):
        if MAGIC.startswith(segment):
            return  # it died before the first frame
        raise ValueError("it does not begin like a recording")
    at = len(MAGIC)
    while at + _HEAD.size <= len(segment):
        kind, process, seconds, length = _HEAD.unpack_from(segment, at)
        if kind not in _KINDS or length > LARGEST or not 0 <= seconds < 1e9:
            raise ValueError(f"byte {at} begins no frame")
        at += _HEAD.size
        if at + length > len(segment):
            return
        yield Entry(seconds, Kind(kind), process, segment[at : at + length])
        at += length


_KINDS = frozenset(Kind)
