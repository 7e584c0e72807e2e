"""One answer on its way to stdout: styled where that is a terminal, and as it is everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

from bitnet_chat import terminal
from bitnet_chat.markdown import Mode, prose
from bitnet_chat.text.wrap import Wrapper


class Page:
    """``show`` pieces that are safe for a terminal already, then ``close``, which may come more than once, or ``end``.

    ``say`` tells the user a line beside the answer: on a terminal it stands on a line of its own, in a file nothing of
    it is among the words of the answer.
    """

    def __init__(self, mode: Mode, stream: TextIO, say: Callable[[str], None]) -> None:
        """``say``: writes a line to stderr."""
        self._stream = stream
        self._told = say
        self._is_terminal = stream.isatty()
        self._begun = self._within_line = False
        # A Windows console obeys escape sequences only after it was told to, which here nobody does.
        draws = terminal.draws(stream) and sys.platform != "win32"
        self._wrapper = Wrapper(self._columns if draws else None)
        colour = terminal.shows_colours(stream)
        self._prose = prose(mode, terminal=draws, colour=colour, columns=lambda: self._columns() - 1)

    def show(self, text: str) -> None:
        self._write(self._prose.feed(text))

    def say(self, text: str) -> None:
        # What was held comes first, and nothing inherits a look.
        self._write(self._prose.flush())
        if self._is_terminal and self._within_line:
            self._write("\n")
        self._told(text)

    def close(self) -> None:
        self._write(self._prose.finish())

    def end(self) -> None:
        """The answer is whole. In a file it gets one newline more than it has, on a terminal none that it does not
        need."""
        self.close()
        if self._within_line if self._is_terminal else self._begun:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(self._wrapper.feed(text))
            self._stream.flush()
            self._begun, self._within_line = True, not text.endswith("\n")

    def _columns(self) -> int:
        return terminal.size(self._stream)[0]
