"""The user's editor, which may fail at any time."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bitnet_chat.errors import UsageError
from bitnet_chat.util.editor import edit


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python program that gets the file as ``file``; the texts to edit are in a folder that is empty."""
    script = tmp_path / "editor.py"
    monkeypatch.setenv("EDITOR", f'"{sys.executable}" -S -E "{script}"')
    monkeypatch.delenv("VISUAL", raising=False)
    folder = tmp_path / "texts"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return script


def does(editor: Path, work: str) -> None:
    editor.write_text(f"import os, pathlib, signal, sys\nfile = pathlib.Path(sys.argv[1])\n{work}\n")


def left(editor: Path) -> list[Path]:
    return list((editor.parent / "texts").iterdir())


def test_the_text_as_it_was_left(editor: Path) -> None:
    does(editor, "file.write_bytes(file.read_bytes() + b' more\\r\\nand more\\n')")
    assert edit("some") == "some more\nand more"
    assert left(editor) == []


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("sys.exit(3)", "failed with exit code 3"),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was ended by a signal (SIGKILL)",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="has no signals"),
        ),
    ],
)
def test_an_editor_that_fails(editor: Path, work: str, words: str) -> None:
    does(editor, work)
    with pytest.raises(UsageError, match=re.escape(words)):
        edit("some")
    assert left(editor) == []


def test_what_an_editor_saved_before_it_failed_is_kept(editor: Path) -> None:
    does(editor, "file.write_text('an hour of work')\nsys.exit(1)")
    with pytest.raises(UsageError) as caught:
        edit("some")
    (kept,) = left(editor)
    assert kept.read_text() == "an hour of work"
    assert caught.value.remedy == f"the saved text is in {kept}"
