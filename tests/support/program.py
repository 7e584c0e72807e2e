"""The program itself for tests: as a process, or on a terminal with a screen that is read back."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import psutil
import pytest
from fake_engine import wrapper
from warm import WarmProcess, WarmProgram

if sys.platform != "win32":
    import termios

    import pexpect
    import pexpect.fdpexpect
    import pyte

TIMEOUT = 60.0  # seconds; nothing takes a tenth of it on an idle machine
ENTER, CTRL_C, CTRL_D, CTRL_J, CTRL_U, ESC, ARROW_UP = "\r", "\x03", "\x04", "\n", "\x15", "\x1b", "\x1b[A"
FIGURES = "first token after"
_WARM = WarmProgram()
_ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, script: Path | None = None) -> list[str]:
    """The command line of the program, or of a script that runs it, with warnings as errors."""
    return [sys.executable, "-W", "error", *([str(script)] if script else ["-m", "bitnet_chat"]), *arguments]


def environment(**more: str) -> dict[str, str]:
    theirs = ("NO_COLOR", "VISUAL", "EDITOR", "COLUMNS", "LINES")
    ours = {name: value for name, value in os.environ.items() if name not in theirs}
    places = os.pathsep.join((str(_ROOT), str(Path(__file__).parent)))
    return ours | {"PYTHONPATH": places, "PYTHONUTF8": "1"} | more


def run(
    *arguments: str, stdin: str | bytes = b"", script: Path | None = None, **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs it to its end, with nothing that is a terminal."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    if script is None and sys.platform != "win32" and not any(name.startswith("PYTHON") for name in more):
        return _WARM.run(arguments, data, environment(**more), TIMEOUT)
    return subprocess.run(
        command(*arguments, script=script), input=data, capture_output=True, timeout=TIMEOUT, env=environment(**more)
    )


def fake_engine(folder: Path) -> Path:
    """The scripted engine of ``fake_engine.py`` as a program of its own."""
    path = folder / "fake-engine"
    script = Path(__file__).with_name("fake_engine.py")
    path.write_text(wrapper(str(script)))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def engines_of(pid: int) -> list[psutil.Process]:
    """The processes that the program has started, and those that they have."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [each for each in children if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    """False for one that ends while it is looked at: the others stay in the list."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def assert_gone(processes: Sequence[psutil.Process]) -> None:
    assert processes, "there was nothing that could have been left"
    _, alive = psutil.wait_procs(processes, timeout=TIMEOUT)
    # Where nobody reaps orphans, a process that has ended stays as a zombie.
    left = [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"left behind: {left}"


def opened(*arguments: str, **more: str) -> tuple[WarmProcess | subprocess.Popen[bytes], IO[bytes]]:
    """Starts it without input; gives its process, and what it writes to stderr."""
    if sys.platform == "win32":
        process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(**more),
        )
        assert process.stderr is not None
        return process, process.stderr
    source, sink = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        return _WARM.start(arguments, [nothing, nothing, sink], environment(**more)), os.fdopen(source, "rb")
    finally:
        os.close(nothing)
        os.close(sink)


if sys.platform != "win32":

    class TerminalChild(pexpect.fdpexpect.fdspawn):  # type: ignore[misc]
        """A program on a terminal, as :class:`pexpect.spawn`, forked and not started anew."""

        def __init__(
            self, arguments: Sequence[str], script: Path | None, lines: int, columns: int, environment: dict[str, str]
        ) -> None:
            ours, theirs = os.openpty()
            termios.tcsetwinsize(ours, (lines, columns))
            try:
                self.process = _WARM.start(arguments, [theirs] * 3, environment, script=script, on_terminal=True)
            finally:
                os.close(theirs)
            super().__init__(ours, timeout=TIMEOUT)
            self.pid = self.process.pid
            self.kill = self.process.send_signal

        def wait(self) -> int:
            code = self.process.wait(TIMEOUT)
            self.exitstatus, self.signalstatus = (code, None) if code >= 0 else (None, -code)
            return code

        def setwinsize(self, lines: int, columns: int) -> None:
            termios.tcsetwinsize(self.child_fd, (lines, columns))

        def setecho(self, on: bool) -> None:
            modes = termios.tcgetattr(self.child_fd)
            modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
            termios.tcsetattr(self.child_fd, termios.TCSANOW, modes)

        def hang_up(self) -> None:
            """The terminal is gone: no signal but the one that the kernel sends."""
            super().close()

        def close(self, force: bool = True) -> None:
            if not self.closed:
                super().close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.0 if force else TIMEOUT)
            self.process.kill()
            self.process.wait(TIMEOUT)


class Terminal:
    """The program on a terminal of its own."""

    def __init__(
        self, *arguments: str, columns: int = 80, lines: int = 24, script: Path | None = None, **more: str
    ) -> None:
        variables = environment(**{"TERM": "xterm-256color"} | more)
        self.child = TerminalChild(arguments, script, lines, columns, variables)
        self.written = ""
        self._gone: list[str] = []
        self._screen = pyte.HistoryScreen(columns, lines, history=100_000)
        self._screen.write_process_input = self.child.send  # answers to the program's questions
        self._stream = pyte.ByteStream(self._screen)
        self._text: str | None = None

    @property
    def pid(self) -> int:
        return int(self.child.pid)

    @property
    def engines(self) -> list[psutil.Process]:
        return engines_of(self.pid)

    @property
    def text(self) -> str:
        """What the screen shows."""
        if self._text is None:
            self._text = "\n".join(line.rstrip() for line in self._screen.display).rstrip()
        return self._text

    @property
    def scroll(self) -> str:
        """The same, and all that has left it at its top."""
        return "\n".join([*self._gone, self.text])

    @property
    def prompt(self) -> str:
        """The last line that begins like a prompt."""
        starts = [line for line in self.text.split("\n") if line == ">" or line.startswith("> ")]
        return starts[-1][2:] if starts else "no prompt"

    def until(self, condition: str | Callable[[], bool]) -> None:
        """Reads until the screen shows ``condition``."""
        deadline = time.monotonic() + TIMEOUT
        while not (condition in self.text if isinstance(condition, str) else condition()):
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain for {condition!r} on:\n{self.text}"
            try:
                self._read(min(left, 1.0))
            except pexpect.EOF:
                raise AssertionError(f"the program ended before {condition!r} on:\n{self.text}") from None

    def _read(self, seconds: float) -> None:
        try:
            data = self.child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        self.written += data.decode(errors="replace")
        self._stream.feed(data)
        self._text = None
        top = self._screen.history.top
        while top:
            line = top.popleft()
            self._gone.append("".join(line[x].data for x in range(self._screen.columns)).rstrip())

    def ready(self) -> None:
        """Until a prompt waits for input and the engine is idle: nothing but the bar is below it."""
        self.until(self._is_ready)

    def _is_ready(self) -> bool:
        lines = self.text.split("\n")
        return lines[-1].startswith((" bitnet-demo", " smollm2", " other")) and self.prompt == ""

    def send(self, *keys: str) -> None:
        for key in keys:
            self.child.send(key)

    def say(self, text: str) -> str:
        """Sends a short line, waits for the prompt after its answer, and gives what is between the two."""
        before = self.times(text)
        self.send(text, ENTER)
        self.until(lambda: self.times(text) > before and self._is_ready() and "\n>" in self.after(text))
        return self.after(text).rpartition("\n>")[0].rstrip()

    def undo(self, message: str) -> None:
        """Takes a short message back, which is on the prompt again, and clears the line."""
        self.send("/undo", ENTER)
        self.until(lambda: self.prompt == message and f"Undone: {message}\n" in self.after("/undo"))
        self.send(CTRL_U)
        self.ready()

    def told(self, text: str) -> int:
        """How often it was shown, on one line or on several."""
        return " ".join(self.scroll.split()).count(text)

    def times(self, text: str) -> int:
        """How often a short line was sent."""
        return self.scroll.count(f"\n> {text}\n")

    def after(self, text: str) -> str:
        """What is shown behind the last time that a short line was sent; nothing before that is shown."""
        _, sent, behind = self.scroll.rpartition(f"\n> {text}\n")
        return behind if sent else ""

    def paste(self, text: str) -> None:
        self.send(f"\x1b[200~{text}\x1b[201~")

    def resize(self, lines: int, columns: int) -> None:
        self._screen.resize(lines, columns)
        self._text = None
        self.child.setwinsize(lines, columns)

    def end(self) -> int:
        """Reads until the program has ended; gives its exit code, or minus the number of the signal."""
        deadline = time.monotonic() + TIMEOUT
        with contextlib.suppress(pexpect.EOF):
            while True:
                assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
                self._read(1.0)
        self.child.wait()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)

    def running_engines(self) -> list[psutil.Process]:
        """The engines, at least one: the prompt is there before the engine, also when one is replaced."""
        engines: list[psutil.Process] = []
        # Looked at once, for it may end meanwhile.
        self.until(lambda: bool(engines.extend(self.engines) or engines))
        return engines

    def leave(self) -> None:
        """Ctrl-D: the program and its engine end."""
        engines = self.running_engines()
        self.send(CTRL_D)
        assert self.end() == 0, self.text
        assert_gone(engines)

    def close(self) -> None:
        self.child.close(force=True)


Start = Callable[..., Terminal]


class Closeable(Protocol):
    def close(self) -> None: ...


def starts(kind: Callable[..., Closeable]) -> Any:
    """A fixture that starts programs of this kind, and ends them with the test."""

    @pytest.fixture
    def start() -> Iterator[Callable[..., Closeable]]:
        started: list[Closeable] = []

        def start(*arguments: str, **options: object) -> Closeable:
            started.append(kind(*arguments, **options))
            return started[-1]

        yield start
        for each in started:
            each.close()

    return start


start = starts(Terminal)


class ReceivedMessages:
    """Hears each message that a scripted engine gets, the moment it gets it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "heard"
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR)  # both ways: it never ends and never blocks the writer
        self._lines: list[str] = []
        self._open = b""

    def next(self) -> str:
        """Waits for the next message."""
        while not self._lines:
            self._read(TIMEOUT)
        return self._lines.pop(0)

    def rest(self) -> list[str]:
        """All that were heard and not yet asked for, but what is for the console and not for the model."""
        while select.select([self._descriptor], [], [], 0)[0]:
            self._read(0)
        lines, self._lines = self._lines, []
        return [line for line in lines if line not in ("", "/clear")]

    def _read(self, seconds: float) -> None:
        assert select.select([self._descriptor], [], [], seconds)[0], "the engine gets no message"
        *lines, self._open = (self._open + os.read(self._descriptor, 65536)).split(b"\n")
        self._lines += [str(json.loads(line)) for line in lines]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def received(tmp_path: Path) -> Iterator[ReceivedMessages]:
    received = ReceivedMessages(tmp_path)
    yield received
    received.close()
