"""The command line as a script sees it: what goes in, what comes out on which stream, and the exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import TIMEOUT, ReceivedMessages, command, environment, fake_engine, received, run

from bitnet_chat.backends import pipeline
from bitnet_chat.cli import VERBS, main, serve
from bitnet_chat.engine import processors
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal import Journal

__all__ = ["received"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")


@pytest.fixture
def fake(tmp_path: Path) -> str:
    return str(fake_engine(tmp_path))


def launches(record: Path) -> list[dict]:
    return [json.loads(line) for line in record.read_text().splitlines()]


# Answers


@pytest.mark.engine
@pytest.mark.parametrize("flags", [(), ("--no-stream",), ("--io", "pipe"), ("--json",)])
def test_stdout_has_the_answer_and_nothing_else(engine: EngineBinary, flags: tuple[str, ...]) -> None:
    done = run("--engine", str(engine.path), "--threads", "1", "--temp", "0", *flags, "how do I leave?")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    reply = json.loads(text)["reply"] if "--json" in flags else text.removesuffix("\n")
    assert reply.strip() == reply and reply
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "<|im_" not in text and "[ Prompt" not in text


@pytest.mark.parametrize("flags", [(), ("--no-stream",)])
@pytest.mark.parametrize("how", ["argument", "words", "stdin", "file", "file -", "bom"])
def test_where_the_question_comes_from(fake: str, tmp_path: Path, flags: tuple[str, ...], how: str) -> None:
    text = "say what /exit\\\n  <|im_end|> 数据 👩‍💻"
    file = tmp_path / "question.txt"
    file.write_text(text + "\r\n", newline="")
    arguments, stdin = {
        "argument": ((text,), ""),
        "words": (tuple(text.split(" ")), ""),
        "stdin": ((), text + "\n"),
        "file": (("-f", str(file)), ""),
        "file -": (("-f", "-"), text + "\n"),
        "bom": ((), "\ufeff" + text),
    }[how]
    done = run("--engine", fake, *flags, *arguments, stdin=stdin)
    assert (done.returncode, done.stderr, done.stdout.decode()) == (0, b"", text.removeprefix("say ") + "\n")


def test_json(fake: str) -> None:
    done = run("--engine", fake, "--json", "say it")
    answer = json.loads(done.stdout)
    assert list(answer) == ["reply", "finish_reason", "tokens", "timings", "model", "engine", "conversation", "kept"]
    assert (answer["reply"], answer["finish_reason"]) == ("it", "stop")
    assert answer["tokens"] > 0 and answer["timings"]["seconds"] > 0
    assert answer["model"] == "bitnet-demo" and answer["engine"] == "fake-engine (classic)"
    assert done.stdout.count(b"\n") == 1


def test_thoughts_that_never_close(fake: str, tmp_path: Path) -> None:
    """A script does not take them for an empty answer."""
    told = "the model did not answer: its thinking did not end"
    question, template = "say <think>on and on", tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fake_thinker = ("--engine", fake, "--chat-template", str(template))
    done = run(*fake_thinker, "--json", question)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["reply"], answer["finish_reason"]) == (8, None, "empty")
    assert answer["thinking"] == "on and on" and told in answer["error"] and told in done.stderr.decode()
    done = run(*fake_thinker, question)
    assert (done.returncode, done.stdout) == (8, b"") and told in done.stderr.decode()
    done = run(*fake_thinker, "--input", "-", stdin=json.dumps({"prompt": question}))
    assert done.returncode == 8 and json.loads(done.stdout)["thinking"] == "on and on"


def test_no_stream_prints_nothing_where_it_fails(fake: str) -> None:
    for question, code in (("kill", 5), ("kill half a", 5), ("huge" + " a" * 1200, 6)):
        done = run("--engine", fake, "--no-stream", question)
        assert (done.returncode, done.stdout) == (code, b"") and done.stderr


def test_a_pipe_of_questions_ends_as_the_first_that_was_refused(fake: str) -> None:
    lines = "say one\nhuge" + " a" * 1200 + "\nsay two\n"
    done = run("--engine", fake, "-i", "--overflow", "stop", stdin=lines)
    assert (done.returncode, done.stdout) == (6, b"one\ntwo\n")


def test_a_newline_at_the_end_of_an_argument_is_asked(fake: str) -> None:
    """As in a message of the APIs; behind what comes from a file or a pipe an editor has put it."""
    run("--engine", fake, "say a\n")
    run("--engine", fake, stdin="say a\n")
    assert [Journal().load(number).conversation.messages[0].content for number in (1, 2)] == ["say a\n", "say a"]


def test_control_bytes_of_a_model_are_made_visible(fake: str) -> None:
    raw = b"a\x1b[31mb\x07c\xffd\x9be\tf"
    for flags in ((), ("--no-stream",)):
        done = run("--engine", fake, *flags, "bytes " + raw.hex())
        assert done.stdout.decode() == "a␛[31mb␇c<FF>d<9B>e\tf\n"
    done = run("--engine", fake, "--json", "bytes " + raw.hex())
    assert b"\x1b" not in done.stdout and b"\x07" not in done.stdout
    assert json.loads(done.stdout)["reply"].startswith("a\x1b[31mb\x07c")
    done = run("--engine", fake, "--json", "bytes " + "a\x9b2J\u202eb".encode().hex())
    assert done.stdout.isascii() and json.loads(done.stdout)["reply"] == "a\x9b2J\u202eb"


def test_a_closed_pipe_ends_it_quietly(fake: str) -> None:
    with subprocess.Popen(
        command("--engine", fake, "story"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.read(1)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(TIMEOUT) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", [(), ("--no-stream",), ("--json",)])
def test_a_full_disk_behind_stdout(fake: str, flags: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("--engine", fake, *flags, "say it"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=TIMEOUT,
        )
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("config", "path"), ("history", "list", "--json")])
def test_little_that_cannot_be_printed(arguments: tuple[str, ...], home: Path) -> None:
    """It waits in a buffer until the end, where Python would tell in its own words that it went nowhere."""
    reading, writing = os.pipe()
    os.close(reading)
    full = Path("/dev/full")
    for out, code in ((writing, 141), *([(os.open(full, os.O_WRONLY), 2)] if full.exists() else [])):
        done = subprocess.run(
            command(*arguments),
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED=""),
            timeout=TIMEOUT,
        )
        os.close(out)
        assert done.returncode == code
        assert b"Exception" not in done.stderr and b"Traceback" not in done.stderr


_CLOSED = """
import os, sys
for number in range(3):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv[1], sys.argv[2]])
"""
_OPENED = """
import os, sys
from bitnet_chat.cli import main
code = main(["config", "path"]), main(["replay", "/nowhere"])
with open(sys.argv[1], "w") as file:
    file.write(f"{code} {file.fileno() > 2}")
"""


def test_what_was_closed_before_we_began_is_taken_by_no_file(tmp_path: Path) -> None:
    """An engine would write into the journal what it means for its stdout."""
    report = tmp_path / "report"
    script = [sys.executable, "-c", _CLOSED, _OPENED, str(report)]
    done = subprocess.run(script, env=environment(), timeout=TIMEOUT, capture_output=True)
    assert done.returncode == 0
    assert report.read_text() == "(0, 2) True"


# Exit codes


def test_exit_code_0_for_a_limit(fake: str) -> None:
    done = run("--engine", fake, "--json", "-n", "3", "story")
    assert done.returncode == 0 and json.loads(done.stdout)["finish_reason"] == "length"


@pytest.mark.engine
def test_a_limit_of_tokens_with_a_modern_engine(modern: EngineBinary) -> None:
    done = run("--engine", str(modern.path), "-t", "1", "--json", "-n", "3", "tell me a long story")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["finish_reason"], answer["tokens"]) == (0, "length", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nonsense", "x"), "--nonsense"),
        (("-c", "many", "x"), "many"),
        (("--io", "telepathy", "x"), "telepathy"),
        (("-n", "-1", "x"), "max_tokens cannot be -1"),
        (("--timeout", "nan", "x"), "timeout cannot be nan"),
        ((" ",), "the question is empty"),
        (("-f", "/no/such/file"), "/no/such/file cannot be read: No such file"),
        (("-f", "/"), "cannot be read: Is a directory"),
        (("-f", "x", "question"), "not both"),
        (("-i", "question"), "--interactive cannot be combined with a question"),
        (("-i", "--json"), "--interactive cannot be combined with --json"),
        (("--output", "x"), "--output requires --input"),
        (("--input", "x", "question"), "--input cannot be combined with a question"),
        (("--input", "/no/such/file"), "cannot be read"),
        (("engine",), "verb"),
        (("engine", "fly"), "fly"),
    ],
)
def test_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout.count(b"\n")) == (2, "--json" in arguments)
    assert message in done.stderr.decode() and done.stderr.startswith(b"bitnet-chat: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("stdin", [b"", b"\n", b" \n\t\n", b"\xff\xfe?"])
def test_exit_code_2_for_what_stdin_holds(stdin: bytes) -> None:
    done = run(stdin=stdin)
    assert done.returncode == 2
    assert (b"not UTF-8 (byte 0 is 0xff)" if stdin.startswith(b"\xff") else b"the question is empty") in done.stderr


def test_exit_code_3(tmp_path: Path) -> None:
    done = run("--engine", str(tmp_path / "nothing"), "hello")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"does not exist" in done.stderr and b"bitnet-chat engine install" in done.stderr
    assert run("--engine", str(tmp_path), "hello").returncode == 3
    assert run("hello", BITNET_CHAT_ENGINE=str(tmp_path / "nothing")).returncode == 3


def test_exit_code_4(fake: str, tmp_path: Path) -> None:
    done = run("--engine", fake, "-m", str(tmp_path / "nothing.gguf"), "hello")
    assert (done.returncode, done.stdout) == (4, b"") and b"nothing.gguf" in done.stderr
    text = tmp_path / "text.gguf"
    text.write_text("no model at all")
    assert run("--engine", fake, "-m", str(text), "hello").returncode == 4
    done = run("--engine", fake, "hello", "--", "--refuse")
    assert done.returncode == 4 and b"unknown model architecture: 'strange'" in done.stderr
    done = run("--engine", fake, "--chat-template", "no such thing", "hello")
    assert done.returncode == 4 and b"available: " in done.stderr


@pytest.mark.engine
def test_exit_code_4_for_a_truncated_model(engine: EngineBinary, model: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    done = run("--engine", str(engine.path), "-m", str(half), "hello")
    assert (done.returncode, done.stdout) == (4, b"")
    # Why it could not is in its log, or not: llama-completion 0.5.0 ends without waiting for the thread that writes it.
    assert b"the engine could not load the model" in done.stderr


def test_exit_code_5(fake: str, tmp_path: Path) -> None:
    done = run("--engine", fake, "--json", "kill", FAKE_ENGINE_RECORD=str(tmp_path / "record"))
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["finish_reason"], answer["reply"]) == (5, "engine_died", None)
    assert "SIGKILL" in answer["error"] and len(launches(tmp_path / "record")) == 4
    done = run("--engine", fake, "kill half a", FAKE_ENGINE_RECORD=str(tmp_path / "record2"))
    assert (done.returncode, done.stdout) == (5, b"half a\n")
    assert b"the reply is incomplete: engine died" in done.stderr


def test_exit_code_6(fake: str) -> None:
    done = run("--engine", fake, "--json", "huge" + " a" * 1200)
    assert (done.returncode, json.loads(done.stdout)["finish_reason"]) == (6, "context_overflow")
    assert b"does not fit into the context window of 2048 tokens" in done.stderr
    done = run("--engine", fake, "full up to here")
    assert (done.returncode, done.stdout) == (6, b"up to here\n")


@pytest.mark.engine
def test_exit_code_6_from_a_real_engine(engine: EngineBinary, transport: str) -> None:
    done = run("--engine", str(engine.path), "--io", transport, "-t", "1", "--json", stdin="many words " * 5000)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["finish_reason"], answer["reply"]) == (6, "context_overflow", None)


@pytest.mark.parametrize("message", ["story", "silence"])
def test_exit_code_124(fake: str, message: str) -> None:
    done = run("--engine", fake, "--json", "--timeout", "0.5", message)
    assert (done.returncode, json.loads(done.stdout)["finish_reason"]) == (124, "timeout")
    assert b"the reply was stopped at its time limit of 0.5 s" in done.stderr


def test_exit_code_130(fake: str, received: ReceivedMessages) -> None:
    with subprocess.Popen(
        command("--engine", fake, "--json", "silence"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(FAKE_ENGINE_HEARD=str(received.path)),
    ) as program:
        received.next()
        program.send_signal(signal.SIGINT)
        words, _ = program.communicate(timeout=TIMEOUT)
    assert (program.returncode, json.loads(words)["finish_reason"]) == (130, "interrupted")


# Settings


def test_flags_reach_the_engine(fake: str, tmp_path: Path) -> None:
    record = tmp_path / "record"
    threads = str(processors.usable())
    flags = ("-c", "4096", "-t", threads, "--temp", "0", "--seed", "7", "--system", "Be brief.")
    done = run("--engine", fake, *flags, "say it", "--", "--top-k", "5", "-n", FAKE_ENGINE_RECORD=str(record))
    assert done.returncode == 0, done.stderr
    (launch,) = launches(record)
    argv = launch["argv"]
    assert argv[-3:] == ["--top-k", "5", "-n"]
    for flag, value in (("--ctx-size", "4096"), ("--threads", threads), ("--temp", "0.0"), ("--seed", "7")):
        assert argv[argv.index(flag) + 1] == value
    assert done.stderr == b""
    assert "Be brief." in launch["prompt"]


def test_defaults_then_file_then_environment_then_flags(fake: str, home: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    (home / "config.toml").write_text(
        f'engine = "{fake}"\nthreads = 9\nctx = 1111\nseed = 1\n'
        'system = "of the file"\nengine_args = ["--of", "file"]\n'
    )
    variables = {"FAKE_ENGINE_RECORD": str(record), "BITNET_CHAT_THREADS": "8", "BITNET_CHAT_CTX": "2304"}
    done = run("-t", "1", "say it", **variables)
    assert done.returncode == 0, done.stderr
    (launch,) = launches(record)
    argv = launch["argv"]
    for flag, value in (("--threads", "1"), ("--ctx-size", "2304"), ("--seed", "1")):
        assert argv[argv.index(flag) + 1] == value
    assert argv[-2:] == ["--of", "file"] and "of the file" in launch["prompt"]
    run("say it", "--", "--of", "flags", **variables)
    assert launches(record)[-1]["argv"][-2:] == ["--of", "flags"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("engine = ", "cannot be read"),
        ("engin = 'x'", "setting 'engin' does not exist"),
        ("threads = 'two'", "threads must be a whole number"),
        ("io = 'telepathy'", "io is one of auto, pty, pipe"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_bad_config_file(home: Path, content: str, message: str) -> None:
    (home / "config.toml").write_bytes(content.encode("latin-1"))
    done = run("hello")
    assert done.returncode == 2
    assert str(home / "config.toml") in done.stderr.decode() and message in done.stderr.decode()


def test_a_bad_variable() -> None:
    done = run("hello", BITNET_CHAT_CTX="many")
    assert done.returncode == 2 and b"$BITNET_CHAT_CTX: 'many' is not a number" in done.stderr


# Engines


@pytest.mark.engine
def test_engine_list(built_engine: EngineBinary) -> None:
    done = run("engine", "list", "--engine", str(built_engine.path.parent))
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.decode().splitlines()
    assert first.startswith("* ") and "llama-completion" in first and "[--engine]" in first and "classic" in first
    assert "irst in the search order that can chat (--engine); classic" in done.stdout.decode()
    entries = json.loads(run("engine", "list", "--json", "--engine", str(built_engine.path.parent)).stdout)
    assert [entry["used"] for entry in entries] == [True, *[False] * (len(entries) - 1)]


@pytest.mark.engine
def test_engine_probe(engine: EngineBinary) -> None:
    done = run("engine", "probe", "--json", str(engine.path))
    facts = json.loads(done.stdout)
    assert facts["dialect"] == engine.dialect.value and facts["version"] == engine.version
    assert engine.version in run("engine", "probe", str(engine.path)).stdout.decode()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec cat", "is not a llama-cli, llama-completion or BitNet engine"),
        ("exit 7", "is not a llama-cli"),
        ("yes | head -c 3000000", "is not a llama-cli"),
    ],
)
def test_what_is_no_engine(tmp_path: Path, script: str, message: str) -> None:
    path = tmp_path / "strange"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    for arguments in (("engine", "probe", str(path)), ("--engine", str(path), "hello")):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (3, b"") and message in done.stderr.decode()
    path.chmod(0o644)
    done = run("engine", "probe", str(path))
    assert done.returncode == 3 and b"not a program that can be run" in done.stderr


def test_a_program_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sleeper"
    path.write_text("#!/bin/sh\nsleep 1000 &\nsleep 1000\n")
    path.chmod(0o755)
    monkeypatch.setenv("BITNET_CHAT_PROBE_TIMEOUT", "0.2")
    assert main(["engine", "probe", str(path)]) == 3
    assert "did not answer --help within 0.2 s" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["serve", "app"])
def test_the_help_of_a_server_lists_what_it_takes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    listed = capsys.readouterr().out
    assert "--threads" in listed and "--io" in listed
    flags = {"tools": "f.py", "attach": "", "markdown": "on", "thinking": "hide", "typing_speed": "3"}
    assert flags.keys() == serve.REFUSED.keys()
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if (verb, name) == ("app", "attach"):  # it shows the page there
            assert flag in listed
            continue
        assert flag not in listed
        assert main([verb, *filter(None, (flag, value))]) == 2
        assert f"{flag} cannot be used with serve: {serve.REFUSED[name]}" in capsys.readouterr().err


def test_help_and_version() -> None:
    done = run("--help")
    assert done.returncode == 0 and b"exit codes:" in done.stdout and done.stderr == b""
    for flag in ("--no-stream", "--input", "--io", "--typing-speed", "--timeout"):
        assert flag.encode() in done.stdout
    words = done.stdout.decode()
    assert f"before the first token {pipeline.FIRST_TOKEN} times that; 0:" in " ".join(words.split())
    for verb, help in VERBS.items():
        assert f"\n  {verb} " in words and help in words
    for reason in FinishReason:
        assert re.search(rf"\b{reason.exit_code} ", words.partition("exit codes:")[2])
    assert run("engine", "--help").returncode == 0
    for flag in ("--version", "-V"):
        assert run(flag).stdout.startswith(b"bitnet-chat ")


@pytest.mark.parametrize("question", ["engine of a car", "config my router", "completion of the set"])
def test_a_question_that_begins_with_a_verb_goes_in_quotes(fake: str, question: str) -> None:
    done = run(*question.split())
    verb = question.split()[0]
    assert done.returncode == 2 and f"a question that begins with '{verb}' goes in quotes" in done.stderr.decode()
    assert run("--engine", fake, f"say {question}").stdout.decode() == f"{question}\n"
    assert main([f"{question}?", "--engine", "/no/engine"]) == 3, "in quotes it is a question"


def test_a_locale_without_unicode(fake: str) -> None:
    program = command("--engine", fake, "say é数据")
    names = {name: value for name, value in environment().items() if name not in ("PYTHONUTF8", "LANG")}
    done = subprocess.run(
        program, capture_output=True, timeout=TIMEOUT, env=names | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    )
    assert done.stdout.decode() == "é数据\n"


def test_nothing_is_left_in_the_folder_of_temporary_files(fake: str, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    assert run("--engine", fake, "--system", "secret", "say it", TMPDIR=str(folder)).returncode == 0
    assert os.listdir(folder) == []  # noqa: PTH208
    missing = str(tmp_path / "temporary" / "file")
    Path(missing).write_text("no folder")
    done = run("--engine", fake, "say it", TMPDIR=missing)
    assert b"Traceback" not in done.stderr


def test_json_tells_of_a_missing_engine_and_a_bad_model(fake: str, tmp_path: Path) -> None:
    for flags, reason, code in (
        (("--engine", str(tmp_path / "none")), "no_engine", 3),
        (("--engine", fake, "-m", str(tmp_path)), "bad_model", 4),
    ):
        done = run(*flags, "--json", "hello")
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["finish_reason"], answer["reply"]) == (code, reason, None)
        assert answer["error"].splitlines()[0].encode() in done.stderr
