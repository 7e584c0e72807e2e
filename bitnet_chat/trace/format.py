"""Recordings as text, one JSON object a line. Pure.

===========  ==============================================================================
``kind``     beside ``t`` (seconds since the start) and ``process`` (which engine, from 1)
===========  ==============================================================================
``about``    the session: ``began``, ``bitnet-chat`` (version), ``argv``
``spawn``    ``argv`` of the engine; ``again``: it had been started before, in a part that was not kept;
             ``thinking``: the tags around thoughts, and whether a reply begins with them;
             ``around``: what is typed in front of each message and behind it; ``framer``: the form of the replies
``out``      ``b64``: bytes that the engine wrote on its terminal or stdout
``err``      ``b64``: the same of its log
``in``       ``b64``: a message that was written to it; a newline alone: go on; ``command``: not a message
``signal``   ``name``
``exit``     ``code``; minus the number of a signal that ended it
``gap``      ``bytes`` that were not kept
``killed``   the recording program ended the engine here
===========  ==============================================================================

Other kinds are passed over: a bug report has some more of its own, and later versions may.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from bitnet_chat.errors import UsageError

# One entry of the traffic with an engine, and its format on the disk. Pure.
#
# A segment is :data:`MAGIC` and frames. A frame is a head of 15 bytes, little endian (u8 kind, u16 number of the
# process, f64 seconds since the start of the session, u32 length), and that many bytes. A file that ends in the
# middle of a frame was cut off by a death; what stands before that is whole.

MAGIC = b"BCREC1\n"
LARGEST = 1 << 18
"""Bytes of one frame: what an engine writes comes in smaller pieces, and what is written to it is cut there."""
_HEAD = struct.Struct("<BHdI")


class TraceEntryKind(IntEnum):
    """Told in a transcript by the name in small letters."""

    ABOUT = 0
    """Facts about the session; the bytes are a JSON object."""
    SPAWN = 1
    """An engine was started; the bytes are a JSON object with ``argv``."""
    OUT = 2
    ERR = 3
    IN = 4
    COMMAND = 5
    """Input that is not a message, such as ``/clear``."""
    SIGNAL = 6
    """A signal; the bytes are its name."""
    EXIT = 7
    """The code, in decimal; negative: minus the number of a signal."""
    GAP = 8
    """Bytes that were not kept, in decimal."""
    KILLED = 9
    """The recording program ended the engine here."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One entry. ``at``: seconds since the start of the session. ``process``: engine from 1; 0: the session itself."""

    at: float
    kind: TraceEntryKind
    process: int = 0
    data: bytes = b""

    @property
    def facts(self) -> dict[str, Any]:
        """The object of an ABOUT or SPAWN; empty where it is not an object."""
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
        """Number of an EXIT or GAP; 0 for other entries."""
        try:
            return int(self.data)
        except ValueError:
            return 0

    @property
    def argv(self) -> tuple[str, ...]:
        argv = self.facts.get("argv")
        return tuple(map(str, argv)) if isinstance(argv, list) else ()


def of_facts(at: float, kind: TraceEntryKind, process: int, facts: Mapping[str, object]) -> TraceEntry:
    # Escaped: an argument may hold bytes that are not UTF-8, which Python keeps as lone surrogates.
    return TraceEntry(at, kind, process, json.dumps(dict(facts)).encode())


def pack(entry: TraceEntry) -> bytes:
    data = entry.data[:LARGEST]
    return _HEAD.pack(entry.kind, entry.process & 0xFFFF, entry.at, len(data)) + data


def unpack(segment: bytes) -> Iterator[TraceEntry]:
    """The entries of a segment up to its first incomplete frame. Raises ValueError for data that is not a segment, or
    has other bytes where a frame should begin."""
    if not segment.startswith(MAGIC):
        if MAGIC.startswith(segment):
            return  # it died before the first frame
        raise ValueError("it does not begin as a recording")
    at = len(MAGIC)
    while at + _HEAD.size <= len(segment):
        kind, process, seconds, length = _HEAD.unpack_from(segment, at)
        if kind not in _KINDS_ON_DISK or length > LARGEST or not 0 <= seconds < 1e9:
            raise ValueError(f"byte {at} does not begin a frame")
        at += _HEAD.size
        if at + length > len(segment):
            return
        yield TraceEntry(seconds, TraceEntryKind(kind), process, segment[at : at + length])
        at += length


_KINDS_ON_DISK = frozenset(TraceEntryKind)


_MERGED_WITHIN = 0.05  # seconds; the exact time of a log line is not useful
_PLAIN = {TraceEntryKind.ABOUT: "about", TraceEntryKind.SPAWN: "spawn"}


def to_lines(entries: Iterable[TraceEntry]) -> Iterator[str]:
    """Each without a newline. Pieces of a log that came close together become one."""
    for entry in _with_joined_logs(entries):
        yield json.dumps(_fields(entry))


def _fields(entry: TraceEntry) -> dict[str, object]:
    fields: dict[str, object] = {"t": round(entry.at, 6), "kind": entry.kind.name.lower()}
    if entry.process or entry.kind not in (TraceEntryKind.ABOUT, TraceEntryKind.GAP):
        fields["process"] = entry.process
    if entry.kind in _PLAIN:
        fields |= entry.facts
    elif entry.kind in (TraceEntryKind.OUT, TraceEntryKind.ERR, TraceEntryKind.IN, TraceEntryKind.COMMAND):
        if entry.kind is TraceEntryKind.COMMAND:
            fields |= {"kind": "in", "command": True}
        fields["b64"] = base64.b64encode(entry.data).decode()
    elif entry.kind is TraceEntryKind.SIGNAL:
        fields["name"] = entry.text
    elif entry.kind is TraceEntryKind.EXIT:
        fields["code"] = entry.number
    elif entry.kind is TraceEntryKind.GAP:
        fields["bytes"] = entry.number
    return fields


def _with_joined_logs(entries: Iterable[TraceEntry]) -> Iterator[TraceEntry]:
    last: TraceEntry | None = None
    for entry in entries:
        if last is not None:
            same = entry.kind is last.kind and entry.process == last.process
            if same and entry.at - last.at < _MERGED_WITHIN:
                last = replace(last, data=last.data + entry.data)
                continue
            yield last
            last = None
        if entry.kind is TraceEntryKind.ERR:
            last = entry
        else:
            yield entry
    if last is not None:
        yield last


def of_lines(lines: Iterable[str], name: str) -> Iterator[TraceEntry]:
    """Parse a recording. Raises UsageError with the line that is not one of a recording; ``name`` is that of the
    file."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
                raise ValueError("it is not an object with a kind")
            entry = _entry(fields)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"line {number} of {name} is not a line of a recording: {what}",
                remedy="give a file that bitnet-chat report wrote, unchanged",
            ) from None
        if entry is not None:
            yield entry


def _entry(fields: dict[str, Any]) -> TraceEntry | None:
    kind = fields["kind"]
    if kind not in _KINDS:
        return None
    at, process = float(fields["t"]), int(fields.get("process", 0 if kind in ("about", "gap") else 1))
    if not 0 <= at < 1e9 or not 0 <= process <= 0xFFFF:
        raise ValueError(f"t is {at:g}, process {process}")
    if kind == "about":
        return of_facts(
            at, TraceEntryKind.ABOUT, process, {key: fields[key] for key in fields.keys() - {"t", "kind", "process"}}
        )
    if kind == "spawn":
        if not isinstance(fields["argv"], list) or not all(isinstance(each, str) for each in fields["argv"]):
            raise ValueError("argv is not a list of strings")
        return of_facts(at, TraceEntryKind.SPAWN, process, {key: fields[key] for key in _OF_SPAWN if key in fields})
    if kind in ("out", "err", "in"):
        data = base64.b64decode(fields["b64"], validate=True)
        return TraceEntry(at, TraceEntryKind.COMMAND if fields.get("command") else _KINDS[kind], process, data)
    if kind == "signal":
        return TraceEntry(at, TraceEntryKind.SIGNAL, process, str(fields["name"]).encode("utf-8", "replace"))
    if kind in ("exit", "gap"):
        return TraceEntry(at, _KINDS[kind], process, str(int(fields["code" if kind == "exit" else "bytes"])).encode())
    return TraceEntry(at, TraceEntryKind.KILLED, process)


_OF_SPAWN = ("argv", "again", "thinking", "around", "framer")
_KINDS = {kind.name.lower(): kind for kind in TraceEntryKind if kind is not TraceEntryKind.COMMAND}
