"""The wheel of ``pip install .``: all modules, the demo model, the console script, the metadata of setup.cfg."""

from __future__ import annotations

import configparser
import email
import email.message
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from bitnet_chat.version import __version__

REPOSITORY = Path(__file__).parent.parent
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
    (copy / "models").mkdir()
    shutil.copy(REPOSITORY / "models" / MODEL, copy / "models" / MODEL)
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
        (name,) = (name for name in archive.namelist() if name.endswith(MODEL))
        assert name.endswith(f".data/data/share/bitnet-chat/models/{MODEL}")
        assert archive.read(name) == (REPOSITORY / "models" / MODEL).read_bytes()


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


def test_installed_it_runs_and_finds_its_model(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, without the packages it depends on: neither of these needs them."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / ("python.exe" if sys.platform == "win32" else "python")
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel])
    assert run([scripts / "bitnet-chat", "--version"]).strip() == f"bitnet-chat {__version__}"
    assert run([python, "-I", "-m", "bitnet_chat", "--version"]).strip() == f"bitnet-chat {__version__}"
    found = run([python, "-I", "-c", "from bitnet_chat import paths; print(paths.bundled_model(), paths.checkout())"])
    assert found.strip() == f"{home / 'share' / 'bitnet-chat' / 'models' / MODEL} None"
