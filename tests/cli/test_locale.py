"""Text in arguments, file names and variables is UTF-8, whatever the locale says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from program import TIMEOUT, command, environment, fake_engine

from bitnet_chat.engine.transport.preexec import as_bytes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="arguments are Unicode there")
LOCALES = (
    {"LC_ALL": "C", "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C"},
)


def run(locale: dict[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """A process of its own: only the start of a Python reads the locale."""
    variables = {name: value for name, value in environment(**more).items() if name != "PYTHONUTF8"}
    return subprocess.run(command(*arguments), input=b"", capture_output=True, timeout=TIMEOUT, env=variables | locale)


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: " ".join(locale))
def test_words_and_names(tmp_path: Path, model: Path, locale: dict[str, str]) -> None:
    folder = tmp_path / "Ordner ü 🙂"
    folder.mkdir()
    engine, file, text = fake_engine(folder), folder / "modèle.gguf", folder / "frage-日本.txt"
    shutil.copy(model, file)
    text.write_text("say aus der Datei: ß", "utf-8")
    record = folder / "record"
    flags = ("--engine", str(engine), "-m", str(file))
    done = run(locale, *flags, "--system", "Größe 🙂", "say naïve 🙂 日本", FAKE_ENGINE_RECORD=str(record))
    assert (done.returncode, done.stdout.decode()) == (0, "naïve 🙂 日本\n"), done.stderr
    assert done.stderr == b""
    launch = json.loads(record.read_text("utf-8"))
    assert "Größe 🙂" in launch["prompt"]
    assert launch["argv"][launch["argv"].index("--model") + 1] == str(file) or locale  # as the fake's Python reads it
    assert run(locale, *flags, "-f", str(text)).stdout.decode() == "aus der Datei: ß\n"


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: " ".join(locale))
def test_variables_and_the_file_of_settings(tmp_path: Path, home: Path, locale: dict[str, str]) -> None:
    engine = fake_engine(tmp_path)
    (home / "config.toml").write_text(f'engine = "{engine}"\nsystem = "aus der Datei: ß"\n', "utf-8")
    record = tmp_path / "record"
    assert run(locale, "say it", FAKE_ENGINE_RECORD=str(record)).returncode == 0
    assert run(locale, "say it", FAKE_ENGINE_RECORD=str(record), BITNET_CHAT_SYSTEM="日本").returncode == 0
    prompts = [json.loads(line)["prompt"] for line in record.read_text("utf-8").splitlines()]
    assert "aus der Datei: ß" in prompts[0] and "日本" in prompts[1]


def test_flags_of_python_and_a_failure_are_kept(tmp_path: Path) -> None:
    done = run(LOCALES[0], "--engine", str(tmp_path / "nirgendwo-ü"), "hello")
    assert done.returncode == 3 and "nirgendwo-ü does not exist".encode() in done.stderr


def test_what_an_engine_gets() -> None:
    assert as_bytes(["engine", "--in-prefix", "ü🙂", "\udcff"]) == ["engine", b"--in-prefix", "ü🙂".encode(), b"\xff"]
