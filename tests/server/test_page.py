"""One answer on stdout: styled on a terminal, and nothing but itself everywhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pexpect
import pytest
from program import command, environment, fake_engine

from bitnet_chat import terminal as terminals
from bitnet_chat.cli.questions import AnswerWriter


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal() -> None:
    screen = Screen()
    page = AnswerWriter("auto", screen, lambda line: screen.write(f"! {line}\n") and None)
    page.say("loading")
    page.show("a **b")
    page.say("restarted")
    page.show("c** *")
    page.say("cut")
    page.end()
    page.close()
    assert screen.getvalue() == (
        "! loading\na \x1b[2m**\x1b[0;1mb\x1b[0m\n! restarted\n\x1b[1mc\x1b[0;2m**\x1b[0m \x1b[2m*\x1b[0m\n! cut\n"
    )


def test_a_pipe() -> None:
    pipe = io.StringIO()
    said: list[str] = []
    page = AnswerWriter("on", pipe, said.append)
    page.show("a **b** *")
    page.say("cut")
    assert (pipe.getvalue(), said) == ("a **b** *", ["cut"])
    page.end()
    assert pipe.getvalue() == "a **b** *\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "DUMB"), ("TERM", "unknown"), ("TERM", ""), ("TERM", None)],
)
def test_no_colours(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    assert terminals.shows_colours(Screen()) and not terminals.shows_colours(io.StringIO())
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert not terminals.shows_colours(Screen())
    screen = Screen()
    AnswerWriter("auto", screen, print).show("**b**")
    assert screen.getvalue() == "**b**"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("flags", "shown"),
    [((), b"\x1b[2m**\x1b[0;1mit\x1b[0;2m**\x1b[0m\r\n"), (("--markdown", "off"), b"**it**\r\n")],
)
def test_the_program(tmp_path: Path, flags: tuple[str, ...], shown: bytes) -> None:
    program, *rest = command("--engine", str(fake_engine(tmp_path)), *flags, "say **it**")
    child = pexpect.spawn(program, rest, env=environment(TERM="xterm"), timeout=60)
    child.expect(pexpect.EOF)
    assert child.before == shown


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_notice_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    program, *rest = command("--engine", str(fake_engine(tmp_path)), "--no-journal", "-n", "3", "story")
    child = pexpect.spawn(program, rest, env=environment(TERM="xterm"), timeout=60)
    child.expect(pexpect.EOF)
    words, *notice = child.before.split(b"\r\n")
    assert words and b"bitnet-chat" not in words
    assert notice[0].startswith(b"bitnet-chat: the reply was cut") and notice[-1] == b""
    assert all(len(line) < 80 for line in notice)
