"""Files that a user asked for: whole or not at all, and never in place of another."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bitnet_chat.errors import UsageError
from bitnet_chat.util.files import write_exclusive


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    write_exclusive(path, "数据\r\n\udcf0\n")
    assert path.read_bytes() == "数据\r\n".encode() + b"\xf0\n"
    assert list(tmp_path.iterdir()) == [path]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    path.write_text("before")
    with pytest.raises(UsageError, match="already exists"):
        write_exclusive(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write_exclusive(path, "after", force=True)
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "talk.md"
    write_exclusive(path, "one")
    with pytest.raises(UsageError, match="already exists"):
        write_exclusive(path, "two")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_exclusive(tmp_path / "missing" / "talk.md", "x")
    with pytest.raises(UsageError, match="already exists"):
        write_exclusive(tmp_path, "x")

    def fail(handle: int, mode: str) -> None:
        os.close(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", fail)
    with pytest.raises(UsageError, match="No space left"):
        write_exclusive(tmp_path / "talk.md", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_force_replaces_files_and_nothing_else(tmp_path: Path) -> None:
    """``--force -o /dev/null``, by a user who may: the device of the whole computer would be a file."""
    device, folder, link = tmp_path / "device", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(device)
    folder.mkdir()
    link.symlink_to(device)
    for each in (device, folder, link):
        with pytest.raises(UsageError, match="already exists"):
            write_exclusive(each, "text", force=True)
    assert device.is_fifo() and folder.is_dir() and link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [device, folder, link]
