"""``bitnet-chat replay``: playback of a recorded session through the decoder and the framer of its engine."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.cli.parser import Parser
from bitnet_chat.conversation.export import json_text
from bitnet_chat.conversation.stdin_encoding import decode_lines
from bitnet_chat.engine.protocols.native import is_stop, prompt_of
from bitnet_chat.engine_output import (
    EngineError,
    Frame,
    PrefillProgress,
    Ready,
    ReplyFigures,
    ReplyText,
    ThinkingText,
    TurnEnd,
    UnexpectedOutput,
    VariantFrame,
)
from bitnet_chat.errors import UsageError
from bitnet_chat.text.sanitize import Sanitizer, one_line, visible
from bitnet_chat.trace import format, recorder
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind
from bitnet_chat.trace.playback import PlaybackStep, is_native, play

_LARGEST = 200_000_000
"""Maximum size of a file in bytes. (A session on disk has at most 4 MB.)"""
_LONGEST_PAUSE = 3.0
"""Seconds to which longer pauses of the recorded session are shortened."""


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(prog="bitnet-chat replay", description="Playback of a recorded session.")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="file written by bitnet-chat report (default: the last session)"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help=f"playback speed; 0: at once (default: 1, pauses at most {_LONGEST_PAUSE:g} s)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", help="raw bytes, one line per chunk")
    how.add_argument("--json", action="store_true", help="frames, one JSON object per line")
    return parser


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`. Raises UsageError."""
    flags = parser().parse_args(arguments)
    if math.isnan(flags.speed) or flags.speed < 0:
        raise UsageError(f"--speed cannot be {flags.speed:g}", remedy="2 is twice as fast, 0 is at once")
    speed = 0.0 if math.isinf(flags.speed) or flags.json else flags.speed
    entries = _entries(flags)
    if not entries:
        raise UsageError("the recording is empty", remedy="give a file that bitnet-chat report wrote")
    lines = _raw(entries) if flags.raw else _frames_as_json(entries) if flags.json else _FramePrinter().all(entries)
    _show(lines, speed, time.sleep)
    return 0


def _entries(flags: argparse.Namespace) -> list[TraceEntry]:
    if flags.file is None:
        return recorder.read(recorder.session(1))
    path = paths.expand(flags.file)
    if path.is_dir():
        return recorder.read(path)
    try:
        if not path.is_file():
            raise UsageError(f"{path} is not a recording" if path.exists() else f"{path} does not exist")
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is too large for a recording", remedy=f"the limit is {_LARGEST >> 20} MB")
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file", remedy="give a file that bitnet-chat report wrote") from None
    return list(format.of_lines(text.split("\n"), str(path)))


def _show(lines: Iterator[tuple[float, str]], speed: float, sleep: Callable[[float], None]) -> None:
    """Write ``lines``: sanitized texts, each with its time in seconds since the start of the session. ``speed`` 0
    writes them at once.
    """
    before = 0.0
    for at, text in lines:
        if speed and at > before:
            sys.stdout.flush()
            sleep(min(at - before, _LONGEST_PAUSE) / speed)
        before = max(before, at)
        sys.stdout.write(text)
    sys.stdout.flush()


def _raw(entries: list[TraceEntry]) -> Iterator[tuple[float, str]]:
    for entry in entries:
        if entry.kind in (TraceEntryKind.ABOUT, TraceEntryKind.SPAWN):
            text = json_text(entry.facts)
        else:
            text = entry.text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
        yield entry.at, f"{entry.at:10.6f} {entry.process:2} {entry.kind.name.lower():7} {visible(text)}\n"


def _frames_as_json(entries: list[TraceEntry]) -> Iterator[tuple[float, str]]:
    for step in play(entries):
        entry = step.entry
        fields: dict[str, object] = {"t": entry.at, "process": entry.process}
        if entry.kind in (
            TraceEntryKind.IN,
            TraceEntryKind.COMMAND,
            TraceEntryKind.SIGNAL,
            TraceEntryKind.EXIT,
            TraceEntryKind.GAP,
        ):
            text = visible(entry.text)
            yield (
                entry.at,
                json_text(fields | {"event": entry.kind.name.lower(), "text": text}) + "\n",
            )
        for frame in step.frames:
            yield entry.at, json_text(fields | _frame_fields(frame)) + "\n"


def _frame_fields(frame: Frame) -> dict[str, object]:
    if isinstance(frame, VariantFrame):
        return _frame_fields(frame.frame) | {"variant": frame.variant}
    fields: dict[str, object] = {"frame": type(frame).__name__}
    if isinstance(frame, TurnEnd):
        fields["natural"] = frame.natural
    elif isinstance(frame, PrefillProgress | ReplyFigures):
        fields |= {name: value for name, value in asdict(frame).items() if value is not None}
    elif not isinstance(frame, Ready):
        fields["text"] = visible(frame.text)
    return fields


class _FramePrinter:
    """Formats a session as plain text: messages after ``>``, replies unchanged, other events in brackets."""

    def __init__(self) -> None:
        self._sanitizer = Sanitizer()
        self._template_texts: dict[int, object] = {}
        self._native_processes: set[int] = set()
        self._shown_variant = -1
        self._at_line_start = True
        """Whether the output is at the start of a line."""

    def all(self, entries: list[TraceEntry]) -> Iterator[tuple[float, str]]:
        """Return the texts of ``entries``, each with its time in seconds."""
        for step in play(entries):
            text = self._entry(step) + "".join(map(self._frame, step.frames))
            if text:
                yield step.entry.at, text
        yield entries[-1].at, self._end_line()

    def _entry(self, step: PlaybackStep) -> str:
        entry = step.entry
        if entry.kind is TraceEntryKind.IN and entry.data == b"\n":
            return self._note("asked to continue")
        if entry.kind is TraceEntryKind.IN:
            message = visible(self._message(entry))
            return self._end_line() + "".join(f"> {line}\n" for line in message.split("\n"))
        if entry.kind is TraceEntryKind.SPAWN:
            self._template_texts[entry.process] = entry.facts.get("around")
            if is_native(entry):
                self._native_processes.add(entry.process)
            again = ", started earlier" if entry.facts.get("again") else ""
            return self._note(f"engine {entry.process}: {Path((*entry.argv, '?')[0]).name}{again}")
        if entry.kind is TraceEntryKind.COMMAND and is_stop(entry.data):
            return self._note("interrupted")
        if entry.kind is TraceEntryKind.COMMAND and entry.process in self._native_processes:
            return self._note("conversation to be read before the next message")
        if entry.kind is TraceEntryKind.COMMAND and entry.text.strip():
            return self._note(f"command to the engine: {entry.text}")
        if entry.kind is TraceEntryKind.SIGNAL:
            return self._note(entry.text)
        if entry.kind is TraceEntryKind.EXIT:
            return self._note(f"engine {entry.process} ended with {entry.text}")
        return self._note(f"{entry.number} bytes were not recorded") if entry.kind is TraceEntryKind.GAP else ""

    def _message(self, entry: TraceEntry) -> str:
        """Return the message of an input entry, without the text that the chat template has added before and after
        it.
        """
        text = prompt_of(entry.data) if entry.process in self._native_processes else decode_lines(entry.data)
        match self._template_texts.get(entry.process):
            case [str(front), str(behind)] if text.startswith(front) and text.endswith(behind):
                return text[len(front) : len(text) - len(behind)]
            case [str(front), str(behind)] if entry.process in self._native_processes and text.endswith(behind):
                # A native engine receives the whole conversation: take the last message of it.
                return text.removesuffix(behind).rpartition(front.lstrip())[2] if front.strip() else text
        return text

    def _frame(self, frame: Frame) -> str:
        if isinstance(frame, VariantFrame):
            return self._variant(frame)
        if isinstance(frame, ReplyText | ThinkingText):
            text = self._sanitizer.feed(frame.text)
            self._at_line_start = text.endswith("\n") if text else self._at_line_start
            return text
        if isinstance(frame, TurnEnd):
            return self._end_line() + ("" if frame.natural else self._note("stopped"))
        if isinstance(frame, EngineError):
            return self._note(f"error: {frame.text}")
        return self._note(f"unexpected: {frame.text}") if isinstance(frame, UnexpectedOutput) else ""

    def _variant(self, frame: VariantFrame) -> str:
        """Several replies alternate: a note precedes the text of another one."""
        if isinstance(frame.frame, TurnEnd):
            return ""
        is_another = isinstance(frame.frame, ReplyText | ThinkingText) and frame.variant != self._shown_variant
        note = self._note(f"reply {frame.variant + 1}") if is_another else ""
        self._shown_variant = frame.variant if is_another else self._shown_variant
        return note + self._frame(frame.frame)

    def _note(self, text: str) -> str:
        return f"{self._end_line()}[{one_line(text)}]\n"

    def _end_line(self) -> str:
        text = self._sanitizer.flush()
        if text or not self._at_line_start:
            text += "\n"
        self._at_line_start = True
        return text
