"""Known answers: the table against the reference, right engines, and wrong ones."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import bitnet_reference
import pytest
from bitnet_reference import Model

from bitnet_chat.cli import engine as engine_verb
from bitnet_chat.doctor.benchmark import judge_answers
from bitnet_chat.doctor.finding import FindingStatus
from bitnet_chat.engine import known_answer_model, known_answer_results
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant, HelpOptions
from bitnet_chat.engine.known_answer_model import SmallModel
from bitnet_chat.engine.known_answer_results import ANSWERS, AnswerVerdict, kept, offered
from bitnet_chat.engine.probe import probe
from bitnet_chat.engine_checks import known_answers
from bitnet_chat.engine_checks.known_answers import check
from bitnet_chat.errors import BuildError

Q4_1, Q8_0, TQ2_0 = SmallModel("Q4_1"), SmallModel("Q8_0"), SmallModel("TQ2_0", "bitnet")
I2_S, IQ2_BN = SmallModel("I2_S", "bitnet-b1.58"), SmallModel("IQ2_BN", "bitnet-b1.58")


def wrong(engine: EngineBinary, *models: SmallModel) -> dict[str, str]:
    return {each.model.name: each.wrong for each in check(engine, models) if each.wrong}


@pytest.mark.parametrize("small", [Q4_1, SmallModel("Q6_K"), TQ2_0, I2_S, SmallModel("IQ2_BN")], ids=lambda m: m.name)
def test_the_table_is_what_the_reference_says(small: SmallModel, tmp_path: Path) -> None:
    small.write(tmp_path / "m.gguf")
    number, text = ANSWERS[small][0]
    said, lead = Model(tmp_path / "m.gguf").reply(known_answer_model.tokens(known_answer_model.question(number)), 1)
    assert bytes(said).decode() == text[:1]
    assert lead >= 0.4  # standard deviations of the logits: eight times what engines round


def test_each_prompt_is_longer_than_a_batch_that_shows_the_fault_and_all_end_alike() -> None:
    prompts = [known_answer_model.tokens(known_answer_model.question(number)) for number, _ in ANSWERS[Q4_1]]
    assert all(len(each) >= 100 for each in prompts)
    assert len({tuple(each[-12:]) for each in prompts}) == 1


def test_the_library_of_llama_cpp_is_right(native: EngineBinary) -> None:
    assert {Q4_1, Q8_0, TQ2_0} <= set(offered(native))
    assert not {I2_S, IQ2_BN} & set(offered(native))
    assert not wrong(native, Q4_1, Q8_0, TQ2_0)


def test_what_the_library_of_ik_llama_cpp_computes_wrongly_is_found(bitnet: EngineBinary) -> None:
    engine = bitnet
    assert {Q4_1, Q8_0, IQ2_BN} <= set(offered(engine))
    assert not {I2_S, TQ2_0} & set(offered(engine))
    found = wrong(engine, Q4_1, Q8_0, IQ2_BN, I2_S, TQ2_0)
    assert found.keys() == {Q4_1.name, I2_S.name, TQ2_0.name}
    assert "instead of" in found[Q4_1.name] and "instead of" in found[I2_S.name]
    assert "ended" in found[TQ2_0.name]  # SIGFPE
    assert kept(engine) == found | {Q8_0.name: "", IQ2_BN.name: ""}
    shown = judge_answers(engine, check(engine, [Q4_1, IQ2_BN]))
    assert shown.status is FindingStatus.OK and "not used for Q4_1" in shown.seen


def test_a_program_is_asked_as_in_a_conversation(built_engine: EngineBinary) -> None:
    assert not wrong(built_engine, TQ2_0)


def reading_another(classic: EngineBinary, other: Path) -> EngineBinary:
    """A program that loads the file ``other`` in place of any model."""
    program = other.with_name("llama-completion")
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"words = [{str(other)!r} if word.endswith('.gguf') else word for word in sys.argv[1:]]\n"
        f"os.execv({str(classic.path)!r}, [{str(classic.path)!r}, *words])\n"
    )
    program.chmod(0o755)
    return probe(program)


@pytest.mark.parametrize("is_right", [True, False])
def test_the_probe_of_a_bitnet_build_tells_whether_i2_s_is_right(
    classic: EngineBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    """A build that computes the same weights, and one that computes others."""
    small, other = SmallModel("I2_S"), tmp_path / "other.gguf"
    if is_right:
        bitnet_reference.write_f32(small, other)
    else:
        SmallModel("TQ2_0").write(other)
    engine = replace(reading_another(classic, other), make=EngineVariant.BITNET)
    monkeypatch.setattr(known_answer_results, "offered", lambda engine: [small])
    assert engine_verb._answers(engine).startswith("right with I2_S" if is_right else "WRONG with I2_S: it says ")
    finding = judge_answers(engine, check(engine, [small]))
    assert finding.status is (FindingStatus.OK if is_right else FindingStatus.BROKEN)


def test_a_program_that_computes_wrongly_is_told(classic: EngineBinary, tmp_path: Path) -> None:
    """A build that reads the weights of another model."""
    other = tmp_path / "other.gguf"
    SmallModel("Q5_0").write(other)
    engine = reading_another(classic, other)
    assert "instead of" in wrong(engine, TQ2_0)[TQ2_0.name]
    finding = judge_answers(engine, check(engine, [TQ2_0]))
    assert finding.status is FindingStatus.BROKEN and TQ2_0.name in finding.seen


def test_what_was_asked_is_kept_for_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(engine: EngineBinary, model: SmallModel, path: Path) -> str:
        asked.append(model.name)
        return "it says nothing"

    monkeypatch.setattr(known_answers, "_ask", ask)
    program = tmp_path / "llama-cli"
    program.write_text("one build")
    engine = EngineBinary(program, Dialect.CLASSIC, "1", HelpOptions())
    assert check(engine, [Q4_1]) == check(engine, [Q4_1]) == (AnswerVerdict(Q4_1, "it says nothing"),)
    assert asked == ["Q4_1"]
    assert check(engine, [Q4_1, Q8_0])[1].model == Q8_0
    assert asked == ["Q4_1", "Q8_0"]
    check(engine, [Q4_1], anew=True)
    program.write_text("another build")
    os.utime(program, ns=(1, 1))
    assert not kept(engine)
    check(engine, [Q4_1])
    assert asked == ["Q4_1", "Q8_0", "Q4_1", "Q4_1"]
    monkeypatch.setattr(known_answer_results, "_TABLE", "answers of a later version")
    assert not kept(engine)


def test_an_engine_that_is_right_for_nothing_is_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(known_answers, "check", lambda *_, **__: (AnswerVerdict(Q4_1, "it says nothing"),))
    engine = EngineBinary(tmp_path, Dialect.NATIVE, "1", HelpOptions())
    with pytest.raises(BuildError, match="computes wrong results"):
        known_answers.require(engine)
