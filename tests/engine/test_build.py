"""Whole builds of an engine with stand-ins for pip, cmake and ninja: finished, failed, killed, resumed, at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import fake_build
import psutil
import pytest

from bitnet_chat.engine.install import build, manifest, source, toolchain
from bitnet_chat.errors import BuildError
from bitnet_chat.util import pip
from bitnet_chat.util.progress import Progress

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are scripts with a #! line")

NAME = source.DEFAULT
VERSION = source.SOURCES[NAME].folder_name


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty engine home, with the stand-ins in place."""
    sdist = tmp_path / "sdist.tar.gz"
    monkeypatch.setitem(source.SOURCES, NAME, fake_build.archive(sdist))
    monkeypatch.setattr(pip, "run", fake_build.fake_pip(sdist))
    monkeypatch.setattr(toolchain, "check_compilers", fake_build.compilers)
    monkeypatch.delenv("FAKE_FAIL", raising=False)
    return tmp_path / "engine"


def steps(home: Path, **options: object) -> list[Progress]:
    seen: list[Progress] = []
    folder = build.install(home=home, on_progress=seen.append, **options)  # type: ignore[arg-type]
    assert folder == home / VERSION
    return seen


def failure(home: Path) -> BuildError:
    with pytest.raises(BuildError) as caught:
        build.install(home=home)
    return caught.value


def test_a_build_leaves_the_programs_a_manifest_and_a_log(home: Path) -> None:
    assert build.installed(home=home) is None
    seen = steps(home)
    folder = build.installed(home=home)
    assert folder == home / VERSION
    assert {path.name for path in folder.iterdir()} == {"llama-completion", "manifest.json", "LICENSE"}
    assert subprocess.run([folder / "llama-completion", "--version"], capture_output=True).returncode == 0
    record = json.loads((folder / "manifest.json").read_text())
    assert record["cpu"] == manifest.cpu_fingerprint()
    assert record["source_sha256"] == source.SOURCES[NAME].pin.sha256
    assert record["compiler"] == "fake c++ 1.0"
    assert {path.name for path in home.iterdir()} == {VERSION, f"build-{NAME}.log", "ninja.pid"}
    counters = [(p.done, p.total) for p in seen if p.step == "Compiling llama.cpp" and p.total]
    assert counters[0] == (1, fake_build.STEPS)
    assert counters[-1] == (fake_build.STEPS, fake_build.STEPS)


def test_an_engine_that_is_there_is_not_built_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(home)
    monkeypatch.setattr(toolchain, "check_compilers", lambda env: pytest.fail("it began to build"))
    assert steps(home) == []


def built_with(home: Path) -> tuple[str, ...]:
    record = manifest.read(home / VERSION)
    assert record is not None
    for feature, program in manifest.FEATURES[NAME].items():
        assert (feature in record.features) is (program in record.files) is (home / VERSION / program).exists()
    return record.features


def test_what_it_was_built_with_once_it_keeps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(home)
    assert built_with(home) == ()
    steps(home, features=["rpc"])
    assert built_with(home) == ("rpc",)
    steps(home, features=["cli"])
    assert built_with(home) == ("cli", "rpc")
    assert not list(home.glob(".*"))
    assert steps(home) == []  # a plain one finds all that it wants
    assert steps(home, features=["rpc"]) == []
    monkeypatch.setattr(manifest, "cpu_fingerprint", lambda: "of another cpu")
    steps(home)  # a plain one that has to build
    assert built_with(home) == ("cli", "rpc")


def old_engine(home: Path) -> Path:
    """As an earlier version of the program built it: of another source, with a manifest that names no engine."""
    folder = home / "0.3.36"
    folder.mkdir(parents=True)
    files = {}
    for name in ("llama-completion", "llama-cli", "llama-server"):
        fake_build.script(folder / name, "")
        files[name] = (folder / name).stat().st_size
    record = manifest.Manifest("0.3.36", "", "", manifest.cpu_fingerprint(), "", "", [], "", 1.0, files)
    fields = asdict(record)
    del fields["name"]
    (folder / "manifest.json").write_text(json.dumps(fields))
    return folder


def test_an_engine_of_an_earlier_version_is_used_until_it_is_replaced_with_all_that_it_had(home: Path) -> None:
    old = old_engine(home)
    assert manifest.installed(old) and build.installed(home=home) is None
    steps(home)
    assert built_with(home) == ("server", "cli")
    assert not old.exists()


def test_engines_of_other_names_stay(home: Path) -> None:
    steps(home)
    other = home / "other"
    shutil.copytree(home / VERSION, other)
    record = json.loads((other / "manifest.json").read_text()) | {"name": "bitnet"}
    (other / "manifest.json").write_text(json.dumps(record))
    steps(home, features=["server"])
    assert other.exists()


def test_what_a_source_cannot_be_built_with(home: Path) -> None:
    with pytest.raises(BuildError, match="bitnet cannot be compiled with rpc") as caught:
        build.install("bitnet", features=["rpc"], home=home)
    assert "server" in caught.value.remedy


def test_the_engine_that_is_there_stays_until_the_new_one_is_whole(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(home)
    monkeypatch.setenv("FAKE_FAIL", "llama.cpp:7:1: error: expected ';'")
    with pytest.raises(BuildError):
        build.install(home=home, features=["rpc"])
    assert build.installed(home=home) and built_with(home) == ()


def test_objects_of_a_build_without_a_feature_are_used_for_one_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "llama.cpp:7:1: error: expected ';'")
    failure(home)
    monkeypatch.delenv("FAKE_FAIL")
    seen = steps(home, features=["rpc"])
    assert next(p.total for p in seen if p.total and p.step == "Compiling llama.cpp") == fake_build.STEPS - 2
    assert built_with(home) == ("rpc",)


def test_an_engine_of_another_cpu_counts_as_missing_and_is_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(home)
    monkeypatch.setattr(manifest, "cpu_fingerprint", lambda: "of another cpu")
    assert build.installed(home=home) is None
    steps(home)
    assert build.installed(home=home)
    monkeypatch.undo()
    assert build.installed(home=home) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', "{}"])
def test_a_manifest_that_makes_no_sense_is_no_engine(home: Path, text: str) -> None:
    steps(home)
    (home / VERSION / "manifest.json").write_text(text)
    assert build.installed(home=home) is None


def test_a_program_of_another_size_is_no_engine(home: Path) -> None:
    steps(home, features=["server"])
    with (home / VERSION / "llama-server").open("a") as program:
        program.write("x")
    assert build.installed(home=home) is None


def test_an_unknown_engine_is_refused(home: Path) -> None:
    with pytest.raises(BuildError, match=r"engine 'gpt\.cpp' cannot be compiled"):
        build.install("gpt.cpp", home=home)


# Failures, each with its own message.


def test_too_little_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 5_000_000))
    error = failure(home)
    assert "too little free space" in error.what
    assert "5 MB are free" in error.what
    assert "BITNET_CHAT_DATA" in error.remedy
    assert build.installed(home=home) is None


def test_a_disk_that_fills_up_while_compiling(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "/tmp/cc1.s: error writing: No space left on device")
    error = failure(home)
    assert "is full" in error.what
    assert "it resumes" in error.remedy
    monkeypatch.delenv("FAKE_FAIL")
    assert next(p.total for p in steps(home) if p.total and p.step == "Compiling llama.cpp") == fake_build.STEPS - 2


def test_a_disk_that_fills_up_while_installing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "is full" in failure(home).what
    assert build.installed(home=home) is None
    assert not (home / VERSION).exists()


def test_a_compiler_that_runs_out_of_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "c++: fatal error: Killed signal terminated program cc1plus")
    error = failure(home)
    assert "out of memory" in error.what
    assert "CMAKE_BUILD_PARALLEL_LEVEL=1" in error.remedy


def test_a_compiler_error_is_shown_with_the_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "llama.cpp:7:1: error: expected ';'")
    error = failure(home)
    assert "Compiling llama.cpp failed with status 1" in error.what
    log = home / f"build-{NAME}.log"
    assert str(log) in error.remedy
    assert "expected ';'" in error.detail
    assert "expected ';'" in log.read_text()


def test_a_program_that_does_not_run_is_not_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PROGRAM", "4")
    error = failure(home)
    assert "--version fails: status 4" in error.what
    assert build.installed(home=home) is None


def test_an_archive_that_is_not_the_pinned_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = home.parent / "other.tar.gz"
    fake_build.archive(other, [("extra", b"x")])
    monkeypatch.setattr(pip, "run", fake_build.fake_pip(other))
    error = failure(home)
    assert "is not the pinned file" in error.what
    assert source.SOURCES[NAME].pin.sha256 in error.what
    assert not list(home.glob(".build-*/source*"))


def test_a_home_that_cannot_be_made(home: Path) -> None:
    home.write_text("a file")
    error = failure(home)
    assert str(home) in error.what
    assert "BITNET_CHAT_DATA" in error.remedy


def test_a_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    error = failure(home)
    assert f"Cannot write to {home}" in error.what
    assert "BITNET_CHAT_DATA" in error.remedy


# Interruptions: another process builds, and is ended at a known point.


@contextlib.contextmanager
def builder(home: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, fake_build.__file__, str(home)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | env
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], fits: Callable[[str], bool]) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if fits(lines[-1]):
            return lines
    raise AssertionError(f"it ended without the expected line; it said {lines[-5:]}")


def ninja_runs(home: Path) -> bool:
    pid = int((home / "ninja.pid").read_text())
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (getattr(signal, "SIGHUP", 1), 129)]
)
def test_an_interrupted_build_ends_ninja_and_goes_on_later(home: Path, number: int, status: int) -> None:
    with builder(home, FAKE_HANG_AFTER="3") as process:
        read_until(process, lambda line: line == f"Compiling llama.cpp|3|{fake_build.STEPS}")
        assert ninja_runs(home)
        process.send_signal(number)
        assert process.wait(60) == status
    assert not ninja_runs(home)
    assert build.installed(home=home) is None
    assert not (home / VERSION).exists()
    counters = [(p.done, p.total) for p in steps(home) if p.step == "Compiling llama.cpp" and p.total]
    assert counters[0] == (1, fake_build.STEPS - 3)
    assert build.installed(home=home)
    assert not list(home.glob(".*"))


def test_the_next_build_ends_what_a_killed_one_has_left(home: Path) -> None:
    with builder(home, FAKE_HANG_AFTER="3") as process:
        read_until(process, lambda line: line == f"Compiling llama.cpp|3|{fake_build.STEPS}")
        process.kill()
        process.wait(60)
        orphan = psutil.Process(int((home / "ninja.pid").read_text()))
        assert orphan.is_running()
        steps(home)
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    assert build.installed(home=home)


def test_a_second_build_says_who_is_building_and_waits(home: Path) -> None:
    with builder(home, FAKE_HANG_AFTER="3") as first:
        read_until(first, lambda line: line == f"Compiling llama.cpp|3|{fake_build.STEPS}")
        with builder(home) as second:
            read_until(second, lambda line: line == f"Waiting for another build (process {first.pid})|0|0")
            first.send_signal(signal.SIGTERM)
            assert first.wait(60) == 143
            read_until(second, lambda line: line == f"Compiling llama.cpp|3|{fake_build.STEPS - 3}")
            assert second.wait(60) == 0
    assert build.installed(home=home)
