"""``bitnet-chat models``: what it prints and does."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, serving
from models_command import run, stored

from bitnet_chat import paths
from bitnet_chat.cli import engine as engine_verb
from bitnet_chat.cli import first_run, models
from bitnet_chat.engine import conversion
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.known_answer_model import SmallModel
from bitnet_chat.errors import ModelError
from bitnet_chat.models import model_download
from bitnet_chat.models.resolve import resolve

__all__ = ["stored"]


@pytest.fixture
def server(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(model.read_bytes()) as server:
        yield server


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_list_says_what_is_here_and_what_can_be_had(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    (stored / "half.gguf.part").write_bytes(bytes(5000))
    (stored / "notes.txt").write_text("no model")
    code, out, _ = run(capsys, "list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"Installed in {stored}:"
    assert lines[1].startswith("* tiny ") and lines[1].endswith("fits")
    assert lines[2] == "  half: 5 kB of an interrupted download"
    assert lines[3].startswith("* is used without -m: tiny (2 MB), the only one installed")
    assert lines[4] == "Bundled: a demo model for tests and offline use:"
    assert lines[5].startswith("  bitnet-demo ") and lines[5].endswith("fits")
    assert lines[6] == "Available with bitnet-chat models pull NAME:"
    by_name = {line.split()[0]: line for line in lines[7:]}
    assert "installs the engine bitnet" in by_name["bitnet-2b"]
    assert "Q4_K_M" in by_name["llama-3.2-3b"]
    assert len({line.find("needs ") for line in lines[7:] if "needs 1" in line or "needs 3" in line}) == 1


def test_list_as_json(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    items = {item["name"]: item for item in facts(capsys, "list")}
    tiny, bitnet = items["tiny"], items["bitnet-2b"]
    assert (tiny["installed"], tiny["auto"], tiny["fits"], tiny["obstacle"]) == (True, True, True, "")
    assert tiny["path"] == str(stored / "tiny.gguf")
    assert (bitnet["installed"], bitnet["engine"], bitnet["size"]) == (False, "bitnet", 1_187_801_280)
    wide = {item["name"]: item for item in facts(capsys, "list", "-c", "100000")}
    assert wide["llama-3.1-8b"]["memory"] > items["llama-3.1-8b"]["memory"]


def test_list_with_an_empty_home(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, "list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "Only the bundled demo model is installed, used without -m:"
    assert lines[1].startswith("  bitnet-demo ") and lines[1].endswith("fits")
    paths.models_dir().mkdir(parents=True)
    (paths.models_dir() / "broken.gguf").write_bytes(b"GGUF")
    lines = run(capsys, "list")[1].splitlines()
    assert lines[2].startswith("-m auto: none of the 1 installed can be used")
    assert lines[2].endswith("; the bundled one is used")
    (paths.models_dir() / "broken.gguf").unlink()
    monkeypatch.setattr(paths, "bundled_model", lambda: None)
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert out.startswith("No model is installed.\n") and "bitnet-demo" not in out


def test_the_bundled_model_has_a_name(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    """What the list calls it is what the other verbs and -m know it by."""
    [ours] = [item for item in facts(capsys, "list") if item["bundled"]]
    assert (ours["name"], ours["path"], ours["installed"]) == ("bitnet-demo", str(model), True)
    assert resolve("bitnet-demo").path == model
    assert facts(capsys, "info", "bitnet-demo")["file"] == str(model)
    for arguments in (["rm", "bitnet-demo", "--yes"], ["verify", "bitnet-demo"]):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and "is the bundled model" in err
    assert model.exists()


def test_names_in_a_model_cannot_touch_the_terminal(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    content = (stored / "tiny.gguf").read_bytes().replace(b"bitnet-demo", b"\x1b[2J\nevil!!", 1)
    (stored / "tiny.gguf").write_bytes(content.replace(b"\x06\0\0\0\0\0\0\0bitnet", b"\x06\0\0\0\0\0\0\0\x1b[2Jxx"))
    for arguments in (["list"], ["info", "tiny"]):
        code, out, err = run(capsys, *arguments)
        assert code == 0
        assert "\x1b" not in out + err
        assert "\nevil" not in out


def test_info_of_a_file(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = run(capsys, "info", str(model))
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    rows = {key.strip(): value.strip() for key, value in rows.items()}
    assert code == 0
    assert rows["architecture"] == "bitnet"
    assert rows["quantization"] == "TQ2_0"
    assert rows["tensor types"] == "TQ2_0 28, F32 17, F16 1"
    assert rows["chat template"] == "chatml"
    assert rows["license"] == "MIT"
    assert rows["parameters"] == "3.8 M"
    found = facts(capsys, "info", str(model))
    assert (found["vocabulary"], found["bos"], found["eos"]) == (1536, "<|bos|>", "<|im_end|>")
    assert (found["context_length"], found["whole"], found["size"]) == (2048, True, model.stat().st_size)


def test_info_of_a_name_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "info", "bitnet-2b")
    assert (found["installed"], found["engine"], found["license"]) == (False, "bitnet", "MIT")


@pytest.mark.parametrize("content", [b"no model", b"GGUF\3\0\0\0", b""])
def test_info_of_what_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    code, out, err = run(capsys, "info", str(tmp_path / "x.gguf"))
    assert (code, out) == (4, "")
    assert "x.gguf" in err and "Traceback" not in err


def test_pull_verify_and_rm(capsys: pytest.CaptureFixture[str], server: ModelServer, model: Path) -> None:
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    code, out, err = run(capsys, "pull", f"{server.base}/tiny.gguf#sha256={sha256}")
    assert code == 0
    assert out.startswith("tiny is installed, 2 MB: bitnet-chat -m tiny\nlicence: MIT\n")
    assert "Fetching tiny" in err and "100 %" in err and "\r" not in err
    again = facts(capsys, "pull", f"{server.base}/tiny.gguf")
    assert (again["was_here"], again["sha256"]) == (True, sha256)
    code, out, _ = run(capsys, "verify")
    assert (code, out) == (0, "tiny: complete; its sha256 matches the record\n")

    path = paths.models_dir() / "tiny.gguf"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    code, out, _ = run(capsys, "verify", "tiny", "--json")
    (verdict,) = json.loads(out)
    assert (code, verdict["ok"], verdict["compared_with"]) == (4, False, "record")
    path.write_bytes(damaged[:-5000])
    code, out, _ = run(capsys, "verify", "tiny")
    assert code == 4
    assert "the file is cut off" in out and "differs from the record" in out

    code, _, err = run(capsys, "rm", "tiny")  # nobody to ask
    assert (code, "add --yes" in err, path.exists()) == (2, True, True)
    assert facts(capsys, "rm", "tiny", "--yes")["removed"] == ["tiny"]
    assert list(paths.models_dir().iterdir()) == []
    assert run(capsys, "rm", "tiny", "-y")[0] == 2


def test_pull_under_another_name(capsys: pytest.CaptureFixture[str], server: ModelServer) -> None:
    assert facts(capsys, "pull", f"{server.base}/tiny.gguf", "--name", "other")["name"] == "other"
    assert (paths.models_dir() / "other.gguf").is_file()


@pytest.mark.parametrize(("answer", "stays"), [("y\n", False), ("n\n", True), ("", True)])
def test_rm_asks(
    capsys: pytest.CaptureFixture[str], stored: Path, monkeypatch: pytest.MonkeyPatch, answer: str, stays: bool
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, _, err = run(capsys, "rm", "tiny")
    assert "tiny  2 MB\nRemove it permanently? [y/N] " in err
    assert ((stored / "tiny.gguf").exists(), code) == (stays, 1 if stays else 0)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "tiny.gguf", ".hidden"])
def test_rm_stays_in_its_folder(capsys: pytest.CaptureFixture[str], stored: Path, name: str) -> None:
    outside = stored.parent / "outside.gguf"
    outside.write_bytes(b"GGUF")
    code, _, _ = run(capsys, "rm", name, "--yes")
    assert code == 2
    assert outside.exists() and (stored / "tiny.gguf").exists()


def test_rm_of_a_link_leaves_what_it_points_to(capsys: pytest.CaptureFixture[str], stored: Path, model: Path) -> None:
    (stored / "link.gguf").symlink_to(model)
    assert run(capsys, "rm", "link", "--yes")[0] == 0
    assert model.exists() and not (stored / "link.gguf").exists()


def test_rm_of_an_interrupted_pull(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    (stored / "half.gguf.part").write_bytes(bytes(5000))
    (stored / "half.gguf.part.json").write_text("{}")
    assert run(capsys, "rm", "half", "--yes")[0] == 0
    assert {each.name for each in stored.iterdir()} == {"tiny.gguf"}


@pytest.mark.parametrize("name", ["tiny", "auto"])
def test_an_installed_model_answers_by_its_name(stored: Path, classic: EngineBinary, name: str) -> None:
    flags = ["--engine", str(classic.path), "-m", name, "--temp", "0", "--json"]
    command = [sys.executable, "-m", "bitnet_chat", *flags, "Who are you?"]
    heard = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert heard.returncode == 0, heard.stderr
    assert json.loads(heard.stdout)["reply"]


# The engine of a pulled model


@pytest.fixture
def without_engine(bitnet: EngineBinary, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A computer without engines, on which ``engine install`` installs the real one at once. Returns its arguments."""
    calls: list[str] = []

    def install(arguments: list[str]) -> int:
        calls.append(" ".join(arguments))
        paths.engine_home().mkdir(parents=True, exist_ok=True)
        (paths.engine_home() / bitnet.path.name).symlink_to(bitnet.path)
        return 0

    monkeypatch.setattr(engine_verb, "run", install)
    monkeypatch.setattr(paths, "checkout", lambda: None)
    monkeypatch.delenv("BITNET_CHAT_ENGINE", raising=False)
    monkeypatch.setenv("BITNET_CHAT_INSTALL", "ask")
    for name in ("PATH", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def ternary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "ternary.gguf"
    SmallModel("I2_S", "bitnet-b1.58").write(file)
    with serving(file.read_bytes()) as server:
        yield server


def test_a_pull_installs_the_engine_and_converts(
    capsys: pytest.CaptureFixture[str], ternary: ModelServer, without_engine: list[str]
) -> None:
    code, out, err = run(capsys, "pull", f"{ternary.base}/small.gguf", "--yes")
    assert code == 0 and without_engine == ["install bitnet"]
    assert "Converting small" in err and "small is ready" in err and "is installed" in out
    assert conversion.present(paths.models_dir() / "small.gguf") is not None
    code, _, err = run(capsys, "pull", f"{ternary.base}/small.gguf", "--yes")
    assert code == 0 and without_engine == ["install bitnet"] and "Converting" not in err


@pytest.mark.parametrize(("answer", "installs"), [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_a_pull_offers_the_engine_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
    ternary: ModelServer,
    without_engine: list[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    installs: bool,
) -> None:
    monkeypatch.setattr(first_run, "_is_attended", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    code, _, err = run(capsys, "pull", f"{ternary.base}/small.gguf")
    assert code == 0 and bool(without_engine) is installs
    assert "small needs the engine bitnet. Install it (" in err
    assert ("small is ready" in err) is installs
    assert ("bitnet-chat engine install bitnet fetches it" in err) is not installs


def test_a_script_is_told_the_command(
    capsys: pytest.CaptureFixture[str], ternary: ModelServer, without_engine: list[str]
) -> None:
    code, _, err = run(capsys, "pull", f"{ternary.base}/small.gguf")
    assert code == 0 and not without_engine
    assert "small needs the engine bitnet, which is not installed: bitnet-chat engine install bitnet fetches it" in err


def test_a_model_of_the_list_asks_before_its_download(
    capsys: pytest.CaptureFixture[str],
    without_engine: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = without_engine

    def fail(source: object, **keywords: object) -> None:
        order.append("download")
        raise ModelError("no network")

    monkeypatch.setattr(model_download, "pull", fail)
    with pytest.raises(ModelError):
        models.run(["pull", "bitnet-2b", "--yes"])
    assert order == ["install bitnet", "download"]


@pytest.mark.parametrize("named", ["/no/such/engine", "llama.cpp"])
def test_no_engine_is_offered_beside_the_one_that_the_user_names(
    capsys: pytest.CaptureFixture[str],
    ternary: ModelServer,
    without_engine: list[str],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    monkeypatch.setenv("BITNET_CHAT_ENGINE", named)
    code, _, err = run(capsys, "pull", f"{ternary.base}/small.gguf", "--yes")
    assert code == 0 and without_engine == [] and "needs the engine" not in err


def test_a_pull_of_an_installation_offers_no_engine(
    capsys: pytest.CaptureFixture[str], ternary: ModelServer, without_engine: list[str]
) -> None:
    code, _, err = run(capsys, "pull", f"{ternary.base}/small.gguf", "--yes", "--without-engine")
    assert code == 0 and without_engine == [] and "needs the engine" not in err
