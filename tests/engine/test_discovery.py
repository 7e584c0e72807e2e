"""Engines: where they are looked for, which one wins, and what is said of things that are none."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import gguf
import pytest
from engine_scripts import CLASSIC, COMMON, MODERN, SERVER, no_engines, program
from program import fake_engine

from bitnet_chat import paths
from bitnet_chat.cli import engine as cli_engine
from bitnet_chat.cli import main
from bitnet_chat.engine import probe as probing
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, recognise
from bitnet_chat.engine.discovery import candidates, find
from bitnet_chat.engine.probe import probe
from bitnet_chat.engine_checks import first_turn
from bitnet_chat.errors import EngineNotFoundError

__all__ = ["no_engines"]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here"),
    pytest.mark.usefixtures("no_engines"),
]


@pytest.mark.engine
def test_the_real_engines_are_what_they_are(classic: EngineBinary, modern: EngineBinary) -> None:
    for binary, dialect in ((classic, Dialect.CLASSIC), (modern, Dialect.MODERN)):
        found = probe(binary.path, use_cache=False)
        assert found.dialect is dialect and found.option("--color")[1:] == ["on"]
        assert found.version != "unknown" and found.make is EngineVariant.LLAMA
    assert classic.has("--in-prefix") and not modern.has("--in-prefix")
    server = classic.path.with_name(classic.path.name.replace("completion", "server"))
    assert probe(server).dialect is Dialect.SERVER


def test_a_classic_engine_wins_in_a_directory(tmp_path: Path) -> None:
    program(tmp_path / "e" / "llama-cli", MODERN)
    program(tmp_path / "e" / "llama-completion", CLASSIC)
    assert find(str(tmp_path / "e")).dialect is Dialect.CLASSIC
    assert find(str(tmp_path / "e"), dialect=Dialect.MODERN).dialect is Dialect.MODERN


def test_old_builds_call_the_classic_one_llama_cli(tmp_path: Path) -> None:
    binary = find(str(program(tmp_path / "llama-cli", CLASSIC.replace(" [on|off|auto]", ""))))
    assert binary.dialect is Dialect.CLASSIC and binary.option("--color") == ["--color"]


def test_the_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []

    def winner(engine: str | None = None, configured: str | None = None) -> Path:
        return find(engine, configured).path

    bitnet = program(tmp_path / "user" / "BitNet" / "build" / "bin" / "llama-cli", CLASSIC)
    assert winner() == bitnet
    on_path = program(tmp_path / "path" / "llama-cli", CLASSIC)
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=os.pathsep)
    assert winner() == on_path
    built = program(paths.engine_home() / "0.3.36" / "llama-completion", CLASSIC)
    monkeypatch.setattr("bitnet_chat.engine.install.manifest.installed", lambda folder: folder == built.parent)
    assert winner() == built
    in_checkout = program(tmp_path / "checkout" / "bin" / "llama-completion", CLASSIC)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path / "checkout")
    assert winner() == in_checkout
    configured = program(tmp_path / "configured" / "llama-cli", MODERN)
    assert winner(None, str(configured)) == configured
    named = program(tmp_path / "variable" / "my-engine", CLASSIC)
    monkeypatch.setenv("BITNET_CHAT_ENGINE", str(named))
    assert winner(None, str(configured)) == named
    flag = program(tmp_path / "flag" / "llama-cli", CLASSIC)
    assert winner(str(flag.parent), str(configured)) == flag
    assert not found
    monkeypatch.delenv("BITNET_CHAT_ENGINE")
    sources = [candidate.source for candidate in candidates()]
    assert sources == ["bin/ of the checkout", "data directory", "PATH", "BitNet checkout"]


def test_an_engine_for_another_processor_is_passed_over(tmp_path: Path) -> None:
    program(paths.engine_home() / "0.3.36" / "llama-completion", CLASSIC)  # it has no manifest that says otherwise
    with pytest.raises(EngineNotFoundError, match="no engine was found"):
        find()


def test_a_server_is_recognised_and_not_chatted_with(tmp_path: Path) -> None:
    path = program(tmp_path / "llama-server", SERVER)
    assert probe(path).dialect is Dialect.SERVER
    with pytest.raises(EngineNotFoundError, match="no engine was found"):
        find(str(path))


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "there is no engine at|does not exist"),
        (lambda path: path.write_text("hello"), "not a program that can be run"),
        (lambda path: program(path, "usage: something else"), "is not a llama-cli"),
        (lambda path: program(path, "", "exit 3"), "is not a llama-cli"),
        (lambda path: (path.write_bytes(b"\x7fELF nonsense"), path.chmod(0o755)), "built for another processor"),
        (lambda path: program(path, "", "head -c 3000000 /dev/zero"), "is not a llama-cli"),
        (lambda path: path.mkdir(), "has none of"),
    ],
)
def test_something_that_is_no_engine(tmp_path: Path, prepare, words: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "thing"
    prepare(path)
    with pytest.raises(EngineNotFoundError, match=words):
        find(str(path))


@pytest.mark.parametrize("body", ["sleep 1000", "sleep 1000 & wait", "cat /dev/zero | sleep 1000"])
def test_something_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(probing, "LIMIT", 0.2)
    with pytest.raises(EngineNotFoundError, match=r"did not answer --help within 0\.2 s"):
        find(str(program(tmp_path / "slow", CLASSIC, body)))


def test_what_reads_its_input_gets_none(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError, match="is not a llama-cli"):
        find(str(program(tmp_path / "reader", "", "read line; echo $line")))


def test_help_of_nothing_is_nothing() -> None:
    assert recognise(Path("x"), "", "") is None
    assert recognise(Path("x"), COMMON, "") is None


@pytest.mark.engine
def test_a_first_turn_with_a_real_engine(engine: EngineBinary, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "probe", str(engine.path), "--talk", "-m", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dialect"] == engine.dialect.value
    assert re.fullmatch(r"yes: a prompt after [\d.]+ s, the first word [\d.]+ s later", facts["talks"])


def run_first_turn(path: Path, model: Path) -> int:
    return main(["engine", "probe", str(path), "--talk", "-m", str(model)])


def test_a_first_turn_uses_the_usual_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that has no BOS token says nothing without the opening prompt."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_chat_template(
        "{% for message in messages %}{% if loop.first and message.role != 'system' %}<|s|>system\nBe kind.<|e|>\n"
        "{% endif %}"
        "<|s|>{{ message.role }}\n{{ message.content }}<|e|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
    )
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    record = tmp_path / "record"
    monkeypatch.setenv("FAKE_ENGINE_RECORD", str(record))
    assert run_first_turn(fake_engine(tmp_path), tmp_path / "model.gguf") == 0
    assert "yes: a prompt after" in capsys.readouterr().out
    first, *_ = map(json.loads, record.read_text().splitlines())
    assert "Be kind." in first["prompt"]


@pytest.mark.parametrize("story", ["story", "ponder"])
def test_a_first_turn_with_a_model_that_never_ends(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], story: str
) -> None:
    monkeypatch.setattr(first_turn, "QUESTION", story)
    assert run_first_turn(fake_engine(tmp_path), model) == 0
    assert "yes: a prompt after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("question", "words", "code"),
    [
        ("say", "ended its first reply without text", 5),
        ("kill", "ended during the first turn", 5),
        ("silence", "wrote nothing in the first turn", 124),
    ],
)
def test_a_first_turn_that_fails(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    question: str,
    words: str,
    code: int,
) -> None:
    monkeypatch.setattr(first_turn, "QUESTION", question)
    monkeypatch.setattr(cli_engine, "_STALL_TIMEOUT", 0.1 if question == "silence" else 60.0)
    assert run_first_turn(fake_engine(tmp_path), model) == code
    assert words in capsys.readouterr().err


def test_a_first_turn_with_something_that_only_says_it_is_one(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = program(tmp_path / "liar", CLASSIC)
    assert main(["engine", "probe", str(path), "--talk", "-m", str(model)]) == 5
    assert "ended during the first turn" in capsys.readouterr().err
