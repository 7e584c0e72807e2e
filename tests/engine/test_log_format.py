"""A log that arrives where replies are read: known by its form, and told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import recordings
from program import fake_engine, run

from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.protocols.log_format import LogDetector, log_line

# Of each generation: the first lines of a log, as it came.
LOGS = {
    "2023": "Log start\nmain: build = 1500 (abc)\nmain: built with cc for x86_64-linux-gnu\nmain: seed  = 1700000000\n",
    "2024, plain": "build: 3900 (c82b5e6) with clang version 14\nmain: llama backend init\n"
    "main: load the model and apply lora adapter, if any\nllama_model_loader: loaded meta data with 31 pairs\n",
    "BitNet 2024": "llm_load_print_meta: format           = GGUF V3 (latest)\n"
    "llm_load_print_meta: arch             = bitnet\nllm_load_print_meta: vocab type       = BPE\n",
    "ik": "llama_model_loader: - kv   0:   general.architecture str = llama\n"
    "llama_model_loader: - kv   1:   general.name str = x\nllama_model_loader: - type  f32:   61 tensors\n",
    "prefix": "I llama_completion: llama backend init\nI llama_completion: load the model and apply adapters\n"
    "I cmn  common_init_: fitting params to device memory ...\n",
    "prefix, modern": "\n\nLoading model... \nI cmn  common_param: device_info:\n"
    "I srv          init: using 5 threads for HTTP server\nI srv    load_model: loading model 'a.gguf'\n",
    "timestamps": "0.00.002.313 I llama_completion: llama backend init\n0.00.024.705 I \n"
    "0.00.024.745 I system_info: n_threads = 1 (n_threads_batch = 1) / 2\n",
    "colours": "\x1b[34m0.00.010.399\x1b[0m \x1b[32mI \x1b[0mllama_completion: llama backend init\n"
    "\x1b[34m0.00.031.179\x1b[0m \x1b[32mI \x1b[0mcmn          init: llama threadpool init, n_threads = 1\n"
    "\x1b[35mW \x1b[0msrv  llama_server: security: no API key is set\n",
    "JSON lines": 'Loading model... {"type":"log","time":0,"level":"info","msg":"cmn  common_param: device_info:\\n"}\n'
    '{"type":"log","time":0,"level":"info","msg":"srv          init: using 5 threads for HTTP server\\n"}\n'
    '{"type":"log","time":0,"level":"warn","msg":"srv  llama_server: security"}\n',
    "JSON of a server of 2023": '{"timestamp":1700000000,"level":"INFO","function":"main","message":"build info"}\n'
    '{"tid":"140","timestamp":1700000000,"level":"INFO","function":"main","message":"system info"}\n'
    '{"tid":"140","timestamp":1700000000,"level":"INFO","function":"init","message":"loaded"}\n',
}
NO_LOGS = (
    "\n\nLoading model... \n\n▄▄ ▄▄\n██ ██\n\nbuild      : b1-0c1e570\nmodel      : /a/b.gguf\nmodalities : text\n\n"
    "available commands:\n  /exit or Ctrl+C     stop or exit\n  /regen              regenerate the last response\n"
    "  /read <file>        add a text file\n\n",
    "== Running in interactive mode. ==\n - Press Ctrl+C to interject at any time.\n - Press Return.\n",
    "wrapper: starting\nusing 4 threads\nPlease wait: this takes a while\nNote: the model is large\n",
    "I think: therefore\nI am: here\nError: none\nWarning: the disk is cold\n",
    "\x1b[33m\x1b[0m\n\n\n",
)


@pytest.mark.parametrize("text", LOGS.values(), ids=list(LOGS))
def test_the_forms_of_all_generations(text: str) -> None:
    first = LogDetector().feed(text)
    assert first and first in text.replace("\x1b[34m", "").replace("\x1b[32m", "").replace("\x1b[0m", "")
    bytewise = LogDetector()
    assert [found for each in text if (found := bytewise.feed(each))][:1] == [first]


@pytest.mark.parametrize("text", NO_LOGS)
def test_what_an_engine_or_a_wrapper_says_is_none(text: str) -> None:
    assert LogDetector().feed(text * 3) == ""


@pytest.mark.parametrize("name", recordings.NAMES)
def test_no_recording_of_an_engine_is_taken_for_one(name: str) -> None:
    detector = LogDetector()
    for step in recordings.load(name).steps:
        if step.kind == "out":
            assert detector.feed(step.data.decode("utf-8", "replace")) == ""


def test_one_line_is_not_enough_unless_nothing_was_expected() -> None:
    assert LogDetector().feed("main: hello from a wrapper\nbuild: done\n") == ""
    assert log_line("\nslot update_slots: id  0 | task 0 | new prompt, n_tokens = 12\n").startswith("slot update_slots")
    assert log_line("Hello! Ask me: how are you?\n") == ""


# Real engines behind a wrapper script

posix = pytest.mark.skipif(sys.platform == "win32", reason="the wrapper is a shell script")


def wrapped(tmp_path: Path, engine: EngineBinary, how: str) -> Path:
    path = tmp_path / "wrapper"
    path.write_text(how.format(f'exec "{engine.path}" "$@"'))
    path.chmod(0o755)
    return path


@posix
@pytest.mark.engine
@pytest.mark.parametrize("how", ["2>&1", "log in JSON"])
def test_it_is_told_and_is_no_reply(built_engine: EngineBinary, tmp_path: Path, transport: str, how: str) -> None:
    script = "#!/bin/sh\n{} 2>&1\n" if how == "2>&1" else "#!/bin/sh\nexport LLAMA_ARG_LOG_JSONL=1\n{}\n"
    path = wrapped(tmp_path, built_engine, script)
    done = run("--engine", str(path), "--io", transport, "-t", "1", "hello")
    assert (done.returncode, done.stdout.strip()) == (5, b"")
    told = done.stderr.decode()
    assert "writes its log to its output, where its replies are read" in told
    assert ("2>&1" in told) == (how == "2>&1") and ("--log-jsonl" in told) == (how != "2>&1")
    assert "a smaller model" not in told and "restarted" not in told


@posix
@pytest.mark.parametrize("modern", ["", "1"])
def test_a_log_in_place_of_a_reply_is_told_too(tmp_path: Path, modern: str) -> None:
    """An engine that was quiet while it loaded."""
    path = fake_engine(tmp_path)
    script = tmp_path / "late.py"
    folder = Path(__file__).parents[1] / "support"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(folder)!r}); import fake_engine\n"
        "write = fake_engine.Engine.write\n"
        "def late(text):\n"
        "    line = 'slot launch_slot_: id  0 | task 0 | a task\\n' if text.startswith(fake_engine.RESET) else ''\n"
        "    write(line + text)\n"
        "fake_engine.Engine.write = staticmethod(late)\n"
        "fake_engine.main()\n"
    )
    path.write_text(path.read_text().replace(str(folder / "fake_engine.py"), str(script)))
    done = run("--engine", str(path), "hello", FAKE_ENGINE_MODERN=modern)
    assert done.returncode == 5
    assert b"writes its log to its output" in done.stderr and b"times in" not in done.stderr


@posix
@pytest.mark.engine
def test_another_line_of_a_wrapper_harms_nothing(engine: EngineBinary, tmp_path: Path) -> None:
    path = wrapped(tmp_path, engine, "#!/bin/sh\ncase $* in *--help*|*--version*) ;; *) echo main: hello;; esac\n{}\n")
    done = run("--engine", str(path), "-t", "1", "--temp", "0", "how do I leave?")
    assert done.returncode == 0 and done.stdout.startswith(b"Type /exit to leave"), done.stderr
