"""I2_S files as IQ2_BN: what is made, checked, kept and mended."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import llama3_file
import pytest

from bitnet_chat import paths
from bitnet_chat.cli import conversion as shown
from bitnet_chat.engine import conversion, discovery
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, HelpOptions
from bitnet_chat.engine.discovery import EngineCandidate
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.known_answer_model import SmallModel, prompt_text, question, tokens
from bitnet_chat.engine.known_answer_results import ANSWERS
from bitnet_chat.engine.selection import EngineRequest, missing_package, select
from bitnet_chat.errors import EngineMissingError, ModelError
from bitnet_chat.models import store, tensor_types
from bitnet_chat.models.gguf import read_header
from bitnet_chat.models.info import read_info
from bitnet_chat.models.known_faults import repair
from bitnet_chat.models.verify import verify
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.util.progress import Progress

SMALL = SmallModel("I2_S", "bitnet-b1.58")


@pytest.fixture
def installed() -> Path:
    """As a pull leaves it."""
    path = store.path_of("small")
    path.parent.mkdir(parents=True)
    SMALL.write(path)
    return path


def fake(folder: Path, program: str) -> EngineBinary:
    """A package whose llama-quantize is a Python program."""
    engine = EngineBinary(folder, Dialect.NATIVE, "1", HelpOptions(), EngineVariant.IK)
    path = folder / packages.SITE / "ik_llama_cpp" / "bin" / "llama-quantize"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!{sys.executable}\nimport json, os, shutil, sys\nsource, target = sys.argv[-4:-2]\n{program}\n")
    path.chmod(0o755)
    return engine


def passes(source: Path, converted: Path, engine: EngineBinary) -> None:
    """A check that finds nothing."""


def left_in(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "bitnet", "llama"])
def test_a_converted_model_says_what_the_original_ought_to(bitnet: EngineBinary, architecture: str) -> None:
    from bitnet_chat.engine.native.client import NativeClient, command

    small = SmallModel("I2_S", architecture)  # type: ignore[arg-type]
    path = store.path_of("small")
    path.parent.mkdir(parents=True)
    small.write(path)
    assert conversion.is_for(bitnet, read_info(path))
    told: list[Progress] = []
    converted = conversion.obtain(path, bitnet, on_progress=told.append)
    assert converted == path.with_name("small.iq2_bn.gguf")
    assert {each.step for each in told} == {"Converting small", "Checking small"}
    assert max(each.done for each in told) == max(each.total for each in told) > 10
    assert read_info(converted).quantization == "IQ2_BN"
    with NativeClient(command(bitnet, converted, context_size=256, threads=1)) as client:
        said = [
            client.complete(tokens(question(number)), max_tokens=3, sampling={"temperature": 0.0}).text
            for number, _ in ANSWERS[small]
        ]
    # With the embedding as Q6_K the reference's own logits have a correlation of 0.994 to 0.997 with those before.
    assert sum(one == text for one, (_, text) in zip(said, ANSWERS[small], strict=True)) >= 3
    assert [each.name for each in store.installed()] == ["small"]  # the converted file is no model of its own
    store.remove("small")
    assert not left_in(path.parent)


def test_it_is_made_once_and_anew_for_another_file(installed: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    engine = fake(tmp_path / "engine", f"shutil.copy(source, target); open({str(count)!r}, 'a').write('.')")
    for _ in range(2):
        made = conversion.obtain(installed, engine, check=passes)
    assert conversion.present(installed) == made and count.read_text() == "."
    os.utime(installed, ns=(1, 1))
    assert conversion.present(installed) is None
    conversion.obtain(installed, engine, check=passes)
    made.write_bytes(b"cut")
    assert conversion.present(installed) is None
    assert count.read_text() == ".."


def test_a_file_elsewhere_is_converted_in_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    SMALL.write(path)
    made = conversion.obtain(path, fake(tmp_path / "engine", "shutil.copy(source, target)"), check=passes)
    assert made.parent == paths.cache_dir() / "converted" and made.name.startswith("mine-")
    assert left_in(tmp_path) == {"mine.gguf", "engine", *left_in(tmp_path)} - {made.name}


def test_what_it_takes_is_told(installed: Path) -> None:
    assert conversion.announcement(installed) == "small is converted for this engine (1 MB → 1 MB, about 1 s, once)"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError("no")])
def test_an_interrupted_conversion_leaves_nothing_and_begins_anew(
    installed: Path, tmp_path: Path, error: BaseException
) -> None:
    engine = fake(tmp_path / "engine", "shutil.copy(source, target); print('[ 1/ 2] one', flush=True)")

    def interrupted(progress: Progress) -> None:
        if progress.done:
            raise error

    with pytest.raises((KeyboardInterrupt, ModelError)):
        conversion.obtain(installed, engine, on_progress=interrupted, check=passes)
    assert left_in(installed.parent) == {"small.gguf"}
    assert conversion.obtain(installed, engine, check=passes).is_file()


def test_a_quantizer_that_fails_is_told_with_its_last_words(installed: Path, tmp_path: Path) -> None:
    engine = fake(tmp_path / "engine", "print('this is no model'); sys.exit(3)")
    with pytest.raises(ModelError, match="status 3") as caught:
        conversion.obtain(installed, engine)
    assert "this is no model" in caught.value.detail
    assert left_in(installed.parent) == {"small.gguf"}


def test_a_full_disk_is_told_before(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="1 kB are free"):
        conversion.obtain(installed, fake(tmp_path / "engine", ""))


def test_weights_that_changed_are_found(bitnet: EngineBinary, installed: Path) -> None:
    converted = conversion.obtain(installed, bitnet)
    conversion.require(installed, converted, bitnet)
    data = bytearray(converted.read_bytes())
    _, at = conversion._matrices(converted)["blk.1.ffn_up.weight"]
    data[at + 4] ^= 0b01
    converted.write_bytes(data)
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight changed"):
        conversion.require(installed, converted, bitnet)


def test_a_model_whose_matrices_count_for_nothing_is_found(
    bitnet: EngineBinary, installed: Path, tmp_path: Path
) -> None:
    """As ik_llama.cpp computes an I2_S file: the check of the weights alone is left out."""
    converted = tmp_path / "m.gguf"
    SmallModel("IQ2_BN", "bitnet-b1.58").write(converted)
    data = bytearray(converted.read_bytes())
    for name, (tensor, at) in conversion._matrices(converted).items():
        if tensor.kind == tensor_types.IQ2_BN:
            rows, size = tensor.shape[1], tensor_types.row_size(tensor_types.IQ2_BN, tensor.shape[0])
            for row in range(rows):
                data[at + row * size : at + row * size + 4] = bytes(4)
        assert name
    converted.write_bytes(data)
    with pytest.raises(ModelError, match="do not depend on the words before"):
        conversion.require(tmp_path / "m.gguf", converted, bitnet)


def test_what_is_wrong_with_2b4t_is_mended_in_the_converted_file(tmp_path: Path) -> None:
    source, words = llama3_file.write(tmp_path / "b.gguf"), tmp_path / "words"
    engine = fake(
        tmp_path / "engine", f"shutil.copy(source, target); json.dump(sys.argv[1:], open({str(words)!r}, 'w'))"
    )
    converted = conversion.obtain(source, engine, check=passes)
    said = json.loads(words.read_text())
    assert said[:3] == ["--allow-requantize", "--override-kv", "tokenizer.ggml.pre=str:llama-bpe"]
    assert said[-2] == "iq2_bn"
    template = read_header(converted).chat_template
    assert template.startswith(TEMPLATES["bitnet"]) and len(template) == len(llama3_file.PLACEHOLDER)
    assert not template.removeprefix(TEMPLATES["bitnet"]).strip("{# }")
    assert "template" not in repair(read_header(converted)).note
    assert read_header(source).chat_template == llama3_file.PLACEHOLDER


def test_rows_are_read_as_they_are_packed() -> None:
    weights = bytes(at * 7 % 3 for at in range(512))
    packed = b"".join(
        bytes(weights[at + j] << 6 | weights[at + 32 + j] << 4 | weights[at + 64 + j] << 2 | weights[at + 96 + j]
              for j in range(32))
        for at in range(0, 512, 128)
    )  # fmt: skip
    assert tensor_types.codes(tensor_types.I2_S, packed) == weights


def test_the_original_may_go_after_the_check(installed: Path, tmp_path: Path) -> None:
    store.write_record(installed, store.ModelRecord("hf:a/b/c.gguf", installed.stat().st_size, "0" * 64, license="MIT"))
    with pytest.raises(OSError):
        conversion.replace_source(installed)
    engine = fake(tmp_path / "engine", "shutil.copy(source, target); open(target, 'ab').write(bytes(32))")
    made = conversion.obtain(installed, engine, check=passes)
    content = made.read_bytes()
    conversion.replace_source(installed)
    assert installed.read_bytes() == content and left_in(installed.parent) == {"small.gguf", "small.json"}
    model = store.find("small")
    assert model is not None and model.record is not None
    assert (model.record.origin, model.record.converted) == ("hf:a/b/c.gguf", "IQ2_BN")
    assert not verify(model, {}).problems


def test_a_pull_ends_with_the_conversion(
    bitnet: EngineBinary, installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(discovery, "candidates", lambda *_, **__: iter([EngineCandidate("here", bitnet.path, bitnet)]))
    shown.after_pull(installed, EngineRequest(), alone=False)
    told = capsys.readouterr().err
    assert "small is converted for this engine" in told and "Converting small" in told and "is kept" in told
    shown.after_pull(installed, EngineRequest(), alone=True)
    told = capsys.readouterr().err
    assert "was removed" in told and "Converting" not in told
    assert read_info(installed).quantization == "IQ2_BN"
    shown.after_pull(installed, EngineRequest(), alone=True)
    assert not capsys.readouterr().err


# Other engines of ik_llama.cpp


def ik_program(folder: Path) -> EngineBinary:
    folder.mkdir(parents=True, exist_ok=True)
    return EngineBinary(folder / "llama-cli", Dialect.CLASSIC, "1", HelpOptions(), EngineVariant.IK)


def test_a_compiled_engine_converts_with_the_quantizer_beside_it(
    home: Path, tmp_path: Path, installed: Path, bitnet: EngineBinary
) -> None:
    engine = ik_program(tmp_path / "build")
    info = read_info(installed)
    assert conversion.quantizer(engine) is None and not conversion.is_for(engine, info)
    (tmp_path / "build" / "llama-quantize").write_text("#!/bin/sh\n")
    assert conversion.quantizer(engine) == tmp_path / "build" / "llama-quantize"
    assert conversion.is_for(engine, info)
    (tmp_path / "build" / "llama-quantize").unlink()
    paths.engine_home().mkdir(parents=True)
    (paths.engine_home() / bitnet.path.name).symlink_to(bitnet.path)  # that of the prebuilt engine
    found = conversion.quantizer(engine)
    assert found is not None and found.is_relative_to(paths.engine_home()) and conversion.is_for(engine, info)
    for other in (EngineVariant.LLAMA, EngineVariant.BITNET):
        assert not conversion.is_for(replace(engine, make=other), info)


_COMPLETION = """\
#!{python}
import sys
arguments = sys.argv[1:]
text = arguments[arguments.index("-p") + 1]
print({reply})
"""


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ("answers.get(text, text[:4])", ""),
        ("'XYZ'", "a small model, converted in the same way, replies"),
        ("answers.get(text, 'same')", "do not depend on the words before"),
        ("answers.get(text, text[:4] + arguments[arguments.index('-b') + 1])", "token by token differ"),
    ],
)
def test_a_conversion_is_checked_with_the_program_too(
    installed: Path, bitnet: EngineBinary, tmp_path: Path, reply: str, wrong: str
) -> None:
    engine = ik_program(tmp_path)
    answers = {prompt_text(question(number)): text for number, text in ANSWERS[SMALL]}
    engine.path.write_text(_COMPLETION.format(python=sys.executable, reply=reply.replace("answers", repr(answers))))
    engine.path.chmod(0o755)
    paths.engine_home().mkdir(parents=True)
    (paths.engine_home() / bitnet.path.name).symlink_to(bitnet.path)
    if not wrong:
        assert conversion.obtain(installed, engine) == conversion.present(installed)
        return
    with pytest.raises(ModelError, match=wrong):
        conversion.obtain(installed, engine)
    assert left_in(installed.parent) == {"small.gguf"}


def test_a_program_that_fails_is_told(installed: Path, bitnet: EngineBinary, tmp_path: Path) -> None:
    engine = ik_program(tmp_path)
    engine.path.write_text("#!/bin/sh\necho cannot load >&2; exit 3\n")
    engine.path.chmod(0o755)
    paths.engine_home().mkdir(parents=True)
    (paths.engine_home() / bitnet.path.name).symlink_to(bitnet.path)
    with pytest.raises(ModelError, match="llama-cli ended with status 3: cannot load"):
        conversion.obtain(installed, engine)


def test_a_build_that_cannot_convert_is_no_engine_for_i2_s(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ik_program(tmp_path / "build")
    engine.path.write_bytes(b"i2_s\0iq2_bn\0q6_K\0bitnet-b1.58\0f32\0f16\0")
    candidate = EngineCandidate("here", engine.path, engine)
    monkeypatch.setattr(discovery, "candidates", lambda *_, **__: iter([candidate]))
    assert missing_package(EngineRequest(), "bitnet-2b") == "bitnet"
    with pytest.raises(EngineMissingError, match="needs the engine bitnet"):
        select(EngineRequest(), installed)
    (tmp_path / "build" / "llama-quantize").write_text("")
    assert missing_package(EngineRequest(), "bitnet-2b") == ""
    assert select(EngineRequest(), installed).contender.converts
