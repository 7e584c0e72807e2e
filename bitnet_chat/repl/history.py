"""The input history, stored in a file for Ctrl-R and the arrow keys.

The file has one JSON string per line, so an entry may contain newlines and a damaged line does not affect others.
Several processes may append to it at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import History

TAIL = 1 << 20
"""Number of bytes read from the end of the file: about 10,000 lines, which takes 10 ms."""


class FileHistory(History):
    """The history of prompt_toolkit in ``file``; None keeps it in memory. Errors of the file are not raised:
    ``complain`` is called once, with one line about the first.
    """

    def __init__(self, file: Path | None, complain: Callable[[str], None]) -> None:
        super().__init__()
        self._file = file
        self._complain = complain
        self._complained = False

    def load_history_strings(self) -> Iterable[str]:
        """Return the entries, latest first."""
        if self._file is None:
            return self.get_strings()[::-1]  # entries may have been added before the first load
        try:
            lines = _tail(self._file)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._report(f"The input history cannot be read: {error.strerror}: {self._file}")
            return []
        entries: list[str] = []
        damaged = 0
        for line in lines:
            entry = _entry(line)
            if entry is None:
                damaged += 1
            else:
                entries.append(entry)
        if damaged:
            self._report(f"{damaged} damaged line{'s' * (damaged > 1)} left out of the input history: {self._file}")
        return reversed(entries)

    def store_string(self, string: str) -> None:
        if self._file is None:
            return
        # The newline comes first, so that it also ends a line that a crash or a full disk has cut.
        line = b"\n" + json.dumps(string).encode()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Input is private: the file is readable by its owner only.
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            self._report(f"The input history is not saved: {error.strerror}: {self._file}")

    def _report(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            self._complain(text)


def _tail(file: Path) -> list[bytes]:
    """Return the complete lines in the last TAIL bytes of a file, without empty ones."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL))
        lines = stream.read().split(b"\n")
    if size > TAIL:
        del lines[0]  # its beginning was not read
    return [line for line in lines if line.strip()]


def _entry(line: bytes) -> str | None:
    try:
        entry = json.loads(line)
    except ValueError:  # includes UnicodeDecodeError
        return None
    return entry if isinstance(entry, str) else None
