"""The conversation without a terminal library: pipes, missing modules, Ctrl-C."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_backend import ScriptedBackend, by_message

from bitnet_chat.journal import JournalEntry
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl.branches import TreeLine
from bitnet_chat.repl.plain_ui import PlainUI

PROGRAM = Path(__file__).parents[1] / "support" / "scripted_backend.py"
POSIX = "termios,tty,pty,fcntl,resource,ptyprocess"
FIGURES = "11 tokens · 10.0 tok/s · first token after 0.50 s · stop"


class Program:
    """The program on pipes, read line by line."""

    def __init__(self, *arguments: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2]), "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PROGRAM), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    def all(self, text: str, code: int = 0) -> tuple[str, str]:
        """Sends ``text`` and the end; stdout and stderr to the end."""
        out, err = self.process.communicate(text.encode(errors="surrogateescape"), timeout=20)
        assert self.process.returncode == code, err.decode()
        return out.decode(), err.decode()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        process = program.process
        process.kill()
        process.communicate()


@pytest.mark.parametrize("without", ["", POSIX, POSIX + ",prompt_toolkit,readline"])
def test_a_conversation_on_pipes(without: str) -> None:
    out, err = Program("--without", without).all("hello\r\none\\\ntwo\n/regen\ncount\n/stats\n/exit\nnever\n")
    assert out == (
        "You said 'hello'.\nYou said 'one\\ntwo'.\nYou said 'one\\ntwo'.\n5 messages, system ''\n"
        "calls: end of reply close\n"
    )
    assert err.startswith("bitnet-chat ") and "A first notice.\n" in err
    assert err.count(FIGURES) == 4 and "3 turns" in err
    assert "\x1b" not in out + err and "> " not in err


def test_the_last_line_needs_no_newline() -> None:
    assert Program().all("hello")[0].startswith("You said 'hello'.\n")
    assert Program().all("hello\\")[0].startswith("You said 'hello\\n'.\n")
    assert Program().all("")[0] == "calls: start close\n"


def test_escape_sequences_stay_text() -> None:
    out, _ = Program().all("escape\n")
    assert "red ␛[31m" in out and "\x1b" not in out


def test_a_failure_goes_to_stderr() -> None:
    """Which the exit code tells as well: the first one."""
    out, err = Program().all("fail\ncount\n@gone.md\n/nothing\n", code=5)
    assert "\n@gone.md is not a file: send the message unchanged? Yes: stdin is not a terminal.\n" in err
    assert "The engine died\n  try again\n  | ␛[31mlog tail\n" in err
    assert out.startswith("1 messages")


def test_paced_typing_is_complete() -> None:
    out, _ = Program("--typing-speed", "300").all("lines 30\n")
    assert out.startswith("".join(f"line {number} of 30\n" for number in range(1, 31)))


def test_ctrl_c_picks_no_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And the next line is a message again, not the number that was asked for."""
    source, sink = os.pipe()

    async def work() -> None:
        with os.fdopen(source) as keyboard:
            monkeypatch.setattr(sys, "stdin", keyboard)
            loop = PlainUI(ScriptedBackend(by_message), ReplSettings(model="m"), False, None)
            loop._is_terminal = True
            picking = asyncio.create_task(
                loop.pick([JournalEntry(id, f"title {id}", 0, 0, 1, "m") for id in range(21)])
            )
            await asyncio.sleep(0)
            loop._interrupt()
            async with asyncio.timeout(20):
                assert await picking is None
                os.write(sink, b"say so\n")
                assert await loop._lines.next() == "say so"
            os.close(sink)
            assert await loop._lines.next() is None

    asyncio.run(work())
    assert "Enter a number (20 of 21 are shown), or an empty line to cancel:" in "".join(capsys.readouterr())


def test_a_reply_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("2\n0\n\n3\nx\n"))
        loop = PlainUI(ScriptedBackend(by_message), ReplSettings(model="m"), False, None)
        assert await loop.choose("Which?", 2, "neither", "no vote") is None  # not a terminal: nothing is read
        loop._is_terminal = True
        async with asyncio.timeout(20):
            assert [await loop.choose("Which?", 2, "neither", "no vote") for _ in range(5)] == [2, 0, None, None, None]

    asyncio.run(work())
    shown = capsys.readouterr().err
    assert shown.count("Which? 1 to 2, 0: neither, an empty line: no vote: ") == 5
    assert "3 is not the number of a reply." in shown


def test_several_replies_on_pipes() -> None:
    """One after another; the first one goes on."""
    out, err = Program().all("hello\n/regen 2\n/compare other.gguf\n")
    assert out.startswith("You said 'hello'.\n" * 5)
    places = [err.index(text) for text in ("1 of 2", "2 of 2", "Reply 1 of 2", "1 scripted.gguf", "2 other.gguf")]
    assert places == sorted(places) and "No vote." in err and "\x1b" not in out + err


def test_a_message_is_picked_by_its_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [TreeLine(9, "* you: hello"), TreeLine(10, "* model: yes")]

    async def work() -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("10\n11\n\n"))
        loop = PlainUI(ScriptedBackend(by_message), ReplSettings(model="m"), False, None)
        async with asyncio.timeout(20):
            assert [await loop.pick_message(lines, 9) for _ in range(3)] == [10, None, None]

    asyncio.run(work())
    shown = capsys.readouterr().err
    assert " 9 * you: hello\n10 * model: yes\n" in shown and "11 is not the number of a message." in shown
    assert "Enter a number, or an empty line to cancel:" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c_stops_a_reply_and_then_the_program(programs: list[Program]) -> None:
    program = Program("--without", POSIX)
    programs.append(program)
    process = program.process
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"wait\n")
    process.stdin.flush()
    assert process.stdout.read(len("Before the gate")) == b"Before the gate"
    process.send_signal(signal.SIGINT)
    while b"interrupted" not in process.stderr.readline():
        pass
    process.stdin.write(b"count\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"\n"
    assert process.stdout.readline().startswith(b"3 messages")
    while b"stop" not in process.stderr.readline():
        pass
    assert process.stderr.readline() == b"\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("without", [POSIX, "prompt_toolkit"])
def test_a_conversation_on_a_terminal(without: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2]), "PYTHONUTF8": "1", "TERM": "xterm"}
    child = pexpect.spawn(
        sys.executable, ["-W", "error", str(PROGRAM), "--without", without], env=environment, timeout=20, echo=False
    )
    try:
        child.expect("\n> ")
        child.send("hello\\\n")
        child.expect("  ")
        child.send("there\n")
        child.expect_exact("You said 'hello\\nthere'.")
        child.expect("\n> ")
        child.send("wait\n")
        child.expect("Before the gate")
        child.send("\x03")
        child.expect_exact("[stopped]")
        child.expect("\n> ")
        child.send("half a line\\\n")
        child.expect("  ")
        child.send("\x03")
        child.expect("\n> ")
        child.send("fail\n")
        child.expect("An empty line sends the message again.")
        child.expect("\n> ")
        child.send("read @gone.md\n")
        child.expect_exact("send the message unchanged? yes or no: ")
        child.send("\n")
        child.expect("An empty line sends the message again.")
        child.send("\n")
        child.expect_exact("yes or no: ")
        child.send("y\n")
        child.expect_exact("You said 'read @gone.md'.")
        child.expect("\n> ")
        child.send("/undo\n")
        child.expect("An empty line sends the message again.")
        child.expect("\n> ")
        child.send("count\n")
        child.expect("5 messages")
        child.expect("\n> ")
        child.send("\x04")
        child.expect("calls:")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)
