"""Progress of a long task: parsed from the counter of ninja, estimated, and shown as one line.

Standard library only: the scripts in ``bin/`` show the same line before anything is installed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from bitnet_chat import terminal as terminals

# ninja's default status is "[%f/%t] "; the build sets NINJA_STATUS to it, whatever the user's environment says.
NINJA_STATUS = "[%f/%t] "
_COUNTER = re.compile(r"\[(\d+)/(\d+)\] ")

# The first objects say little about the rest; before this many the estimate jumps by a factor of three.
_SURE_AFTER = 8

_REDRAW_SECONDS = 0.1
_BAR_CELLS = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a long task."""

    step: str
    """The current step, for display: ``Compiling llama.cpp``."""
    done: int
    total: int
    """Units of this step; 0: unknown."""
    seconds: float
    """Since the beginning of the whole task."""
    eta: float | None
    """Seconds until this step ends; None: not known yet."""
    detail: str = ""
    """Shown after the step, and variable within it: ``12/500``."""


def ninja_counter(line: str) -> tuple[int, int] | None:
    """``[12/216] Building …`` is (12, 216); any other line is None.

    ninja counts remaining work: a build that was interrupted after 100 of 216 starts anew at ``[1/116]``.
    """
    match = _COUNTER.match(line)
    return (int(match[1]), int(match[2])) if match else None


def estimate(done: int, total: int, seconds: float) -> float | None:
    """Remaining seconds after ``done`` of ``total`` took ``seconds``; None while unreliable."""
    if done >= total > 0:
        return 0.0
    if total <= 0 or done < min(_SURE_AFTER, total) or seconds <= 0:
        return None
    return (total - done) * seconds / done


def duration(seconds: float) -> str:
    """``7 s``, ``4 min 47 s``, ``1 h 02 min``."""
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
    """Bytes for display, in powers of ten as disks and downloads use them: ``812 MB``, ``1.2 GB``."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    if count < 999_500_000:
        return f"{count / 1_000_000:.0f} MB"
    return f"{count / 1_000_000_000:.1f} GB"


def line(progress: Progress, width: int = 80) -> str:
    """The progress as one line of at most ``width - 1`` characters: a full line would wrap on some terminals."""
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
    """Progress on a stream: one line redrawn in place on a terminal, else a plain line per step and per 10 %.

    On a stream that is not a terminal only text and newlines are written; on a terminal also the carriage return, but
    no escape sequence, so that a console without them shows the same.
    """

    def __init__(self, stream: TextIO, *, terminal: bool | None = None) -> None:
        if terminal is None:
            terminal = terminals.draws(stream)
        self._stream = stream
        self._terminal = terminal
        self._drawn = 0  # characters on the line that is being redrawn
        self._last: Progress | None = None
        self._redrawn_at = 0.0

    def __call__(self, progress: Progress) -> None:
        last, self._last = self._last, progress
        new_step = last is None or last.step != progress.step
        if self._terminal:
            self._redraw(progress, last if new_step else None, new_step)
        elif new_step or (last is not None and _tenth(last) != _tenth(progress)):
            self._write(line(progress, 120) + "\n")

    def close(self) -> None:
        """End the line: later output starts on a new one."""
        if self._drawn and self._last is not None:
            self._put(self._last)
            self._write("\n")
            self._drawn = 0

    def _redraw(self, progress: Progress, ended: Progress | None, new_step: bool) -> None:
        now = time.monotonic()
        if ended is not None and self._drawn:
            self._put(ended)  # the last state of a step may not have been drawn
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


# When a long piece of work and its current step began, and how far the step is: told as :class:`Progress`.


class ProgressClock:
    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.tell = on_progress
        self._began = self._step_began = time.monotonic()
        self._step = ""
        self._done = self._total = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def step(self, name: str) -> None:
        if name != self._step:
            self._step, self._step_began = name, time.monotonic()
        self.at(0, 0)

    def at(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self.tick()

    def arrived(self, done: int, total: int) -> None:
        """As :meth:`at` for a download, which is not measured before its first byte."""
        if done:
            self.at(done, total)
        else:
            self.tick()

    def tick(self) -> None:
        eta = estimate(self._done, self._total, time.monotonic() - self._step_began)
        self.tell(Progress(self._step, self._done, self._total, self.seconds, eta))
