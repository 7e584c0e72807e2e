"""The program, imported once and forked for each run: what a run costs is then its own work and not that of Python.

As ``python -W error warm.py DESCRIPTOR`` it serves requests from that socket until the other side closes it. A request
is the size of a JSON object in four bytes, with the three standard streams beside them, and that object. Each program
is told with two lines: ``started PID``, and ``ended PID STATUS``, with the status of ``waitpid``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]

# What a question, a conversation, a server and the verbs import when they run.
_MODULES = (
    *("asyncio", "jinja2", "jinja2.sandbox", "platformdirs.unix", "psutil", "sqlite3", "signal", "difflib", "shlex"),
    *("bitnet_chat.cli.chat", "bitnet_chat.cli.questions", "bitnet_chat.backends.factory", "bitnet_chat.cli.report"),
    *("bitnet_chat.cli.engine", "bitnet_chat.cli.history", "bitnet_chat.cli.replay", "bitnet_chat.cli.config"),
    *("bitnet_chat.models.gguf", "bitnet_chat.models.memory", "bitnet_chat.models.vocabulary"),
    *("bitnet_chat.templates.chat_template", "bitnet_chat.filters.role_markers", "bitnet_chat.filters.thinking"),
    *("bitnet_chat.engine.transport.pty", "bitnet_chat.engine.transport.pipe", "bitnet_chat.engine.transport.preexec"),
    *("bitnet_chat.engine.protocols.classic", "bitnet_chat.engine.protocols.modern", "bitnet_chat.engine.probe"),
    *("bitnet_chat.engine.protocols.native", "bitnet_chat.backends.llama_server", "bitnet_chat.repl.terminal_ui"),
    *("bitnet_chat.journal", "bitnet_chat.journal.transactions", "bitnet_chat.attachments.reading"),
    *("bitnet_chat.repl.controller", "bitnet_chat.markdown", "pygments.formatters", "prompt_toolkit.shortcuts"),
    *(
        "bitnet_chat.server.app",
        "bitnet_chat.cli.serve",
        "uvicorn.protocols.http.httptools_impl",
        "uvicorn.lifespan.on",
    ),
)


class WarmProcess:
    """A program that was forked: as :class:`subprocess.Popen`, without its streams."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """The exit code, or minus the number of a signal; None while it runs."""
        self._ended = threading.Event()

    def ended(self, status: int) -> None:
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class WarmProgram:
    """Starts the server of forks when it is first needed."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._started: queue.Queue[WarmProcess] = queue.Queue()
        self._lock = threading.Lock()

    def start(
        self,
        arguments: Sequence[str],
        streams: Sequence[int],
        environment: Mapping[str, str],
        *,
        script: Path | None = None,
        on_terminal: bool = False,
    ) -> WarmProcess:
        """``streams``: those of the program, which has copies of them. ``script``: what runs instead of the program.
        ``on_terminal``: the first stream becomes the terminal that controls it."""
        request = json.dumps(
            {
                "argv": list(arguments),
                "environment": dict(environment),
                "folder": str(Path.cwd()),
                "script": str(script or ""),
                "terminal": on_terminal,
            }
        ).encode()
        with self._lock:
            channel = self._channel = self._channel or self._served()
            socket.send_fds(channel, [len(request).to_bytes(4)], list(streams))
            channel.sendall(request)
            return self._started.get(timeout=60)

    def run(
        self, arguments: Sequence[str], data: bytes, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """As ``subprocess.run`` with pipes."""
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        process = self.start(arguments, theirs, environment)
        for descriptor in theirs:
            os.close(descriptor)
        said = [b"", b""]

        def read(number: int) -> None:
            with open(pipes[number + 1][0], "rb") as stream:  # noqa: PTH123
                said[number] = stream.read()

        def write() -> None:
            try:
                with open(pipes[0][1], "wb") as stream:  # noqa: PTH123
                    stream.write(data)
            except BrokenPipeError:  # it does not want to know
                return

        threads = [
            threading.Thread(target=write),
            *(threading.Thread(target=read, args=(number,)) for number in (0, 1)),
        ]
        for thread in threads:
            thread.start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        for thread in threads:
            thread.join(timeout)
            assert not thread.is_alive(), "something that it has started holds its streams"
        return subprocess.CompletedProcess(list(arguments), code, *said)

    def _served(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1"},
            )
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()

        def end() -> None:
            ours.shutdown(socket.SHUT_RDWR)
            ours.close()
            server.wait()

        atexit.register(end)
        return ours

    def _listen(self, channel: socket.socket) -> None:
        running: dict[int, WarmProcess] = {}
        with contextlib.suppress(OSError), channel.makefile() as lines:
            for line in lines:
                kind, pid, *status = line.split()
                if kind == "started":
                    running[int(pid)] = WarmProcess(int(pid))
                    self._started.put(running[int(pid)])
                else:
                    running.pop(int(pid)).ended(int(status[0]))
        for each in running.values():
            each.ended(signal.SIGKILL)


# The server


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Gives the request in the process that is to run a program; None at the end, in the server itself."""
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    gc.freeze()
    while True:
        ready, _, _ = select.select([channel, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            for pid, status in _ended():
                channel.sendall(f"ended {pid} {status}\n".encode())
        if channel not in ready:
            continue
        size, streams, _, _ = socket.recv_fds(channel, 4, 3)
        if not size:
            return None
        text = b""
        while len(text) < int.from_bytes(size):
            text += channel.recv(int.from_bytes(size) - len(text))
        request: dict[str, Any] = json.loads(text)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (woken, waker, channel):
                each.close()
            _become(request, streams)
            return request
        for stream in streams:
            os.close(stream)
        channel.sendall(f"started {pid}\n".encode())


def _ended() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(each)
    return found


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["terminal"]:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # as Python makes them with PYTHONUTF8
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        stream = open(  # noqa: SIM115
            number, "w" if number else "r", encoding="utf-8", errors=errors, newline="\n", closefd=False
        )
        if number == 2 or (number == 1 and os.isatty(1)):
            stream.reconfigure(line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def play(request: Mapping[str, Any]) -> None:
    """Runs the program, or a script."""
    from bitnet_chat.cli import main

    script = request["script"]
    sys.argv[:] = [script or sys.argv[0], *request["argv"]]
    if not script:
        sys.exit(main(request["argv"]))
    import runpy

    sys.path[0] = str(Path(script).parent)
    for place in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if place not in sys.path:
            sys.path.insert(1, place)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    from importlib import import_module

    for module in _MODULES:
        import_module(module)
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        play(wanted)
