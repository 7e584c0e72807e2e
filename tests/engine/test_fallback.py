"""No pseudo-terminal and none of its modules: the same program, the same conversation, over pipes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import FIGURES, TIMEOUT, command, environment, fake_engine, run

from bitnet_chat.engine.binary import EngineBinary

SCRIPT = Path(__file__).parents[1] / "support" / "without_pty.py"
FLAGS = ("--threads", "1", "--temp", "0")


def test_the_modules_are_really_missing() -> None:
    for name in ("termios", "tty", "pty", "fcntl", "resource", "ptyprocess"):
        code = f"import without_pty, importlib; importlib.import_module({name!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=SCRIPT.parent, env=environment(), capture_output=True, timeout=TIMEOUT
        )
        assert done.returncode == 1 and b"ModuleNotFoundError" in done.stderr


@pytest.mark.engine
@pytest.mark.parametrize("io", ["auto", "pty"])
def test_one_question(engine: EngineBinary, io: str) -> None:
    flags = ("--engine", str(engine.path), "--io", io, *FLAGS)
    expected = run(*flags, "how do I leave?")
    assert expected.returncode == 0, expected.stderr.decode()
    streamed = run(*flags, "how do I leave?", script=SCRIPT)
    assert (streamed.returncode, streamed.stdout, streamed.stderr) == (0, expected.stdout, b"")
    assert streamed.stdout.strip()


@pytest.mark.engine
def test_one_question_without_streaming(engine: EngineBinary) -> None:
    flags = ("--engine", str(engine.path), *FLAGS)
    whole = run(*flags, "--no-stream", stdin="how do I leave?\n", script=SCRIPT)
    assert (whole.returncode, whole.stderr) == (0, b"") and whole.stdout.strip()
    as_json = run(*flags, "--json", "how do I leave?", script=SCRIPT)
    assert json.loads(as_json.stdout)["reply"] == whole.stdout.decode().removesuffix("\n")


@pytest.mark.engine
def test_a_full_conversation(engine: EngineBinary) -> None:
    lines = [
        "how do I leave?",
        "what did \\",
        "you say?",
        "/stats",
        "/undo",
        "/system You are brief.",
        "thank you",
        "/stats",
        "/regen",
        "/clera",
        "/clear",
        "hello",
        "/model",
        "/exit",
        "this is not read any more",
    ]
    done = run("-i", "--engine", str(engine.path), *FLAGS, stdin="\n".join(lines) + "\n", script=SCRIPT)
    remarks = done.stderr.decode()
    assert done.returncode == 2, remarks  # there is no /clera
    assert remarks.startswith("bitnet-chat ")
    assert remarks.count("· stop\n") == 4 and "· stop · < 2/2 >\n" in remarks
    assert "2 turns in the conversation" in remarks
    assert "Undone: what did" in remarks
    assert "The system prompt is set." in remarks
    assert "did you mean /clear?" in remarks
    assert "New conversation." in remarks
    assert f"Engine: {engine.path.name} ({engine.dialect.value})" in remarks
    assert "Traceback" not in remarks
    # Words to stdout, all else to stderr.
    words = done.stdout.decode()
    assert words.strip() and "turns in the conversation" not in words and FIGURES not in words
    for noise in ("<|im_start|>", "<|im_end|>", "[ Prompt:", "\x1b"):
        assert noise not in words + remarks


def test_faults_are_survived(tmp_path: Path) -> None:
    lines = ["say one", "kill so far", "say two", "/stats", "full and then", "say three"]
    done = run(
        *("-i", "--engine", str(fake_engine(tmp_path)), "--typing-speed", "0"),
        stdin="\n".join(lines),
        script=SCRIPT,
        FAKE_ENGINE_RECORD=str(tmp_path / "record"),
    )
    remarks = done.stderr.decode()
    assert done.returncode == 5, remarks  # the first question that failed is the one the engine died of
    words = done.stdout.decode().split("\n")
    assert [line for line in words if line] == ["one", "so far", "two", "and then", "three"]
    assert remarks.count("restarted with the conversation") == 1
    assert "3 turns in the conversation" in remarks


def test_an_interrupt(tmp_path: Path) -> None:
    program = subprocess.Popen(
        command(
            *("-i", "--engine", str(fake_engine(tmp_path)), "--typing-speed", "0"),
            script=SCRIPT,
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert program.stdin is not None and program.stdout is not None
    try:
        program.stdin.write(b"story\n")
        program.stdin.flush()
        assert program.stdout.read(20) == b"word0 word1 word2 wo"
        program.send_signal(signal.SIGINT)
        words, remarks = program.communicate(b"say next\n", timeout=TIMEOUT)
    finally:
        program.kill()
    assert program.returncode == 0, remarks.decode()
    assert b"[stopped]" in remarks and b"interrupted" in remarks
    assert words.rstrip().endswith(b"\nnext")
