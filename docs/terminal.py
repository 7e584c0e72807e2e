"""The program on a terminal, as pyte sees it: what is typed, and when it has been answered."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pexpect
import psutil
import pyte

_ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 90.0
_DATA = "~/.local/share/bitnet-chat"
_FIGURES = re.compile(r"\x1b\[2m~?\d+ tokens?\b")
"""How the line behind each reply begins."""


class DimScreen(pyte.Screen):
    """pyte knows no faint text (SGR 2). Nothing here blinks, so a cell that blinks is a faint one."""

    def select_graphic_rendition(self, *attributes: int, **more: bool) -> None:
        codes = list(attributes)
        if not {38, 48} & set(codes):  # a 2 behind these is no attribute but a part of a colour
            codes = [each for code in codes for each in {2: (5,), 22: (22, 25)}.get(code, (code,))]
        super().select_graphic_rendition(*codes, **more)


class Terminal:
    """``bitnet-chat ARGUMENTS``, or ``script``, on a terminal of its own. ``data``: its data directory and home.
    ``install``: its setting of that name."""

    def __init__(
        self,
        *arguments: str,
        data: Path,
        columns: int = 84,
        rows: int = 20,
        script: Path | None = None,
        install: str = "no",
    ) -> None:
        self.screen = DimScreen(columns, rows)
        self._stream = pyte.Stream(self.screen)
        self._data = data
        self._written = ""
        self._child = pexpect.spawn(
            sys.executable,
            [*([str(script)] if script else ["-m", "bitnet_chat"]), *arguments],
            dimensions=(rows, columns),
            encoding="utf-8",
            # Nothing else: what is set on this computer is not to be seen in a picture.
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(_ROOT),
                "HOME": str(data),
                "LANG": "C.UTF-8",
                "TERM": "xterm-256color",
                "BITNET_CHAT_DATA": str(data),
                "BITNET_CHAT_INSTALL": install,
                "BITNET_CHAT_CONFIG": str(data / "config.toml"),
            },
        )
        # prompt_toolkit asks where its cursor is.
        self.screen.write_process_input = self._child.send  # type: ignore[method-assign, assignment]

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
        except pexpect.EOF:
            raise TimeoutError("the program ended on:\n" + "\n".join(self.lines)) from None
        self._written += text
        self._stream.feed(text.replace(str(self._data), _DATA))

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
        self.ready()
        for message in messages:
            figures = len(_FIGURES.findall(self._written))
            self.type(f"{message}\r")
            self.until(lambda before=figures: len(_FIGURES.findall(self._written)) > before)  # type: ignore[misc]
            self.ready()

    def rest(self, seconds: float = 1.5) -> pyte.Screen:
        """The screen when the bar has had time for its figures."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.1)
        return self.screen

    def end(self) -> pyte.Screen:
        """The screen when the program has ended by itself, with nothing on it of where it ran: the checkout and the
        data directory are called what they might be called on another computer."""
        text = self._child.read()
        for path, name in ((self._data, _DATA), (_ROOT, "~/bitnet-chat")):
            text = text.replace(str(path), name)
        self._stream.feed(text)
        return self.screen

    def kill_in_reply(self, message: str, shown: str) -> None:
        """``kill -9`` when ``shown`` has been. The engine runs for moments only, or the reply would be over by then."""
        self.ready()
        engines = psutil.Process(self._child.pid).children(recursive=True)
        self.type(f"{message}\r")
        while not any(shown in line for line in self.lines):
            for engine in engines:
                engine.resume()
            time.sleep(0.003)
            for engine in engines:
                engine.suspend()
            self.rest(0.05)
        self.rest(0.5)  # until it is in the journal
        self._child.kill(signal.SIGKILL)

    def close(self) -> None:
        self._child.close(force=True)
