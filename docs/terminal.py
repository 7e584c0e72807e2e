"""The program on a pseudo-terminal: it types messages and waits for replies, and pyte interprets the output."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pexpect
import pyte

_ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT = 300.0
"""Seconds for a reply, including loading and installation."""
_DATA = "~/.local/share/bitnet-chat"
_FIGURES = re.compile(r"\x1b\[2m~?\d+ tokens?\b")
"""The beginning of the line after each reply."""


class DimScreen(pyte.Screen):
    """A screen with faint text (SGR 2), which pyte does not support: it is stored as blinking, which does not occur
    here.
    """

    def select_graphic_rendition(self, *attributes: int, **more: bool) -> None:
        codes = list(attributes)
        if not {38, 48} & set(codes):  # a 2 after these is a part of a colour
            codes = [each for code in codes for each in {2: (5,), 22: (22, 25)}.get(code, (code,))]
        super().select_graphic_rendition(*codes, **more)


class Terminal:
    """``bitnet-chat ARGUMENTS``, or ``script``, on a pseudo-terminal. ``data``: its data directory and home.
    ``install``: the setting of that name.
    """

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
            timeout=_TIMEOUT,
            # Only these variables, so that the settings of this computer do not affect a picture.
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
        # For the response to prompt_toolkit, which requests the position of the cursor.
        self.screen.write_process_input = self._child.send  # type: ignore[method-assign, assignment]

    @property
    def lines(self) -> Sequence[str]:
        """The lines of the screen, without empty ones at the end."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def until(self, done: Callable[[], bool]) -> None:
        """Read output until ``done`` returns True. Raises TimeoutError, also at the end of the program."""
        deadline = time.monotonic() + _TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError("timeout with the screen:\n" + "\n".join(self.lines))
            self._read(0.2)

    def _read(self, seconds: float) -> None:
        try:
            text = self._child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            raise TimeoutError("the program ended with the screen:\n" + "\n".join(self.lines)) from None
        self._written += text
        self._stream.feed(text.replace(str(self._data), _DATA))

    def type(self, keys: str) -> None:
        """Send keys."""
        self._child.send(keys)

    def ready(self) -> None:
        """Wait until the prompt is empty and the engine is idle."""
        self.until(self._is_ready)

    def _is_ready(self) -> bool:
        busy = ("loading", "answering", "stopping", "stopped")
        prompt = self.screen.display[self.screen.cursor.y].rstrip()
        return prompt == ">" and self.lines[-1] != ">" and not any(word in self.lines[-1] for word in busy)

    def say(self, *messages: str) -> None:
        """Send each message, and wait for its reply."""
        self.ready()
        for message in messages:
            figures = len(_FIGURES.findall(self._written))
            self.type(f"{message}\r")
            self.until(lambda before=figures: len(_FIGURES.findall(self._written)) > before)  # type: ignore[misc]
            self.ready()

    def rest(self, seconds: float = 1.5) -> pyte.Screen:
        """Read output for ``seconds``, in which the status bar updates its figures. Returns the screen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.1)
        return self.screen

    def end(self) -> pyte.Screen:
        """Wait for the end of the program. Returns the screen, with the usual paths in place of those of the checkout
        and the data directory.
        """
        text = self._child.read()
        for path, name in ((self._data, _DATA), (_ROOT, "~/bitnet-chat")):
            text = text.replace(str(path), name)
        self._stream.feed(text)
        return self.screen

    def kill_in_reply(self, message: str) -> None:
        """Send a message, and ``kill -9`` the program after three lines of the reply."""
        self.ready()
        before = len(self.lines)
        self.type(f"{message}\r")
        self.until(lambda: len(self.lines) >= before + 4)
        self.rest(0.3)  # until the text is in the journal
        self._child.kill(signal.SIGKILL)

    def close(self) -> None:
        self._child.close(force=True)
