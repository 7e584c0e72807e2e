"""Personas: those that come with the program, the user's own, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import fake_engine, run

from bitnet_chat import config
from bitnet_chat.cli import main
from bitnet_chat.errors import UsageError

SHIPPED = ["coder", "terse", "translator", "tutor", "writer"]


@pytest.fixture
def folder(home: Path) -> Path:
    folder = home / "personas"
    folder.mkdir()
    assert config.folder() == folder
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_those_that_come_with_the_program(name: str) -> None:
    persona = config.find(name)
    assert persona.shipped and persona.description and persona.values["system"].strip() == persona.values["system"]
    assert "\n" not in persona.values["system"], "one paragraph: it costs tokens in every conversation"
    assert config.load({"persona": name}, {})[0].system == persona.values["system"]


def test_all_names_without_a_folder_of_ones_own() -> None:
    assert config.names() == SHIPPED


def test_ones_own_win_over_shipped_ones(folder: Path) -> None:
    (folder / "coder.toml").write_text('system = "mine"')
    (folder / "数据-2.toml").write_text('description = "with a name of its own"\nmax_tokens = 7')
    (folder / "notes.txt").write_text("no persona")
    (folder / "bad name.toml").write_text("")
    assert config.names() == sorted([*SHIPPED, "数据-2"])
    assert (config.find("coder").values, config.find("coder").shipped) == ({"system": "mine"}, False)
    assert config.load({"persona": "数据-2"}, {})[0].max_tokens == 7


def test_a_persona_stands_between_the_file_and_the_environment(home: Path, folder: Path) -> None:
    (home / "config.toml").write_text('persona = "one"\nctx = 1\nseed = 1\nthreads = 1\nmodel = "m"')
    (folder / "one.toml").write_text("ctx = 2\nseed = 2\nthreads = 2")
    (folder / "two.toml").write_text("ctx = 5")
    settings, _ = config.load({"threads": 4}, {"BITNET_CHAT_SEED": "3"})
    assert (settings.model, settings.ctx, settings.seed, settings.threads) == ("m", 2, 3, 4)
    assert config.load({}, {"BITNET_CHAT_PERSONA": "two"})[0].ctx == 5
    assert config.load({"persona": ""}, {})[0].ctx == 1, "a flag takes the persona of the file back"


@pytest.mark.parametrize("name", ["nobody", "../config", "/etc/passwd", "..", ".hidden", "a/b", "a\0b", "x" * 5000])
def test_a_name_that_is_none(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        config.load({"persona": name}, {})


def test_a_slip_of_the_fingers() -> None:
    with pytest.raises(UsageError, match=r"persona 'codr' does not exist; did you mean 'coder'\?") as caught:
        config.find("codr")
    assert "coder, terse" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("system = ", "cannot be read"),
        ("sytem = 'x'", "setting 'sytem' does not exist; did you mean 'system'"),
        ("persona = 'coder'", "setting 'persona' does not exist"),
        ("temperature = 'hot'", "temperature must be a number"),
        ("description = 3", "description must be a text"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_bad_file_names_itself_and_the_key(folder: Path, content: str, words: str) -> None:
    (folder / "own.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        config.find("own")
    assert words in str(caught.value) and str(folder / "own.toml") in str(caught.value)


def test_the_list_tells_of_broken_ones_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "own.toml").write_text('description = "mine\\u001b[2J"\nseed = 3')
    (folder / "broken.toml").write_text("seed = ")
    assert main(["config", "personas"]) == 0
    words = capsys.readouterr().out
    assert f"own         mine␛[2J [{folder / 'own.toml'}]\n" in words and f"broken      {folder}" in words
    assert "coder       Writes and explains programs\n" in words
    assert main(["config", "personas", "--json"]) == 0
    entries = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert entries["own"]["settings"] == {"seed": 3} and "problem" in entries["broken"]
    assert entries["coder"]["source"] == "shipped"


def test_a_persona_reaches_the_engine(tmp_path: Path) -> None:
    record = tmp_path / "record"
    done = run("--engine", str(fake_engine(tmp_path)), "--persona", "terse", "say it", FAKE_ENGINE_RECORD=str(record))
    assert done.returncode == 0, done.stderr
    launch = json.loads(record.read_text())
    assert launch["argv"][launch["argv"].index("--temp") + 1] == "0.3"
    assert "Answer in as few words as possible" in launch["prompt"]
