"""The doctor: judgments on made-up facts, and the whole of it on this computer, sound and broken."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from pathlib import Path
from typing import cast

import pytest
from api_server import Answer, Threaded, ollama, whole
from program import Start, fake_engine, run, start

from bitnet_chat import paths
from bitnet_chat.config import Settings
from bitnet_chat.doctor import benchmark, checks, environment, files, hardware, model, server
from bitnet_chat.doctor.benchmark import KNOWN_ANSWERS, BenchmarkReply, ThreadRate
from bitnet_chat.doctor.finding import Finding, FindingStatus
from bitnet_chat.doctor.hardware import BuildInstructions, MemoryFacts, ProcessorInstructions
from bitnet_chat.engine.binary import EngineBinary, EngineVariant
from bitnet_chat.errors import EngineDiedError, ModelError
from bitnet_chat.models.info import read_info
from bitnet_chat.prompt_cache.key import StateIdentity
from bitnet_chat.prompt_cache.store import StateStore

__all__ = ["start"]
SCRIPT = Path(__file__).parents[1] / "support" / "without_pty.py"


def doctor(*flags: str, script: Path | None = None, **more: str) -> tuple[int, dict[str, Finding]]:
    """Exit code and findings by ``group/name``."""
    done = run("doctor", "--json", "--quick", *flags, script=script, **more)
    assert done.stderr == b""
    content = json.loads(done.stdout)
    findings = [Finding(**each | {"status": FindingStatus(each["status"])}) for each in content["findings"]]
    assert content["summary"] == {
        status.value: sum(finding.status is status for finding in findings) for status in FindingStatus
    }
    for finding in findings:
        assert finding.seen and (finding.status is FindingStatus.OK or finding.remedy), finding
    return done.returncode, {f"{finding.group}/{finding.name}": finding for finding in findings}


def gguf(
    path: Path, *, kind: int, name: str = "demo", template: str = "{{ x }}", elements: int = 256, cut: int = 0
) -> Path:
    """A model with one tensor, by hand."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = [("general.architecture", "bitnet-b1.58"), ("general.name", name)]
    if template:
        pairs.append(("tokenizer.chat_template", template))
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs) + 1)
    head += b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs)
    head += text("bitnet-b1.58.context_length") + struct.pack("<II", 4, 4096)
    head += text("blk.0.ffn_up.weight") + struct.pack("<IQIQ", 1, elements, kind, 0)
    data = head + bytes(-len(head) % 32) + bytes(elements // 4 + 32 if kind == 36 else elements * 4)
    path.write_bytes(data[: len(data) - cut])
    return path


# On this computer


@pytest.mark.engine
def test_all_is_well_on_this_computer(engine: EngineBinary) -> None:
    code, findings = doctor("--engine", str(engine.path))
    broken = [finding for finding in findings.values() if finding.status is FindingStatus.BROKEN]
    assert (code, broken) == (0, [])
    expected = """program/versions program/installed engine/found engine/instructions model/file model/whole
    model/engine model/template model/context memory/memory memory/disk terminal/screen terminal/unicode
    terminal/colours terminal/pty files/settings files/data files/journal"""
    if engine.make is EngineVariant.IK:  # which does not know the bundled model's weights
        assert "not checked" in findings["answer/known answers"].seen
        return
    assert {"answer/known answers", *expected.split()} <= findings.keys()
    for name in ("answer/known answers", "engine/instructions", "model/engine", "terminal/pty"):
        assert findings[name].status is FindingStatus.OK, findings[name]
    assert findings["engine/found"].facts["dialect"] == engine.dialect.value
    if sys.platform == "linux":
        assert findings["engine/instructions"].facts["build"]
    assert not list(paths.data_dir().glob("*")), "a doctor changes nothing"


@pytest.mark.engine
def test_the_sweep_measures_real_generations(classic: EngineBinary) -> None:
    done = run("doctor", "--json", "--engine", str(classic.path))
    sweep = next(each for each in json.loads(done.stdout)["findings"] if each["group"] == "threads" and each["facts"])
    findings = {each["name"]: each for each in json.loads(done.stdout)["findings"] if each["group"] == "threads"}
    assert sweep and findings["sweep"]["facts"]["rates"]["1"] > 0 and "too small" in findings["sweep"]["seen"]


@pytest.mark.engine
@pytest.mark.skipif(sys.platform == "win32", reason="the tests have no terminal there")
def test_on_a_terminal_it_is_calm_and_ends_in_one_line(start: Start, classic: EngineBinary) -> None:
    screen = start("doctor", "--quick", "--engine", str(classic.path), columns=70, lines=80)
    assert screen.end() == 0
    assert "\x1b[32mok" in screen.written and "70 columns" in " ".join(screen.text.split())
    lines = screen.text.split("\n")
    assert lines[-1].endswith("passed.") and max(map(len, lines)) <= 70
    plain = start("doctor", "--quick", "--engine", str(classic.path), NO_COLOR="1", lines=80)
    assert plain.end() == 0 and "\x1b[3" not in plain.written


def test_without_an_engine_the_rest_is_looked_at_all_the_same(tmp_path: Path) -> None:
    code, findings = doctor("--engine", str(tmp_path / "missing"))
    assert code == 1 and findings["engine/found"].status is FindingStatus.BROKEN
    assert findings["model/file"].status is FindingStatus.OK and findings["files/journal"].status is FindingStatus.OK
    assert "answer/known answers" not in findings


def test_an_engine_that_says_something_else_is_broken(tmp_path: Path) -> None:
    code, findings = doctor("--engine", str(fake_engine(tmp_path)))
    found = findings["answer/known answers"]
    assert code == 1 and found.status is FindingStatus.BROKEN and "you said: how do I leave?" in found.seen


def test_an_engine_that_cannot_start_is_told_with_its_reason(tmp_path: Path) -> None:
    engine = fake_engine(tmp_path)
    engine.write_text(engine.read_text().replace('"$@"', '"$@" --refuse'))
    code, findings = doctor("--engine", str(engine))
    found = findings["answer/known answers"]
    assert code == 1 and found.status is FindingStatus.BROKEN and "unknown model architecture" in found.seen


@pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine waits at a FIFO")
def test_an_engine_that_never_gets_ready_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "gate")
    monkeypatch.setenv("FAKE_ENGINE_GATE", str(tmp_path / "gate"))
    settings = Settings(engine=str(fake_engine(tmp_path)))
    found = benchmark.judge_replies(benchmark.ask(settings, limit=0.2))
    assert found.status is FindingStatus.BROKEN and "not complete within 0.2 s" in found.seen
    assert list(benchmark.measure(settings, (1, 2), 1.0)) == []


def test_without_pseudo_terminals(tmp_path: Path) -> None:
    code, findings = doctor("--engine", str(tmp_path / "missing"), script=SCRIPT)
    assert code == 1 and findings["terminal/pty"].status is FindingStatus.WARN


@pytest.mark.engine
def test_an_i2_s_file_on_a_stock_build_is_explained(classic: EngineBinary, tmp_path: Path) -> None:
    path = gguf(tmp_path / "i2_s.gguf", kind=36)
    code, findings = doctor("--engine", str(classic.path), "-m", str(path))
    assert code == 1
    found = findings["model/engine"]
    assert found.status is FindingStatus.BROKEN and "I2_S" in found.seen and "llama.cpp build" in found.seen
    assert "BitNet/build/bin" in found.remedy and "TQ2_0" in found.remedy
    assert findings["model/whole"].status is FindingStatus.OK


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>404</html>", b"GGUF" + bytes(500)])
def test_a_broken_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    looked = list(checks._guarded("model", lambda: [read_info(path)]))  # type: ignore[list-item]
    assert looked[0].status is FindingStatus.BROKEN and str(path) in looked[0].seen


def test_settings_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    Path(os.environ["BITNET_CHAT_CONFIG"]).write_text("ctx = 'many'\n")
    code, findings = doctor("--engine", str(tmp_path / "missing"), BITNET_CHAT_TEMPRATURE="1")
    assert code == 1 and findings["files/settings"].status is FindingStatus.BROKEN
    assert "BITNET_CHAT_TEMPRATURE" in findings["files/variables"].seen


def test_what_goes_wrong_while_looking_is_a_finding_too() -> None:
    def fall() -> list[Finding]:
        raise ZeroDivisionError("of all things")

    (found,) = checks._guarded("memory", fall)
    assert found.status is FindingStatus.WARN and "of all things" in found.seen


# The journal


def a_journal() -> Path:
    path = paths.data_dir() / "journal.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE words (text)")
    connection.executemany("INSERT INTO words VALUES (?)", [("word " * 200,)] * 200)
    connection.commit()
    connection.close()
    path.chmod(0o600)
    return path


def test_a_sound_journal_is_left_as_it_was() -> None:
    path = a_journal()
    before = path.read_bytes()
    assert files.journal(wanted=True).status is FindingStatus.OK
    assert "switched off" in files.journal(wanted=False).seen
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["journal.db"]


def test_a_journal_in_use_is_looked_at_too() -> None:
    path = a_journal()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO words VALUES ('more')")
    assert files.journal(wanted=True).status is FindingStatus.OK
    connection.close()


@pytest.mark.parametrize("damage", ["cut", "noise", "other"])
def test_a_damaged_journal(damage: str) -> None:
    path = a_journal()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "noise":
        data[5000:90000] = b"\xa5" * 85000
    else:
        data = bytearray(b"this is no database at all, but a text. " * 100)
    path.write_bytes(data)
    found = files.journal(wanted=True)
    assert found.status is FindingStatus.BROKEN and "moves a damaged one aside" in found.remedy
    assert path.read_bytes() == data


def test_saved_states() -> None:
    found = files.states("2K", wanted=True)
    assert (found.facts["count"], found.facts["bytes"], found.facts["limit"]) == (0, 0, 2048)
    assert not paths.states_dir().exists()
    store = StateStore(paths.states_dir(), 2048)

    def keep(*digests: str) -> None:
        pending = store.begin(StateIdentity("m", "e", "v", 1, 1, "f16", "f16", "t"), digests)
        assert pending is not None
        pending.path.write_bytes(bytes(1000))
        store.commit(pending, tokens=1, seconds=1)

    keep("1" * 40, "0" * 40)
    found = files.states("2K", wanted=True)
    assert found.status is FindingStatus.OK and (found.facts["count"], found.facts["shared"]) == (1, 0)
    assert found.seen == f"{paths.states_dir()} holds 1 engine state, 1 kB of at most 2 kB"
    keep("1" * 40)
    found = files.states("2K", wanted=True)
    assert (found.facts["count"], found.facts["shared"], found.facts["bytes"]) == (2, 1, 2000)
    assert found.seen == f"{paths.states_dir()} holds 2 engine states (1 of system prompts), 2 kB of at most 2 kB"
    assert "none is added" in files.states("2K", wanted=False).seen
    assert cast(int, files.states("", wanted=True).facts["limit"]) > 2048


def test_a_journal_that_was_set_aside() -> None:
    assert list(files.set_aside()) == []
    path = a_journal()
    aside, other = (path.with_name(f"journal.db.damaged-20260102-03040{number}") for number in (5, 6))
    path.rename(aside)
    aside.with_name(f"{aside.name}-wal").touch()
    other.write_bytes(b"garbage")
    found, useless = files.set_aside()
    assert found.status is FindingStatus.WARN and str(aside) in found.seen
    assert f"sqlite3 {aside} .recover" in found.remedy and "remove it" in found.remedy
    assert str(other) in useless.seen and "nothing in it can be read" in useless.remedy


def test_journals_that_others_may_read_or_that_are_newer() -> None:
    assert "not exist yet" in files.journal(wanted=True).seen
    path = a_journal()
    if sys.platform != "win32":
        path.chmod(0o644)
        found = files.journal(wanted=True)
        assert found.status is FindingStatus.WARN and found.remedy.startswith("chmod 600")
        path.chmod(0o600)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "later version" in files.journal(wanted=True).seen


def test_a_data_folder_that_is_a_file(home: Path) -> None:
    (home / "data").write_text("in the way")
    assert files.data_folder().status is FindingStatus.BROKEN


# Instructions

LOG = "x\nI system_info: n_threads = 1 / 2 | CPU : SSE3 = 1 | AVX2 = 1 | LLAMAFILE = 1 | REPACK = 1 | \n"
OLD = "system_info: n_threads = 2 (n_threads_batch = 2) / 2 | AVX = 1 | AVX_VNNI = 0 | AVX2 = 1 | NEON = 0 | \n"


def test_what_a_build_uses_is_read_from_its_log() -> None:
    assert hardware.build_of(LOG) == BuildInstructions(
        frozenset({"SSE3", "AVX2", "LLAMAFILE", "REPACK"}), complete=True
    )
    assert hardware.build_of(OLD) == BuildInstructions(frozenset({"AVX", "AVX2"}), complete=False)
    assert hardware.build_of("nothing of the kind") is None


@pytest.mark.parametrize(
    ("words", "used", "status", "said"),
    [
        ("pni avx2", {"SSE3", "AVX2"}, FindingStatus.OK, "AVX2"),
        ("pni avx avx2", {"SSE3", "AVX2"}, FindingStatus.WARN, "has AVX,"),
        ("pni", {"SSE3", "AVX2"}, FindingStatus.BROKEN, "AVX2, which this CPU does not have"),
        ("avx512f avx512cd avx512bw avx512dq", set(), FindingStatus.OK, ""),  # one of five is missing
        ("avx512f avx512cd avx512bw avx512dq avx512vl", set(), FindingStatus.WARN, "AVX512"),
        ("asimd asimddp i8mm", {"NEON", "DOTPROD", "ARM_FMA"}, FindingStatus.WARN, "MATMUL_INT8"),
    ],
)
def test_a_build_against_a_processor(words: str, used: set[str], status: FindingStatus, said: str) -> None:
    found = hardware.judge_instructions(
        BuildInstructions(frozenset(used), complete=True), ProcessorInstructions(frozenset(words.split()))
    )
    assert found.status is status and said in found.seen


def test_what_nobody_tells_is_not_held_against_anybody() -> None:
    build = BuildInstructions(frozenset({"AVX2", "AVX512_VNNI"}), complete=True)
    some = ProcessorInstructions(frozenset({"avx2"}), reportable=frozenset({"avx2", "avx"}))
    assert hardware.judge_instructions(build, some).status is FindingStatus.OK
    assert hardware.judge_instructions(build, None).status is FindingStatus.OK
    assert hardware.judge_instructions(None, some).status is FindingStatus.OK
    old = BuildInstructions(frozenset({"AVX2"}), complete=False)
    assert (
        hardware.judge_instructions(old, ProcessorInstructions(frozenset({"avx2", "avx512f", "avx"}))).status
        is FindingStatus.OK
    )


def test_processors_of_three_platforms() -> None:
    assert hardware.of_cpuinfo("processor : 0\nflags\t\t: fpu avx2 pni\n\n") == {"fpu", "avx2", "pni"}
    assert hardware.of_cpuinfo("Features : fp asimd i8mm\n") == {"fp", "asimd", "i8mm"}
    assert hardware.of_cpuinfo("nothing") is None
    apple = "hw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_SME: 0\n"
    assert hardware.of_sysctl(apple) == {"asimd", "i8mm"}
    intel = "machdep.cpu.features: FPU SSE3 SSSE3 AVX1.0 FMA\nmachdep.cpu.leaf7_features: AVX2 BMI2 AVX512VNNI\n"
    found = hardware.of_sysctl(intel)
    assert found is not None and {"pni", "avx", "avx2", "bmi2", "avx512_vnni"} <= found


# Models


STOCK = frozenset({"q6_K", "f32", "bitnet-b1.58"})


def judged(path: Path, *, names: frozenset[str] | None = STOCK, context: int = 0) -> dict[str, Finding]:
    """``names``: what the engine knows."""
    found = model.judge(read_info(path), context=context, names=names, engine="llama-cli")
    return {each.name: each for each in found}


def test_models_against_engines(tmp_path: Path) -> None:
    ternary = gguf(tmp_path / "a.gguf", kind=36)
    assert [judged(ternary, names=known)["engine"].status for known in (STOCK | {"i2_s"}, None, STOCK)] == list(
        FindingStatus
    )
    plain = gguf(tmp_path / "b.gguf", kind=0)
    assert judged(plain)["engine"].status is judged(plain, names=None)["engine"].status is FindingStatus.OK
    strange = judged(plain, names=STOCK - {"bitnet-b1.58"})["engine"]
    assert strange.status is FindingStatus.BROKEN and "architecture bitnet-b1.58" in strange.seen
    unknown = judged(gguf(tmp_path / "c.gguf", kind=99))
    assert unknown["engine"].status is FindingStatus.WARN and unknown["whole"].status is FindingStatus.OK


def test_models_that_are_cut_off_or_without_a_template_or_asked_too_much(tmp_path: Path) -> None:
    found = judged(gguf(tmp_path / "a.gguf", kind=0, cut=1))["whole"]
    assert found.status is FindingStatus.BROKEN and "ends too early" in found.seen
    assert judged(gguf(tmp_path / "b.gguf", kind=0, template=""))["template"].status is FindingStatus.WARN
    found = judged(gguf(tmp_path / "c.gguf", kind=0), context=8192)["context"]
    assert found.status is FindingStatus.WARN and found.remedy == "--ctx 4096"
    assert judged(tmp_path / "c.gguf", context=4096)["context"].status is FindingStatus.OK
    with pytest.raises(ModelError):
        read_info(tmp_path / "missing.gguf")


# Answers, threads, memory, terminal


def test_answers() -> None:
    known = tuple(answer for _, _, answer in KNOWN_ANSWERS)
    assert benchmark.judge_replies(BenchmarkReply(known)).status is FindingStatus.OK
    other = benchmark.judge_replies(BenchmarkReply((f"Well: {KNOWN_ANSWERS[0][1]}", known[1])))
    assert other.status is FindingStatus.WARN and "Well: /exit" in other.seen
    assert benchmark.judge_replies(BenchmarkReply(("potato", known[1]))).status is FindingStatus.BROKEN
    died = benchmark.judge_replies(
        BenchmarkReply(error=EngineDiedError("the engine was killed (SIGILL) while it loaded"))
    )
    assert died.status is FindingStatus.BROKEN and "another processor" in died.remedy


def test_threads() -> None:
    assert benchmark.counts(physical=8, logical=16, current=8) == (8, 2, 4, 16, 1)
    assert benchmark.counts(physical=1, logical=1, current=1) == (1,)
    rates = [ThreadRate(1, 5.0), ThreadRate(2, 9.0), ThreadRate(8, 20.0), ThreadRate(16, 15.0)]
    fine = benchmark.judge_threads(rates, current=8, physical=8, tiny=False)
    assert fine.status is FindingStatus.OK and "45 % of the best" in fine.seen
    slow = benchmark.judge_threads(rates, current=16, physical=8, tiny=False)
    assert slow.status is FindingStatus.WARN and slow.remedy.startswith("-t 8")
    assert benchmark.judge_threads(rates, current=16, physical=8, tiny=True).status is FindingStatus.OK
    assert benchmark.judge_threads([], current=1, physical=1, tiny=False).status is FindingStatus.WARN


def test_memory() -> None:
    has = MemoryFacts(total=8_000_000_000, available=3_000_000_000, swap=1_000_000_000, swap_used=5)
    assert [hardware.judge_memory(has, need).status for need in (None, 10**9)] == [FindingStatus.OK] * 2
    assert "more than the free memory" in hardware.judge_memory(has, 4_000_000_000).seen
    assert "more than the total" in hardware.judge_memory(has, 9_000_000_000).seen
    assert hardware.judge_memory(None, 1).status is FindingStatus.OK


def test_terminals() -> None:
    def looked(**variables: str) -> dict[str, Finding]:
        seen = environment.TerminalFacts(True, True, 80, 24, variables.pop("encoding", "UTF-8"), variables)
        return {each.name: each for each in environment.judge_terminal(seen)}

    fine = looked(TERM="xterm-256color", COLORTERM="truecolor")
    assert {each.status for each in fine.values()} == {FindingStatus.OK} and fine["colours"].facts == {"colours": True}
    assert looked(TERM="xterm", NO_COLOR="1")["colours"].facts == {"colours": False}
    assert (
        looked(TERM="dumb")["screen"].status is FindingStatus.WARN and looked()["screen"].status is FindingStatus.WARN
    )
    assert looked(TERM="xterm", encoding="ANSI_X3.4-1968")["unicode"].status is FindingStatus.WARN
    nobody = {
        each.name: each
        for each in environment.judge_terminal(environment.TerminalFacts(False, False, 0, 0, "utf-8", {}))
    }
    assert {each.status for each in nobody.values()} == {FindingStatus.OK}


# Where somebody else answers


def of_server(**settings: object) -> dict[str, Finding]:
    return {each.name: each for each in server.look(Settings(**settings))}  # type: ignore[arg-type]


def test_with_a_server_elsewhere_no_engine_is_looked_for() -> None:
    with Threaded(ollama) as elsewhere:
        code, findings = doctor(
            "--backend", "ollama", "--base-url", elsewhere.url, "--engine", "/nowhere", "-m", "words"
        )
        assert code == 0 and not [name for name in findings if name.startswith(("engine/", "answer/", "model/"))]
        assert findings["server/answers"].facts["models"] == 1 and "words is used" in findings["server/model"].seen
        assert {"memory/memory", "terminal/screen", "files/journal"} <= findings.keys()
        found = of_server(backend="ollama", base_url=elsewhere.url, model="llama")
        assert found["model"].status is FindingStatus.WARN and "words:latest" in found["model"].seen
        # It is not a bitnet-chat serve, and has no API of the other kind.
        assert "not a bitnet-chat serve" in of_server(attach=elsewhere.url)["answers"].seen
        assert of_server(backend="openai", base_url=elsewhere.url)["answers"].status is FindingStatus.BROKEN
    for settings in ({"backend": "ollama", "base_url": elsewhere.url}, {"attach": elsewhere.url}):
        found = of_server(**settings)
        assert found["answers"].status is FindingStatus.BROKEN and elsewhere.url in found["answers"].seen
    assert "--base-url" in of_server(backend="openai")["answers"].remedy


@pytest.mark.parametrize(
    ("answer", "status", "model", "words"),
    [
        (whole({"data": [{"id": "a"}, {"id": "b"}]}), FindingStatus.OK, "", "a is used, the first of: a, b"),
        (whole({"data": []}), FindingStatus.BROKEN, "", "lists no model"),
        (whole({"error": {"message": "no such route"}}, 404), FindingStatus.OK, "mine", "mine is used"),
    ],
)
def test_what_a_server_can_answer_with(answer: Answer, status: FindingStatus, model: str, words: str) -> None:
    with Threaded(lambda _: answer) as elsewhere:
        found = of_server(backend="openai", base_url=elsewhere.url, model=model)
    assert found["answers"].status is FindingStatus.OK
    assert found["model"].status is status and words in found["model"].seen


def test_a_key_that_is_wrong() -> None:
    with Threaded(lambda _: whole({"error": {"message": "who are you?"}}, 401)) as elsewhere:
        found = of_server(backend="openai", base_url=elsewhere.url, model="m", backend_key="hush-hush")
    assert found["answers"].status is FindingStatus.BROKEN and "who are you?" in found["answers"].seen
    assert "hush" not in found["answers"].seen


@pytest.mark.engine
def test_a_llama_server_of_our_own(classic: EngineBinary, tmp_path: Path) -> None:
    code, findings = doctor("--backend", "llama-server", "--engine", str(classic.path))
    assert code == 0 and findings["server/found"].seen.startswith("llama-server, ")
    assert "model/engine" in findings and "engine/found" not in findings
    (found,), binary = server.own(Settings(engine=str(tmp_path)), "")
    assert binary is None and found.status is FindingStatus.BROKEN and "llama-server" in found.seen


def test_known_answers_are_asked_of_the_bundled_model_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    async def ask(settings: Settings, limit: float) -> BenchmarkReply:
        asked.append(settings)
        return BenchmarkReply()

    monkeypatch.setattr(benchmark, "_ask", ask)
    benchmark.ask(Settings(model="another"))
    assert [each.model for each in asked] == [str(paths.bundled_model())]
