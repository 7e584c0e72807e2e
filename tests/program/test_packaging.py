"""The wheel of ``pip install .``: all modules, the demo model, the console script, the metadata of setup.cfg."""

from __future__ import annotations

import configparser
import email
import email.message
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from bitnet_chat.version import __version__

REPOSITORY = Path(__file__).parents[2]
MODEL = "bitnet-demo.gguf"


def run(argv: list[str | Path]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no old build folder is mixed in, with the setuptools of the test packages."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy / name)
    shutil.copytree(REPOSITORY / "bitnet_chat", copy / "bitnet_chat", ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", out, copy])
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


def test_every_module_is_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith(f"bitnet_chat-{__version__}.")}
    package = REPOSITORY / "bitnet_chat"
    modules = {path.relative_to(REPOSITORY).as_posix() for path in package.rglob("*.py")}
    assert modules <= packed
    assert "bitnet_chat/py.typed" in packed
    assert all(name.startswith("bitnet_chat/") for name in packed)


def test_the_demo_model_is_in_it_as_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = f"bitnet_chat/models/{MODEL}"
        assert archive.read(name) == (REPOSITORY / name).read_bytes()


def test_the_data_files_are_in_it(wheel: Path) -> None:
    """Personas, the registry of models, the files of the page, the mark of a typed package: all that lies there."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = REPOSITORY / "bitnet_chat"
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in ours.rglob("*") if path.is_file()}
    assert {path for path in wanted if "__pycache__" not in path} <= names
    assert "bitnet_chat/server/web/index.html" in names


def test_the_metadata_is_that_of_setup_cfg(metadata: email.message.Message) -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    assert metadata["Name"] == config["metadata"]["name"]
    assert metadata["Version"] == __version__
    assert metadata["Summary"] == config["metadata"]["description"]
    assert metadata["Requires-Python"] == config["options"]["python_requires"]
    required = [each.partition(";")[0].replace(" ", "") for each in metadata.get_all("Requires-Dist", [])]
    for line in config["options"]["install_requires"].split("\n"):
        assert line.partition(";")[0].replace(" ", "") in ["", *required]
    assert metadata.get_all("Provides-Extra") == ["remote", "serve", "app", "test"]
    assert "LICENSE" in metadata.get_all("License-File", [])
    assert metadata["Description-Content-Type"] == "text/markdown"


OPTIONS = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")


def pip_install(python: Path, *arguments: str | Path) -> None:
    run([sys.executable, "-m", "pip", "--python", python, "install", *OPTIONS, *arguments])


FIND = "from bitnet_chat import paths; print(paths.bundled_model(), paths.checkout())"


@pytest.mark.parametrize("way", ["environment", "user", "target", "zipped"])
def test_installed_it_runs_and_finds_its_model(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Without the packages it depends on: neither of these needs them but ``cache_dir``, for a zipped wheel."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / ("python.exe" if sys.platform == "win32" else "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITNET_CHAT_CACHE", str(tmp_path / "cache"))
    isolated = ["-I"]
    if way == "environment":
        pip_install(python, wheel)
        assert run([scripts / "bitnet-chat", "--version"]).strip() == f"bitnet-chat {__version__}"
        (package,) = home.glob("**/site-packages/bitnet_chat")
    elif way == "user":
        python = Path(sys._base_executable)  # type: ignore[attr-defined]  # of the system, without an environment
        monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
        monkeypatch.setenv("PIP_BREAK_SYSTEM_PACKAGES", "1")
        run([python, "-m", "pip", "install", "--user", *OPTIONS, wheel])
        (package,) = (tmp_path / "user").glob("**/site-packages/bitnet_chat")
        isolated = []
    elif way == "target":
        pip_install(python, "--target", tmp_path / "target", wheel)
        package = tmp_path / "target" / "bitnet_chat"
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        isolated = []
    else:
        package = tmp_path / "cache"
        monkeypatch.setenv("PYTHONPATH", str(wheel))
        isolated = []
    assert run([python, *isolated, "-m", "bitnet_chat", "--version"]).strip() == f"bitnet-chat {__version__}"
    model = package / MODEL if way == "zipped" else package / "models" / MODEL
    assert run([python, *isolated, "-c", FIND]).strip() == f"{model} None"
    assert model.read_bytes() == (REPOSITORY / "bitnet_chat" / "models" / MODEL).read_bytes()


def test_zipped_it_finds_its_personas_and_the_registry_of_models(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(wheel))

    def output(*arguments: str) -> str:
        return run([sys.executable, "-m", "bitnet_chat", *arguments])

    assert f"{wheel}{os.sep}bitnet_chat" in run(
        [sys.executable, "-c", "import bitnet_chat; print(bitnet_chat.__file__)"]
    )
    personas = {each["name"]: each for each in json.loads(output("config", "personas", "--json"))}
    shipped = REPOSITORY / "bitnet_chat" / "personas"
    assert sorted(personas) == sorted(path.stem for path in shipped.iterdir())
    assert all(each["source"] == "shipped" and each["description"] for each in personas.values())
    assert "# persona terse" in output("config", "show", "--persona", "terse")
    assert "terse" in output("completion", "bash")
    registry = tomllib.loads((REPOSITORY / "bitnet_chat" / "models" / "registry.toml").read_text("utf-8"))
    listed = output("models", "list")
    assert all(name in listed for name in registry)


def test_the_source_distribution_runs_its_own_tests(tmp_path: Path) -> None:
    """All that is tracked is in it, and a test runs in what was unpacked."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no repository: this is what was unpacked")
    tracked = run(["git", "-C", REPOSITORY, "ls-files"]).splitlines()
    copy = tmp_path / "copy"
    for name in tracked:
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, copy / name)
    build = "import os, setuptools.build_meta as build; print(build.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True, timeout=120)
    (archive,) = (copy / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    root = tmp_path / f"bitnet_chat-{__version__}"
    not_needed = (".github/", ".gitignore")
    assert not [name for name in tracked if not name.startswith(not_needed) and not (root / name).exists()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *("-p", "no:cacheprovider"), "tests/text/test_sse.py", "tests/util"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
