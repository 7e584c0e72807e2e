"""Finds the recordings on the disk and reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.errors import UsageError
from bitnet_chat.recording.entry import Entry, Kind, unpack


def folder() -> Path:
    """Where all the recordings are, one folder a session."""
    return paths.data_dir() / "sessions"


def sessions() -> list[Path]:
    """Those that were kept, the last one first."""
    try:
        return sorted((each for each in folder().iterdir() if (each / "000000").is_file()), reverse=True)
    except OSError:
        return []


def forget() -> bool:
    """Removes all the recordings; False where some are still there.

    A program that is running goes on without its own.
    """
    shutil.rmtree(folder(), ignore_errors=True)
    return not sessions()


def session(number: int) -> Path:
    """1: the last one, 2: the one before it. Raises UsageError where there is none."""
    found = sessions()
    if not found:
        raise UsageError(
            "no session was recorded yet",
            remedy="talk to a model first; with --no-journal or journal = false nothing is recorded",
        )
    if not 1 <= number <= len(found):
        raise UsageError(f"there is no session {number}", remedy=f"there are {len(found)}; 1 is the last one")
    return found[number - 1]


def read(path: Path) -> list[Entry]:
    """The entries of a session. Raises UsageError for a folder that is none or cannot be read.

    Where a segment is missing or damaged stands a GAP; it may be that of a session that is still being written.
    """
    try:
        files = sorted(each for each in path.iterdir() if each.name.isdecimal())
        segments = [(int(file.name), file.read_bytes()) for file in files]
    except OSError as error:
        raise UsageError(f"the recording {path} cannot be read: {error.strerror}") from None
    if not segments:
        raise UsageError(f"{path} holds no recording", remedy="give a file that bitnet-chat report wrote")
    entries: list[Entry] = []
    expected = 0
    for number, data in segments:
        if number != expected:
            size = (number - expected) * max(len(data) for _, data in segments)
            entries.append(Entry(entries[-1].at if entries else 0.0, Kind.GAP, 0, str(size).encode()))
        try:
            for each in unpack(data):
                if each.kind is not Kind.ABOUT or not entries:
                    entries.append(each)
        except ValueError:
            entries.append(Entry(entries[-1].at if entries else 0.0, Kind.GAP, 0, str(len(data)).encode()))
        expected = number + 1
    return entries
