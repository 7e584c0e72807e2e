"""Progress of a long task: parsed from the output of ninja, estimated, and shown as one line.

Uses only the standard library, since the scripts in ``bin/`` show the same line before anything is installed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from bitnet_chat import terminal as terminals

# The default status of ninja; the build sets the variable NINJA_STATUS, since the user may have changed it.
NINJA_STATUS = "[%f/%t] "
_COUNTER = re.compile(r"\[(\d+)/(\d+)\] ")

# Completed steps before an estimate is shown. Earlier estimates of a build vary by a factor of three.
_RELIABLE_AFTER = 8

_REDRAW_SECONDS = 0.1
_BAR_CELLS = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a long task at one time."""

    step: str
    """Name of the current step, for display: ``Compiling llama.cpp``."""
    done: int
    total: int
    """Number of units of this step; 0 if unknown. ``done``: number of completed ones."""
    seconds: float
    """Seconds since the start of the whole task."""
    eta: float | None
    """Seconds until this step ends; None if unknown."""
    detail: str = ""
    """Shown after the step; may change during it: ``12/500``."""


def ninja_counter(line: str) -> tuple[int, int] | None:
    """Parse the counter of ninja: ``[12/216] Building …`` gives (12, 216); other lines give None.

    ninja counts the remaining work: a build that was interrupted after 100 of 216 steps starts at ``[1/116]``.
    """
    match = _COUNTER.match(line)
    return (int(match[1]), int(match[2])) if match else None


def estimate(done: int, total: int, seconds: float) -> float | None:
    """Estimate the remaining seconds after ``done`` of ``total`` took ``seconds``; None if that is unreliable."""
    if done >= total > 0:
        return 0.0
    if total <= 0 or done < min(_RELIABLE_AFTER, total) or seconds <= 0:
        return None
    return (total - done) * seconds / done


def duration(seconds: float) -> str:
    """Format a duration: ``7 s``, ``4 min 47 s``, ``1 h 02 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)i?B?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """The bytes of ``12G`` or ``800M``, in powers of 1024. Raises ValueError with a message for another text."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; use 12G or 800M, for example")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def size(count: int) -> str:
    """Format a number of bytes with decimal prefixes, as disks and downloads do: ``812 MB``, ``1.2 GB``."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    if count < 999_500_000:
        return f"{count / 1_000_000:.0f} MB"
    return f"{count / 1_000_000_000:.1f} GB"


def line(progress: Progress, width: int = 80) -> str:
    """Format progress as one line of at most ``width - 1`` characters, since a full line would wrap on some
    terminals."""
    time_text = duration(progress.seconds)
    step = f"{progress.step} {progress.detail}".rstrip()
    if progress.total <= 0:
        text = f"{step} … {time_text}"
    else:
        share = min(1.0, progress.done / progress.total)
        cells = int(share * _BAR_CELLS)
        bar = "#" * cells + "." * (_BAR_CELLS - cells)
        text = f"{step} [{bar}] {int(share * 100):3d} %  {time_text}"
        if progress.eta is not None and progress.done < progress.total:
            text += f", about {duration(progress.eta)} left"
    return text[: max(1, width - 1)]


class ProgressLine:
    """Shows progress on a stream: on a terminal one line redrawn in place, else a line per step and per 10 %.

    Writes text, newlines and, on a terminal, carriage returns, but no escape sequences, so that it works on every
    console.
    """

    def __init__(self, stream: TextIO, *, terminal: bool | None = None) -> None:
        """Show progress on ``stream``. ``terminal``: whether to redraw the line; None: detect it."""
        if terminal is None:
            terminal = terminals.draws(stream)
        self._stream = stream
        self._terminal = terminal
        self._drawn = 0  # characters on the line that is being redrawn
        self._last: Progress | None = None
        self._redrawn_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``."""
        last, self._last = self._last, progress
        new_step = last is None or last.step != progress.step
        if self._terminal:
            self._redraw(progress, last if new_step else None, new_step)
        elif new_step or (last is not None and _tenth(last) != _tenth(progress)):
            self._write(line(progress, 120) + "\n")

    def close(self) -> None:
        """End the line, so that later output starts on a new one."""
        if self._drawn and self._last is not None:
            self._put(self._last)
            self._write("\n")
            self._drawn = 0

    def _redraw(self, progress: Progress, ended: Progress | None, new_step: bool) -> None:
        now = time.monotonic()
        if ended is not None and self._drawn:
            self._put(ended)  # the last state of the step may not be shown yet
            self._write("\n")
            self._drawn = 0
        if new_step or now - self._redrawn_at >= _REDRAW_SECONDS or progress.done == progress.total > 0:
            self._put(progress)
            self._redrawn_at = now

    def _put(self, progress: Progress) -> None:
        text = line(progress, terminals.size(self._stream)[0])
        self._write("\r" + text + " " * (self._drawn - len(text)))
        self._drawn = len(text)

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))  # a C locale has no "…"
        self._stream.flush()


def _tenth(progress: Progress) -> int:
    return progress.done * 10 // progress.total if progress.total > 0 else 0


class ProgressClock:
    """Measures a long task and its current step, and passes them on as :class:`Progress`."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.tell = on_progress
        self._began = self._step_began = time.monotonic()
        self._step = ""
        self._done = self._total = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start of the task."""
        return time.monotonic() - self._began

    def step(self, name: str) -> None:
        """Start a step with an unknown number of units."""
        if name != self._step:
            self._step, self._step_began = name, time.monotonic()
        self.at(0, 0)

    def at(self, done: int, total: int) -> None:
        """Set the state of the step."""
        self._done, self._total = done, total
        self.tick()

    def arrived(self, done: int, total: int) -> None:
        """Like :meth:`at` for a download, whose total is unknown before its first byte."""
        if done:
            self.at(done, total)
        else:
            self.tick()

    def tick(self) -> None:
        """Pass on the current state."""
        eta = estimate(self._done, self._total, time.monotonic() - self._step_began)
        self.tell(Progress(self._step, self._done, self._total, self.seconds, eta))
