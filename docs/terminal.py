"""The program on a terminal, as pyte sees it: what is typed, and when it has been answered."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pexpect
import pyte

_ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 30.0
_DROPPED = ("NO_COLOR", "COLORTERM", "COLUMNS", "LINES", "EDITOR", "VISUAL")
_FIGURES = re.compile(r"\x1b\[2m~?\d+ tokens?\b")
_COLOUR_PARAMETERS = {5: 2, 2: 4}
"""How many parameters follow 38 or 48: 5 is a number of the palette, 2 is red, green and blue."""


class DimScreen(pyte.Screen):
    """pyte knows no faint text (SGR 2). Nothing here blinks, so a cell that blinks is a faint one."""

    def select_graphic_rendition(self, *attributes: int, **more: bool) -> None:
        codes: list[int] = []
        rest = list(attributes)
        while rest:
            code = rest.pop(0)
            if code in (38, 48) and rest:
                count = _COLOUR_PARAMETERS.get(rest[0], 1)
                codes += [code, *rest[:count]]
                del rest[:count]
            else:
                codes += {2: (5,), 22: (22, 25), 5: (), 6: ()}.get(code, (code,))
        super().select_graphic_rendition(*codes, **more)


class Terminal:
    """``bitnet-chat ARGUMENTS``, or ``script``, on a terminal of its own. ``data``: its data directory."""

    def __init__(
        self, *arguments: str, data: Path, columns: int = 84, rows: int = 20, script: Path | None = None
    ) -> None:
        self.screen = DimScreen(columns, rows)
        self._stream = pyte.Stream(self.screen)
        self._written = ""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in _DROPPED and not name.startswith("BITNET_CHAT_")
        }
        ours = {
            "TERM": "xterm-256color",
            "PYTHONPATH": str(_ROOT),
            "PYTHONUTF8": "1",
            "HOME": str(data),
            "BITNET_CHAT_DATA": str(data),
            "BITNET_CHAT_CACHE": str(data / "cache"),
            "BITNET_CHAT_CONFIG": str(data / "config.toml"),
        }
        program = [str(script)] if script else ["-m", "bitnet_chat"]
        self._child = pexpect.spawn(
            sys.executable,
            [*program, *arguments],
            dimensions=(rows, columns),
            encoding="utf-8",
            env=kept | ours,
            cwd=str(data),
        )
        self.screen.write_process_input = self._child.send  # prompt_toolkit asks where its cursor is

    @property
    def lines(self) -> Sequence[str]:
        """What is shown, down to the last line with something on it."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def until(self, done: Callable[[], bool]) -> None:
        """Reads until the screen is as it should be. Raises TimeoutError."""
        deadline = time.monotonic() + _PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError("waited in vain on:\n" + "\n".join(self.lines))
            self._read(0.2)

    def _read(self, seconds: float) -> None:
        try:
            text = self._child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        self._written += text
        self._stream.feed(text)

    def type(self, keys: str) -> None:
        self._child.send(keys)

    def ready(self) -> None:
        """Until an empty prompt waits and the engine has nothing to do."""
        self.until(self._is_ready)

    def _is_ready(self) -> bool:
        busy = ("loading", "answering", "stopping", "stopped")
        prompt = self.screen.display[self.screen.cursor.y].rstrip()
        return prompt == ">" and self.lines[-1] != ">" and not any(word in self.lines[-1] for word in busy)

    def say(self, *messages: str) -> None:
        """Sends each and waits for its reply."""
        for message in messages:
            self.ready()
            replies = self._replies()
            self.type(f"{message}\r")
            self.until(lambda before=replies: self._replies() > before)  # type: ignore[misc]
        self.ready()

    def _replies(self) -> int:
        return len(_FIGURES.findall(self._written))

    def rest(self, seconds: float = 1.5) -> pyte.Screen:
        """The screen when the bar has had time for its figures."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.1)
        return self.screen

    def end(self) -> pyte.Screen:
        """The screen when the program has ended by itself."""
        while True:
            try:
                self._read(_PATIENCE)
            except pexpect.EOF:
                return self.screen

    def close(self) -> None:
        self._child.close(force=True)
