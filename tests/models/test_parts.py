"""Models in several files: pulled, checked, listed, used and removed as one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, serving
from models_command import run
from split_model import split, written

from bitnet_chat import paths
from bitnet_chat.backends.pool import BackendFactory as BackendSource
from bitnet_chat.doctor import model as doctor
from bitnet_chat.doctor.finding import FindingStatus
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import ModelError, UsageError
from bitnet_chat.models import engine_support, file_download, hugging_face, store
from bitnet_chat.models.gguf import read_header
from bitnet_chat.models.hugging_face import OfferedFile
from bitnet_chat.models.info import read_info
from bitnet_chat.models.model_download import PulledModel, pull
from bitnet_chat.models.registry import ModelSource, parse
from bitnet_chat.models.template_selection import prepare
from bitnet_chat.server.model_manager import ModelManager

NAMES = [f"demo-Q4_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def pieces(model: Path) -> list[bytes]:
    return split(model, 3)


@pytest.fixture(scope="module")
def model() -> Path:
    found = paths.bundled_model()
    assert found is not None
    return found


@pytest.fixture
def server(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    defaults = {"more": 0, "pause": lambda s: None, "silence": 20.0}
    monkeypatch.setattr(file_download.Download.__init__, "__kwdefaults__", defaults)
    with serving(pieces[0]) as server:
        server.behaviour.files = {
            "README.md": b"a text",
            **dict(zip((f"Q4_0/{name}" for name in NAMES), pieces, strict=True)),
            "demo-Q8_0.gguf": pieces[0],
            "demo-UD-Q8_0.gguf": pieces[1],
            "mmproj-demo-Q4_0.gguf": pieces[0],
            "demo-imatrix.gguf": pieces[0],
            "mtp-demo-Q4_0.gguf": pieces[0],
        }
        monkeypatch.setenv("HF_ENDPOINT", server.base)
        yield server


def folder() -> set[str]:
    return {each.name for each in paths.models_dir().iterdir()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("ggml-model-i2_s.gguf", "I2_S"),
        ("Llama3-8B-1.58-100B-tokens-TQ2_0.gguf", "TQ2_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("nomic-embed-text-v1.5.f16.gguf", "F16"),
        ("model-BF16.gguf", "BF16"),
        ("gemma-4-E2B_q4_0-it.gguf", "Q4_0"),
        ("Q8_0/GLM-4.5-Air-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("IQ2_XXS/model-00001-of-00003.gguf", "IQ2_XXS"),
        ("DeepSeek-R1.gguf", ""),
        ("q3-model.gguf", ""),
    ],
)
def test_the_quantization_in_a_name(path: str, expected: str) -> None:
    assert hugging_face.quantization_of(path) == expected


# By quantization.


def test_a_repository_lists_what_it_has(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "pull", "hf:user/repo@v1")
    lines = out.splitlines()
    assert (code, err, lines[0]) == (0, "", "hf:user/repo@v1 contains:")
    assert [line.split()[0] for line in lines[1:-1]] == ["UD-Q8_0", "Q8_0", "Q4_0"]
    assert lines[3] == "  Q4_0        2 MB  Q4_0/demo-Q4_0-00001-of-00003.gguf (3 parts)"
    assert lines[-1] == "Available with bitnet-chat models pull hf:user/repo:UD-Q8_0@v1"
    assert all("/tree/v1?recursive=true" in each.path for each in server.gets) and len(server.gets) == 5
    code, out, _ = run(capsys, "pull", "hf:user/repo", "--json")
    assert {each["quantization"]: each["parts"] for each in json.loads(out)} == {"UD-Q8_0": 1, "Q8_0": 1, "Q4_0": 3}
    assert not paths.models_dir().exists()
    server.behaviour.files = {"README.md": b"a text", "mmproj.gguf": b"GGUF"}
    assert run(capsys, "pull", "hf:user/repo")[0] == 2


def test_a_quantization_picks_the_model(
    server: ModelServer, pieces: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "pull", "hf:user/repo:q4_0")
    assert code == 0, err
    assert out.startswith("demo-Q4_0 is installed, 2 MB: bitnet-chat -m demo-Q4_0\n")
    assert folder() == {*NAMES, "demo-Q4_0.json"}
    assert run(capsys, "pull", "hf:user/repo:Q4_0", "--name", "mine")[0] == 0
    assert run(capsys, "pull", "hf:user/repo:q5_k_m")[0] == 2
    assert run(capsys, "pull", "hf:user/repo:Q4_0")[1].startswith("demo-Q4_0 is already installed")


def _pick(wanted: str, *names: str) -> str:
    models = hugging_face.offered([OfferedFile(name, 5) for name in names])
    return hugging_face.pick(ModelSource("", "u/r", quantization=wanted), models).file


def test_what_a_quantization_means() -> None:
    assert _pick("q8_0", "a-Q8_0.gguf", "a-UD-Q8_0.gguf") == "a-Q8_0.gguf"
    assert _pick("Q4_K_XL", "a-UD-Q4_K_XL.gguf", "a-Q4_K_M.gguf") == "a-UD-Q4_K_XL.gguf"
    assert _pick("Q8_0", "mmproj-a-Q8_0.gguf", "a-Q8_0.gguf", "a-Q8_0.imatrix.gguf") == "a-Q8_0.gguf"
    with pytest.raises(UsageError, match="has 2 models of the quantization Q8_0") as caught:
        _pick("Q8_0", "a-Q8_0.gguf", "b-Q8_0.gguf")
    assert "hf:u/r/a-Q8_0.gguf, hf:u/r/b-Q8_0.gguf" in str(caught.value)
    with pytest.raises(UsageError, match="has no model of the quantization Q2_K") as caught:
        _pick("Q2_K", "a-Q8_0.gguf", "odd.gguf", "a-Q2_K-00001-of-00002.gguf")  # its second part is missing
    assert "available: Q8_0, odd.gguf" in str(caught.value)


# All parts as one.


def fetch(server: ModelServer, **more: Any) -> PulledModel:
    return pull(parse(f"hf:user/repo/Q4_0/{NAMES[0]}", {}), **more)


def test_parts_are_pulled_and_checked_as_one(
    server: ModelServer, pieces: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[int, int]] = []
    pulled = fetch(server, on_bytes=lambda done, total: heard.append((done, total)))
    whole = sum(map(len, pieces))
    assert heard[-1] == (whole, whole) and {total for _, total in heard} == {whole}
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert (pulled.model.name, pulled.model.size) == ("demo-Q4_0", whole)
    assert [each.read_bytes() for each in pulled.model.files] == pieces
    record = pulled.model.record
    assert record is not None and record.parts == tuple(map(sha256, pieces)) and record.license == "MIT"
    assert store.installed() == [store.find("demo-Q4_0")] == [pulled.model]

    (item,) = [each for each in json.loads(run(capsys, "list", "--json")[1]) if each["name"] == "demo-Q4_0"]
    assert (item["size"], item["obstacle"], item["parameters"], item["auto"]) == (whole, "", "", True)
    facts = json.loads(run(capsys, "info", "demo-Q4_0", "--json")[1])
    assert (facts["parameters"], facts["size"], facts["part"], facts["whole"]) == (3_807_488, whole, None, True)
    assert run(capsys, "verify")[:2] == (0, "demo-Q4_0: complete; its sha256 matches the record\n")

    second = pulled.model.files[1]
    second.write_bytes(pieces[1][:-1] + b"!")
    code, out, _ = run(capsys, "verify", "demo-Q4_0")
    assert code == 4 and f"the sha256 of {NAMES[1]} differs from the record" in out
    second.unlink()
    code, out, _ = run(capsys, "verify")
    assert (code, out) == (4, "demo-Q4_0: part 2 of 3 is missing\n")
    assert "part 2 of 3 is missing" in run(capsys, "list")[1]
    server.seen.clear()
    assert not fetch(server).was_here  # what is missing is fetched, and nothing else
    assert [each.headers.get("Range") for each in server.gets] == [
        f"bytes={len(pieces[0])}-",
        None,
        f"bytes={len(pieces[2])}-",
    ]
    assert [each.read_bytes() for each in pulled.model.files] == pieces
    assert run(capsys, "rm", "demo-Q4_0", "--yes")[0] == 0
    assert folder() == set()


def test_a_pull_of_parts_goes_on_where_it_was(server: ModelServer, pieces: list[bytes]) -> None:
    server.behaviour.cuts = [len(pieces[0]), 100_000, *[0] * 6]  # the first arrives, the second does not
    with pytest.raises(ModelError, match="was interrupted too often"):
        fetch(server)
    assert list(store.unfinished()) == [("demo-Q4_0", len(pieces[0]) + 100_000)]
    assert store.installed() == []
    server.behaviour.cuts = []
    server.seen.clear()
    assert [each.read_bytes() for each in fetch(server).model.files] == pieces
    ranges = [each.headers.get("Range") for each in server.gets]
    assert ranges == [f"bytes={len(pieces[0])}-", "bytes=100000-", None]
    assert folder() == {*NAMES, "demo-Q4_0.json"}


def test_an_interrupted_pull_of_parts_is_removed(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.behaviour.cuts = [100_000, *[0] * 6]
    with pytest.raises(ModelError):
        fetch(server)
    assert run(capsys, "rm", "demo-Q4_0", "--yes")[0] == 0
    assert folder() == set()


def test_an_address_of_the_first_part(server: ModelServer, pieces: list[bytes]) -> None:
    server.behaviour.files = dict(zip(NAMES, pieces, strict=True))
    pulled = pull(parse(f"{server.base}/{NAMES[0]}?key=secret", {}))
    assert [each.read_bytes() for each in pulled.model.files] == pieces
    assert [each.path for each in server.gets] == [f"/{name}?key=secret" for name in NAMES]


def test_files_that_are_parts_of_different_models(server: ModelServer, pieces: list[bytes]) -> None:
    """A hash vouches for what the hub sends; an address has none, and what makes no sense goes."""
    server.behaviour.files = dict(zip(NAMES, (pieces[0], pieces[2], pieces[1]), strict=True))
    with pytest.raises(
        ModelError, match=f"not a complete model and was deleted: {NAMES[1]} is 3 of 3, not part 2 of 3"
    ):
        pull(parse(f"{server.base}/{NAMES[0]}", {}))
    assert folder() == set()


def test_parts_that_lie_beside_each_other(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = written(model, 3, tmp_path, "demo")
    one, parts = read_info(model), read_info(files[0])
    assert (parts.parameters, parts.tensor_types, parts.split) == (one.parameters, one.tensor_types, None)
    assert parts.header.size == sum(each.stat().st_size for each in files) and not parts.is_cut_off
    assert read_header(files[0]).size == parts.header.size  # by which threads are chosen
    assert engine_support.obstacle(read_info(files[1]), None) == "it is part 2 of 3"
    told = json.loads(run(capsys, "info", "--json", str(files[1]))[1])
    assert (told["part"], told["whole"], told["memory"]) == ("2 of 3", False, None)
    assert told["lacks"] == f"it is part 2 of 3; use part 1: {files[0]}"
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size - 1000)
    cut = read_info(files[0])
    assert cut.is_cut_off and cut.shortness.startswith(f"{files[1].name} ends too early")
    files[1].unlink()
    missing = f"it is part 1 of 3, and 1 of the others is missing: {files[1].name}"
    assert engine_support.obstacle(read_info(files[0]), None) == missing
    assert json.loads(run(capsys, "info", "--json", str(files[0]))[1])["lacks"].startswith(missing)


def test_a_part_of_one_is_a_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = written(model, 1, paths.models_dir(), "one")
    found = store.find("one")
    assert found is not None and (found.path, found.files, found.missing) == (path, (path,), "")
    assert run(capsys, "verify", "one")[:2] == (0, "one: complete; its hash is not known\n")
    assert run(capsys, "rm", "one", "--yes")[0] == 0 and not path.exists()


def test_doctor_knows_parts(model: Path, tmp_path: Path) -> None:
    files = written(model, 3, tmp_path, "demo")
    assert doctor._whole(read_info(files[0])).status is FindingStatus.OK
    second = list(doctor.judge(read_info(files[1]), context=0, names=None, engine="an engine"))
    assert [each.name for each in second] == ["file", "whole"]  # and nothing of an architecture that it does not name
    assert "is part 2 of 3" in second[1].seen and second[1].remedy == f"use part 1: {files[0]}"
    files[2].unlink()
    found = doctor._whole(read_info(files[0]))
    assert found.status is FindingStatus.BROKEN and f"is missing: {files[2].name}" in found.seen
    for path, said in ((files[1], "is part 2 of 3"), (files[0], "1 of the others is missing")):
        with pytest.raises(ModelError, match=said):  # before an engine is started
            prepare(path, "", pytest.fail, engine=tmp_path, takes_overrides=False)


def test_the_limit_of_memory_counts_all_parts(model: Path, tmp_path: Path) -> None:
    files = written(model, 3, tmp_path, "demo")
    source = BackendSource("demo", 1, lambda: pytest.fail("it was loaded"), path=files[0])
    with pytest.raises(ModelError, match="demo"):
        ModelManager({"demo": source}, memory_limit=files[0].stat().st_size + 1)
    assert ModelManager({"demo": source}, memory_limit=model.stat().st_size * 2).names == ["demo"]


def test_a_model_in_parts_answers(model: Path, classic: EngineBinary) -> None:
    written(model, 3, paths.models_dir(), "demo")
    for name in ("demo", "auto"):
        flags = ["--engine", str(classic.path), "-m", name, "--temp", "0", "--json"]
        command = [sys.executable, "-m", "bitnet_chat", *flags, "Who are you?"]
        heard = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert heard.returncode == 0, heard.stderr
        assert "bitnet-demo" in json.loads(heard.stdout)["reply"]


def test_two_pulls_of_parts_at_once_fetch_once(server: ModelServer, pieces: list[bytes]) -> None:
    results: list[PulledModel] = []
    both = [threading.Thread(target=lambda: results.append(fetch(server))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert sorted(each.was_here for each in results) == [False, True]
    assert len(server.gets) == 3
