"""A model and an engine that do not go together: what is said of them, by the logs of real engines that tried.

The logs in ``logs/`` were written by llama.cpp 0.5.0-dev, BitNet of October 2024 and ik_llama.cpp 0.1.5, each loading a
small model of random weights. Names of files and folders were taken out, long lists and repeated lines cut.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import llama3_file
import pytest
from model_files import engine_file, model_file
from program import run

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.doctor import model as doctor
from bitnet_chat.engine import exit_errors
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.log import EngineLog
from bitnet_chat.engine_output import EngineError
from bitnet_chat.errors import BitnetChatError, EngineDiedError, ModelError
from bitnet_chat.events import Failed
from bitnet_chat.models import engine_support
from bitnet_chat.models.incompatibility import EndedEngine, misfit
from bitnet_chat.models.info import read_info


@pytest.fixture
def engine(built_engine: EngineBinary) -> EngineBinary:
    """What these tests are about is in the builds of our own."""
    return built_engine


LOGS = Path(__file__).parents[1] / "data" / "logs"
# Names that stand in the files of each, of those that matter here.
WORDS = {
    "llama.cpp-2026": ("q6_K", "f32", "tq1_0", "tq2_0", "mxfp4", "bitnet", "llama"),
    "bitnet-2024": ("q6_K", "f32", "tq1_0", "tq2_0", "i2_s", "i8_s", "tl1", "tl2", "bitnet", "llama"),
    "ik": ("q6_K", "f32", "i2_s", "iq1_bn", "iq2_bn", "iq2_bn_r4", "mxfp4", "bitnet", "bitnet-b1.58", "llama"),
}
TYPES = {"i2_s": 36, "tl1": 38, "tl2": 39, "iq1_bn": 134, "iq2_bn": 135, "tq2_0": 35, "tq1_0": 34}
BITNETS_OWN = "{} is a type of BitNet's own, and llama-cli is {} build, which cannot load it"
IKS_OWN = "{} is a type of ik_llama.cpp's own, and llama-cli is {} build, which cannot load it"
OLDER = "llama-cli does not support the architecture bitnet-b1.58: it is older than the model"
TABLES = "weights require lookup tables that are compiled for one model"
CASES = [
    ("llama.cpp-2026-i2_s-bitnet", BITNETS_OWN.format("I2_S", "a llama.cpp"), "failed to load model"),
    ("llama.cpp-2026-cli-i2_s-bitnet", BITNETS_OWN.format("I2_S", "a llama.cpp"), "failed to load model"),
    ("llama.cpp-2026-server-i2_s-bitnet", BITNETS_OWN.format("I2_S", "a llama.cpp"), "failed to load model"),
    ("llama.cpp-2026-tl1-bitnet", BITNETS_OWN.format("TL1", "a llama.cpp"), "failed to load model"),
    ("llama.cpp-2026-tl2-bitnet", BITNETS_OWN.format("TL2", "a llama.cpp"), "has offset"),
    ("llama.cpp-2026-iq2_bn-bitnet", IKS_OWN.format("IQ2_BN", "a llama.cpp"), "invalid ggml type 135"),
    ("llama.cpp-2026-iq1_bn-bitnet", IKS_OWN.format("IQ1_BN", "a llama.cpp"), "invalid ggml type 134"),
    ("llama.cpp-2026-tq2_0-bitnet-b1.58", OLDER, "unknown model architecture: 'bitnet-b1.58'"),
    ("bitnet-2024-iq2_bn-bitnet", IKS_OWN.format("IQ2_BN", "a BitNet"), "GGML_ASSERT(0 <= info->type"),
    ("bitnet-2024-iq1_bn-bitnet", IKS_OWN.format("IQ1_BN", "a BitNet"), "GGML_ASSERT(0 <= info->type"),
    ("bitnet-2024-tl1-bitnet", f"was killed (SIGSEGV) while it loaded the model: TL1 {TABLES}", ""),
    ("bitnet-2024-tl2-bitnet", f"was killed (SIGSEGV) while it loaded the model: TL2 {TABLES}", ""),
    ("bitnet-2024-i2_s-bitnet-b1.58", OLDER, "unknown model architecture: 'bitnet-b1.58'"),
    ("ik-tq2_0-bitnet", "was killed (SIGFPE) while it loaded the model: llama-cli is an ik_llama.cpp build, which", ""),
    ("ik-tl1-bitnet", BITNETS_OWN.format("TL1", "an ik_llama.cpp"), ""),
    ("ik-tl2-bitnet", BITNETS_OWN.format("TL2", "an ik_llama.cpp"), "data is not within the file bounds"),
]


@dataclass
class Ended:
    """See :class:`bitnet_chat.engine.exit_errors.EndedProcess`."""

    argv: list[str]
    exit_code: int | None
    log: EngineLog
    out_of_step: bool = False
    fault: None = None


def log_of(text: str) -> EngineLog:
    log = EngineLog(lambda line: None)
    log.feed(text.encode())
    log.close()
    return log


def recorded(name: str, model: Path, engine: Path) -> Ended:
    first, _, text = (LOGS / f"{name}.txt").read_text("utf-8").partition("\n")
    return Ended([str(engine), "--model", str(model)], int(first.split()[-1]), log_of(text))


def pair(name: str, folder: Path) -> tuple[Path, Path]:
    """A model and an engine of the kind that a recording is of."""
    kind = next(kind for kind in TYPES if f"-{kind}-" in name)
    maker = next(maker for maker in WORDS if name.startswith(maker))
    model = model_file(folder / "model.gguf", TYPES[kind], name.partition(f"-{kind}-")[2])
    return model, engine_file(folder / "bin" / "llama-cli", *WORDS[maker])


@pytest.mark.parametrize(("name", "words", "telling"), CASES, ids=[case[0] for case in CASES])
def test_what_is_said_where_loading_fails(name: str, words: str, telling: str, tmp_path: Path) -> None:
    model, engine = pair(name, tmp_path)
    error = exit_errors.while_loading(recorded(name, model, engine))
    assert isinstance(error, ModelError) and words in error.what
    assert error.remedy and "memory" not in str(error).replace("free device memory", "")
    lines = error.detail.splitlines() or [""]  # what is said of any model, such as the free memory, is left out
    assert telling in lines[0] and "REMOVED" not in lines[0] and len(lines) <= 3
    assert not any("is not marked as EOG" in line for line in lines)


def test_a_wrong_computation_is_no_lack_of_memory(tmp_path: Path) -> None:
    """-8 is SIGFPE."""
    said = "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 12\n"
    argv = [str(engine_file(tmp_path / "llama-cli")), "--model", str(tmp_path / "model.gguf")]
    (tmp_path / "model.gguf").touch()
    for code, words in ((-8, "doctor checks"), (-6, "needs less memory"), (1, "needs less memory")):
        assert words in exit_errors.while_loading(Ended(argv, code, log_of(said))).remedy
        assert exit_errors.while_loading(Ended(argv, code, log_of(said))).detail == said.strip()
    said = "ggml_aligned_malloc: failed to allocate 390625.00 MB"
    for kind in ("model", "failed"):
        refused = EngineError(f"srv: exiting; {said}; srv: failed to load model", kind)
        error = exit_errors.while_loading(Ended(argv, 1, log_of(said)), refused)
        assert error.what.endswith(f": {said}") and "less memory" in error.remedy


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_doctor_says_it_in_the_same_words(name: str, tmp_path: Path) -> None:
    model, engine = pair(name, tmp_path)
    info = read_info(model)
    names = engine_support.known(engine, [info])
    (found,) = [
        each for each in doctor.judge(info, context=0, names=names, engine="llama-cli") if each.name == "engine"
    ]
    error = exit_errors.while_loading(recorded(name, model, engine))
    assert found.remedy == error.remedy and error.what.endswith(found.seen)


@pytest.mark.parametrize("name", [case[0] for case in CASES if not case[0].startswith(("ik", "bitnet-2024-tl"))])
def test_a_script_in_front_of_an_engine_tells_by_the_log(name: str, tmp_path: Path) -> None:
    """Nothing stands in its files; the log names the type, or the architecture."""
    model, _ = pair(name, tmp_path)
    script = engine_file(tmp_path / "llama-cli", "exec")
    error = exit_errors.while_loading(recorded(name, model, script))
    assert isinstance(error, ModelError) and "llama-cli" in error.what


def test_i2_s_on_ik_is_said_before_a_word_of_it_is_shown(tmp_path: Path) -> None:
    """It loads, and computes something else."""
    engine = engine_file(tmp_path / "llama-cli", *WORDS["ik"])
    info = read_info(model_file(tmp_path / "m.gguf", 36, "bitnet-b1.58"))
    found = misfit(info, engine_support.known(engine, [info]), "llama-cli")
    assert found is not None and found.loads and "computes them wrongly" in found.what and "IQ2_BN" in found.remedy
    assert not engine_support.is_bitnet(engine)
    # An engine that did not even take it has failed for another reason.
    assert misfit(info, engine_support.known(engine, [info]), "llama-cli", EndedEngine(1, ("main: error",))) is None
    unlike = read_info(model_file(tmp_path / "b.gguf", 135, "bitnet-b1.58"))
    assert misfit(unlike, engine_support.known(engine, [unlike]), "llama-cli") is None


def test_a_file_that_is_computed_wrongly_is_refused(tmp_path: Path) -> None:
    path = llama3_file.write(tmp_path / "m.gguf", kind=36, file_type=40)
    engine = engine_file(tmp_path / "llama-cli", *WORDS["ik"])
    header = read_info(path).header
    with pytest.raises(ModelError, match="computes them wrongly"):
        engine_support.require_right_results(engine, header)
    engine_support.require_right_results(engine_file(tmp_path / "bitnet", *WORDS["bitnet-2024"]), header)


# Memory

SIGNS = (
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 1.0 MB)",
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 12",
    "llama_kv_cache_init: failed to allocate buffer for kv cache",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "CUDA error: out of memory",
    "warning: failed to mlock 1-byte buffer: Cannot allocate memory",
)


def fine(folder: Path) -> list[str]:
    """The command line of a pair that nothing speaks against."""
    model, engine = model_file(folder / "m.gguf", 35, "bitnet"), folder / "llama-cli"
    return [str(engine_file(engine, *WORDS["llama.cpp-2026"])), "--model", str(model)]


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("code", [1, -6])
def test_advice_about_memory_for_a_sign_of_it(sign: str, code: int, tmp_path: Path) -> None:
    dead = Ended(fine(tmp_path), code, log_of(sign))
    assert "needs less memory" in exit_errors.while_loading(dead).remedy
    if code < 0:
        assert "needs less memory" in exit_errors.restart_limit_error(dead, 3, 60).remedy


def test_advice_about_memory_for_nothing_else(tmp_path: Path) -> None:
    argv = fine(tmp_path)
    free = "common_fit_params: encountered an error while trying to fit params to free device memory: failed"
    for code, text in ((-11, ""), (-8, "main: seed = 1"), (-6, "GGML_ASSERT(x) failed"), (1, f"E {free}")):
        for error in (
            exit_errors.while_loading(Ended(argv, code, log_of(text))),
            exit_errors.restart_limit_error(Ended(argv, code, log_of(text)), 3, 9),
        ):
            assert "memory" not in error.remedy
    assert "needs less memory" in exit_errors.while_loading(Ended(argv, -9, log_of(""))).remedy
    assert "memory" not in exit_errors.restart_limit_error(Ended(argv, -9, log_of(""), out_of_step=True), 3, 9).remedy


def test_a_pair_that_dies_at_its_first_word_is_explained(tmp_path: Path) -> None:
    """ik_llama.cpp loads an I2_S file of the architecture llama, and ends at the first token."""
    engine = engine_file(tmp_path / "llama-cli", *WORDS["ik"])
    model = model_file(tmp_path / "m.gguf", 36, "llama")
    error = exit_errors.restart_limit_error(
        Ended([str(engine), "--model", str(model)], -6, log_of("GGML_ASSERT(x) failed")), 3, 60
    )
    assert isinstance(error, EngineDiedError) and "computes them wrongly" in error.what and "IQ2_BN" in error.remedy


def test_a_pre_tokenizer_that_is_unknown(tmp_path: Path) -> None:
    text = "error loading model: error loading model vocabulary: unknown pre-tokenizer type: 'new_one'"
    error = exit_errors.while_loading(Ended(fine(tmp_path), 1, log_of(text)))
    assert "(new_one)" in error.what and "--override-kv" in error.remedy


# Real engines


def failure(settings: Settings) -> BitnetChatError:
    async def main() -> BitnetChatError:
        backend = open_backend(settings, "")
        try:
            async with asyncio.timeout(60):
                events = [event async for event in backend.reply(Conversation().with_user("hi"), ReplyOptions())]
        finally:
            await backend.close()
        assert isinstance(events[-1], Failed)
        return events[-1].error

    return asyncio.run(main())


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama3_file.write(tmp_path_factory.mktemp("models") / "i2_s.gguf", kind=36, pre="llama-bpe")


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["engine", "llama-server"])
def test_an_i2_s_file_on_a_stock_engine(engine: EngineBinary, backend: str, ternary: Path) -> None:
    """The first thing that an owner of a BitNet model meets."""
    error = failure(Settings(engine=str(engine.path), backend=backend, model=str(ternary), threads=1, ctx=256))
    name = "llama-server" if backend == "llama-server" else engine.path.name
    assert f"I2_S is a type of BitNet's own, and {name} is a llama.cpp build, which cannot load it" in error.what
    assert "--engine BitNet/build/bin" in error.remedy
    assert "REMOVED" not in error.detail.splitlines()[0] and len(error.detail.splitlines()) <= 3


@pytest.mark.engine
def test_batch_says_it_too(classic: EngineBinary, ternary: Path) -> None:
    done = run("-m", str(ternary), "--engine", str(classic.path), "-t", "1", "--no-journal", "--input", "-",
               stdin='{"prompt": "hi"}\n')  # fmt: skip
    assert (
        done.returncode == 4
        and "a type of BitNet's own, and llama-completion is a llama.cpp build" in done.stderr.decode()
    )
