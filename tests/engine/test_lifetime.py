"""The engine dies with the program, however that ends and whatever it was doing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import (
    CTRL_C,
    CTRL_D,
    ENTER,
    TIMEOUT,
    ReceivedMessages,
    Start,
    assert_gone,
    command,
    engines_of,
    environment,
    fake_engine,
    received,
    start,
)

from bitnet_chat.engine.binary import EngineBinary

__all__ = ["received", "start"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")

TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL
EXIT = {TERM: 143, HUP: 129, INT: 130, KILL: -9}
WIDE = ("--override-kv", "bitnet.context_length=int:65536")
ENDLESS = ("--threads", "1", "--ctx", "65536", "--no-guard", "--", *WIDE, "--ignore-eos")


# Each pair of signal and moment, of signal and engine, of engine and moment.
@pytest.mark.engine
@pytest.mark.parametrize(
    ("number", "moment", "engine"),
    [
        (TERM, "idle", "classic"),
        (TERM, "generating", "modern"),
        (HUP, "idle", "modern"),
        (HUP, "generating", "classic"),
        (KILL, "idle", "classic"),
        (KILL, "generating", "modern"),
    ],
    indirect=["engine"],
)
def test_the_repl(start: Start, engine: EngineBinary, moment: str, number: signal.Signals) -> None:
    import termios

    terminal = start("--engine", str(engine.path), *ENDLESS)
    before = termios.tcgetattr(terminal.child.child_fd)
    terminal.until(lambda: terminal.prompt == "")
    assert termios.tcgetattr(terminal.child.child_fd) != before
    terminal.send("tell me a story", ENTER)
    terminal.until(lambda: len(terminal.after("tell me a story")) > 120)
    if moment == "idle":
        terminal.send(CTRL_C)
        terminal.ready()
        terminal.until(lambda: "loading" not in terminal.text.split("\n")[-1])
    engines = terminal.running_engines()
    terminal.child.kill(number)
    assert terminal.end() == EXIT[number]
    assert_gone(engines)
    if number != KILL:
        assert termios.tcgetattr(terminal.child.child_fd) == before
        assert terminal.written.rindex("\x1b[?2004l") > terminal.written.rfind("\x1b[?2004h")
        assert "Traceback" not in terminal.written


@pytest.mark.parametrize("transport", ["pty", "pipe"])
@pytest.mark.parametrize("number", [TERM, HUP, KILL])
def test_the_repl_while_it_loads(start: Start, tmp_path: Path, transport: str, number: signal.Signals) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    terminal = start("--engine", str(fake_engine(tmp_path)), "--io", transport, FAKE_ENGINE_GATE=str(gate))
    terminal.until(lambda: terminal.prompt == "")
    if transport == "pty":  # with a message that waits, and without
        terminal.send("hello", ENTER)
        terminal.until("loading the model")
    descriptor = os.open(gate, os.O_WRONLY)  # returns when the engine has it open
    engines = terminal.running_engines()
    terminal.child.kill(number)
    assert terminal.end() == EXIT[number]
    assert_gone(engines)
    os.close(descriptor)


# Each pair of signal and transport, of signal and engine, of engine and transport.
@pytest.mark.engine
@pytest.mark.parametrize(
    ("number", "transport", "engine"),
    [
        (TERM, "pty", "classic"),
        (TERM, "pipe", "modern"),
        (HUP, "pty", "modern"),
        (HUP, "pipe", "classic"),
        (INT, "pty", "classic"),
        (INT, "pipe", "modern"),
        (KILL, "pty", "modern"),
        (KILL, "pipe", "classic"),
    ],
    indirect=["engine", "transport"],
)
def test_a_question(engine: EngineBinary, transport: str, number: signal.Signals) -> None:
    arguments = ("--engine", str(engine.path), "--io", transport, "tell me a long story", *ENDLESS)
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as program:
        assert program.stdout is not None
        assert program.stdout.read(10)
        engines = engines_of(program.pid)
        program.send_signal(number)
        _, remarks = program.communicate(timeout=TIMEOUT)
    assert program.returncode == EXIT[number], remarks.decode()
    assert_gone(engines)
    assert b"Traceback" not in remarks


@pytest.mark.parametrize(
    ("number", "moment", "transport"),
    [
        (TERM, "loading", "pty"),
        (TERM, "generating", "pipe"),
        (HUP, "loading", "pipe"),
        (HUP, "generating", "pty"),
        (INT, "loading", "pty"),
        (INT, "generating", "pipe"),
        (KILL, "loading", "pipe"),
        (KILL, "generating", "pty"),
    ],
    indirect=["transport"],
)
def test_a_question_without_streaming(
    tmp_path: Path, received: ReceivedMessages, transport: str, number: signal.Signals, moment: str
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    arguments = ("--engine", str(fake_engine(tmp_path)), "--io", transport, "--no-stream", "silence")
    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(FAKE_ENGINE_GATE=str(gate), FAKE_ENGINE_HEARD=str(received.path)),
    ) as program:
        descriptor = os.open(gate, os.O_WRONLY)
        if moment == "generating":
            os.close(descriptor)
            assert received.next() == "silence"
        engines = engines_of(program.pid)
        program.send_signal(number)
        words, remarks = program.communicate(timeout=TIMEOUT)
        if moment == "loading":
            os.close(descriptor)
    assert program.returncode == EXIT[number], remarks.decode()
    assert words.strip() == b""
    assert_gone(engines)
    assert b"Traceback" not in remarks


@pytest.mark.engine
def test_a_terminal_that_is_closed(start: Start, engine: EngineBinary) -> None:
    terminal = start("--engine", str(engine.path), *ENDLESS)
    terminal.until(lambda: terminal.prompt == "")
    terminal.send("tell me a story", ENTER)
    terminal.until(lambda: len(terminal.after("tell me a story")) > 120)
    engines = terminal.running_engines()
    terminal.child.hang_up()
    assert_gone(engines)
    terminal.child.wait()


@pytest.mark.engine
@pytest.mark.parametrize("sign", [INT, TERM])
def test_a_signal_before_the_question_is_read(sign: signal.Signals) -> None:
    with subprocess.Popen(
        command("--no-stream"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as program:
        assert program.stdin is not None
        # It reads: nothing else would take this much.
        program.stdin.write(b"x" * (1 << 20))
        program.stdin.flush()
        deadline = time.monotonic() + TIMEOUT
        # Again and again: one that comes between two reads is heard at the end of the second.
        while program.poll() is None and time.monotonic() < deadline:
            program.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(0.5)
        assert program.poll() in (130, -sign)


def test_leaving_while_it_loads(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    terminal = start("--engine", str(fake_engine(tmp_path)), FAKE_ENGINE_GATE=str(gate))
    terminal.until(lambda: terminal.prompt == "")
    descriptor = os.open(gate, os.O_WRONLY)
    engines = terminal.running_engines()
    terminal.send(CTRL_D)
    assert terminal.end() == 0
    assert_gone(engines)
    os.close(descriptor)


def test_an_engine_that_ignores_every_signal_but_one(start: Start, received: ReceivedMessages, tmp_path: Path) -> None:
    terminal = start("--engine", str(fake_engine(tmp_path)), FAKE_ENGINE_HEARD=str(received.path))
    terminal.until(lambda: terminal.prompt == "")
    terminal.send("deaf", ENTER)
    terminal.until("I cannot hear you")
    engines = terminal.running_engines()
    terminal.child.kill(TERM)
    assert terminal.end() == 143
    assert_gone(engines)


def test_a_probe_that_never_ends_dies_with_the_program(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\necho > "{ready}"\nexec sleep 1000\n')
    slow.chmod(0o755)
    with subprocess.Popen(command("engine", "probe", str(slow)), stderr=subprocess.PIPE, env=environment()) as program:
        ready.read_bytes()
        engines = engines_of(program.pid)
        program.kill()
    assert_gone(engines)
