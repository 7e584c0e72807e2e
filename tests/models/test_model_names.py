"""A model has one name, and is known by all others that clients write for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from program import TIMEOUT, fake_engine
from scripted_backend import by_message
from serving import scripted_source, serving

from bitnet_chat import config, paths
from bitnet_chat.backends.factory import open_backend, open_factory
from bitnet_chat.cli.parser import parse
from bitnet_chat.cli.serve import parser, read
from bitnet_chat.models import other_programs
from bitnet_chat.models.names import ModelNames, key_of, name_of
from bitnet_chat.models.other_programs import OtherModel
from bitnet_chat.models.resolve import resolve
from bitnet_chat.models.store import ModelRecord, write_record

LATIN = os.fsdecode(b"latin\xe9.gguf")


@pytest.mark.parametrize(
    "written",
    [
        *("qwen3-4b", "Qwen3-4B", "QWEN3:4b", "qwen3-4b:latest", "qwen3-4b.gguf", "Qwen3-4B.GGUF:latest", " qwen3-4b "),
        "qwen3-4b-00001-of-00002.gguf",
    ],
)
def test_all_ways_to_write_a_name(written: str) -> None:
    assert key_of(written) == "qwen3-4b"


@pytest.mark.parametrize(
    "written",
    [
        "hf:User/Repo/Model-Q4_K_M.gguf",
        "hf:user/repo/model-q4_k_m",
        "hf:user/repo:Q4_K_M",
        "hf:user/repo",
        "hf.co/User/Repo:q4_k_m",
        "hf.co/user/repo:latest",
        "huggingface.co/user/repo",
        "https://huggingface.co/user/repo",
        "mine:latest",
    ],
)
def test_the_hubs_ways_to_write_a_name(written: str) -> None:
    cached = Path("/c/models--other--thing/snapshots/0a/thing.Q8_0.gguf")
    names = ModelNames(
        [("mine", Path("/m/mine.gguf"), "hf:User/Repo/Model-Q4_K_M.gguf"), ("hub:thing.Q8_0", cached, "")]
    )
    assert names.find(written) == "mine"
    assert names.find("hf.co/other/thing:Q8_0") == names.find("thing.q8_0") == "hub:thing.Q8_0"
    assert [names.find(each) for each in ("", "hf:user", "user/repo", "other", "hf:user/repo:Q8_0")] == [None] * 5


def test_a_name_as_it_is_written_goes_before_other_ways_to_read_it() -> None:
    names = ModelNames(
        [("A", None, ""), ("a", None, ""), ("b:latest", None, ""), ("b", None, ""), ("ollama:a:1", None, "")]
    )
    for name in ("A", "a", "b:latest", "b"):
        assert names.find(name) == name
    assert (names.find("a.gguf"), names.find("a:1"), names.find("B")) == ("A", "ollama:a:1", "b:latest")


def test_the_file_gives_the_name_and_not_the_header(tmp_path: Path, model: Path) -> None:
    """In the bar, in the journal, in ``/health`` and in the APIs; and what its file system calls it is made safe."""
    odd = tmp_path / "My Model.v1-00001-of-00001.gguf"
    assert [name_of(each) for each in (odd, tmp_path / LATIN, tmp_path / "a\x1b[31m\n.gguf")] == [
        *("My Model.v1", "latin<E9>", "a\u241b[31m"),
    ]
    file = paths.models_dir() / "small-1.5b.gguf"
    file.parent.mkdir(parents=True)
    shutil.copyfile(model, file)
    write_record(file, ModelRecord("hf:user/repo/Small-1.5B-Q8_0.gguf", 1, ""))
    for written in ("small-1.5b", "Small-1.5B:latest", "small:1.5b", "small-1.5b.gguf", "hf.co/user/repo:q8_0"):
        assert resolve(written).path == file, written
    settings = replace(config.Settings(), model="SMALL-1.5b", engine=str(fake_engine(tmp_path)))

    async def said() -> None:
        assert open_backend(settings, "").status().model == "small-1.5b"
        source = open_factory(settings, "", parallel=1)
        assert (source.name, source.origin) == ("small-1.5b", "hf:user/repo/Small-1.5B-Q8_0.gguf")
        assert open_factory(settings, "", parallel=1, name="code").make().status().model == "code"

    asyncio.run(said())
    given = read(*parse(["-m", "small-1.5b", "-m", str(model), "-m", "c=SMALL-1.5B"], parser()), {})[3]
    assert list(given) == ["small-1.5b", model.stem, "c"]


@pytest.mark.parametrize(
    ("file", "is_theirs", "name"),
    [
        ("one.gguf", True, "program:1"),
        ("one.gguf", False, "one"),
        ("sha256-1", False, "program:2"),
        ("x", True, "x"),
    ],
)
def test_a_model_of_another_program_has_its_name_there(
    file: str, is_theirs: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [OtherModel(f"program:{name}", Path(file), 1, "") for name, file in (("1", "one.gguf"), ("2", "sha256-1"))]
    monkeypatch.setattr(other_programs, "may_have", lambda path: is_theirs)
    monkeypatch.setattr(other_programs, "found", lambda: theirs)
    assert name_of(Path(file)) == name


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems there take UTF-8 alone")
def test_a_name_that_is_no_utf8_is_known_to_every_endpoint(tmp_path: Path, model: Path) -> None:
    shutil.copyfile(model, tmp_path / LATIN)
    models = read(*parse(["-m", str(tmp_path / LATIN), "-m", f"b\udce9=={model}"], parser()), {})[3]
    assert list(models) == ["latin<E9>", "b<E9>"]

    async def main() -> None:
        sources = {
            name: replace(scripted_source(by_message, [], name=name), path=Path(file.removeprefix("=")))
            for name, file in models.items()
        }
        async with serving(sources) as served, httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:
            for name in ("latin<E9>", "LATIN<E9>.gguf", "latin<e9>:latest"):
                listed = (await client.get(f"/v1/models/{name}")).json()
                shown = (await client.post("/api/show", json={"model": name})).json()
                assert listed["id"] == "latin<E9>" and shown["details"]["format"] == "gguf"
                said = {"model": name, "messages": [{"role": "user", "content": "hi"}], "stream": False}
                for path in ("/v1/chat/completions", "/api/chat"):
                    answer = await client.post(path, json=said)
                    assert answer.status_code == 200 and answer.json()["model"].startswith("latin<E9>")
                chat = (await client.post("/chats", json={"model": name})).json()
                begun = await client.post(
                    f"/chats/{chat['id']}/messages", json={"model": name, "content": "hi", "stream": False}
                )
                assert begun.status_code == 202, begun.text
            for path in ("/v1/models", "/api/tags", "/api/ps", "/metrics", "/health"):
                answer = await client.get(path)
                assert answer.status_code == 200 and "latin<E9>" in answer.text, path
            for name in ("auto:latest", "AUTO"):
                assert (await client.get(f"/v1/models/{name}")).json()["id"] == "auto"
            assert (await client.get("/v1/models/nothing")).status_code == 404

    asyncio.run(main())
