"""Which model ``-m auto`` takes and why, what an engine can run, and what a name means."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from model_files import engine_file, model_file, text
from models_command import stored

from bitnet_chat import paths
from bitnet_chat.backends.local_engine import model_path
from bitnet_chat.config import Settings
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import ModelError
from bitnet_chat.models import engine_support, memory, resolve
from bitnet_chat.models.info import read_info
from bitnet_chat.models.memory import ModelShape
from bitnet_chat.models.resolve import ModelOption, by_engine, choose
from bitnet_chat.util import resources

__all__ = ["stored"]


@pytest.fixture
def engine(built_engine: EngineBinary) -> EngineBinary:
    """What these tests are about is in the builds of our own."""
    return built_engine


GB = 1_000_000_000
SMALL, MIDDLE, LARGE = (
    ModelOption("small", GB, 2 * GB),
    ModelOption("middle", 2 * GB, 3 * GB),
    ModelOption("large", 5 * GB, 7 * GB),
)
STRANGE = ModelOption("strange", 9 * GB, 9 * GB, "I2_S weights require a BitNet build as engine")


@pytest.mark.parametrize(
    ("options", "free", "name", "words"),
    [
        ([SMALL, MIDDLE, LARGE], 8 * GB, "large", "the largest that fits: it needs 7.0 GB of 8.0 GB free"),
        ([LARGE, SMALL, MIDDLE], 3 * GB, "middle", "middle (2.0 GB), the largest that fits: it needs 3.0 GB of 3.0 GB"),
        ([SMALL, MIDDLE, LARGE], 2 * GB, "small", "(large: needs 7.0 GB; middle: needs 3.0 GB)"),
        ([SMALL, MIDDLE, LARGE], GB, "", "none of the 3 installed can be used (large: needs 7.0 GB, 1.0 GB are free;"),
        ([SMALL, STRANGE], 90 * GB, "small", "(strange: I2_S weights require a BitNet build as engine)"),
        ([STRANGE], 90 * GB, "", "none of the 1 installed can be used (strange: I2_S"),
        ([SMALL], 8 * GB, "small", "the only one installed, and it fits"),
        ([], 8 * GB, "", "no model is installed"),
        ([SMALL, LARGE], None, "small", "the smallest: free memory is unknown"),
        ([STRANGE], None, "", "none of the 1 installed"),
        ([ModelOption(f"m{n}", n * GB, n * GB) for n in range(1, 9)], GB, "m1", "m6: needs 6.0 GB; 4 more)"),
        ([ModelOption("b", GB, GB), ModelOption("a", GB, GB)], GB, "a", "a (1.0 GB)"),
    ],
)
def test_the_largest_that_fits_and_can_be_run(
    options: list[ModelOption], free: int | None, name: str, words: str
) -> None:
    choice = choose(options, free)
    assert choice.name == name
    assert words in choice.reason
    assert "\n" not in choice.reason


def test_smaller_ones_need_not_be_known() -> None:
    assert "the largest that fits" in choose([SMALL], 8 * GB, smaller=2).reason


def test_memory_by_the_formula() -> None:
    shape = ModelShape(heads_kv=32 * 8, head_size=256, heads=32, width=4096, vocabulary=128_256)
    assert memory.need(5 * GB, shape, 8192) == (
        5 * GB + 8192 * 32 * 8 * 256 * 2 + 512 * 4 * (33 * 8192 + 8 * 4096) + 64_000_000
    )
    assert (memory.context_for(131_072), memory.context_for(2048), memory.context_for(None)) == (8192, 2048, 8192)
    assert memory.context_for(2048, 16_384) == 16_384
    free = resources.available()
    assert free is not None and free > 0


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    assert resources._container_room(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert resources._container_room(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 300\nactive_file 50\n")
    assert resources._container_room(tmp_path) == 450


# Engines.


def test_the_real_engine_knows_the_bundled_model(engine: EngineBinary, model: Path) -> None:
    info = read_info(model)
    known = engine_support.known(engine.path, [info])
    assert known is not None and {"tq2_0", "bitnet"} <= known
    assert engine_support.obstacle(info, known) == ""
    assert not engine_support.is_bitnet(engine.path)


def test_what_an_engine_cannot_run(tmp_path: Path) -> None:
    bitnet, ternary = model_file(tmp_path / "a.gguf", 36), model_file(tmp_path / "b.gguf", 35)
    unknown, strange = model_file(tmp_path / "c.gguf", 99), model_file(tmp_path / "d.gguf", 0, "qwen9")
    infos = [read_info(path) for path in (bitnet, ternary, unknown, strange)]
    stock = engine_support.known(engine_file(tmp_path / "bin" / "llama-cli", "q6_K", "tq2_0", "llama", "f32"), infos)
    assert [bool(engine_support.obstacle(info, stock)) for info in infos] == [True, False, True, True]
    assert "I2_S weights require a BitNet build" in engine_support.obstacle(infos[0], stock)
    assert "does not support the architecture qwen9" in engine_support.obstacle(infos[3], stock)
    old = engine_support.known(engine_file(tmp_path / "old" / "llama-cli", "q6_K", "llama", "f32"), infos)
    assert "does not support TQ2_0 weights" in engine_support.obstacle(infos[1], old)
    script = engine_support.known(engine_file(tmp_path / "script", "exec llama-cli"), infos)
    assert script is None
    assert [bool(engine_support.obstacle(info, script)) for info in infos] == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "kind", "tensors", "words"),
    [
        ("a.gguf", "adapter", 1, "it is not a model but adapter"),
        ("a.gguf", "model", 0, "it contains no weights"),
        ("a-00002-of-00003.gguf", "model", 1, "it is part 2 of 3"),
    ],
)
def test_what_is_no_model_to_talk_to(tmp_path: Path, name: str, kind: str, tensors: int, words: str) -> None:
    pair = text("general.type") + struct.pack("<I", 8) + text(kind)
    table = (text("a") + struct.pack("<IQIQ", 1, 256, 0, 0)) * tensors
    (tmp_path / name).write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, 1) + pair + table + bytes(2048))
    assert engine_support.obstacle(read_info(tmp_path / name), None) == words


def test_names_in_libraries_count(tmp_path: Path) -> None:
    info = read_info(model_file(tmp_path / "a.gguf", 36))
    binary = engine_file(tmp_path / "build" / "bin" / "llama-cli", "nothing")
    assert engine_support.known(binary, [info]) is None
    inside = tmp_path / "build" / "3rdparty" / "llama.cpp"
    engine_file(inside / "ggml" / "src" / "libggml.so", "q6_K", "i2_s")
    engine_file(inside / "src" / "libllama.so", "llama")
    assert engine_support.obstacle(info, engine_support.known(binary, [info])) == ""
    assert engine_support.is_bitnet(binary)


def test_a_name_across_two_parts_of_a_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_support, "_PART", 7)
    assert engine_support.is_bitnet(engine_file(tmp_path / "e", "somewhere", "i2_s"))


# What -m means.


def test_a_file_a_name_and_neither(stored: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_path(Settings(model=str(model))) == model
    assert model_path(Settings(model="tiny")) == stored / "tiny.gguf"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_bytes(b"GGUF")
    assert model_path(Settings(model="tiny")) == Path("tiny")  # a file wins
    with pytest.raises(ModelError, match="bitnet-2b is not installed") as caught:
        model_path(Settings(model="bitnet-2b"))
    assert "bitnet-chat models pull bitnet-2b fetches it (1.2 GB)" in str(caught.value)
    with pytest.raises(ModelError, match="model nothing is neither a file nor installed"):
        model_path(Settings(model="nothing"))
    assert model_path(Settings(model="no/such.gguf")) == Path("no/such.gguf")  # whoever opens it says so


def test_auto_takes_what_the_engine_can_run(stored: Path, engine: EngineBinary) -> None:
    with model_file(stored / "ternary.gguf", 36).open("ab") as file:
        file.write(bytes(3_000_000))
    (stored / "broken.gguf").write_bytes(b"GGUF\3")
    shutil.copy(stored / "tiny.gguf", stored / "cut.gguf")
    with (stored / "cut.gguf").open("r+b") as file:
        file.truncate(900_000)
    said: list[str] = []
    assert model_path(Settings(model="auto"), by_engine(engine.path), said.append) == stored / "tiny.gguf"
    (line,) = said
    assert line.startswith("-m auto: tiny (2 MB), the largest that fits")
    assert line.endswith("(ternary: I2_S weights require a BitNet build as engine)")  # smaller ones are not looked at
    (stored / "tiny.gguf").unlink()
    model_path(Settings(model="auto"), by_engine(engine.path), said.append)
    assert "cut: the file is cut off" in said[1]
    assert "broken: it cannot be read" in said[1]
    assert said[1].endswith("; the bundled demo model is used")


def test_auto_takes_no_model_that_makes_embeddings(stored: Path) -> None:
    pairs = text("general.architecture") + struct.pack("<I", 8) + text("bert")
    pairs += text("bert.pooling_type") + struct.pack("<II", 4, 1)
    tensor = text("a") + struct.pack("<IQIQ", 1, 256, 0, 0)
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + pairs + tensor + bytes(5_000_000)
    (stored / "embedding.gguf").write_bytes(content)
    said: list[str] = []
    assert model_path(Settings(model="auto"), None, said.append) == stored / "tiny.gguf"
    assert said[0].endswith("(embedding: it is an embedding model)")
    assert model_path(Settings(model="embedding")) == stored / "embedding.gguf"


def test_auto_with_nothing_installed_takes_the_bundled_one(home: Path, model: Path) -> None:
    said: list[str] = []
    assert model_path(Settings(model="auto"), None, said.append) == model
    assert "no model is installed" in said[0] and "the bundled demo model is used" in said[0]


def test_auto_with_nothing_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "bundled_model", lambda: None)
    with pytest.raises(ModelError, match="-m auto: no model is installed"):
        resolve.resolve("auto")
