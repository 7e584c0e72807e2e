"""How long an engine is waited for: as long as anything happens, and not for ever."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from program import assert_gone, command, engines_of, environment, fake_engine, run

from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.loading import work_of
from bitnet_chat.engine.process_faults import closed_output, log_in_output, not_ready
from bitnet_chat.engine.timeouts import BUSY, ProcessWork, PromptTimeout
from bitnet_chat.errors import EngineDiedError, EngineStalledError

posix = pytest.mark.skipif(sys.platform == "win32", reason="engines are shell scripts here")
MB = 1_000_000


def waited(limit: float, *seen: ProcessWork | None, heard: bool = False) -> list[bool]:
    """Whether it is over at each second, when this is seen then."""
    patience = PromptTimeout(limit, 0.0)
    patience.seen(ProcessWork(), 0.0)
    answers = []
    for second, work in enumerate(seen, 1):
        if heard:
            patience.heard(second)
        patience.seen(work, second)
        answers.append(patience.is_over(second))
    return answers


def test_silence_without_any_work_is_the_limit() -> None:
    assert waited(3, *[ProcessWork()] * 4) == [False, False, True, True]
    # A process that waits wakes up now and then, and moves a page.
    idle = [ProcessWork(computed=0.01 * second, resident=4096 * second) for second in range(1, 6)]
    assert waited(3, *idle) == [False, False, True, True, True]


def test_a_slow_load_has_no_limit() -> None:
    reading = [ProcessWork(read=4096 * second) for second in range(1, 1001)]
    assert not any(waited(3, *reading))
    mapping = [ProcessWork(resident=2 * MB * second) for second in range(1, 1001)]
    assert not any(waited(3, *mapping))
    # Slowly: the small amounts of several looks add up.
    assert not any(waited(30, *[ProcessWork(resident=100_000 * second) for second in range(1, 1001)]))


def test_work_that_leads_nowhere_has_ten_times_the_limit() -> None:
    computing = [ProcessWork(computed=float(second)) for second in range(1, 40)]
    assert waited(3, *computing).index(True) == 3 * BUSY - 1
    assert waited(3, *[ProcessWork()] * 40, heard=True).index(True) == 3 * BUSY - 1
    assert waited(3, *[None] * 40).index(True) == 3 * BUSY - 1  # a platform that does not tell
    patience = PromptTimeout(3, 0)
    patience.heard(29)
    assert patience.has_only_worked(30) and not patience.has_only_worked(29)


def test_a_computer_that_slept_is_no_silence() -> None:
    patience = PromptTimeout(3, 0)
    patience.slept(1000)
    assert not patience.is_over(1001) and patience.is_over(1003)


def test_the_work_of_a_process_and_those_below_it() -> None:
    large = "import sys; x = list(range(10**6)); print(1, flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        ["sh", "-c", f'"$0" -c "{large}"; :', sys.executable],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdout.readline()
    work = work_of(child.pid)
    assert work is not None and work.resident > 20 * MB  # the shell itself has none of it
    child.communicate()
    assert work_of(child.pid) is None


def test_each_has_its_own_words() -> None:
    stalled = not_ready("showed no prompt", 2, worked=False)
    assert "for 2 s it did nothing" in stalled.what and isinstance(stalled.error(""), EngineStalledError)
    assert stalled.error("").reason.exit_code == 124
    assert "only computed or logged" in not_ready("showed no prompt", 20, worked=True).what
    assert "its terminal" in closed_output(terminal=True).what and "its output" in closed_output(terminal=False).what
    died = log_in_output("main: x").error("")
    assert type(died) is EngineDiedError and died.reason.exit_code == 5


# Engines that never come to their prompt


@posix
@pytest.mark.parametrize("modern", ["", "1"])
def test_one_that_waits_for_something_else(tmp_path: Path, transport: str, modern: str) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    more = {"FAKE_ENGINE_GATE": str(gate), "FAKE_ENGINE_MODERN": modern}
    flags = ("--engine", str(fake_engine(tmp_path)), "--io", transport, "--stall-timeout", "0.5")
    done = run(*flags, "hello", **more)
    assert done.returncode == 124
    assert b"the engine showed no prompt: for 0.5 s it did nothing" in done.stderr
    assert b"memory" not in done.stderr


@posix
def test_without_a_limit_it_is_waited_for(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    flags = ("--engine", str(fake_engine(tmp_path)), "--stall-timeout", "0", "say it")
    more = environment(FAKE_ENGINE_GATE=str(gate), FAKE_ENGINE_RECORD=str(tmp_path / "record"))
    with subprocess.Popen(command(*flags), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=more) as program:
        gate.write_bytes(b"")  # waits until the engine has opened it
        assert program.communicate(timeout=60)[0] == b"it\n"


@posix
@pytest.mark.engine
def test_one_whose_prompt_is_in_another_form(classic: EngineBinary, tmp_path: Path) -> None:
    """As a classic engine was with LLAMA_ARG_LOG_JSONL=1, which no --stall-timeout ended."""
    path = tmp_path / "engine"
    asked = f'case $* in *--help*|*--version*) exec "{classic.path}" "$@";; esac'
    path.write_text(f'#!/bin/sh\n{asked}\n"{classic.path}" "$@" | tr -d "\\033"\n')
    path.chmod(0o755)
    done = run("--engine", str(path), "-t", "1", "--stall-timeout", "1", "hello")
    assert done.returncode == 124 and b"showed no prompt" in done.stderr


@posix
def test_doctor_and_probe_come_to_an_end(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    engine = str(fake_engine(tmp_path))
    more = {"FAKE_ENGINE_GATE": str(gate), "BITNET_CHAT_STALL_TIMEOUT": "0.5"}
    told = json.loads(run("doctor", "--quick", "--json", "--engine", engine, **more).stdout)
    (answer,) = [each for each in told["findings"] if each["name"] == "known answers"]
    assert answer["status"] == "broken" and "showed no prompt: for 0.5 s" in answer["seen"]


@posix
def test_a_prompt_that_does_not_come_back_after_a_command(tmp_path: Path) -> None:
    """A modern engine forgets by /clear; one that never answers it is replaced."""
    path = fake_engine(tmp_path)
    folder, script = Path(__file__).parents[1] / "support", tmp_path / "forgetful.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(folder)!r}); import fake_engine, time\n"
        "read = fake_engine.Engine.read\n"
        "def deaf(self):\n"
        "    message = read(self)\n"
        "    while message and message.startswith('/clear'):\n"
        "        time.sleep(60)\n"
        "    return message\n"
        "fake_engine.Engine.read = deaf\n"
        "fake_engine.main()\n"
    )
    path.write_text(path.read_text().replace(str(folder / "fake_engine.py"), str(script)))
    lines = "".join(json.dumps({"prompt": f"say {word}"}) + "\n" for word in ("one", "two"))
    flags = ("--engine", str(path), "--stall-timeout", "0.5", "--input", "-")
    done = run(*flags, stdin=lines, FAKE_ENGINE_MODERN="1")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["reply"] for line in done.stdout.splitlines()] == ["one", "two"]
    assert b"the engine showed no prompt" in done.stderr and b"it was restarted" in done.stderr


@posix
@pytest.mark.engine
@pytest.mark.parametrize("streams", ["2>/dev/null", ">/dev/null 2>&1"])
def test_a_server_that_never_says_where_it_listens(classic: EngineBinary, tmp_path: Path, streams: str) -> None:
    server = classic.path.with_name(classic.path.name.replace("completion", "server"))
    path = tmp_path / "llama-server"
    path.write_text(
        f'#!/bin/sh\ncase $* in *--help*|*--version*) exec "{server}" "$@";; esac\nexec "{server}" "$@" {streams}\n'
    )
    path.chmod(0o755)
    flags = ("--backend", "llama-server", "--engine", str(tmp_path), "-t", "1", "--stall-timeout", "2")
    done = run(*flags, "hello")
    assert done.returncode == 124 and b"the engine did not become ready: for 2 s" in done.stderr


# Engines that close their terminal and live on

_CLOSE = "n = os.open('/dev/null', os.O_RDWR); os.dup2(n, 0); os.dup2(n, 1); time.sleep(600)\n"


def closing(tmp_path: Path, patch: str) -> Path:
    path = fake_engine(tmp_path)
    folder, script = Path(__file__).parents[1] / "support", tmp_path / "closing.py"
    head = f"import os, sys, time; sys.path.insert(0, {str(folder)!r}); import fake_engine\n"
    script.write_text(head + patch + "fake_engine.main()\n")
    path.write_text(path.read_text().replace(str(folder / "fake_engine.py"), str(script)))
    return path


@posix
def test_while_it_loads(tmp_path: Path, transport: str) -> None:
    path = closing(tmp_path, "def close(*_):\n    " + _CLOSE + "fake_engine.Engine.run = close\n")
    where = "terminal" if transport == "pty" else "output"
    with subprocess.Popen(
        command("--engine", str(path), "--io", transport, "hello"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as program:
        assert program.stderr is not None
        told = program.stderr.readline()
        engines = engines_of(program.pid)
        program.communicate(timeout=60)
    assert program.returncode == 5
    assert f"the engine closed its {where} and continued to run".encode() in told
    if engines:
        assert_gone(engines)


@posix
@pytest.mark.parametrize("closed", [_CLOSE, _CLOSE.replace(" os.dup2(n, 0);", "")], ids=["both", "output"])
def test_in_a_reply(tmp_path: Path, transport: str, closed: str) -> None:
    half = "def close(self, message):\n    self.write('half a ')\n    "
    path = closing(tmp_path, half + closed + "fake_engine.Engine.answer = close\n")
    done = run("--engine", str(path), "--io", transport, "hello")
    assert (done.returncode, done.stdout) == (5, b"half a \n")
    assert b"continued to run without output" in done.stderr
    assert b"SIGKILL" not in done.stderr


@posix
def test_the_end_of_an_engine_is_none(tmp_path: Path, transport: str) -> None:
    done = run("--engine", str(fake_engine(tmp_path)), "--io", transport, "exit 3 some words")
    assert b"ended by itself (exit code 3)" in done.stderr and b"closed" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells what a process has started")
def test_nothing_that_an_engine_has_started_outlives_it(tmp_path: Path, transport: str) -> None:
    """A process in a session of its own whose parent is gone: in no group and below no process of ours."""
    record = tmp_path / "pid"
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import pathlib, subprocess, sys\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        f"pathlib.Path({str(record)!r}).write_text(str(subprocess.Popen(sleeper, start_new_session=True).pid))\n"
    )
    patch = f"import subprocess; subprocess.run([sys.executable, {str(starter)!r}], stdout=2, check=True)\n"
    path = closing(tmp_path, patch)
    done = run("--engine", str(path), "--io", transport, "say hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    with contextlib.suppress(psutil.NoSuchProcess):
        assert_gone([psutil.Process(int(record.read_text()))])
