"""Variables that llama.cpp reads: those behind our back are taken out, the others pass."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from program import fake_engine, run

from bitnet_chat.doctor.benchmark import KNOWN_ANSWERS
from bitnet_chat.doctor.engine import judge_variables
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.environment_variables import TAKEN, of_engines, passed, reason
from bitnet_chat.engine.transport import environment


@pytest.fixture
def engine(built_engine: EngineBinary) -> EngineBinary:
    """What these tests are about is in the builds of our own."""
    return built_engine


# With each of them alone an engine of 2024 or 2026 was seen to reply otherwise, not at all, or elsewhere.
HARMFUL = {
    "LLAMA_ARG_LOG_JSONL": "1",
    "LLAMA_ARG_LOG_VERBOSITY": "0",
    "LLAMA_ARG_LOG_FILE": "/nowhere/at/all",
    "LLAMA_ARG_CHAT_TEMPLATE": "llama3",
    "LLAMA_ARG_CHAT_TEMPLATE_FILE": "/nowhere/at/all",
    "LLAMA_ARG_HF_REPO": "a/b",
    "LLAMA_ARG_MODEL_URL": "http://127.0.0.1:9/model.gguf",
    "LLAMA_ARG_DOCKER_REPO": "a",
    "LLAMA_ARG_RPC": "127.0.0.1:9",
    "LLAMA_ARG_N_PREDICT": "3",
    "LLAMA_ARG_KV_UNIFIED_PER_SLOT": "1",
    "LLAMA_ARG_TEMPERATURE": "no number: the engine would not start",
    "LLAMA_ARG_UI_CONFIG_FILE": "/nowhere/at/all",
    "LLAMA_ARG_MCP_SERVERS_CONFIG": "/nowhere/at/all",
    "LLAMA_ARG_PORT": "1",
    "LLAMA_SERVER_ROUTER_PORT": "9",
}
WANTED = """LLAMA_ARG_N_GPU_LAYERS LLAMA_ARG_DEVICE LLAMA_ARG_MAIN_GPU LLAMA_ARG_SPLIT_MODE LLAMA_ARG_TENSOR_SPLIT
LLAMA_ARG_NO_MMAP LLAMA_ARG_MLOCK LLAMA_ARG_LOAD_MODE LLAMA_ARG_FLASH_ATTN LLAMA_ARG_CACHE_TYPE_K LLAMA_ARG_CACHE_TYPE_V
LLAMA_ARG_BATCH LLAMA_ARG_UBATCH LLAMA_ARG_NUMA LLAMA_ARG_KV_OFFLOAD LLAMA_ARG_REPACK LLAMA_ARG_FIT LLAMA_ARG_OFFLINE
LLAMA_ARG_ROPE_FREQ_BASE LLAMA_ARG_SPEC_DRAFT_MODEL LLAMA_ARG_REASONING LLAMA_CACHE HF_TOKEN GGML_VK_VISIBLE_DEVICES
CUDA_VISIBLE_DEVICES PATH HOME"""


def test_those_that_a_flag_of_ours_stands_for_are_taken_out() -> None:
    for name in HARMFUL:
        assert reason(name), name
    for name in WANTED.split():
        assert not reason(name), name
    # The contrary of a flag has a name of its own.
    assert reason("LLAMA_ARG_NO_CONTEXT_SHIFT") == reason("LLAMA_ARG_CONTEXT_SHIFT")
    assert reason("LLAMA_ARG_NO_JINJA") and reason("LLAMA_LOG_COLORS")
    assert all(TAKEN.values())


def test_the_flags_that_we_give_have_no_variable_that_passes(
    engine: EngineBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against what the engine itself says about its variables."""
    import subprocess

    from bitnet_chat.backends.local_engine import LocalEngineBackend
    from bitnet_chat.config import Settings
    from bitnet_chat.conversation import Conversation

    told = subprocess.run([str(engine.path), "--help"], capture_output=True, text=True).stdout
    variables: dict[str, str] = {}
    for option in re.split(r"\n(?=-)", told):
        if found := re.search(r"\(env:\s+(\w+)\)", option):
            names = re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", option.split("(env:")[0].split("  ")[0] + option[:80])
            variables |= dict.fromkeys(names, found[1])
    assert len(variables) > 50
    settings = Settings(engine=str(engine.path), temperature=0.5, seed=1, max_tokens=9, rpc="", journal=False)
    protocol = LocalEngineBackend(settings).protocol()
    argv = protocol.launch(Conversation().with_system("a").with_user("b").with_assistant("c")).argv
    given = [variables[flag] for flag in argv if flag in variables]
    assert len(given) >= 5
    assert [name for name in given if not reason(name)] == ["LLAMA_ARG_BATCH"] * ("--batch-size" in argv)
    monkeypatch.setenv("LLAMA_ARG_BATCH", "64")  # the user's own: then there is no flag
    assert "--batch-size" not in LocalEngineBackend(settings).protocol().launch(Conversation().with_user("b")).argv


def test_what_an_engine_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HARMFUL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LLAMA_ARG_N_GPU_LAYERS", "7")
    got = environment()
    assert not HARMFUL.keys() & got.keys()
    assert got["LLAMA_ARG_N_GPU_LAYERS"] == "7" and got["GGML_NO_BACKTRACE"] == "1" and "PATH" in got
    assert passed({"llama_arg_model": "x", "A": "b"}) == {
        "A": "b",
        "GGML_NO_BACKTRACE": "1",
        "GOMP_SPINCOUNT": "1000",
    }


@pytest.mark.engine
@pytest.mark.parametrize("name", ["all at once", "LLAMA_ARG_LOG_JSONL", "LLAMA_ARG_CHAT_TEMPLATE", "LLAMA_ARG_RPC"])
def test_an_engine_answers_as_without_them(engine: EngineBinary, name: str) -> None:
    variables = HARMFUL if name == "all at once" else {name: HARMFUL[name]}
    flags = ("--engine", str(engine.path), "-t", "1", "--temp", "0", "--stall-timeout", "5")
    done = run(*flags, "how do I leave?", **variables)
    assert (done.returncode, done.stdout.decode()) == (0, KNOWN_ANSWERS[0][2] + "\n"), done.stderr


@pytest.mark.engine
def test_a_server_of_our_own_answers_as_without_them(classic: EngineBinary) -> None:
    server = str(classic.path.with_name(classic.path.name.replace("completion", "server")))
    flags = ("--backend", "llama-server", "--engine", server, "-t", "1", "--temp", "0", "--stall-timeout", "20")
    done = run(*flags, "how do I leave?", **HARMFUL)
    assert (done.returncode, done.stdout.decode()) == (0, KNOWN_ANSWERS[0][2] + "\n"), done.stderr


def test_one_passes_all_the_way(tmp_path: Path) -> None:
    engine = fake_engine(tmp_path)
    seen = tmp_path / "seen"
    text = engine.read_text().replace('*) exec "', f'*) env >> {seen}; exec "')
    engine.write_text(text)
    assert run("--engine", str(engine), "say it", LLAMA_ARG_DEVICE="none", LLAMA_ARG_TOP_K="1").returncode == 0
    lines = seen.read_text().splitlines()
    assert "LLAMA_ARG_DEVICE=none" in lines and not any(line.startswith("LLAMA_ARG_TOP_K") for line in lines)


# What is told


def test_doctor_lists_what_is_set_and_what_was_taken_out() -> None:
    none = judge_variables(["PATH"])
    assert (none.status, none.seen) == ("ok", "no variable of llama.cpp is set")
    wanted = judge_variables(["LLAMA_ARG_DEVICE", "HF_TOKEN", "PATH"])
    assert (wanted.status, wanted.seen) == ("ok", "the engine gets HF_TOKEN, LLAMA_ARG_DEVICE")
    both = judge_variables(["LLAMA_ARG_DEVICE", "LLAMA_ARG_LOG_JSONL", "LLAMA_ARG_CTX_SIZE"])
    assert both.status == "warn" and "LLAMA_ARG_LOG_JSONL: the log is separate" in both.seen
    assert both.seen.endswith("; the engine gets LLAMA_ARG_DEVICE")
    assert both.facts == {"passed": ["LLAMA_ARG_DEVICE"], "taken_out": ["LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_LOG_JSONL"]}
    assert of_engines(["A", "LLAMA_X"]) == ["LLAMA_X"]


@pytest.mark.engine
def test_doctor_and_report_say_names_and_no_values(classic: EngineBinary, tmp_path: Path) -> None:
    variables = {"LLAMA_ARG_LOG_JSONL": "1", "HF_TOKEN": "hf_verysecret1234567890"}
    variables["BITNET_CHAT_ENGINE"] = str(classic.path)
    told = run("doctor", "--quick", "--json", **variables).stdout.decode()
    (finding,) = [each for each in json.loads(told)["findings"] if each["name"] == "variables"]
    assert "HF_TOKEN" in finding["facts"]["passed"]
    assert finding["facts"]["taken_out"] == ["LLAMA_ARG_LOG_JSONL"]
    reported = run("report", "-o", "-", **variables).stdout.decode()
    (line,) = [each for each in map(json.loads, reported.splitlines()) if each.get("name") == "variables"]
    assert line["facts"]["taken_out"] == ["LLAMA_ARG_LOG_JSONL"]
    assert "verysecret" not in told + reported


def test_threads_of_an_engine_sleep_where_others_need_the_processor() -> None:
    assert passed({})["GOMP_SPINCOUNT"] == "1000"
    assert passed({"GOMP_SPINCOUNT": "5"})["GOMP_SPINCOUNT"] == "5"
    assert "GOMP_SPINCOUNT" not in passed({"OMP_WAIT_POLICY": "active"}), "the user has decided"
