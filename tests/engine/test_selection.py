"""Which engine runs which model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend, advised_sampling
from bitnet_chat.cli import engine as cli
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import conversion, discovery, known_answer_results, speeds
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, HelpOptions
from bitnet_chat.engine.discovery import EngineCandidate
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.known_answer_model import SmallModel, question
from bitnet_chat.engine.known_answer_results import ANSWERS
from bitnet_chat.engine.selection import (
    EngineOption,
    EngineRequest,
    choose,
    judge,
    missing_for_bitnet,
    missing_package,
    select,
)
from bitnet_chat.engine.speeds import EngineSpeed
from bitnet_chat.engine_checks import known_answers
from bitnet_chat.errors import EngineMissingError, EngineNotFoundError
from bitnet_chat.events import Completed
from bitnet_chat.models import store
from bitnet_chat.models.info import read_info

Offer = Callable[..., None]


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """These engines are found, in this order."""

    def offer(*engines: EngineBinary) -> None:
        def candidates(
            engine: str | None = None, configured: str | None = None, *, limit: float | None = None
        ) -> Iterator[EngineCandidate]:
            if engine:
                yield from real(engine, configured, limit=limit)
            else:
                yield from (EngineCandidate("here", each.path, each) for each in engines)

        monkeypatch.setattr(discovery, "candidates", candidates)

    real = discovery.candidates
    return offer


@pytest.fixture
def i2_s(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    SmallModel("I2_S", "bitnet-b1.58").write(path)
    return path


def small(tmp_path: Path, weights: str) -> Path:
    path = tmp_path / f"{weights}.gguf"
    SmallModel(weights).write(path)
    return path


def contender(name: str, obstacle: str = "", speed: EngineSpeed | None = None) -> EngineOption:
    return EngineOption(EngineBinary(Path(name), Dialect.CLASSIC, "1", HelpOptions()), "PATH", obstacle, speed=speed)


# The choice


def test_the_first_that_can_is_taken_and_another_says_why() -> None:
    first, second, third = contender("first"), contender("second"), contender("third", "it cannot")
    choice = choose([first, second])
    assert choice is not None and (choice.contender, choice.reason) == (first, "")
    choice = choose([third, second])
    assert choice is not None and choice.contender is second
    assert choice.reason == "second is used: third cannot run this model (it cannot)"
    assert choose([third]) is None and choose([]) is None


def test_a_faster_one_is_taken_where_both_were_measured() -> None:
    slow, fast, alike = EngineSpeed(100, 10), EngineSpeed(200, 20), EngineSpeed(101, 10.2)
    choice = choose([contender("slow", speed=slow), contender("fast", speed=fast)])
    assert choice is not None
    assert choice.reason == "fast is used: with this model it is 2.0 times as fast as slow"
    for others in ([contender("slow", speed=slow), contender("alike", speed=alike)],
                   [contender("unmeasured"), contender("fast", speed=fast)],
                   [contender("slow", speed=slow), contender("unmeasured")]):  # fmt: skip
        choice = choose(others)
        assert choice is not None and choice.contender is others[0] and not choice.reason


# What is known of real engines


def test_the_model_decides(
    at_hand: Offer, native: EngineBinary, bitnet: EngineBinary, i2_s: Path, tmp_path: Path
) -> None:
    at_hand(native, bitnet)
    known_answers.check(bitnet, [SmallModel("Q4_1"), SmallModel("Q8_0"), SmallModel("F16"), SmallModel("F32")])
    chosen = select(EngineRequest(), i2_s)
    assert chosen.contender.engine is bitnet and chosen.contender.converts
    assert chosen.reason.startswith("bitnet is used: llama.cpp cannot run this model")
    assert select(EngineRequest(), i2_s) == chosen  # from what is remembered
    for weights in ("TQ2_0", "Q4_1", "Q8_0"):
        chosen = select(EngineRequest(), small(tmp_path, weights))
        assert chosen.contender.engine is native and not chosen.reason, weights
    chosen = select(EngineRequest(), small(tmp_path, "IQ2_BN"))
    assert chosen.contender.engine is bitnet and not chosen.contender.converts
    assert judge(EngineRequest())([read_info(each) for each in (i2_s, small(tmp_path, "TQ2_0"))]) == ["", ""]


def test_what_an_engine_computes_wrongly_or_was_not_asked_goes_to_another(
    at_hand: Offer, native: EngineBinary, bitnet: EngineBinary, tmp_path: Path
) -> None:
    at_hand(bitnet, native)
    chosen = select(EngineRequest(), small(tmp_path, "Q4_1"))
    assert chosen.contender.engine is native and "its answers are not known" in chosen.reason
    known_answers.check(bitnet, [SmallModel("Q4_1"), SmallModel("Q8_0"), SmallModel("F16"), SmallModel("F32")])
    chosen = select(EngineRequest(), small(tmp_path, "Q4_1"))
    assert chosen.contender.engine is native and "its results with Q4_1 weights are wrong" in chosen.reason
    assert select(EngineRequest(), small(tmp_path, "Q8_0")).contender.engine is bitnet


def test_a_bitnet_build_gets_the_file_as_it_is(
    at_hand: Offer, native: EngineBinary, bitnet: EngineBinary, i2_s: Path, tmp_path: Path
) -> None:
    program = tmp_path / "llama-cli"
    program.write_bytes(b"\x7fELF" + bytes(4) + b"\0".join((b"", b"i2_s", b"q6_K", b"f32", b"f16", b"llama-bpe",
                                                            b"bitnet-b1.58", b"")))  # fmt: skip
    build = EngineBinary(program, Dialect.CLASSIC, "1", HelpOptions(), EngineVariant.BITNET)
    at_hand(native, build, bitnet)
    chosen = select(EngineRequest(), i2_s)
    assert chosen.contender.engine is build and not chosen.contender.converts
    known_answer_results.keep(build, {"I2_S (bitnet-b1.58)": "it says something else"})
    assert select(EngineRequest(), i2_s).contender.engine is bitnet


def test_a_named_engine_is_taken(at_hand: Offer, native: EngineBinary, bitnet: EngineBinary, i2_s: Path) -> None:
    at_hand(native, bitnet)
    chosen = select(EngineRequest(engine=str(native.path)), i2_s)
    assert chosen.contender.engine == native and not chosen.reason
    assert select(EngineRequest(engine=str(bitnet.path)), i2_s).contender.converts


def test_flags_of_the_engine_go_to_one_that_takes_them(
    at_hand: Offer, native: EngineBinary, classic: EngineBinary, tmp_path: Path
) -> None:
    at_hand(native, classic)
    path = small(tmp_path, "TQ2_0")
    assert select(EngineRequest(), path).contender.engine is native
    assert select(EngineRequest(flags=True), path).contender.engine is classic


def test_a_missing_engine_is_named(at_hand: Offer, native: EngineBinary, i2_s: Path) -> None:
    at_hand(native)
    with pytest.raises(EngineMissingError) as caught:
        select(EngineRequest(), i2_s)
    assert caught.value.package == "bitnet"
    assert caught.value.what == "small needs the engine bitnet, which is not installed"
    assert caught.value.remedy.startswith("bitnet-chat engine install bitnet")
    assert missing_package(EngineRequest(), str(i2_s)) == missing_package(EngineRequest(), "bitnet-2b") == "bitnet"
    assert missing_package(EngineRequest(), "") == missing_package(EngineRequest(), "qwen3-4b") == ""
    assert missing_for_bitnet(EngineRequest()).startswith("installs the engine bitnet (")
    assert judge(EngineRequest())([read_info(i2_s)])[0].startswith("needs the engine bitnet (")
    at_hand()
    assert missing_package(EngineRequest(), "") == "llama.cpp"
    with pytest.raises(EngineNotFoundError, match="no engine was found"):
        select(EngineRequest(), i2_s)


def test_with_the_engine_nothing_is_missing(at_hand: Offer, bitnet: EngineBinary, i2_s: Path) -> None:
    at_hand(bitnet)
    assert missing_package(EngineRequest(), str(i2_s)) == missing_package(EngineRequest(), "bitnet-2b") == ""
    assert missing_for_bitnet(EngineRequest()) == ""


# The whole way


def test_an_i2_s_file_answers_through_the_prebuilt_engine(
    at_hand: Offer, native: EngineBinary, bitnet: EngineBinary, i2_s: Path
) -> None:
    at_hand(native, bitnet)

    async def answers() -> list[str]:
        backend = LocalEngineBackend(Settings(model=str(i2_s), temperature=0.0, threads=1, journal=False, io="pipe"))
        assert backend.awaits_conversion
        said = []
        try:
            for number, _ in ANSWERS[SmallModel("I2_S", "bitnet-b1.58")]:
                options = ReplyOptions(max_tokens=3)
                async for event in backend.reply(Conversation().with_user(question(number)), options):
                    if isinstance(event, Completed):
                        said.append(event.text)
        finally:
            await backend.close()
        assert not backend.awaits_conversion and backend.model == i2_s
        return said

    known = [text for _, text in ANSWERS[SmallModel("I2_S", "bitnet-b1.58")]]
    assert sum(one == other for one, other in zip(asyncio.run(answers()), known, strict=True)) >= 3
    assert conversion.present(i2_s) is not None


def test_the_sampling_of_the_registry_holds_unless_the_user_sets_his_own(classic: EngineBinary) -> None:
    path = store.path_of("mine")
    path.parent.mkdir(parents=True)
    SmallModel("TQ2_0").write(path)
    assert advised_sampling(path) == Sampling()
    own = paths.config_file().parent / "models.toml"
    own.write_text('[mine]\nurl = "https://example.org/mine.gguf"\n'
                   "sampling = { temperature = 0.6, top_p = 0.9, top_k = 20, min_p = 0.1 }\n")  # fmt: skip
    settings = Settings(engine=str(classic.path), model="mine", journal=False)

    def value(settings: Settings, flag: str, wanted: Sampling | None = None) -> str:
        argv = LocalEngineBackend(settings).protocol().launch(Conversation(), sampling=wanted).argv
        return argv[argv.index(flag) + 1]

    assert [float(value(settings, flag)) for flag in ("--temp", "--top-p", "--top-k", "--min-p")] == [0.6, 0.9, 20, 0.1]
    assert float(value(replace(settings, temperature=0.0), "--temp")) == 0
    asked = Sampling(temperature=0.3, top_p=0.5)
    assert [float(value(settings, flag, asked)) for flag in ("--temp", "--top-p", "--top-k")] == [0.3, 0.5, 20]


# engine bench


def test_bench_measures_each_engine_and_is_used(
    at_hand: Offer, native: EngineBinary, bitnet: EngineBinary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_hand(native, bitnet)
    path = small(tmp_path, "Q4_1")
    assert cli.run(["bench", "-m", str(path), "-t", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["engines"]
    assert [row["engine"] for row in rows] == ["llama.cpp", "bitnet"]
    assert rows[0]["prefill"] > 0 and rows[0]["decode"] > 0 and not rows[0]["problem"]
    assert rows[1]["problem"] == "its results with Q4_1 weights are wrong"
    assert "Measuring llama.cpp" in err
    assert speeds.known().keys() == {(known_answer_results.key(native), "Q4_1")}
    known_answers.check(bitnet, [SmallModel("Q8_0"), SmallModel("F16"), SmallModel("F32")])
    rates = {native: EngineSpeed(10, 10), bitnet: EngineSpeed(20, 20)}
    speeds.keep({(known_answer_results.key(each), "Q8_0"): speed for each, speed in rates.items()})
    assert select(EngineRequest(), small(tmp_path, "Q8_0")).contender.engine is bitnet


def test_bench_shows_a_table(at_hand: Offer, native: EngineBinary, i2_s: Path, tmp_path: Path,
                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    at_hand(native)
    assert cli.run(["bench", "-m", str(i2_s)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "small.gguf, tokens per second:"
    assert lines[1].split() == ["engine", "type", "prefill", "decode"]
    assert lines[2].split()[:2] == ["llama.cpp", "I2_S"] and "require" in lines[2]


def test_what_is_kept_may_be_broken() -> None:
    paths.data_dir().mkdir(parents=True)
    for content in ("", "[]", '{"format": 1, "engines": 3}', '{"format": 1, "engines": {"a": {"b": {"prefill": 0}}}}'):
        for name in ("speeds.json", "known-answers.json"):
            (paths.data_dir() / name).write_text(content)
        assert speeds.known() == {}
        assert known_answer_results.kept(EngineBinary(Path(__file__), Dialect.CLASSIC, "1", HelpOptions())) == {}


def test_probe_tells_known_answers(bitnet: EngineBinary, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["probe", str(bitnet.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known answers"].startswith("right with IQ1_BN, IQ2_BN")
    assert packages.at(bitnet.path) is not None


def test_a_llama_server_gets_the_sampling_of_the_registry_too(
    monkeypatch: pytest.MonkeyPatch, classic: EngineBinary
) -> None:
    from bitnet_chat.backends import llama_server

    monkeypatch.setattr(llama_server, "advised_sampling", lambda model: Sampling(temperature=0.6, top_k=20))
    settings = Settings(engine=str(classic.path), backend="llama-server", temperature=0.1, journal=False)
    backend = llama_server.LlamaServer(settings).backend()
    assert backend._with_defaults(ReplyOptions()).sampling == Sampling(temperature=0.1, top_k=20)
    asked = ReplyOptions(sampling=Sampling(top_k=5))
    assert backend._with_defaults(asked).sampling == Sampling(temperature=0.1, top_k=5)
