"""Models that other programs have: found and used in place, never touched, whatever state they are in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from models_command import run
from split_model import written

from bitnet_chat import paths
from bitnet_chat.errors import ModelError
from bitnet_chat.models import other_programs
from bitnet_chat.models.names import name_of
from bitnet_chat.models.resolve import resolve


@pytest.fixture(scope="module")
def content() -> bytes:
    bundled = paths.bundled_model()
    assert bundled is not None
    return bundled.read_bytes()


@pytest.fixture
def user(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, with each program's folder in its usual place."""
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "HF_HOME", "LLAMA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: home / "user")
    return home / "user"


def ollama(root: Path, place: str, content: bytes, *more: object) -> Path:
    """Puts a model into a store as Ollama does."""
    digest = hashlib.sha256(content).hexdigest()
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)}
    manifest(root, place, {"schemaVersion": 2, "layers": [layer, *more]})
    return blob


def manifest(root: Path, place: str, content: object) -> None:
    path = root / "manifests" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def hub_file(cache: Path, repo: str, commit: str, file: str, content: bytes) -> Path:
    blob = cache / repo / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    path = cache / repo / "snapshots" / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return path


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names() -> list[str]:
    return [each.name for each in other_programs.found()]


@pytest.fixture
def stores(user: Path, content: bytes) -> dict[str, Path]:
    """What the programs have; each file is another one, so that none is the other's."""
    bundled = paths.bundled_model()
    assert bundled is not None
    root, cache, studio = user / ".ollama/models", user / ".cache/huggingface/hub", user / ".lmstudio/models"
    library = "registry.ollama.ai/library"
    found = {
        "ollama:demo:1b": ollama(root, f"{library}/demo/1b", content + b"1"),
        "ollama:someone/demo:latest": ollama(root, "registry.ollama.ai/someone/demo/latest", content + b"2"),
        "ollama:hf.co/u/r-GGUF:Q4_0": ollama(root, "hf.co/u/r-GGUF/Q4_0", content + b"3"),
        "lmstudio:one-Q4": put(studio / "someone/one-GGUF/one-Q4.gguf", content + b"4"),
        "lmstudio:a/x-GGUF/same": put(studio / "a/x-GGUF/same.gguf", content + b"5"),
        "lmstudio:b/x-GGUF/same": put(studio / "b/x-GGUF/same.gguf", content + b"6"),
        "lmstudio:parts": written(bundled, 3, studio / "c/parts", "parts")[0],
        "hub:tiny-Q8": hub_file(cache, "models--u--r", "c2", "tiny-Q8.gguf", content + b"7"),
        "llama.cpp:u_r_deep": put(user / ".cache/llama.cpp/u_r_deep.gguf", content + b"8"),
    }
    old = hub_file(cache, "models--u--r", "c1", "tiny-Q8.gguf", content + b"9")
    os.utime(old, (1, 1), follow_symlinks=False)
    put(studio / "someone/one-GGUF/mmproj-one.gguf", content)
    put(studio / "someone/one-GGUF/notes.txt", b"a text")
    put(cache / "datasets--u--r/snapshots/c1/data.gguf", content)
    return found


@pytest.fixture
def untouched(user: Path, stores: dict[str, Path]) -> Iterator[None]:
    """Nothing below the user's home changes in the test."""

    def state() -> list[tuple[str, float]]:
        return sorted((str(path), path.lstat().st_mtime) for path in user.rglob("*"))

    before = state()
    yield
    assert state() == before


@pytest.mark.usefixtures("untouched")
def test_they_are_found_listed_and_used_where_they_are(
    stores: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert {each.name: each.path for each in other_programs.found()} == stores
    items = {each["name"]: each for each in json.loads(run(capsys, "list", "--json")[1])}
    for name, path in stores.items():
        assert (items[name]["path"], items[name]["installed"], items[name]["obstacle"]) == (str(path), True, "")
        assert resolve(name).path == path
        assert name_of(path) == name
    assert {items[name]["program"] for name in stores} == {
        *("Ollama", "LM Studio", "the hub's cache", "llama.cpp's cache")
    }
    assert items["lmstudio:parts"]["parameters"] == items["ollama:demo:1b"]["parameters"]
    lines = run(capsys, "list")[1].splitlines()
    assert lines[0] == "Models of other programs, used in place:"
    assert any(line.startswith("  hub:tiny-Q8 ") and line.endswith(str(stores["hub:tiny-Q8"])) for line in lines)
    assert sum(line.startswith("* ") for line in lines) == 2  # the one that -m auto takes, and the line that says so
    assert resolve("auto").path in stores.values()
    assert run(capsys, "info", "ollama:demo:1b")[0] == 0


def test_a_name_without_its_program_where_it_is_unambiguous(stores: dict[str, Path]) -> None:
    for name in ("demo:1b", "tiny-Q8", "someone/demo:latest", "hf.co/u/r-GGUF:Q4_0"):
        assert resolve(name).path == next(path for full, path in stores.items() if full.endswith(f":{name}"))
    put(Path.home() / ".cache/llama.cpp/tiny-Q8.gguf", b"GGUF")
    for name in ("tiny-Q8", "ollama:tiny-Q8", "same"):
        with pytest.raises(ModelError, match=f"model {name} is neither a file nor installed"):
            resolve(name)
    assert resolve("some/folder/model.gguf").path == Path("some/folder/model.gguf")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ollama:demo:1b", "belongs to Ollama"),
        ("demo:1b", "ollama rm demo:1b"),
        ("hub:tiny-Q8", "belongs to the hub's cache"),
        ("lmstudio:parts", "belongs to LM Studio"),
        ("u_r_deep", "remove the file"),
    ],
)
def test_they_are_neither_removed_nor_verified(capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    for verb in (["rm", "--yes"], ["verify"]):
        code, _, err = run(capsys, *verb, name)
        assert code == 2 and words in err
    assert run(capsys, "verify")[:2] == (0, "")


def test_an_own_model_and_a_file_win(stores: dict[str, Path], content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    own = put(paths.models_dir() / "tiny-Q8.gguf", content)
    assert resolve("tiny-Q8").path == own
    monkeypatch.chdir(Path.home())
    put(Path("demo:1b"), content)
    assert resolve("demo:1b").path == Path("demo:1b")


def test_variables_say_where_they_are(user: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama(user / "elsewhere", "registry.ollama.ai/library/demo/1b", content)
    put(user / "cached/flat.gguf", content + b"1")
    hub_file(user / "hf/hub", "models--u--r", "c", "tiny.gguf", content + b"2")
    monkeypatch.setenv("OLLAMA_MODELS", str(user / "elsewhere"))
    monkeypatch.setenv("LLAMA_CACHE", str(user / "cached"))
    monkeypatch.setenv("HF_HOME", str(user / "hf"))
    assert names() == ["hub:tiny", "llama.cpp:flat", "ollama:demo:1b"]
    monkeypatch.setenv("HF_HUB_CACHE", str(user / "none"))
    assert names() == ["llama.cpp:flat", "ollama:demo:1b"]


def test_a_broken_store_breaks_nothing(user: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    root, library = user / ".ollama/models", "registry.ollama.ai/library"
    ollama(root, f"{library}/good/1b", content)
    adapter = {"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:" + "0" * 64}
    ollama(root, f"{library}/adapted/1b", content + b"1", adapter)
    layer = {"mediaType": "application/vnd.ollama.image.model"}
    for name, broken in {
        "text": b"\xff no JSON",
        "deep": b"[" * 100_000,
        "list": [],
        "layers": {"layers": {"a": 1}},
        "strange": {"layers": [5, None, {"mediaType": 5}]},
        "no-digest": {"layers": [layer]},
        "away": {"layers": [layer | {"digest": "sha256:" + "1" * 64}]},
        "outside": {"layers": [layer | {"digest": "sha256:../../../../etc/passwd"}]},
        "number": {"layers": [layer | {"digest": 7}]},
        "huge": b" " * (2 << 20),
        "escape\x1b[2J": {"layers": []},
    }.items():
        manifest(root, f"{library}/{name}/1b", broken)
    manifest(root, "short", {"layers": []})
    (root / "manifests" / "loop").symlink_to(root)
    (root / "manifests" / library / "circle").symlink_to("circle")
    os.mkfifo(root / "manifests" / library / "fifo")
    studio = user / ".lmstudio/models"
    put(studio / "a/b/evil\x1b[2J.gguf", content)
    put(studio / "a/b/alone-00001-of-00002.gguf", content)
    put(studio / "a/b/damaged.gguf", b"GGUF\3")
    (studio / "a/b/up.gguf").symlink_to("../../..")
    (studio / "a/b/dangling.gguf").symlink_to("nowhere")
    (studio / "a/b/folder.gguf").mkdir()
    (studio / "around").symlink_to(studio)
    os.mkfifo(studio / "a/b/pipe.gguf")
    put(user / ".cache/llama.cpp", b"a file where a folder should be")
    put(user / ".cache/huggingface/hub/models--x/snapshots/c.gguf", content)
    assert names() == ["lmstudio:damaged", "ollama:good:1b"]
    code, out, _ = run(capsys, "list")
    assert code == 0 and "\x1b" not in out
    assert "damaged" in out and "it cannot be read" in out
    assert resolve("auto").path.parent.name == "blobs"


def test_a_large_store_costs_little(user: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_programs, "_MAX_ENTRIES", 50)
    monkeypatch.setattr(other_programs, "_MAX_MODELS", 10)
    studio = user / ".lmstudio/models"
    for number in range(100):
        put(studio / f"m{number:03}.gguf", b"GGUF")
    deep = studio.joinpath(*("d",) * 20)
    put(deep / "x.gguf", b"GGUF")
    assert len(names()) == 10


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_store_that_cannot_be_read(user: Path, content: bytes) -> None:
    ollama(user / ".ollama/models", "registry.ollama.ai/library/good/1b", content)
    (user / ".ollama/models/manifests").chmod(0)
    try:
        assert names() == []
    finally:
        (user / ".ollama/models/manifests").chmod(0o700)
