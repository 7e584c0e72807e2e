"""Lines typed before survive; a bad file costs a notice, never the session."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.repl import history
from bitnet_chat.repl.history import FileHistory


def written(file: Path | None, *lines: str) -> list[str]:
    """The complaints about writing ``lines``."""
    complaints: list[str] = []
    kept = FileHistory(file, complaints.append)
    for line in lines:
        kept.append_string(line)
    return complaints


def loaded(file: Path | None) -> tuple[list[str], list[str]]:
    """Lines, latest first, and complaints."""
    complaints: list[str] = []
    return list(FileHistory(file, complaints.append).load_history_strings()), complaints


@given(lines=st.lists(st.text(st.characters(codec=None, categories=None))))
def test_any_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    file = tmp_path_factory.mktemp("history") / "new" / "history"
    assert written(file, *lines) == []
    assert loaded(file) == (lines[::-1], [])


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes")
def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "history"
    before = os.umask(0)
    try:
        written(file, "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_bytes(b'"one"\n\xff\xfe\x00\n{"a": 1}\n"tw\n"three"\n')
    lines, complaints = loaded(file)
    assert lines == ["three", "one"]
    assert len(complaints) == 1 and "3 damaged lines" in complaints[0]


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    lines, complaints = loaded(tmp_path)
    assert lines == [] and len(complaints) == 1 and "cannot be read" in complaints[0]
    complaints = written(tmp_path, "one", "two")
    assert len(complaints) == 1 and "is not saved: Is a directory" in complaints[0]


def test_a_half_written_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_bytes(b'"one"\n"tw')
    written(file, "three")
    assert loaded(file)[0] == ["three", "one"]


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "TAIL", 30)
    file = tmp_path / "history"
    written(file, *(f"line {number:04}" for number in range(100)))
    assert loaded(file) == (["line 0099", "line 0098"], [])


def test_without_a_file() -> None:
    assert written(None, "one") == []
    assert loaded(None) == ([], [])
