"""The content hash of a model, computed once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bitnet_chat import paths
from bitnet_chat.errors import ModelError
from bitnet_chat.models import store
from bitnet_chat.models.store import ModelRecord
from bitnet_chat.prompt_cache import model_hash
from bitnet_chat.prompt_cache.model_hash import compute_hash, known_hash


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    digest = hashlib.file_digest

    def noted(file: Any, algorithm: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, algorithm)

    monkeypatch.setattr(model_hash.hashlib, "file_digest", noted)
    return names


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    return path


def memory() -> Path:
    return paths.data_dir() / "model-hashes.json"


def test_a_file_is_read_once(model: Path, reads: list[str]) -> None:
    assert known_hash(model) is None
    for _ in range(2):
        assert compute_hash(model) == sha256(b"weights") == known_hash(model)
    assert reads == ["m.gguf"]
    link = model.with_name("link.gguf")
    link.symlink_to(model)
    assert known_hash(link) == sha256(b"weights")


def test_another_content_is_another_hash(model: Path, reads: list[str]) -> None:
    compute_hash(model)
    before = model.stat()
    for content in (b"Weights", b"longer weights"):
        model.write_bytes(content)
        os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert known_hash(model) is None, "the time of the last change of the inode differs"
        assert compute_hash(model) == sha256(content) == known_hash(model)
    other = model.with_name("other.gguf")
    other.write_bytes(b"WEIGHTS")
    other.replace(model)
    assert known_hash(model) is None and compute_hash(model) == sha256(b"WEIGHTS")
    assert len(reads) == 4


def test_parts(tmp_path: Path, reads: list[str]) -> None:
    parts = [tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for number, path in enumerate(parts):
        path.write_bytes(b"%d" % number)
    whole = sha256("".join(sha256(b"%d" % number) for number in range(3)).encode())
    assert compute_hash(parts[0]) == whole == known_hash(parts[0])
    parts[2].write_bytes(b"other")
    assert known_hash(parts[0]) is None and compute_hash(parts[0]) not in (whole, None)
    parts[1].unlink()
    assert known_hash(parts[0]) is None
    with pytest.raises(ModelError, match=r"m-00002-of-00003\.gguf cannot be read: No such file"):
        compute_hash(parts[0])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}', b'{"format": 1, "files": [1]}', b"[" * 100_000, b"{}"]
)
def test_a_damaged_memory(model: Path, reads: list[str], content: bytes) -> None:
    memory().parent.mkdir(parents=True)
    memory().write_bytes(content)
    assert known_hash(model) is None
    assert compute_hash(model) == sha256(b"weights") == known_hash(model)


@pytest.mark.parametrize(
    "value", [None, "x", [], ["a", "b"], ["a", 1], ["a", "g" * 64], ["a", "a" * 63], [1, "a" * 64]]
)
def test_a_damaged_entry(model: Path, value: object) -> None:
    memory().parent.mkdir(parents=True)
    memory().write_text(json.dumps({"format": 1, "files": {str(model): value}}))
    assert known_hash(model) is None and compute_hash(model) == sha256(b"weights")


def test_the_memory_is_bounded_and_of_the_latest(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hash, "_MAX_FILES", 2)
    others = [model.with_name(f"{number}.gguf") for number in range(3)]
    for path in others:
        path.write_bytes(b"x")
        compute_hash(path)
    assert [known_hash(path) is None for path in others] == [True, False, False]
    assert [path.name for path in memory().parent.iterdir()] == [memory().name]


def test_without_a_place_to_remember_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_CHAT_DATA", str(model))
    assert compute_hash(model) == sha256(b"weights") and known_hash(model) is None


def test_a_file_that_changes_while_it_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.file_digest

    def changing(file: Any, algorithm: str) -> Any:
        with model.open("ab") as more:
            more.write(b"x")
        return digest(file, algorithm)

    monkeypatch.setattr(model_hash.hashlib, "file_digest", changing)
    with pytest.raises(ModelError, match="changed while it was read"):
        compute_hash(model)
    assert not memory().exists()


# Downloads whose hash was verified


def pulled(content: bytes, hash: str, name: str = "m") -> Path:
    path = store.path_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(content)
    store.write_record(path, ModelRecord("hf:x", len(content), hash))
    partial.replace(path)
    return path


def test_a_verified_download_is_not_read(reads: list[str]) -> None:
    path = pulled(b"weights", "f" * 64)
    assert known_hash(path) == compute_hash(path) == "f" * 64 and reads == []


def test_the_parts_of_a_verified_download(reads: list[str]) -> None:
    files = store.paths_of("m", 2)
    files[0].parent.mkdir(parents=True)
    store.write_record(store.path_of("m"), ModelRecord("hf:x", 2, "", parts=("e" * 64, "f" * 64)))
    for file in files:
        file.write_bytes(b"x")
        os.utime(file, (1, 1))
    assert known_hash(files[0]) == sha256(("e" * 64 + "f" * 64).encode()) and reads == []


def test_a_download_that_was_changed_since_is_read(reads: list[str]) -> None:
    later = pulled(b"weights", "f" * 64, "later")
    os.utime(later, (time.time() + 60, time.time() + 60))
    longer = pulled(b"weights", "f" * 64, "longer")
    with longer.open("ab") as file:
        file.write(b"x")
    moved = pulled(b"weights", "f" * 64, "moved")
    record = store.record_path(moved)
    os.utime(record, (1e9, 1e9))
    os.utime(moved, (1e9 - 1, 1e9 - 1))
    without = pulled(b"weights", "", "without")
    for path in (later, longer, moved, without):
        assert known_hash(path) is None and compute_hash(path) == sha256(path.read_bytes()) == known_hash(path)
    assert len(reads) == 4
