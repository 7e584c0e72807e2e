"""Replies on a real terminal emulator with a window that can be resized: what tmux shows is what a user sees."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import PAGES, THINKING_MODES
from program import starts
from wcwidth import wcswidth

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

PROGRAM = Path(__file__).parents[1] / "support" / "scripted_backend.py"
TIMEOUT = 60.0
POLL = 0.05
_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_NAMES = {"1": "bold", "2": "dim", "3": "italic", "4": "underline", "9": "struck"}
_NAMES |= {"31": "red", "32": "green", "35": "magenta", "36": "cyan"}


class Tmux:
    """The scripted REPL in a tmux server of its own."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **more: str) -> None:
        program = shutil.which("tmux")
        if program is None:
            # Not a skip: a suite that was green without it would say nothing of a real terminal.
            pytest.fail("there is no tmux; apt-get install tmux", pytrace=False)
        self._tmux = [program, "-u", "-L", f"bitnet-chat-{uuid.uuid4().hex}", "-f", os.devnull]
        settings = {"PYTHONPATH": str(PROGRAM.parents[2]), "PYTHONUTF8": "1", "HISTFILE": os.devnull} | more
        variables = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
        command = shlex.join([sys.executable, "-W", "error", str(PROGRAM), *arguments])
        size = ("-x", str(columns), "-y", str(lines))
        # In one go: a server without a session leaves.
        options = ("set", "-g", "history-limit", "5000", ";", "set", "-g", "remain-on-exit", "on", ";")
        self._run("start-server", ";", *options, "new-session", "-d", *size, *variables, f"exec {command}")
        self.ready()

    def _run(self, *arguments: str) -> str:
        command = [*self._tmux, *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    def send(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def key(self, name: str) -> None:
        self._run("send-keys", name)

    def say(self, text: str) -> None:
        self.send(text)
        self.key("Enter")

    def gate(self) -> None:
        """Opens a gate of the backend."""
        pid = int(self._run("display-message", "-p", "#{pane_pid}"))
        os.kill(pid, signal.SIGUSR1)

    def resize(self, columns: int, lines: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def text(self) -> str:
        """All that was ever shown, with lines that the terminal wrapped joined again."""
        return self._run("capture-pane", "-p", "-J", "-S", "-")

    @property
    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    @property
    def looks(self) -> list[tuple[str, str]]:
        """Pieces of all that was ever shown, each with its look: ``("word", "bold magenta")``."""
        pieces: list[tuple[str, str]] = []
        codes: list[str] = []
        text = self._run("capture-pane", "-p", "-e", "-J", "-S", "-")
        at = 0
        for match in (*_SGR.finditer(text), None):
            look = " ".join(_NAMES[code] for code in sorted(codes, key=int) if code in _NAMES)
            pieces += [(part, look) for part in text[at : match.start() if match else len(text)].split("\n") if part]
            if match:
                for code in match[1].split(";"):
                    kept = [each for each in codes if len(each) < 2 or each[0] != code[:1]]  # one colour at a time
                    codes = [] if code in ("", "0") else [*kept, code]
                at = match.end()
        return pieces

    def look(self, text: str) -> str:
        """How the piece that is ``text``, blanks around it apart, looks."""
        found = [look for piece, look in self.looks if piece.strip() == text]
        assert found, f"there is no {text!r} of one look in {self.looks}"
        return found[-1]

    def until(self, condition: str | Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not (condition in self.text if isinstance(condition, str) else condition()):
            assert time.monotonic() < deadline, f"waited in vain for {condition!r} on:\n{self.text}"
            time.sleep(POLL)  # tmux cannot be waited for; nothing depends on how long this is

    def ready(self) -> None:
        """Until a prompt waits, with the bar below it."""
        self.until(lambda: bool(re.search(r"^>\s*\n scripted[^\n]*\s*\Z", self.screen, re.MULTILINE)))

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


Start = Callable[..., Tmux]


start = starts(Tmux)


def test_markdown(start: Start) -> None:
    tmux = start(lines=50)
    tmux.say("page markdown")
    tmux.until("The end.")
    tmux.ready()
    for text, look in {
        "#": "dim",
        "A heading with": "bold magenta",
        "code": "bold cyan",
        "emphasis": "italic",
        "strong words": "bold",
        "no": "struck",
        "https://example.org/a_b_c": "underline",
        "end": "bold",
        "1.": "magenta",
        "[x]": "green",
        "a quotation": "italic",
        "```python": "dim",
        "def": "magenta",
        "answer": "bold",
        "# the comment": "dim",
        '"a string"': "green",
        "42": "cyan",
        "Name": "bold",
        "22,000": "bold",
    }.items():
        assert tmux.look(text) == look, text
    shown = tmux.text
    assert "| `one`   |          1 |\n| 数据 👍 | **22,000** |\n" in shown
    untabled = PAGES["markdown"].partition("| Name")[0]
    assert untabled in shown.replace("\n\n\n", "\n\n")
    assert "2 * 3 * 4, snake_case_name, an unclosed " in [piece for piece, look in tmux.looks if not look]


def test_a_reply_longer_than_the_screen(start: Start) -> None:
    tmux = start(lines=12)
    tmux.say("page long")
    tmux.until("item 060")
    tmux.gate()
    tmux.until("The end.")
    tmux.ready()
    shown = tmux.text
    for number in range(1, 61):
        assert shown.count(f"- item {number:03} with **strong** words\n") == 1
    assert tmux.look("strong") == "bold"


def test_resizing_in_the_middle(start: Start) -> None:
    tmux = start()
    tmux.say("page code")
    tmux.until("x030")
    for columns, lines in ((30, 10), (120, 40), (12, 5), (80, 24)):
        tmux.resize(columns, lines)
    tmux.gate()
    tmux.until("The end.")
    tmux.ready()
    shown = tmux.text
    for number in range(1, 31):
        assert shown.count(f"x{number:03} = None  # {'y' * 40}\n") == 1
    assert tmux.look("None") == "cyan"


TYPED = "a line that is being typed, longer than the window is going to be, and in the end longer than two rows of it"


def test_a_narrower_window_leaves_no_copy_of_what_is_typed(start: Start) -> None:
    tmux = start(columns=100)
    tmux.say("lines 30")
    tmux.until("line 30 of 30")
    tmux.ready()
    tmux.send(TYPED)
    tmux.key("C-j")
    tmux.send("and a second one")
    tmux.until("and a second one")
    for columns in (60, 40, 80):
        tmux.resize(columns, 24)
        tmux.until(lambda columns=columns: f"> {TYPED[: columns - 2].rstrip()}\n" in tmux.screen)  # type: ignore[misc]
        tmux.until("ctx 64/2048")
        shown = tmux.text
        assert shown.count("> a line that") == shown.count("second one") == shown.count("ctx 64/2048") == 1
        assert shown.count("line 30 of 30") == shown.count("first token") == 1


def test_words_stay_whole_and_figures_stand_below_them(start: Start) -> None:
    tmux = start(columns=40)
    tmux.say("page words")
    tmux.until("tokens")
    during = tmux.screen
    assert re.search(r"until the edge\n . ~\d+ tokens", during), during
    tmux.resize(30, 24)
    tmux.gate()
    tmux.until("The end.")
    tmux.ready()
    shown = tmux.text
    reply = shown.partition("page words\n")[2].partition("\n11 tokens")[0]
    assert reply.split() == PAGES["words"].replace("\f", "").split()
    assert not re.search(r"~\d+ tokens", shown)


def test_resizing_while_a_table_is_held(start: Start) -> None:
    tmux = start()
    tmux.say("page held")
    tmux.until("s table, 1 row")
    assert "| a   | b   |\n|-----|-----|\n| 1   | 2   |\n" in tmux.screen
    tmux.resize(40, 20)
    tmux.gate()
    tmux.until("The end.")
    tmux.ready()
    assert "| a   | b   |\n|-----|-----|\n| 1   | 2   |\n| 3   | 4   |\n\nThe end." in tmux.text
    assert "table," not in tmux.text and tmux.text.count("| 1 ") == 1


def test_an_interrupt_while_a_table_is_held(start: Start) -> None:
    tmux = start()
    tmux.say("page held")
    tmux.until("s table, 1 row")
    tmux.key("C-c")
    tmux.until("[stopped]")
    tmux.ready()
    assert "| 1   | 2   |\n[stopped]\n" in tmux.text and "table," not in tmux.text


def test_an_interrupt_within_bold_words_leaves_the_terminal_plain(start: Start) -> None:
    tmux = start()
    tmux.say("page open")
    tmux.until("bold and")
    tmux.key("C-c")
    tmux.until("[stopped]")
    tmux.ready()
    assert tmux.look("[stopped]") == "dim"
    tmux.send("typed")
    tmux.until(lambda: "> typed" in tmux.screen)
    assert tmux.look("typed") == ""


def test_wide_characters_at_the_edge(start: Start) -> None:
    tmux = start(columns=37)
    tmux.say("page edge")
    tmux.until(lambda: tmux.text.count("e\u0301") == 50)
    tmux.gate()
    tmux.until("The end.")
    tmux.ready()
    shown = tmux.text.partition("page edge\n")[2].partition("\nThe end.")[0]
    assert "".join(shown.split()) == PAGES["edge"].partition("\n")[0].replace(" ", "")
    assert all(wcswidth(line) <= 37 for line in tmux.screen.splitlines())


@pytest.mark.parametrize(("mode", "during", "after"), THINKING_MODES)
def test_thinking(start: Start, mode: str, during: str, after: str) -> None:
    tmux = start("--thinking", mode)
    tmux.say("ponder")
    tmux.until(during)
    tmux.gate()
    tmux.until("So it is.")
    tmux.ready()
    assert after in tmux.text and "s thinking" not in tmux.text
    assert ("see" in tmux.text) == (mode == "show")
    if mode == "show":
        assert tmux.look("Oh.") == "dim" and tmux.look("So it is.") == ""
    if mode == "fold":
        assert re.search(r"> ponder\nthought for [0-9.]+ s, ~15 tokens · /thinking shows it\n", tmux.text)


@pytest.mark.parametrize(("arguments", "variables"), [((), {"NO_COLOR": "1"}), (("--markdown", "off"), {})])
def test_plain(start: Start, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    tmux = start(*arguments, lines=50, **variables)
    tmux.say("page markdown")
    tmux.until("The end.")
    tmux.ready()
    assert PAGES["markdown"] in tmux.text
    looks = {look for piece, look in tmux.looks if variables or (len(piece) > 2 and piece in PAGES["markdown"])}
    assert looks == {""}


def test_styles_without_colours(start: Start) -> None:
    tmux = start("--markdown", "on", lines=50, NO_COLOR="1")
    tmux.say("page markdown")
    tmux.until("The end.")
    tmux.ready()
    assert tmux.look("A heading with") == "bold" and tmux.look("strong words") == "bold"
    assert not any(colour in look for _, look in tmux.looks for colour in ("red", "green", "magenta", "cyan"))


def columns_of(text: str) -> list[list[str]]:
    """The rows of the columns that are in ``text``, blanks at their ends apart."""
    rows = [[cell.rstrip() for cell in row.split("│")] for row in text.split("\n") if "│" in row]
    return [[row[number].removeprefix(" ") for row in rows] for number in range(max(map(len, rows)))]


def test_several_replies_side_by_side(start: Start) -> None:
    """Higher than the window, which is resized meanwhile: each row is there once, in the column of its reply."""
    tmux = start(columns=130, lines=12)
    tmux.say("gatedlines 20")
    tmux.until("line 020")
    tmux.gate()
    tmux.ready()
    tmux.say("/regen 3")
    tmux.until(lambda: "rows above" in tmux.screen and "waiting" in tmux.screen)
    assert len(re.findall("line 020", tmux.text.partition("/regen 3")[2])) == 1
    for columns, lines in ((116, 9), (125, 20), (118, 12)):
        tmux.resize(columns, lines)
        time.sleep(3 * POLL)
    for _ in range(3):
        tmux.gate()
        time.sleep(3 * POLL)
    tmux.until("Which reply continues the conversation?")
    shown = tmux.text.partition("/regen 3")[2]
    rows = [*(f"line {number:03}" for number in range(1, 21)), "the last line"]
    for number, column in enumerate(columns_of(shown), 1):
        assert column[:-2] == [f"{number} of 3", *rows], shown
        assert " ".join(column[-2:]) == "11 tokens · 10.0 tok/s · first token after 0.50 s · stop"
    tmux.key("2")
    tmux.ready()
    assert "Reply 2 of 3 continues the conversation." in tmux.text and "Which reply" not in tmux.text
    assert "waiting" not in tmux.text and "rows above" not in tmux.text


def test_an_interrupt_of_replies_side_by_side(start: Start) -> None:
    tmux = start(columns=130)
    tmux.say("hello")
    tmux.ready()
    tmux.say("/regen 3")
    tmux.until("Which reply")
    tmux.key("Enter")
    tmux.ready()
    tmux.say("wait")
    tmux.gate()
    tmux.until("after the gate")
    tmux.ready()
    tmux.say("/regen 2")
    tmux.until(lambda: "waiting" in tmux.screen and tmux.text.count("Before the gate") == 2)
    tmux.key("C-c")
    tmux.ready()
    first, second = columns_of(tmux.text.partition("/regen 2")[2])
    assert first[:2] == ["1 of 2", "Before the gate [stopped]"] and second[1] == "[not generated]"
    tmux.send("typed")
    tmux.until(lambda: "> typed" in tmux.screen)


def test_replies_one_after_another_in_a_narrow_window(start: Start) -> None:
    tmux = start(columns=80)
    tmux.say("hello")
    tmux.ready()
    tmux.say("/regen 3")
    tmux.until("Which reply")
    tmux.key("Escape")
    tmux.until("Reply 1 of 3 continues the conversation.")
    tmux.ready()
    shown = tmux.text.partition("/regen 3")[2]
    assert re.findall(r"^\d of 3$", shown, re.MULTILINE) == ["1 of 3", "2 of 3", "3 of 3"]
    assert shown.count("You said 'hello'.") == 3 and "│" not in shown
