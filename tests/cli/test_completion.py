"""Tab in a shell (``bitnet-chat completion``) and on the prompt (``repl/completer.py``)."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import TIMEOUT
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.shortcuts import PromptSession

from bitnet_chat.attachments import mentions
from bitnet_chat.cli import VERBS, completion, main
from bitnet_chat.cli.parser import Parser
from bitnet_chat.repl import completer as completer_module
from bitnet_chat.repl.completer import ArgumentKind, LineCompleter, is_command, listed, typing_a_mention

# In a shell

ASKED = [
    ("con", {"config"}, None),
    ("", set(VERBS), None),
    ("config ", {"show", "path", "edit", "personas"}, None),
    ("config show --no-j", {"--no-journal"}, None),
    ("--persona t", {"terse", "translator", "tutor"}, {"coder"}),
    ("--overflow su", {"summarize"}, {"stop"}),
    ("-a not", {"notes.md"}, {"other.md"}),
    ("--model no", {"notes.md"}, None),
    ("--max", {"--max-tokens"}, None),
    ("engine probe o", {"other.md"}, None),
    ("models pull falcon", {"falcon-e-1b"}, None),
    ("completion z", {"zsh"}, {"bash"}),
    ("--t", {"--tools", "--typing-speed"}, None),
    ("serve --t", {"--threads"}, {"--tools", "--typing-speed"}),
    ("serve --a", {"--api-key"}, {"--attach"}),
    ("app --a", {"--api-key", "--attach"}, None),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell), "utf-8")
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("notes.md", "other.md"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(("typed", "offered", "missing"), ASKED)
def test_in_bash(scripts: Path, files: Path, typed: str, offered: set[str], missing: set[str] | None) -> None:
    words = ["bitnet-chat", *typed.split(" ")]
    program = (
        f"source {shlex.quote(str(scripts / 'bash'))}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f"COMP_CWORD={len(words) - 1}; _shtab_bitnet_chat; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, cwd=files, timeout=TIMEOUT, check=True
    )
    found = set(done.stdout.split())
    assert offered <= found and not (missing or set()) & found, done.stderr


@pytest.mark.parametrize("shell", [shell for shell in completion.SHELLS if shutil.which(shell)])
def test_the_shell_takes_it(scripts: Path, shell: str) -> None:
    done = subprocess.run(
        [shell, "--no-execute" if shell == "fish" else "-n", str(scripts / shell)],
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_in_fish_where_there_is_one(scripts: Path, files: Path) -> None:
    for line, offered, missing in ASKED if shutil.which("fish") else ():
        if not line:
            continue  # asked for nothing it offers files, too
        program = f"source {shlex.quote(str(scripts / 'fish'))}; complete -C {shlex.quote(f'bitnet-chat {line}')}"
        done = subprocess.run(
            ["fish", "--no-config", "-c", program], capture_output=True, text=True, cwd=files, timeout=TIMEOUT
        )
        found = {each.partition("\t")[0] for each in done.stdout.splitlines()}
        assert offered <= found and not (missing or set()) & found, (line, done.stderr)


def test_a_script_for_every_shell_and_none_for_others(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in completion.SHELLS:
        assert main(["completion", shell]) == 0
        assert "bitnet-chat" in capsys.readouterr().out
    assert main(["completion", "cmd"]) == 2
    assert "invalid choice: 'cmd'" in capsys.readouterr().err


def test_personas_of_the_user_are_in_it(home: Path) -> None:
    (home / "personas").mkdir()
    (home / "personas" / "pirate.toml").touch()
    assert "pirate" in completion.script("bash")


def test_every_verb_has_a_parser_of_its_name() -> None:
    from importlib import import_module

    for verb in VERBS:
        parser = import_module(f"bitnet_chat.cli.{verb}").parser()
        assert isinstance(parser, Parser) and parser.prog == f"bitnet-chat {verb}"


# On the prompt


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("notes.md", "Notes 2.md", "model.gguf", ".hidden", "bad\x1bname", 'quo"te', "über.txt"):
        (tmp_path / name).touch()
    (tmp_path / "my docs").mkdir()
    (tmp_path / "my docs" / "a.txt").touch()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").touch()
    (tmp_path / "dangling").symlink_to("nothing")
    return tmp_path


def offered(text: str, arguments: dict[str, ArgumentKind] | None = None) -> list[str]:
    """The lines that would stand there after each completion."""
    completer = LineCompleter(arguments) if arguments is not None else LineCompleter()
    found = list(completer.get_completions(Document(text), CompleteEvent()))
    return [text[: len(text) + each.start_position] + each.text for each in found]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ("see @no", ['see @"Notes 2.md"', "see @notes.md"]),
        ("@NO", ['@"Notes 2.md"', "@notes.md"]),
        ("@my", ['@"my docs/']),
        ('@"my docs/', ['@"my docs/a.txt"']),
        ("@src/", ["@src/main.py"]),
        ("one\n@./src/m", ["one\n@./src/main.py"]),
        ("@.h", ["@.hidden"]),
        ("@quo", ['@"quo\\"te"']),
        ("@ü", ["@über.txt"]),
        ("@bad", []),
        ("@nowhere/", []),
        ("@~nobody-of-this-name/", []),
        ("me@no", []),
        ("no", []),
        ("/etc/x @src/", ["/etc/x @src/main.py"]),
        ("//file @src/", ["//file @src/main.py"]),
        ("/file no", ['/file "Notes 2.md"', "/file notes.md"]),
        ('/file notes.md "my docs/', ['/file notes.md "my docs/a.txt"']),
        ("/save no", ["/save Notes 2.md", "/save notes.md"]),
        ("/save my docs/", ["/save my docs/a.txt"]),
        ("/model ", ["/model model.gguf", "/model my docs/", "/model src/"]),
        ("/export h", ["/export html"]),
        ("/export md no", ["/export md Notes 2.md", "/export md notes.md"]),
        ("/system @no", []),
        ("/thinking f", ["/thinking fold"]),
        ("/sav", ["/save"]),
    ],
)
def test_what_is_offered(typed: str, lines: list[str]) -> None:
    assert offered(typed) == lines


@pytest.mark.usefixtures("folder")
def test_a_hidden_file_is_offered_only_where_its_dot_is_typed() -> None:
    assert not [line for line in offered("@") if ".hidden" in line]
    assert len(offered("@")) == 8


def test_words_that_a_command_takes() -> None:
    arguments = {"persona": ArgumentKind(words=lambda: {"coder": "Writes programs", "terse": ""})}
    assert offered("/persona c", arguments) == ["/persona coder"]
    assert offered("/file x", arguments) == []


def test_the_home_of_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert offered("@~/src/") == ["@~/src/main.py"]


@given(st.text(alphabet="/@\"' \\\n.abcfile", max_size=30))
def test_any_line_can_be_completed(text: str) -> None:
    for line in offered(text):
        assert line


@pytest.mark.usefixtures("folder")
def test_what_is_offered_names_a_file() -> None:
    for line in offered("@"):
        if not line.endswith("/"):
            (mention,) = mentions(line)
            assert os.path.lexists(mention.paths[0]), line
    for line in offered("/file "):
        if not line.endswith("/"):
            assert os.path.lexists(shlex.split(line)[1]), line


def test_a_folder_of_thousands_is_bounded(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:05}").touch()
    found = listed(f"{tmp_path}/")
    assert len(found) == 200 and found[0][1] == "00000"
    assert listed(f"{tmp_path}/00299") == [(f"{tmp_path}/00299", "00299")]


def test_a_line_that_is_a_command() -> None:
    for text in ("/", "/fi", "/file x", "/?", "/file\n@x"):
        assert is_command(text)
    for text in ("", "//file", "/etc/passwd", "/2", "words", " /file"):
        assert not is_command(text)


def test_a_folder_that_does_not_answer_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, asked = threading.Event(), []

    def stuck(typed: str, endings: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        asked.append(typed)
        assert gate.wait(TIMEOUT)
        return []

    async def ask(completer: LineCompleter) -> list[Completion]:
        return [each async for each in completer.get_completions_async(Document("@x/"), CompleteEvent())]

    async def ask_often() -> None:
        completer = LineCompleter()
        for _ in range(6):
            assert await ask(completer) == []
        assert len(asked) == 4, "no more threads than a few wait"

    before = set(threading.enumerate())
    monkeypatch.setattr(completer_module, "FOLDER_TIMEOUT", 0.01)
    monkeypatch.setattr(completer_module, "listed", stuck)
    asyncio.run(ask_often())
    gate.set()
    for thread in set(threading.enumerate()) - before:
        assert thread.daemon, "nobody has to wait for it"
        thread.join(TIMEOUT)


def test_the_menu_comes_by_itself_behind_an_at_sign_only(folder: Path) -> None:
    async def type_and_send() -> str:
        with create_pipe_input() as keyboard:
            session: PromptSession[str] = PromptSession(
                completer=LineCompleter(),
                complete_while_typing=typing_a_mention,
                input=keyboard,
                output=DummyOutput(),
            )
            menus: list[str] = []
            shown = asyncio.Event()

            def changed(buffer: Buffer) -> None:
                if buffer.complete_state is not None and buffer.complete_state.completions:
                    menus.append(buffer.text)
                    shown.set()

            session.default_buffer.on_completions_changed += changed
            answer = asyncio.ensure_future(session.prompt_async())
            keyboard.send_text("no, see ")
            keyboard.send_text("@no")
            await asyncio.wait_for(shown.wait(), TIMEOUT)
            assert all("@" in text for text in menus)
            keyboard.send_text("\t\t\r")  # the second of them
            return await asyncio.wait_for(answer, TIMEOUT)

    assert asyncio.run(type_and_send()) == "no, see @notes.md"
