"""The command ``bitnet-chat models`` in this process, and a folder of models for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr."""
    code = main(["models", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def stored(home: Path, model: Path) -> Path:
    """The folder of installed models, with the model ``tiny``."""
    folder = paths.models_dir()
    folder.mkdir(parents=True)
    shutil.copy(model, folder / "tiny.gguf")
    return folder
