"""The program, imported once and forked for each run: what a run costs is then its own work and not that of Python.

As ``python -W error warm.py DESCRIPTOR`` it serves requests from that socket until the other side closes it. A request
is the size of a JSON object in four bytes, with the three standard streams beside them, and that object. It is answered
by two numbers, each a line: the process that runs, and how that ended.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

# What a question and the verbs import when they run.
_MODULES = (
    *("asyncio", "jinja2", "jinja2.sandbox", "platformdirs.unix", "psutil", "sqlite3", "signal", "difflib", "shlex"),
    *("bitnet_chat.cli.chat", "bitnet_chat.cli.questions", "bitnet_chat.backends.factory", "bitnet_chat.cli.report"),
    *("bitnet_chat.cli.engine", "bitnet_chat.cli.history", "bitnet_chat.cli.replay", "bitnet_chat.cli.config"),
    *("bitnet_chat.models.gguf", "bitnet_chat.models.memory", "bitnet_chat.models.vocabulary"),
    *("bitnet_chat.templates.chat_template", "bitnet_chat.filters.role_markers", "bitnet_chat.filters.thinking"),
    *("bitnet_chat.engine.transport.pty", "bitnet_chat.engine.transport.pipe", "bitnet_chat.engine.transport.preexec"),
    *("bitnet_chat.engine.protocols.classic", "bitnet_chat.engine.protocols.modern", "bitnet_chat.engine.probe"),
    *("bitnet_chat.journal", "bitnet_chat.journal.transactions", "bitnet_chat.attachments.reading"),
)


class WarmProgram:
    """Starts the server of forks when it is first needed. One run at a time."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()

    def run(
        self, arguments: Sequence[str], data: bytes, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes] | None:
        """As ``subprocess.run`` with pipes. None where a run is under way in another thread."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            channel = self._channel = self._channel or _served()
            return _run(channel, arguments, data, environment, timeout)
        except BaseException:
            self._channel = None  # it may be in the middle of anything
            raise
        finally:
            self._lock.release()


def _served() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1"},
        )

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def _run(
    channel: socket.socket, arguments: Sequence[str], data: bytes, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    pipes = [os.pipe() for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    request = json.dumps({"argv": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())})
    socket.send_fds(channel, [len(request).to_bytes(4)], theirs)
    channel.sendall(request.encode())
    for descriptor in theirs:
        os.close(descriptor)
    channel.settimeout(timeout)
    answers = channel.makefile()
    pid = int(answers.readline())
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

    threads = [threading.Thread(target=write), *(threading.Thread(target=read, args=(number,)) for number in (0, 1))]
    for thread in threads:
        thread.start()
    try:
        status = int(answers.readline())
    except TimeoutError:
        os.kill(pid, 9)
        raise subprocess.TimeoutExpired(list(arguments), timeout) from None
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "something that it has started holds its streams"
    return subprocess.CompletedProcess(list(arguments), os.waitstatus_to_exitcode(status), *said)


# The server


def serve(channel: socket.socket) -> list[str] | None:
    """Gives the arguments of a program in the process that is to run it; None at the end, in the server itself."""
    while True:
        size, streams, _, _ = socket.recv_fds(channel, 4, 3)
        if not size:
            return None
        text = b""
        while len(text) < int.from_bytes(size):
            text += channel.recv(int.from_bytes(size) - len(text))
        request = json.loads(text)
        pid = os.fork()
        if not pid:
            _become(request, streams)
            return list(request["argv"])
        for stream in streams:
            os.close(stream)
        channel.sendall(f"{pid}\n".encode())
        channel.sendall(f"{os.waitpid(pid, 0)[1]}\n".encode())


def _become(request: Mapping[str, object], streams: Sequence[int]) -> None:
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # as Python makes them with PYTHONUTF8
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        stream = open(  # noqa: SIM115
            number, "w" if number else "r", encoding="utf-8", errors=errors, newline="\n", closefd=False
        )
        if number == 2:
            stream.reconfigure(line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    from importlib import import_module

    from bitnet_chat.cli import main

    for module in _MODULES:
        import_module(module)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        arguments = serve(channel)
    if arguments is not None:
        sys.argv[1:] = arguments
        sys.exit(main(arguments))
