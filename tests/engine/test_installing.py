"""``bitnet-chat engine install``, and where prebuilt engines stand among the others."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import wheelhouse
from engine_scripts import CLASSIC, SERVER, no_engines, program

from bitnet_chat import paths
from bitnet_chat.cli import engine_install, main
from bitnet_chat.doctor.engine import check_prebuilt
from bitnet_chat.doctor.finding import FindingStatus
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.discovery import candidates, find, find_server
from bitnet_chat.engine.install import build, packages, prebuilt, wheels
from bitnet_chat.errors import BuildError, EngineNotFoundError

__all__ = ["no_engines"]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here"),
    pytest.mark.usefixtures("no_engines"),
]

MUSL = wheels.Platform("linux", "x86_64")


@pytest.fixture
def prebuilt_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Both, with the content of the tests' small wheels."""
    wheelhouse.fill(tmp_path / "index", monkeypatch)
    folders = {}
    for package in packages.PACKAGES:
        folders[package.name] = folder = packages.folder_of(package)
        pin = wheels.WHEELS[package.name][0].pin
        files = prebuilt.unpack(tmp_path / "index" / pin.file, folder)
        packages.PackageRecord(package.name, package.version, pin.file, pin.sha256, "", files).write(folder)
    return folders


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """What was compiled: names and features."""
    asked: list[tuple[str, tuple[str, ...]]] = []

    def install(name: str, *, features: list[str], on_progress: object) -> Path:
        asked.append((name, tuple(features)))
        return Path("/compiled")

    monkeypatch.setattr(build, "install", install)
    return asked


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the engines whose known answers were checked."""
    folders: list[Path] = []
    monkeypatch.setattr(engine_install, "_check_known_answers", folders.append)
    return folders


# The search.


def test_prebuilt_engines_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prebuilt_engines: dict[str, Path]
) -> None:
    found = find()
    assert (found.path, found.dialect) == (prebuilt_engines["llama.cpp"], Dialect.NATIVE)
    assert [each.source for each in candidates()] == ["prebuilt", "prebuilt"]
    bitnet = program(tmp_path / "user" / "BitNet" / "build" / "bin" / "llama-cli", CLASSIC)
    assert find().path == bitnet
    assert find(dialect=Dialect.NATIVE).path == prebuilt_engines["llama.cpp"]


@pytest.mark.parametrize("name", ["llama.cpp", "bitnet"])
def test_a_prebuilt_engine_is_named(prebuilt_engines: dict[str, Path], name: str) -> None:
    assert find(name).path == prebuilt_engines[name]
    assert find(None, name).path == prebuilt_engines[name]
    assert find(str(prebuilt_engines[name])).path == prebuilt_engines[name]


def test_a_folder_of_that_name_in_the_working_directory_wins(tmp_path: Path, prebuilt_engines: dict[str, Path]) -> None:
    built = program(tmp_path / "llama.cpp" / "build" / "bin" / "llama-cli", CLASSIC)
    assert find("llama.cpp").path == built


def test_a_named_one_that_is_not_installed() -> None:
    with pytest.raises(EngineNotFoundError, match="the prebuilt engine bitnet is not installed") as caught:
        find("bitnet")
    assert caught.value.remedy == "bitnet-chat engine install bitnet fetches it"


def test_a_damaged_one_is_passed_over_unless_it_was_named(prebuilt_engines: dict[str, Path]) -> None:
    (prebuilt_engines["llama.cpp"] / "site" / "xllamacpp" / "__init__.py").unlink()
    assert find().path == prebuilt_engines["bitnet"]
    for name in ("llama.cpp", str(prebuilt_engines["llama.cpp"])):
        with pytest.raises(EngineNotFoundError, match=r"is damaged|is incomplete") as caught:
            find(name)
        assert "engine install" in caught.value.remedy


def test_a_prebuilt_engine_has_no_server(prebuilt_engines: dict[str, Path]) -> None:
    with pytest.raises(EngineNotFoundError, match="no llama-server was found") as caught:
        find_server()
    assert "bitnet-chat engine install --build --with server" in caught.value.remedy
    with pytest.raises(EngineNotFoundError, match="llama-server was not found at") as caught:
        find_server("bitnet")
    assert "--build --with server" in caught.value.remedy


def test_the_newest_engine_that_was_compiled_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {"0.3.36": ("llama.cpp", "0.3.36"), "b": ("bitnet", "0.1.5"), "a": ("llama.cpp", "11434.0.0")}
    for folder in records:
        program(paths.engine_home() / folder / "llama-completion", CLASSIC)

    class Record:
        def __init__(self, name: str, version: str) -> None:
            self.name, self.version = name, version

    monkeypatch.setattr("bitnet_chat.engine.install.manifest.installed", lambda folder: folder.name in records)
    monkeypatch.setattr("bitnet_chat.engine.install.manifest.read", lambda folder: Record(*records[folder.name]))
    assert [each.path.parent.name for each in candidates()] == ["a", "0.3.36", "b"]


def test_the_list_says_what_each_loads_and_why_the_first_wins(
    tmp_path: Path,
    prebuilt_engines: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = program(tmp_path / "path" / "llama-server", SERVER)
    monkeypatch.setenv("PATH", str(server.parent), prepend=os.pathsep)
    assert main(["engine", "list"]) == 0
    llama, bitnet, beside, why = capsys.readouterr().out.splitlines()
    assert llama.startswith(f"* {prebuilt_engines['llama.cpp']} [prebuilt] native, llama.cpp, version xllamacpp 2026")
    assert llama.endswith("ternary types: TQ1_0 TQ2_0") and "IQ2_BN_R4" in bitnet and "I2_S" not in bitnet
    assert beside.startswith(f"- {server} [PATH] server")
    assert "first in the search order that can chat (prebuilt); native, so it reproduces a history exactly" in why
    assert main(["engine", "list", "--json"]) == 0
    first, second, third = json.loads(capsys.readouterr().out)
    assert (first["dialect"], first["used"], second["ternary"]) == ("native", True, ["IQ1_BN", "IQ2_BN", "IQ2_BN_R4"])
    assert first["why"] in why and "why" not in second and third["dialect"] == "server"


def test_the_probe_of_a_prebuilt_engine(prebuilt_engines: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "probe", str(prebuilt_engines["bitnet"]), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dialect"], facts["version"]) == ("native", "ik-llama-cpp-python 0.1.5")
    assert facts["history"] == "of bitnet-chat, replayed exactly" and "IQ2_BN" in facts["ternary"]


# The command.


@pytest.mark.parametrize(("words", "name"), [([], "llama.cpp"), (["llama.cpp"], "llama.cpp"), (["bitnet"], "bitnet")])
def test_the_prebuilt_one_is_installed_unless_it_is_to_be_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], name: str
) -> None:
    asked: list[str] = []

    def install(package: packages.EnginePackage, *, on_progress: object) -> Path:
        asked.append(package.name)
        return Path("/prebuilt")

    monkeypatch.setattr(prebuilt, "install", install)
    assert main(["engine", "install", *words]) == 0
    assert asked == [name]
    assert capsys.readouterr().out == "engine installed in /prebuilt\n"


def test_build_and_with_compile(
    compiled: list[object], checked: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "install", "--build"]) == 0
    assert "implies" not in capsys.readouterr().err
    assert main(["engine", "install", "bitnet", "--build"]) == 0
    assert main(["engine", "install", "--with", "rpc", "--with", "server"]) == 0
    assert "--with rpc implies --build" in capsys.readouterr().err
    assert compiled == [("llama.cpp", ()), ("bitnet", ()), ("llama.cpp", ("rpc", "server"))]
    assert checked == [Path("/compiled")] * 3


def test_the_known_answers_of_a_compiled_engine_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitnet_chat.engine_checks import known_answers

    monkeypatch.undo()
    asked: list[Path] = []
    monkeypatch.setattr(known_answers, "require", lambda engine, on_model: asked.append(engine.path))
    cli, _ = program(tmp_path / "llama-cli", CLASSIC), program(tmp_path / "llama-server", SERVER)
    engine_install._check_known_answers(tmp_path)
    assert asked == [cli]


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "install", "gpt"]) == 2
    assert "llama.cpp" in capsys.readouterr().err


def test_a_computer_without_a_prebuilt_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compiled: list[object]
) -> None:
    monkeypatch.setattr(wheels, "here", lambda: MUSL)
    assert main(["engine", "install"]) == 3
    said = capsys.readouterr().err
    assert "A prebuilt engine llama.cpp does not exist for this computer (Linux without glibc (musl)" in said
    assert "bitnet-chat engine install llama.cpp --build" in said
    assert compiled == []
    assert main(["engine", "install", "bitnet", "--yes"]) == 0
    assert compiled == [("bitnet", ())]
    answers = iter([False, True])
    monkeypatch.setattr(engine_install, "can_prompt", lambda: True)
    monkeypatch.setattr(engine_install, "confirm", lambda question, usually: next(answers))
    assert main(["engine", "install"]) == 3
    assert main(["engine", "install"]) == 0
    assert compiled == [("bitnet", ()), ("llama.cpp", ())]


@pytest.mark.usefixtures("prebuilt_engines")
def test_a_prebuilt_engine_that_is_there_is_enough_on_any_computer(
    monkeypatch: pytest.MonkeyPatch, compiled: list[object]
) -> None:
    """Copied from another one, say."""
    monkeypatch.setattr(wheels, "here", lambda: MUSL)
    monkeypatch.setattr(prebuilt, "install", lambda package, on_progress: Path("/prebuilt"))
    assert main(["engine", "install", "--yes"]) == 0
    assert compiled == []


def test_if_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[object], prebuilt_engines: dict[str, Path]
) -> None:
    assert main(["engine", "install", "--if-missing"]) == 0
    assert main(["engine", "install", "--build", "--if-missing"]) == 0  # a prebuilt one is not one for this processor
    assert compiled == [("llama.cpp", ())]
    on_path = program(tmp_path / "path" / "llama-cli", CLASSIC)
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=os.pathsep)
    assert main(["engine", "install", "--build", "--if-missing"]) == 0
    assert len(compiled) == 1
    assert main(["engine", "install", "--with", "server", "--if-missing"]) == 0
    assert compiled[1:] == [("llama.cpp", ("server",))]
    program(tmp_path / "path" / "llama-server", SERVER)
    assert main(["engine", "install", "--with", "server", "--if-missing"]) == 0
    assert len(compiled) == 2


def test_an_interrupted_installation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def install(package: packages.EnginePackage, *, on_progress: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(prebuilt, "install", install)
    assert main(["engine", "install"]) == 130
    assert "run the same command to resume" in capsys.readouterr().err


# The doctor.


def test_the_doctor_knows_prebuilt_engines(monkeypatch: pytest.MonkeyPatch, prebuilt_engines: dict[str, Path]) -> None:
    monkeypatch.setattr(prebuilt, "check", lambda package, folder: None)
    llama, bitnet = check_prebuilt(needed=False)
    assert (llama.status, bitnet.status) == (FindingStatus.OK, FindingStatus.OK)
    assert "xllamacpp 2026.10.11549, complete and loadable" in llama.seen
    (prebuilt_engines["bitnet"] / "LICENSE").unlink()
    _, bitnet = check_prebuilt(needed=False)
    assert bitnet.status is FindingStatus.WARN and "is damaged" in bitnet.seen
    assert bitnet.remedy == "bitnet-chat engine install bitnet reinstalls it"


def test_the_doctor_tells_a_library_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, prebuilt_engines: dict[str, Path]
) -> None:
    def check(package: packages.EnginePackage, folder: Path) -> None:
        raise BuildError("it does not load", remedy="compile it")

    monkeypatch.setattr(prebuilt, "check", check)
    llama, _ = check_prebuilt(needed=False)
    assert (llama.status, llama.seen, llama.remedy) == (FindingStatus.BROKEN, "it does not load", "compile it")


def test_the_doctor_tells_what_could_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "here", lambda: wheels.Platform("linux", "x86_64", libc=(2, 36)))
    llama, bitnet = check_prebuilt(needed=True)
    assert (llama.status, llama.facts["download"]) == (FindingStatus.OK, 33_827_498)
    assert "not installed; bitnet-chat engine install bitnet installs it (25 MB)" in bitnet.seen
    monkeypatch.setattr(wheels, "here", lambda: MUSL)
    assert [each.status for each in check_prebuilt(needed=True)] == [FindingStatus.WARN, FindingStatus.WARN]
    llama, _ = check_prebuilt(needed=False)
    assert llama.status is FindingStatus.OK and "musl" in llama.seen and "--build" in llama.seen
