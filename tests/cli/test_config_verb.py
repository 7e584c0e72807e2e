"""``bitnet-chat config``: what is shown, and a file that is edited and never lost."""

from __future__ import annotations

import json
import os
import stat
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from program import ENTER, Terminal, run

from bitnet_chat import config
from bitnet_chat.cli import config as config_verb
from bitnet_chat.cli import main
from bitnet_chat.config import Settings


@pytest.fixture
def file(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BITNET_CHAT_INSTALL")
    return home / "config.toml"


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that appends what is in the file beside it."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import sys, pathlib\n"
        "words = pathlib.Path(__file__).with_name('words')\n"
        "lines = words.read_text().split('|')\n"
        "with open(sys.argv[1], 'a') as file: file.write(lines[0] + '\\n')\n"
        "words.write_text('|'.join(lines[1:]))\n"
    )
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    return tmp_path / "words"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["config", "show", *arguments]) == 0
    return capsys.readouterr().out


def test_what_is_shown_is_a_config_file(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    system = 'two  blanks "quotes" \\ back\nline\ttab \x1b[2J \x7f \u202e \u2028 数据'
    words = show(capsys, "--system", system, "--temp", "0.5", "--no-guard", "-c", "9", "--", "--mlock", "a b")
    assert all(letter.isprintable() or letter == "\n" for letter in words)
    values = tomllib.loads(words)
    assert values["system"] == system
    file.write_text(words, "utf-8")
    expected = Settings(system=system, temperature=0.5, guard=False, ctx=9, engine_args=("--mlock", "a b"))
    assert config.load({}, {}) == (expected, "")


def test_each_value_with_its_source(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("seed = 7\n")
    monkeypatch.setenv("BITNET_CHAT_CTX", "512")
    monkeypatch.setenv("BITNET_CHAT_SED", "512")
    assert main(["config", "show", "--persona", "terse", "-t", "3"]) == 0
    out, err = capsys.readouterr()
    sources = {line.partition(" ")[0]: line.rpartition("  # ")[2] for line in out.splitlines()}
    assert list(sources) == [field.name for field in fields(Settings)]
    assert (sources["seed"], sources["ctx"], sources["threads"]) == (str(file), "$BITNET_CHAT_CTX", "--threads")
    assert (sources["temperature"], sources["persona"], sources["io"]) == ("persona terse", "--persona", "default")
    assert (
        err
        == "bitnet-chat: unknown environment variable $BITNET_CHAT_SED is ignored; did you mean 'BITNET_CHAT_SEED'?\n"
    )


def test_the_same_as_json(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    entries = json.loads(show(capsys, "--json", "--seed", "3"))
    assert entries["seed"] == {"value": 3, "origin": "--seed"}
    defaults = asdict(Settings(seed=3)) | {"engine_args": []}
    assert {name: each["value"] for name, each in entries.items()} == defaults


@pytest.mark.parametrize("arguments", [("show", "word"), ("show", "--resume"), ("fly",), (), ("path", "x")])
def test_what_it_does_not_take(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *arguments]) == 2
    assert "--help lists the flags" in capsys.readouterr().err


def test_the_path(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text("this is broken")
    assert main(["config", "path"]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_a_new_file_lists_every_setting_and_changes_none(
    file: Path, monkeypatch: pytest.MonkeyPatch, editor: Path
) -> None:
    monkeypatch.setenv("BITNET_CHAT_CONFIG", str(file.parent / "new" / "folder" / "config.toml"))
    editor.write_text("")
    assert main(["config", "edit"]) == 0
    file = file.parent / "new" / "folder" / "config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert config.load({}, {}) == (Settings(), "")
    text = file.read_text("utf-8")
    for name, words in config_verb.documentation().items():
        assert words and f"# {words}\n#{name} = " in text
    uncommented = "\n".join(line[1:] if line[:1] == "#" and line[:2] != "# " else line for line in text.splitlines())
    file.write_text(uncommented, "utf-8")
    assert config.load({}, {}) == (Settings(), "")
    assert len(tomllib.loads(uncommented)) == len(fields(Settings))


def test_an_edit_is_checked_and_kept(file: Path, editor: Path) -> None:
    file.write_text("# mine\n")
    file.chmod(0o644)
    editor.write_text("seed = 3")
    assert main(["config", "edit"]) == 0
    assert file.read_text() == "# mine\nseed = 3\n" and stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_mistake_is_told_and_nothing_is_lost(file: Path, editor: Path) -> None:
    file.write_text("# mine\n")
    editor.write_text("sed = 3")
    done = run("config", "edit", EDITOR=os.environ["EDITOR"])
    assert done.returncode == 2 and file.read_text() == "# mine\nsed = 3\n"
    assert b"setting 'sed' does not exist; did you mean 'seed'?" in done.stderr and b"correct it with" in done.stderr
    editor.write_text("persona = 'nobody'")
    file.write_text("")
    assert b"persona 'nobody' does not exist" in run("config", "edit", EDITOR=os.environ["EDITOR"]).stderr


def test_on_a_terminal_it_may_be_mended_at_once(file: Path, editor: Path) -> None:
    editor.write_text("sed = 3|seed = 4")
    terminal = Terminal("config", "edit", EDITOR=os.environ["EDITOR"])
    try:
        terminal.until("Edit it again? [Y/n]")
        terminal.send(ENTER)
        terminal.until(lambda: terminal.text.count("Edit it again?") == 2)
        assert "seed = 4" in file.read_text(), "the first mistake is still there"
        terminal.send("n", ENTER)
        assert terminal.end() == 2 and "correct it with" in terminal.text
    finally:
        terminal.close()


def test_no_editor_and_no_place(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert main(["config", "edit"]) == 2
    assert "cannot be run" in capsys.readouterr().err
    (file.parent / "wall").write_text("")
    monkeypatch.setenv("BITNET_CHAT_CONFIG", str(file.parent / "wall" / "config.toml"))
    assert main(["config", "edit"]) == 2
    assert "wall cannot be written: File exists" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_no_half_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.open

    def full(path: object, flags: int, mode: int = 0o777) -> int:
        os.close(real(path, flags, mode))  # type: ignore[arg-type]
        return real("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", full)
    assert main(["config", "edit"]) == 2
    assert "cannot be written: No space left" in capsys.readouterr().err and not file.exists()
