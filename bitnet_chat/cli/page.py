"""One answer on its way to stdout: styled where that is a terminal, and as it is everywhere else."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from bitnet_chat import colours
from bitnet_chat.markdown import Mode, prose


class Page:
    """``show`` pieces that are safe for a terminal already, then ``close``, which may come more than once."""

    def __init__(self, mode: Mode, stream: TextIO) -> None:
        self._stream = stream
        # A Windows console obeys escape sequences only after it was told to, which here nobody does.
        terminal = stream.isatty() and sys.platform != "win32"
        self._prose = prose(mode, terminal=terminal, colour=colours.shown_on(stream), columns=_columns)

    def show(self, text: str) -> None:
        self._write(self._prose.feed(text))

    def part(self) -> None:
        """Something else is to be written: what was held comes first, and nothing inherits a look."""
        self._write(self._prose.flush())

    def close(self) -> None:
        self._write(self._prose.finish())

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


def _columns() -> int:
    return shutil.get_terminal_size().columns
