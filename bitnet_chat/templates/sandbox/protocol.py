"""The protocol between this program and the process of a template: a header of binary numbers, then bytes. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Self

_REQUEST, _ANSWER = struct.Struct(">dQQQ"), struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one request. A normal template takes some milliseconds and a few megabytes."""

    seconds: float = 2.0
    """Seconds of CPU time."""
    memory: int = 512 << 20
    """Bytes of memory, including the process itself."""
    output: int = 1_000_000
    """Characters of output."""

    @property
    def wall(self) -> float:
        """Wall-clock seconds after which the process counts as stopped or starved of CPU time."""
        return 10 + 10 * self.seconds

    def for_input(self, size: int, messages: int) -> Self:
        """Return larger limits for a conversation of ``messages`` messages and ``size`` characters of JSON."""
        seconds = self.seconds + messages / 10_000 + size / 5_000_000
        return type(self)(seconds, self.memory + 32 * size, self.output + 8 * size)


def write_request(to: IO[bytes], limits: SandboxLimits, content: bytes) -> None:
    """Write a request."""
    to.write(_REQUEST.pack(limits.seconds, limits.memory, limits.output, len(content)) + content)
    to.flush()


def read_request(source: IO[bytes]) -> tuple[SandboxLimits, bytes] | None:
    """Read a request; None at the end of the stream."""
    head = source.read(_REQUEST.size)
    if len(head) < _REQUEST.size:
        return None
    seconds, memory, output, size = _REQUEST.unpack(head)
    return SandboxLimits(seconds, memory, output), source.read(size)


def write_answer(to: IO[bytes], content: bytes) -> None:
    """Write an answer."""
    to.write(_ANSWER.pack(len(content)) + content)
    to.flush()


def read_answer(source: IO[bytes]) -> bytes:
    """Read an answer; empty or truncated if the process has ended."""
    head = source.read(_ANSWER.size)
    return source.read(_ANSWER.unpack(head)[0]) if len(head) == _ANSWER.size else b""
