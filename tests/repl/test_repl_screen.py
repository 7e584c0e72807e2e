"""The REPL as a user sees it: a pseudo-terminal, real keys, and a screen that is read back."""

from __future__ import annotations

import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import program
import pytest
from pages import PAGES, THINKING_MODES
from styled import plain, rows, words

pexpect = pytest.importorskip("pexpect")
pyte = pytest.importorskip("pyte")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

PROGRAM = Path(__file__).parents[1] / "support" / "scripted_backend.py"
TIMEOUT = 20.0
ENTER, CTRL_C, CTRL_D, CTRL_J, CTRL_R, ESC, TAB, UP = "\r", "\x03", "\x04", "\n", "\x12", "\x1b", "\t", "\x1b[A"
FIGURES = "first token after"


class Terminal(program.Terminal):
    """The scripted REPL on a terminal of its own."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        super().__init__(*arguments, script=PROGRAM, **options)

    @property
    def prompt(self) -> str:
        """The last line that begins like a prompt, to the end of the message."""
        lines = self.text.split("\n")
        starts = [number for number, line in enumerate(lines) if line == ">" or line.startswith("> ")]
        return lines[starts[-1]][2:] if starts else "no prompt"

    def looks(self, text: str) -> set[str]:
        """How the cells of ``text`` look, where it is last on the screen; a faint one like any other."""
        row = max(number for number, line in enumerate(self._screen.display) if text in line)
        start = self._screen.display[row].rindex(text)
        cells = [self._screen.buffer[row][start + number] for number in range(len(text))]
        names = ("bold", "italics", "underscore", "strikethrough")
        return {
            " ".join([*(name for name in names if getattr(cell, name)), *({cell.fg} - {"default"})]) for cell in cells
        }

    def ready(self) -> None:
        """Until a prompt waits for input: the bar is below it."""
        self.until(lambda: self.text.split("\n")[-1].startswith((" scripted", " other")))

    def say(self, text: str, expected: str | None = None) -> None:  # type: ignore[override]
        """Sends a line, and waits for the reply and the prompt after it."""
        self.send(text, ENTER)
        if expected is not None:
            self.until(expected)
        self.until(lambda: self.prompt == "")
        self.ready()

    def gate(self) -> None:
        self.child.kill(signal.SIGUSR1)

    def leave(self) -> str:  # type: ignore[override]
        """Ctrl-D, and everything written until the end; the exit code must be 0."""
        self.send(CTRL_D)
        rest = self.child.read().decode(errors="replace")
        self.child.wait()
        assert self.child.exitstatus == 0, rest
        return rest


start = program.starts(Terminal)
Start = Callable[..., Terminal]


def test_a_conversation(start: Start) -> None:
    terminal = start()
    terminal.until("A first notice.")
    terminal.ready()
    terminal.say("hello", "You said 'hello'.")
    terminal.say("count", "3 messages")
    assert "11 tokens · 10.0 tok/s · first token after 0.50 s · stop" in terminal.text
    assert "ctx 64/2048 (3 %) · 10.0 tok/s · 123 MB 99 % CPU" in terminal.text
    assert "calls: end of reply close" in terminal.leave()


def test_typing_while_the_model_loads(start: Start) -> None:
    terminal = start("--gate")
    terminal.until("loading")
    terminal.send("early", ENTER)
    terminal.until("s loading the model")
    terminal.gate()
    terminal.until("You said 'early'.")
    terminal.ready()
    assert "loading" not in terminal.text


@pytest.mark.parametrize("newline", [CTRL_J, ESC + ENTER, "\\" + ENTER])
def test_new_lines(start: Start, newline: str) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("one", newline, "two")
    terminal.until("\n  two")
    terminal.say("", "You said 'one\\ntwo'.")


def test_a_backslash_within_a_line_is_sent(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.say("C:\\new\\table", "You said 'C:\\\\new\\\\table'.")


def test_a_paste_is_one_message(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.paste("one\r\ntwo\n\n\tthree\\")
    terminal.until("three")
    terminal.say("", "You said 'one\\ntwo\\n\\n\\tthree\\\\'.")


@pytest.mark.parametrize("text", ["x" * 20_000, "\n".join(f"line {n} of a long text, 数据" for n in range(500))])
def test_a_large_paste_arrives_exactly(start: Start, text: str) -> None:
    terminal = start()
    terminal.ready()
    terminal.paste(text)
    terminal.until(text[-8:])
    terminal.say("", f"{len(text)} characters, checksum {zlib.crc32(text.encode()):08x}")


def test_history_is_searched_and_survives(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "data" / "history"
    terminal = start("--history", str(file))
    terminal.ready()
    terminal.say("an apple", "an apple'.")
    terminal.say("a pear", "a pear'.")
    terminal.leave()
    assert file.stat().st_mode & 0o777 == 0o600
    terminal = start("--history", str(file))
    terminal.ready()
    terminal.send(CTRL_R, "app")
    terminal.until(lambda: terminal.prompt == "an apple")
    terminal.send(ENTER)
    terminal.say("", "You said 'an apple'.")
    terminal.send(UP, UP)
    terminal.until(lambda: terminal.prompt == "a pear")


def test_a_damaged_history_is_a_notice(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_bytes(b"\xff\xfe\x00\n")
    terminal = start("--history", str(file))
    terminal.until("1 damaged line")
    terminal.say("hello", "You said 'hello'.")


def test_a_history_that_cannot_be_written(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.mkdir()
    terminal = start("--history", str(file), columns=200)
    terminal.until("cannot be read")
    terminal.say("hello", "You said 'hello'.")
    terminal.leave()


def test_tab_completes_commands(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("/reg", TAB)
    terminal.until(lambda: terminal.prompt == "/regen")
    terminal.send(ENTER)
    terminal.until("No reply to regenerate.")
    terminal.ready()
    terminal.send("/s", TAB)
    terminal.until("statistics of the session")
    terminal.send(CTRL_C)
    terminal.until(lambda: terminal.prompt == "")


@pytest.mark.parametrize("key", [CTRL_C, ESC])
def test_stopping_a_reply(start: Start, key: str) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("wait", ENTER)
    terminal.until("Before the gate")
    terminal.send(key)
    terminal.until("Before the gate [stopped]")
    terminal.until("interrupted")
    terminal.ready()
    terminal.say("count", "3 messages")


def test_a_sigint_from_elsewhere_stops_a_reply(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("wait", ENTER)
    terminal.until("Before the gate")
    terminal.child.kill(signal.SIGINT)
    terminal.until("[stopped]")
    terminal.ready()
    terminal.send("a line")
    terminal.until(lambda: terminal.prompt == "a line")
    terminal.child.kill(signal.SIGINT)
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("count", "3 messages")


def test_what_comes_back_to_the_prompt(start: Start) -> None:
    terminal = start()
    terminal.ready()
    line = "read @gone.md"
    for answer in ("n", ESC, "y"):
        terminal.ready()
        terminal.send(line if answer == "n" else "", ENTER)
        terminal.until("@gone.md is not a file: send the message unchanged?  y yes · n no")
        terminal.send(answer)
        terminal.until(lambda: "y yes" not in terminal.text)
    terminal.until(f"You said '{line}'.")
    terminal.ready()
    terminal.send("/undo", ENTER)
    terminal.until(lambda: terminal.prompt == line)
    terminal.send(CTRL_C, "/undoo", ENTER)
    terminal.until("did you mean /undo?")
    terminal.until(lambda: terminal.prompt == "")


def test_keys_typed_ahead_are_kept(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("wait", ENTER)
    terminal.until("Before the gate")
    terminal.send("next one", ESC + "[D", "!")  # an arrow key does not stop the reply
    terminal.paste("pasted\ntext")
    terminal.gate()
    terminal.until("after the gate.")
    terminal.until("\n  text")
    assert terminal.prompt == "next on!pasted"
    assert "stopped" not in terminal.text
    terminal.say("", "You said 'next on!pasted\\ntexte'.")


def test_a_message_and_its_ctrl_c_in_one_go(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("hang" + ENTER + CTRL_C + "and on")
    terminal.until(lambda: terminal.prompt == "and on")
    assert "interrupted" in terminal.text


def test_ctrl_c_clears_the_line(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("never mind", CTRL_C)
    terminal.until(lambda: terminal.prompt == "")
    terminal.send(CTRL_C)
    terminal.until("Ctrl-D or /exit exits")
    terminal.say("count", "1 messages")


def test_ctrl_d_leaves_only_on_an_empty_line(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("ab", "\x01", CTRL_D)  # deletes the character under the cursor
    terminal.until(lambda: terminal.prompt == "b")
    terminal.send(CTRL_C)
    terminal.until(lambda: terminal.prompt == "")
    terminal.leave()


def test_exit_leaves(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("/exit", ENTER)
    terminal.child.expect(pexpect.EOF, timeout=TIMEOUT)
    terminal.child.wait()
    assert terminal.child.exitstatus == 0


def test_the_terminal_is_left_as_it_was(start: Start) -> None:
    import termios

    terminal = start()
    before = termios.tcgetattr(terminal.child.child_fd)
    terminal.ready()
    assert termios.tcgetattr(terminal.child.child_fd) != before
    after = terminal.leave()
    assert termios.tcgetattr(terminal.child.child_fd) == before
    assert after.rindex("\x1b[?2004l") > after.rfind("\x1b[?2004h")


def test_resizing_during_a_reply_writes_nothing_twice(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("gatedlines 60", ENTER)
    terminal.until("line 060")
    for lines, columns in ((10, 30), (40, 120), (5, 12), (24, 80)):
        terminal.resize(lines, columns)
    terminal.gate()
    terminal.until("the last line")
    terminal.ready()
    for number in range(1, 61):
        assert terminal.written.count(f"line {number:03}") == 1
    assert terminal.written.count("the last line") == 1


def test_resizing_at_the_prompt(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("some words")
    terminal.until(lambda: terminal.prompt == "some words")
    terminal.resize(20, 60)
    terminal.say("", "You said 'some words'.")


def test_a_terminal_that_cuts_its_rows_loses_none_of_those_above(start: Start) -> None:
    """Nothing is erased there that the prompt has not drawn."""
    terminal = start(XTERM_VERSION="XTerm(390)")
    terminal.ready()
    terminal.say("hello", "You said 'hello'.")
    terminal.send("a line that is being typed and is longer than the window is going to be")
    terminal.until("going to be")
    terminal.resize(24, 40)
    terminal.until(
        "\n> a line that is being typed and is long\n  er than the window is going to be\n scripted.gguf · ctx"
    )
    assert "\nYou said 'hello'.\n11 tokens" in terminal.text and terminal.text.count("being typed") == 1


def test_what_is_typed_is_shown_like_the_words_of_a_model(start: Start, tmp_path: Path) -> None:
    terminal = start("--history", str(tmp_path / "history"))
    terminal.ready()
    terminal.paste("a\u202eb\u2066 c\U000e0041\u200fd")
    terminal.until(lambda: terminal.prompt == "a<U+202E>b<U+2066> c<U+E0041><U+200F>d")
    terminal.send(ESC + "[D", ESC + "[D", "\x7f", "!")  # over d and the mark, the tag is taken out
    terminal.until(lambda: terminal.prompt == "a<U+202E>b<U+2066> c!<U+200F>d")
    terminal.say("", "You said 'a\\u202eb\\u2066 c!\\u200fd'.")
    assert "> a<U+202E>b<U+2066> c!<U+200F>d\n" in terminal.text
    terminal.send(UP)
    terminal.until(lambda: terminal.prompt == "a<U+202E>b<U+2066> c!<U+200F>d")
    assert not set("\u202e\u2066\u200f\U000e0041") & set(terminal.written)


def test_escape_sequences_of_a_reply_stay_text(start: Start) -> None:
    terminal = start(columns=120)
    terminal.ready()
    terminal.say("escape", "red ␛[31m, clear ␛[2J, title ␛]0;x␇, C1 <U+009B>2J, <U+202E> over, raw <F0>, end.")
    assert "> escape" in terminal.text  # nothing was cleared
    for forbidden in ("\x1b[31m", "\x1b[2J", "\x1b]0;x", "\x9b", "\u202e", "\x07"):
        assert forbidden not in terminal.written


def test_wide_characters(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("wide", ENTER)
    terminal.until(FIGURES)
    assert "数据和模型👩‍💻e\u0301 end" in words(terminal.written)


def test_a_failed_message_is_back_on_the_prompt(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("fail", ENTER)
    terminal.until("The engine died\n  try again\n  | ␛[31mlog tail")
    terminal.until(lambda: terminal.prompt == "fail")
    terminal.send(CTRL_C)
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("count", "1 messages")


def test_a_failed_message_does_not_run_into_what_was_typed_ahead(start: Start) -> None:
    terminal = start("--gate")
    terminal.ready()
    terminal.send("fail", ENTER)
    terminal.until("loading the model")
    terminal.send("other")
    spins = terminal.written.count("loading the model")
    terminal.until(lambda: terminal.written.count("loading the model") > spins + 3)  # it has read the keys by then
    terminal.gate()
    terminal.until("Arrow-Up recalls the message.")
    terminal.until(lambda: terminal.prompt == "other")


def test_notices_and_thoughts(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.say("notice", "The engine was restarted␛[31m\nAgain.")
    terminal.say("think", "Let me see.\nSo it is.")


def test_commands(start: Start) -> None:
    terminal = start(lines=40)
    terminal.ready()
    terminal.say("/system Be kind.", "The system prompt is set.")
    terminal.say("count", "1 messages, system 'Be kind.'")
    terminal.say("/stats", "1 turn in the conversation · 11 tokens in 1 reply · 10.0 tok/s")
    terminal.say("/regen", "> /regen\n1 messages, system 'Be kind.'")
    terminal.send("/undo", ENTER)
    terminal.until(lambda: "Undone: count" in terminal.text and terminal.prompt == "count")
    terminal.send(CTRL_C)
    terminal.until(lambda: terminal.prompt == "")
    terminal.say("/model", "Engine: scripted-engine · idle")
    terminal.say("/model missing.gguf", "There is no model missing.gguf")
    terminal.say("/model other.gguf", "Next model: other.gguf.")
    terminal.say("count", "1 messages, system 'Be kind.'")
    terminal.say("/clear", "New conversation.")
    terminal.say("//clear", "You said '/clear'.")
    terminal.say("/clera", "did you mean /clear?")
    terminal.say("/help", "Ctrl-R searches")


@pytest.mark.parametrize("variable", ["EDITOR", "VISUAL"])
def test_an_editor(start: Start, tmp_path: Path, variable: str) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text("import sys\nwith open(sys.argv[1], 'a') as file: file.write(' and\\nthe editor\\n')\n")
    terminal = start(**{variable: f"{sys.executable} {editor}"})
    terminal.ready()
    terminal.send("me", "\x18\x05")
    terminal.until("> me and\n  the editor")
    terminal.say("", "You said 'me and\\nthe editor'.")


@pytest.mark.parametrize(
    ("editor", "message"), [("/no/such/editor", "cannot be run: No such file"), ("false", "failed with exit code 1")]
)
def test_an_editor_that_fails(start: Start, editor: str, message: str) -> None:
    terminal = start(EDITOR=editor)
    terminal.ready()
    terminal.send("my words", "\x18\x05")
    terminal.until(message)
    terminal.until(lambda: terminal.prompt == "my words")
    terminal.say("", "You said 'my words'.")


def test_no_colour(start: Start) -> None:
    terminal = start(NO_COLOR="1")
    terminal.ready()
    terminal.say("think", "So it is.")
    terminal.send("fail", ENTER)
    terminal.until("log tail")
    for forbidden in ("\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[90m", ";32", ";1m"):
        assert forbidden not in terminal.written


def test_paced_typing(start: Start) -> None:
    terminal = start("--typing-speed", "200")
    terminal.ready()
    terminal.say("lines 20", "line 20 of 20")
    terminal.send("wait", ENTER)
    terminal.until("Before the gate")
    terminal.send(CTRL_C)
    terminal.until("Before the gate [stopped]")


def test_suspending_and_going_on(start: Start) -> None:
    """Ctrl-Z during a reply: without a shell's job control nobody stops us, and the reply goes on."""
    terminal = start()
    terminal.ready()
    terminal.send("wait", ENTER)
    terminal.until("Before the gate")
    terminal.send("\x1a")
    terminal.child.kill(signal.SIGCONT)
    terminal.gate()
    terminal.until("after the gate.")
    terminal.ready()
    terminal.say("count", "3 messages")


def test_a_dumb_terminal_gets_plain_lines(start: Start) -> None:
    terminal = start(TERM="dumb")
    terminal.until(lambda: terminal.prompt == "")
    terminal.child.setecho(False)
    terminal.send("hello\n")
    terminal.until("You said 'hello'.")
    assert "\x1b" not in terminal.written


def test_a_styled_reply(start: Start) -> None:
    terminal = start(lines=50)
    terminal.ready()
    terminal.say("page markdown", "The end.")
    for text, look in {
        "A heading": "bold magenta",
        "emphasis": "italics",
        "strong words": "bold",
        "no": "strikethrough",
        "https://example.org/a_b_c": "underscore",
        "[x]": "green",
        "a quotation": "italics",
        "def": "magenta",
        "answer": "bold",
        '"a string"': "green",
        "42": "cyan",
        "snake_case_name": "",
        "The end.": "",
    }.items():
        assert terminal.looks(text) == {look}, text
    assert PAGES["markdown"].partition("| Name")[0] in terminal.text
    assert "| Name    |      Value |\n|---------|-----------:|\n| `one`   |          1 |\n" in terminal.text


def test_a_styled_reply_is_written_once_whatever_the_window_does(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("page code", ENTER)
    terminal.until("x030")
    for lines, columns in ((10, 30), (40, 120), (5, 12), (24, 80)):
        terminal.resize(lines, columns)
    terminal.gate()
    terminal.until("The end.")
    terminal.ready()
    written = plain(words(terminal.written))
    for number in range(1, 31):
        assert written.count(f"x{number:03}") == 1
    assert written.count("yyyy") == 30 * 10
    assert not set("\x08\x0b") & set(written.partition("x001")[2].partition("The end.")[0])


def test_wide_characters_at_the_edge(start: Start) -> None:
    terminal = start(columns=37)
    terminal.ready()
    terminal.send("page edge", ENTER)
    terminal.until("\u00e9*")  # pyte composes it
    terminal.gate()
    terminal.until("The end.")
    terminal.ready()
    reply = words(terminal.written).partition("page edge")[2].replace("\r", "")
    shown = "".join(rows(reply.partition("\x1b[?2004h")[2].partition("The end")[0]))
    assert shown.replace(" ", "") == PAGES["edge"].partition("\n")[0].replace(" ", "")


@pytest.mark.parametrize(("mode", "during", "after"), THINKING_MODES)
def test_thinking(start: Start, mode: str, during: str, after: str) -> None:
    terminal = start("--thinking", mode)
    terminal.ready()
    terminal.send("ponder", ENTER)
    terminal.until(during)
    terminal.gate()
    terminal.until("So it is.")
    terminal.ready()
    assert after in terminal.text and "s thinking" not in terminal.text
    assert ("see" in terminal.written) == (mode == "show")


@pytest.mark.parametrize(("arguments", "variables"), [((), {"NO_COLOR": "1"}), (("--markdown", "off"), {})])
def test_a_reply_without_styles(start: Start, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    terminal = start(*arguments, lines=50, **variables)
    terminal.ready()
    terminal.say("page markdown", "The end.")
    assert PAGES["markdown"].replace("\n", "\r\n") in plain(words(terminal.written))


def test_what_waits_for_its_successor_is_shown_when_none_comes(start: Start) -> None:
    terminal = start()
    terminal.ready()
    terminal.send("page pause", ENTER)
    terminal.until("look at the *")
    terminal.gate()
    terminal.until("look at the *stars* tonight")
    assert terminal.looks("stars") == {"italics"}
    terminal.ready()


def test_the_bar_warns_of_a_full_context(start: Start) -> None:
    terminal = start("--context", "1700", columns=120)
    terminal.until("! ctx 1700/2048 (83 %) · the oldest turns will be dropped")
    terminal.ready()
    assert terminal.looks("! ctx 1700/2048") == {"brown"}
