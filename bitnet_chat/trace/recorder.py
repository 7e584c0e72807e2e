"""Recording of the bytes between this program and the engines of a session, and access to stored recordings.

The event loop only appends to a queue. A thread writes the queue once a second while there is activity, and sleeps
otherwise. A slow disk therefore delays nothing, and a crash of this program loses the last second. If more than
:data:`_MAX_QUEUED` bytes are queued, the oldest are dropped, and the recording has a gap.

On disk, a session is a directory of segments. The first segment is kept, because it shows how the session began, and
the last two: at most 4 MB per session.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import UsageError
from bitnet_chat.trace import format
from bitnet_chat.trace.format import TraceEntry, TraceEntryKind, of_facts, unpack
from bitnet_chat.version import __version__

KEPT = 5
"""Number of sessions that are kept, including running ones."""
_HEAD_BYTES = 1_000_000
_SEGMENT_BYTES = 1_500_000
_MAX_QUEUED = 1_500_000
"""Maximum number of bytes in the queue."""
_WRITE_INTERVAL = 1.0
"""Seconds between two writes of the thread."""
_BYTES = (TraceEntryKind.OUT, TraceEntryKind.ERR)


class TraceRecorder:
    """Recorder of one session, which may have several engines. Never raises: data that cannot be written is dropped."""

    def __init__(self, folder: Path) -> None:
        """Start recording. ``folder``: the directory of all sessions, which is created with the first entry."""
        self._began = time.monotonic()
        now = datetime.now(UTC)
        self._sessions = folder
        self.folder = folder / f"{now:%Y%m%dT%H%M%S}.{now.microsecond:06}Z-{os.getpid()}"
        self._about = {"began": now.isoformat(), "bitnet-chat": __version__, "argv": list(sys.argv)}
        with contextlib.suppress(OSError):  # the directory was removed
            self._about["folder"] = str(Path.cwd())  # the base of relative paths in command lines
        self._lock = threading.Lock()
        self._queue: deque[TraceEntry] = deque()
        self._size = 0
        self._dropped = 0
        self._awake = False
        self._work = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._engines = 0
        self._running: dict[int, TraceEntry] = {}
        self._file: int | None = None
        self._segment = -1
        self._written = 0
        self._broken = False

    def track(self, facts: Mapping[str, object]) -> TraceWriter:
        """Return a writer for an engine that was just started. ``facts``: ``argv`` and others, see
        :mod:`bitnet_chat.trace.format`."""
        self._engines += 1
        track = TraceWriter(self, self._engines)
        self._note(of_facts(self._now(), TraceEntryKind.SPAWN, self._engines, facts))
        return track

    def note(self, kind: TraceEntryKind, process: int, data: bytes) -> None:
        """Queue an entry with the current time."""
        self._note(TraceEntry(time.monotonic() - self._began, kind, process, data))

    def close(self) -> None:
        """Write the queue. Gives up after a second, so that a hanging disk does not delay the exit."""
        self._closing.set()
        self._work.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _note(self, new: TraceEntry) -> None:
        if self._broken or self._closing.is_set():
            return
        with self._lock:
            self._queue.append(new)
            self._size += len(new.data)
            if self._size > _MAX_QUEUED:
                self._drop_oldest()
        if not self._awake:
            self._awake = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                self._thread.start()
            self._work.set()

    def _drop_oldest(self) -> None:
        """Drop the oldest half of the output of engines. Half of it, so that this is rarely necessary."""
        kept: list[TraceEntry] = []
        while self._queue and self._size > _MAX_QUEUED // 2:
            oldest = self._queue.popleft()
            if oldest.kind in _BYTES:
                self._size -= len(oldest.data)
                self._dropped += len(oldest.data)
            elif len(oldest.data) > 1024:  # long input: its beginning is sufficient
                self._size -= len(oldest.data)
                self._dropped += len(oldest.data) - 1024
                kept.append(TraceEntry(oldest.at, oldest.kind, oldest.process, oldest.data[:1024]))
            else:
                kept.append(oldest)
        self._queue.extendleft(reversed(kept))

    # In the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._work.wait()
            self._closing.wait(_WRITE_INTERVAL)
            self._work.clear()
            self._awake = False
            self._write()
        self._write()
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def _write(self) -> None:
        with self._lock:
            entries, lost = self._queue, self._dropped
            self._queue, self._size, self._dropped = deque(), 0, 0
        if not entries or self._broken:
            return
        if lost:
            entries.appendleft(TraceEntry(entries[0].at, TraceEntryKind.GAP, 0, str(lost).encode()))
        try:
            block = bytearray()
            for each in entries:
                frames = b"".join(map(format.pack, _split(each)))
                limit = _HEAD_BYTES if self._segment == 0 else _SEGMENT_BYTES
                if self._file is None or self._written + len(block) + len(frames) > limit:
                    self._append(block)
                    block = bytearray()
                    self._next_segment(each.at)
                block += frames
                if each.kind is TraceEntryKind.SPAWN:
                    self._running[each.process] = each
                elif each.kind is TraceEntryKind.EXIT:
                    self._running.pop(each.process, None)
            self._append(block)
        except OSError:  # disk full, permission denied, directory removed: a trace must not disturb the conversation
            self._broken = True

    def _append(self, block: bytearray) -> None:
        view = memoryview(block)
        while view and self._file is not None:
            written = os.write(self._file, view)
            self._written += written
            view = view[written:]

    def _next_segment(self, at: float) -> None:
        """Start a file with its context: the session, and the running engines."""
        if self._file is None:
            self._sessions.mkdir(parents=True, exist_ok=True)
            _prune(self._sessions)
            self.folder.mkdir(mode=0o700)
        else:
            os.close(self._file)
            self._file = None
        self._segment += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.folder / f"{self._segment:06}", flags, 0o600)
        self._written = 0
        block = bytearray(format.MAGIC)
        block += format.pack(of_facts(at, TraceEntryKind.ABOUT, 0, self._about))
        for each in self._running.values():
            block += format.pack(of_facts(at, TraceEntryKind.SPAWN, each.process, each.facts | {"again": True}))
        self._append(block)
        if self._segment > 2:
            (self.folder / f"{self._segment - 2:06}").unlink(missing_ok=True)


class TraceWriter:
    """Records output and input of one engine; implements :class:`bitnet_chat.engine.process.TraceListener`."""

    def __init__(self, recorder: TraceRecorder, process: int) -> None:
        self._recorder, self._process = recorder, process

    def output(self, data: bytes) -> None:
        self._recorder.note(TraceEntryKind.OUT, self._process, data)

    def logged(self, data: bytes) -> None:
        self._recorder.note(TraceEntryKind.ERR, self._process, data)

    def wrote(self, data: bytes, *, command: bool) -> None:
        self._recorder.note(TraceEntryKind.COMMAND if command else TraceEntryKind.IN, self._process, data)

    def signalled(self, name: str) -> None:
        self._recorder.note(TraceEntryKind.SIGNAL, self._process, name.encode())

    def exited(self, code: int) -> None:
        self._recorder.note(TraceEntryKind.EXIT, self._process, str(code).encode())


def _split(long: TraceEntry) -> Iterator[TraceEntry]:
    """Split an entry into frames of permitted size. Input is one message in one frame, so its end is dropped
    instead."""
    if len(long.data) <= format.LARGEST:
        yield long
    elif long.kind in _BYTES:
        for at in range(0, len(long.data), format.LARGEST):
            yield replace(long, data=long.data[at : at + format.LARGEST])
    else:
        yield replace(long, data=long.data[: format.LARGEST])
        yield TraceEntry(long.at, TraceEntryKind.GAP, long.process, str(len(long.data) - format.LARGEST).encode())


def _prune(folder: Path) -> None:
    """Remove the oldest sessions, even if they are still being written."""
    with contextlib.suppress(OSError):
        for old in sorted(each for each in folder.iterdir() if each.is_dir())[: 1 - KEPT]:
            shutil.rmtree(old, ignore_errors=True)


# Stored recordings.


def folder() -> Path:
    """The directory of all recordings, with one subdirectory per session."""
    return paths.data_dir() / "sessions"


def sessions() -> list[Path]:
    """List the stored recordings, newest first."""
    try:
        return sorted((each for each in folder().iterdir() if (each / "000000").is_file()), reverse=True)
    except OSError:
        return []


def forget() -> bool:
    """Remove all recordings. Returns False if some could not be removed. A running session stops recording."""
    shutil.rmtree(folder(), ignore_errors=True)
    return not sessions()


def session(number: int) -> Path:
    """Find a recording by number: 1 is the newest. Raises UsageError if it does not exist."""
    found = sessions()
    if not found:
        raise UsageError(
            "no session was recorded yet",
            remedy="chat with a model first; with --no-journal or journal = false nothing is recorded",
        )
    if not 1 <= number <= len(found):
        raise UsageError(
            f"session {number} was not recorded", remedy=f"recorded sessions: {len(found)}; 1 is the last one"
        )
    return found[number - 1]


def read(path: Path) -> list[TraceEntry]:
    """Read the entries of a session, which may still be running. A missing or damaged segment becomes a GAP.

    Raises UsageError if the directory cannot be read or is not a recording.
    """
    try:
        files = sorted(each for each in path.iterdir() if each.name.isdecimal())
        segments = [(int(file.name), file.read_bytes()) for file in files]
    except OSError as error:
        raise UsageError(f"the recording {path} cannot be read: {error.strerror}") from None
    if not segments:
        raise UsageError(f"{path} does not contain a recording", remedy="give a file that bitnet-chat report wrote")
    entries: list[TraceEntry] = []
    expected = 0
    for number, data in segments:
        if number != expected:
            size = (number - expected) * max(len(data) for _, data in segments)
            entries.append(TraceEntry(entries[-1].at if entries else 0.0, TraceEntryKind.GAP, 0, str(size).encode()))
        try:
            for each in unpack(data):
                if each.kind is not TraceEntryKind.ABOUT or not entries:
                    entries.append(each)
        except ValueError:
            entries.append(
                TraceEntry(entries[-1].at if entries else 0.0, TraceEntryKind.GAP, 0, str(len(data)).encode())
            )
        expected = number + 1
    return entries
