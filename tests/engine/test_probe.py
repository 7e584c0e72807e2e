"""The probe: what is remembered, by which name and where a program is run, and a sentence for each way to fail."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from engine_scripts import no_engines, program

from bitnet_chat import paths
from bitnet_chat.cli import main
from bitnet_chat.config import Settings, load
from bitnet_chat.engine import probe as probing
from bitnet_chat.engine import start_errors
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, recognise
from bitnet_chat.engine.discovery import candidates, find, find_server, named
from bitnet_chat.engine.probe import probe, why_it_ended
from bitnet_chat.errors import EngineNotFoundError

__all__ = ["no_engines"]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here"),
    pytest.mark.usefixtures("no_engines"),
]

OPTIONS = Path(__file__).parents[1] / "data" / "options"
CLASSIC = (OPTIONS / "bitnet-2024-llama-cli.txt").read_text("utf-8")
MODERN = (OPTIONS / "llama.cpp-2026-llama-cli.txt").read_text("utf-8")
SERVER = (OPTIONS / "llama.cpp-2026-llama-server.txt").read_text("utf-8")
IK = (OPTIONS / "ik_llama.cpp-llama-cli.txt").read_text("utf-8")


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words that programs were asked with."""
    asked: list[list[str]] = []
    ask = probing._ask

    def record(program: start_errors.ProgramFile, words: list[str], seconds: float) -> tuple[int, str]:
        asked.append(words)
        return ask(program, words, seconds)

    monkeypatch.setattr(probing, "_ask", record)
    return asked


# What is remembered.


def test_a_program_is_remembered_until_its_file_changes(
    tmp_path: Path, classic: EngineBinary, questions: list[list[str]]
) -> None:
    path = tmp_path / classic.path.name
    shutil.copyfile(classic.path, path)
    path.chmod(0o755)
    assert probe(path) == probe(path)
    assert questions == [["--help"], ["--version"]]
    assert probe(path).make is EngineVariant.LLAMA
    os.utime(path, (1, 1))
    probe(path)
    assert len(questions) == 4
    probe(path, use_cache=False)
    assert len(questions) == 6


def test_a_script_is_asked_each_time(tmp_path: Path) -> None:
    """What it starts can be replaced while it stays the same: size and time of the file are those of before."""
    target = program(tmp_path / "target", CLASSIC)
    script = tmp_path / "llama-cli"
    script.write_text(f'#!/bin/sh\nexec "{target}" "$@"\n')
    script.chmod(0o755)
    assert probe(script).dialect is Dialect.CLASSIC
    program(target, MODERN)
    assert probe(script).dialect is Dialect.MODERN
    target.unlink()
    with pytest.raises(EngineNotFoundError, match=r"a program that it starts was not found .exit code 127: .*target"):
        probe(script)


def test_a_link_of_another_name_is_asked_each_time(
    tmp_path: Path, classic: EngineBinary, questions: list[list[str]]
) -> None:
    """It may be a launcher that goes by the name it was called by."""
    link = tmp_path / "my-engine"
    link.symlink_to(classic.path)
    assert probe(link) == probe(link)
    assert len(questions) == 4
    same = tmp_path / classic.path.name
    same.symlink_to(classic.path)
    assert probe(same) == probe(same)
    assert len(questions) == 6


@pytest.mark.parametrize("content", ["", "[]", '{"format": 3}', '{"format": 3, "engines": []}', "\x00"])
def test_a_damaged_cache_is_no_trouble(classic: EngineBinary, content: str) -> None:
    cache = paths.cache_dir() / "engines.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(content)
    assert probe(classic.path).dialect is Dialect.CLASSIC
    (entry,) = json.loads(cache.read_text())["engines"].values()
    assert probe(classic.path).dialect is Dialect.CLASSIC
    for damage in ({"options": 3}, {"options": {}}, {"dialect": "x"}, {"make": "x"}, {"options": {"listed": [1]}}):
        key = probing._key(probing._look(classic.path))
        cache.write_text(json.dumps({"format": 3, "engines": {key: entry | damage}}))
        assert probe(classic.path).dialect is Dialect.CLASSIC


# By which name, and where.


def test_a_program_is_run_by_the_name_it_was_given(tmp_path: Path) -> None:
    """As snap, aqua and shims want it: what they start goes by argv[0]."""
    shim = program(tmp_path / "shims" / "dispatcher", CLASSIC, 'case "$0" in */llama-cli) ;; *) exit 1;; esac')
    link = tmp_path / "bin" / "llama-cli"
    link.parent.mkdir()
    link.symlink_to(shim)
    assert probe(link).path == link
    with pytest.raises(EngineNotFoundError):
        probe(shim)
    assert find(str(link)).path == link


def test_the_probe_runs_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the run does."""
    path = program(tmp_path / "e" / "llama-cli", CLASSIC, f'[ "$(pwd)" = "{tmp_path}/here" ] || exit 1')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert probe(path).dialect is Dialect.CLASSIC


@pytest.mark.parametrize("written", ["./llama-cli", "llama-cli", ".", "../e/llama-cli", "../link/llama-cli", "../link"])
@pytest.mark.parametrize("how", ["flag", "variable", "config"])
def test_a_path_from_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, how: str) -> None:
    """Absolute, with its links, and never the program of that name on PATH."""
    program(tmp_path / "e" / "llama-cli")
    (tmp_path / "link").symlink_to(tmp_path / "e")
    other = program(tmp_path / "path" / "llama-cli", MODERN)
    monkeypatch.setenv("PATH", str(other.parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path / "e")
    if how == "variable":
        monkeypatch.setenv("BITNET_CHAT_ENGINE", written)
    found = find(written if how == "flag" else None, written if how == "config" else None)
    assert found.path.is_absolute() and found.dialect is Dialect.CLASSIC
    assert ("link" in found.path.parts) == ("link" in written)
    monkeypatch.chdir(tmp_path)  # the run does not depend on it
    assert found.path.is_file()


def test_a_bare_name_that_is_not_here_is_looked_up_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = program(tmp_path / "path" / "my-llama")
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=os.pathsep)
    assert find("my-llama").path == on_path
    with pytest.raises(EngineNotFoundError, match="does not exist"):
        find("./my-llama")
    with pytest.raises(EngineNotFoundError, match="does not exist"):
        find("no-such-llama")
    here = program(tmp_path / "my-llama", MODERN)
    assert find("my-llama").path == here


def test_a_relative_path_in_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(EngineNotFoundError, match="the current folder was removed"):
        named("./llama-cli")


@pytest.mark.parametrize("written", ["BitNet", "BitNet/", "BitNet/build", "BitNet/build/bin", "./BitNet"])
def test_a_checkout_that_was_built(tmp_path: Path, written: str) -> None:
    path = program(tmp_path / "BitNet" / "build" / "bin" / "llama-cli")
    server = program(path.with_name("llama-server"), SERVER)
    (tmp_path / "BitNet" / "bin").mkdir()
    assert find(written).path == path
    assert find_server(written).path == server


def test_the_run_takes_the_path_of_the_probe(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listed as usable, and then not started, or the one on PATH: all of it was so."""
    script = Path(__file__).parents[1] / "support" / "fake_engine.py"
    path = tmp_path / "llama-cli"
    sys.path.insert(0, str(script.parent))
    try:
        from fake_engine import wrapper
    finally:
        sys.path.pop(0)
    path.write_text(wrapper(str(script)))
    path.chmod(0o755)
    program(tmp_path / "path" / "llama-cli", MODERN, "exit 9")
    monkeypatch.setenv("PATH", str(tmp_path / "path"), prepend=os.pathsep)
    for written in ("./llama-cli", "llama-cli", "."):
        assert main(["--engine", written, "-m", str(model), "--no-journal", "hello"]) == 0
        assert "you said: hello" in capsys.readouterr().out


# Why it fails.

NATIVE = b"\x7fELF" + bytes(60)


@pytest.mark.parametrize(
    ("content", "words", "remedy"),
    [
        ("#!/bin/sh\r\necho\r\n", "its lines end as on Windows", "sed"),
        ("#!/usr/bin/env sh\r\necho\r\n", "its lines end as on Windows", "sed"),
        ("#!/no/such/interpreter\n", "names /no/such/interpreter, which does not exist", "first line"),
        ("echo hello\n", "neither a program nor a script with a #! line", "#!/bin/sh"),
        ('#!/bin/sh\nexec /no/such/llama-cli "$@"\n', "a program that it starts was not found .exit code 127", "list"),
        ('#!/bin/sh\nexec / "$@"\n', "a program that it starts cannot be run .exit code 126", "list"),
        ("#!/bin/sh\nkill -ILL $$\n", "instructions that this processor does not have", "engine install"),
        ("#!/bin/sh\nsh -c 'kill -ILL $$'\nexit 132\n", "instructions that this processor does not have", "install"),
        ("#!/bin/sh\nkill -SEGV $$\n", "crashed .SIGSEGV", "build it"),
        ("#!/bin/sh\necho oh no >&2; exit 3\n", "is not a llama-cli.*ends with exit code 3: oh no", "engine install"),
        ("#!/bin/sh\necho hello\n", "is not a llama-cli, llama-completion or BitNet engine\n", "engine install"),
    ],
)
def test_each_failure_has_its_sentence(tmp_path: Path, content: str, words: str, remedy: str) -> None:
    path = tmp_path / "thing"
    path.write_bytes(content.encode())
    path.chmod(0o755)
    with pytest.raises(EngineNotFoundError, match=words) as caught:
        find(str(path))
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("code", "text", "words", "remedy"),
    [
        (
            127,
            "x: error while loading shared libraries: libllama.so: cannot open shared object file: No such file",
            "its library libllama.so was not found",
            "LD_LIBRARY_PATH=/b/src:/b/ggml/src",
        ),
        (
            127,
            "Error loading shared library libggml.so: No such file or directory (needed by x)",
            "libggml.so",
            "move it back",
        ),
        (-6, "dyld[1]: Library not loaded: @rpath/libllama.dylib\n  Reason: x", "libllama.dylib", "DYLD_LIBRARY_PATH"),
        (0xC0000135, "", "a DLL was not found", "DLL files"),
        (0xC000001D, "", "instructions that this processor does not have", "install"),
        (
            1,
            "x: /lib/libc.so.6: version `GLIBC_2.38' not found (required by x)",
            "GLIBC_2.38 is not available",
            "build",
        ),
        (127, "x: symbol lookup error: x: undefined symbol: llama_new", "of another version", "libllama"),
        (127, "", "did not start .exit code 127", "engine list"),
        (-signal.SIGABRT, "terminate called", "crashed .SIGABRT", "build"),
    ],
)
def test_what_a_native_program_ends_with(code: int, text: str, words: str, remedy: str) -> None:
    near = [Path("/b/src/libllama.so"), Path("/b/ggml/src/libggml.so")]
    error = start_errors.of_end(start_errors.ProgramFile(Path("x"), NATIVE), code, text, near)
    assert error is not None
    with pytest.raises(EngineNotFoundError, match=words):
        raise error
    assert remedy in error.remedy


def test_an_end_that_tells_nothing() -> None:
    assert start_errors.of_end(start_errors.ProgramFile(Path("x"), NATIVE), 1, "error: failed to load model") is None
    assert start_errors.of_end(start_errors.ProgramFile(Path("x"), NATIVE), -11, "", crashes=False) is None


def test_a_library_that_went_away_after_the_probe(tmp_path: Path) -> None:
    """It is not the model that could not be loaded."""
    path = program(tmp_path / "llama-cli")
    text = "x: error while loading shared libraries: libllama.so: cannot open shared object file: No such file"
    error = why_it_ended(path, 127, text)
    assert error is not None and "libllama.so was not found" in error.what
    assert why_it_ended(path, 1, "error: failed to load model") is None
    assert why_it_ended(tmp_path / "none", 127, text) is None


def test_a_folder_whose_programs_all_fail_says_why(tmp_path: Path) -> None:
    """A BitNet folder that was moved has several programs and one reason."""
    for name in ("llama-completion", "llama-cli"):
        line = "echo 'x: error while loading shared libraries: libllama.so: cannot open shared object file: x' >&2"
        program(tmp_path / "e" / name, "", f"{line}; exit 127")
    with pytest.raises(EngineNotFoundError) as caught:
        find(str(tmp_path / "e"))
    assert "libllama.so was not found" in caught.value.detail


def test_a_folder_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError, match="is a folder, not a program"):
        probe(tmp_path)


# A help that wants a model.


def test_a_help_that_wants_a_model_is_asked_for_with_one(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, questions: list[list[str]]
) -> None:
    monkeypatch.setattr(probing, "bundled_model", lambda: model)
    wants = 'case "$*" in *--model*|--version) ;; *) echo "error: a model is required (-m)" >&2; exit 1;; esac'
    assert probe(program(tmp_path / "llama-cli", CLASSIC, wants)).dialect is Dialect.CLASSIC
    assert questions[1][0] == "--model" and questions[1][2] == "--help"
    questions.clear()
    with pytest.raises(EngineNotFoundError, match="is not a llama-cli"):
        probe(program(tmp_path / "other", "nothing"))
    assert len(questions) == 1


# The limit.


def test_the_limit_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "slow", CLASSIC, "sleep 1000")
    monkeypatch.setenv("BITNET_CHAT_PROBE_TIMEOUT", "0.2")
    assert main(["engine", "probe", str(path)]) == 3
    settings, _ = load({}, {"BITNET_CHAT_PROBE_TIMEOUT": "7.5"})
    assert settings.probe_timeout == 7.5
    with pytest.raises(EngineNotFoundError, match=r"did not answer --help within 0\.1 s") as caught:
        find(str(path), limit=0.1)
    assert "BITNET_CHAT_PROBE_TIMEOUT=0.6" in caught.value.remedy and "probe_timeout" in caught.value.remedy


@pytest.mark.parametrize("arguments", [["hello"], ["engine", "list"], ["doctor", "--quick"], ["models", "list"]])
def test_every_verb_keeps_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    path = program(tmp_path / "slow", CLASSIC, "sleep 1000")
    monkeypatch.setenv("BITNET_CHAT_PROBE_TIMEOUT", "0.2")
    monkeypatch.setenv("BITNET_CHAT_ENGINE", str(path))
    main(arguments)
    told = capsys.readouterr()
    if arguments != ["models", "list"]:
        assert "did not answer --help within 0.2 s" in told.out + told.err
        assert "BITNET_CHAT_PROBE_TIMEOUT=" in told.out + told.err


def test_no_limit(tmp_path: Path) -> None:
    assert probe(program(tmp_path / "llama-cli"), limit=0).dialect is Dialect.CLASSIC
    assert Settings().probe_timeout == probing.LIMIT


# Whose build it is.


@pytest.mark.parametrize(
    ("text", "marks", "make"),
    [
        (CLASSIC, {"q6_K", "i2_s"}, EngineVariant.BITNET),
        (CLASSIC, {"q6_K"}, EngineVariant.LLAMA),
        (CLASSIC, {"q6_K", "i2_s", "iq2_bn"}, EngineVariant.IK),
        (CLASSIC, set(), EngineVariant.UNKNOWN),
        (CLASSIC, None, EngineVariant.SCRIPT),
        (IK, None, EngineVariant.IK),  # its options are its own
        (MODERN, {"q6_K", "i2_s"}, EngineVariant.BITNET),
        (SERVER, {"q6_K", "i2_s"}, EngineVariant.BITNET),
    ],
)
def test_the_make(text: str, marks: set[str] | None, make: EngineVariant) -> None:
    found = recognise(Path("x"), text, "version: 0 (unknown)", marks)
    assert found is not None and found.make is make


def test_the_make_is_told_and_not_guessed(
    tmp_path: Path, classic: EngineBinary, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = tmp_path / "llama-cli"
    wrapped.write_text(f'#!/bin/sh\nexec {shlex.quote(str(classic.path))} "$@"\n')
    wrapped.chmod(0o755)
    for path, make in ((wrapped, "unknown make (a script starts it)"), (classic.path, "llama.cpp")):
        assert main(["engine", "probe", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["make"] == make and facts["version"] == classic.version
        assert main(["engine", "list", "--engine", str(path)]) == 0
        assert f"classic, {make}, version {classic.version}" in capsys.readouterr().out
        assert main(["engine", "list", "--engine", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["make"] == make


def test_what_lies_beside_a_script_need_not_be_what_it_starts(tmp_path: Path, model: Path) -> None:
    from bitnet_chat.models import engine_support
    from bitnet_chat.models.info import read_info

    script = program(tmp_path / "bin" / "llama-cli")
    (tmp_path / "bin" / "libggml.so").write_bytes(b"\x7fELF\0q6_K\0i2_s\0")
    assert engine_support.known(script, [read_info(model)]) is None and not engine_support.is_bitnet(script)
    assert probe(script).make is EngineVariant.SCRIPT
    native = tmp_path / "bin" / "main"
    native.write_bytes(NATIVE)
    assert engine_support.is_bitnet(native)


# Which one wins.


def test_in_places_of_one_kind_one_that_holds_a_history_exactly_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modern = program(tmp_path / "one" / "llama-cli", MODERN)
    classic = program(tmp_path / "two" / "llama-completion", CLASSIC)
    monkeypatch.setenv("PATH", os.pathsep.join([str(modern.parent), str(classic.parent), "/usr/bin", "/bin"]))
    assert find().path == classic
    assert [each.path for each in candidates()] == [classic, modern]
    assert find(dialect=Dialect.MODERN).path == modern
    assert find(str(modern)).path == modern  # it was asked for
    assert find("llama-cli").path == modern
    program(tmp_path / "user" / "BitNet" / "build" / "bin" / "llama-cli", CLASSIC)
    classic.unlink()
    assert find().path == modern  # a checkout is a place of another kind
