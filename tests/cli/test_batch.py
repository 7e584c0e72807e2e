"""Prompts in a file, replies in another: in order, as they finish, and never one twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from program import TIMEOUT, ReceivedMessages, Start, command, environment, fake_engine, received, run, start

from bitnet_chat.engine.binary import EngineBinary

__all__ = ["received", "start"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")


class Batch:
    """An input, an output, and a scripted engine between them."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output, self.record = folder / "in.jsonl", folder / "out.jsonl", folder / "record"
        self.engine = str(fake_engine(folder))
        self.environment = {"FAKE_ENGINE_RECORD": str(self.record)}

    def write(self, lines: Sequence[object]) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        self.input.write_text("".join(f"{text}\n" for text in texts))

    def prompts(self, *prompts: str) -> None:
        self.write([{"prompt": prompt} for prompt in prompts])

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--engine", self.engine, "--input", str(self.input), "--output", str(self.output))

    def run(self, *more: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        return run(*self.arguments, *more, **(self.environment | environment))

    @property
    def entries(self) -> list[dict]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    @property
    def replies(self) -> list[str | None]:
        return [entry["reply"] for entry in self.entries]

    @property
    def launches(self) -> int:
        return len(self.record.read_text().splitlines())


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def test_prompts_and_messages_in_order_with_their_fields(batch: Batch) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "my name is Ada"},
        {"role": "assistant", "content": "hello Ada"},
        {"role": "user", "content": "say Ada"},
    ]
    batch.write(
        [
            {"prompt": "say one", "id": "a", "tags": [1, None, {"x": "数据"}]},
            {"messages": messages, "id": "b"},
            "",
            '{"prompt": "say two\\nlines", "id": "\\ud800", "weight": NaN}',
        ]
    )
    done = batch.run()
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert batch.replies == ["one", "Ada", "two\nlines"]
    first, second, third = batch.entries
    assert list(first) == [
        *("index", "prompt", "id", "tags"),
        *("reply", "finish_reason", "tokens", "timings", "model", "engine"),
    ]
    assert (first["id"], first["tags"]) == ("a", [1, None, {"x": "数据"}])
    assert (second["id"], second["messages"]) == ("b", messages)
    assert (third["id"], third["index"]) == ("\ud800", 4)
    prompts = [json.loads(line)["prompt"] for line in batch.record.read_text().splitlines()]
    assert any("Be brief." in prompt and "hello Ada" in prompt for prompt in prompts)
    # And all of it is recognised by the next run.
    before = batch.output.read_bytes()
    assert batch.run().returncode == 0 and batch.output.read_bytes() == before


def test_fields_with_names_of_ours(batch: Batch) -> None:
    batch.write([{"prompt": "say one", "index": 7, "model": "mine"}, {"prompt": "say two", "index": 7}])
    assert batch.run().returncode == 0
    assert batch.replies == ["one", "two"]
    assert [entry["index"] for entry in batch.entries] == [1, 2]
    assert [entry["given"] for entry in batch.entries] == [{"index": 7, "model": "mine"}, {"index": 7}]
    assert batch.entries[0]["model"] == "bitnet-demo"
    assert batch.run().returncode == 0 and len(batch.entries) == 2


def test_bad_lines_get_an_error_and_the_rest_goes_on(batch: Batch) -> None:
    bad = [
        "no json",
        "[1]",
        "{}",
        '{"prompt": 1, "id": 9}',
        '{"prompt": ""}',
        '{"prompt": "x", "messages": []}',
        '{"messages": "x"}',
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": 7}]}',
        '{"messages": [{"role": "oracle", "content": "x"}]}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"messages": [7]}',
        "[" * 100_000,
    ]
    batch.write([{"prompt": "say first"}, *bad, {"prompt": "say last"}])
    with batch.input.open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n')
    done = batch.run()
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr and b"14 failed" in done.stderr
    entries = batch.entries
    assert [entry["index"] for entry in entries] == list(range(1, len(bad) + 4))
    assert (entries[0]["reply"], entries[-2]["reply"]) == ("first", "last")
    for number, entry in enumerate([*entries[1:-2], entries[-1]]):
        assert (entry["reply"], entry["finish_reason"]) == (None, "usage")
        assert entry["error"].startswith(f"line {entry['index']}: "), number
    assert entries[4]["id"] == 9
    assert [entry["error"] for entry in entries[4:6]] == ["line 5: 'prompt' is not a text", "line 6: 'prompt' is empty"]
    # Another run has nothing to do, and ends as this one did.
    before = batch.output.read_bytes()
    done = batch.run()
    assert (done.returncode, batch.output.read_bytes()) == (2, before)
    assert b"already has 16 of 16 replies, 14 of them failed: complete; to repeat a line" in done.stderr
    assert b"0/0" not in done.stderr
    # A line of it that is taken out is asked again, and what an earlier run could not do still counts.
    batch.output.write_bytes(before.partition(b"\n")[2])
    done = batch.run()
    assert done.returncode == 2 and b"already has 15 of 16 replies, 14 of them failed: resuming" in done.stderr
    assert batch.entries[-1]["reply"] == "first"


def test_one_process_for_all(batch: Batch) -> None:
    batch.prompts(*(f"say {number}" for number in range(12)))
    done = batch.run(FAKE_ENGINE_MODERN="1")
    assert done.returncode == 0, done.stderr
    assert batch.replies == [str(number) for number in range(12)]
    assert batch.launches == 1


@pytest.mark.engine
def test_one_process_for_all_with_a_real_engine(batch: Batch, modern: EngineBinary, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    wrapper = tmp_path / "llama-cli"
    wrapper.write_text(
        f"""#!/bin/sh
case "$1" in --help|--version|--list-devices) ;; *) echo >> "{starts}";; esac
exec "{modern.path}" "$@"
"""
    )
    wrapper.chmod(0o755)
    batch.engine = str(wrapper)
    batch.prompts(*["how do I leave?", "tell me a long story", "hello", "how do I leave?"])
    done = batch.run("--threads", "1", "--temp", "0")
    assert done.returncode == 0, done.stderr
    replies = batch.replies
    assert all(replies) and replies[0] == replies[3] and len(set(replies)) == 3
    assert [entry["finish_reason"] for entry in batch.entries] == ["stop"] * 4
    assert len(starts.read_text().splitlines()) == 1


@pytest.mark.engine
def test_real_engines_of_both_kinds(batch: Batch, classic: EngineBinary) -> None:
    """Where both are there each line gets the one that is faithful to it."""
    batch.engine = str(classic.path.parent)
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "how do I leave?"},
    ]
    batch.write([{"prompt": "how do I leave?"}, {"messages": history}, {"prompt": "hello"}])
    done = batch.run("--threads", "1", "--temp", "0")
    assert done.returncode == 0, done.stderr
    assert all(batch.replies)
    kinds = [entry["engine"].rpartition(" ")[2] for entry in batch.entries]
    assert kinds[1] == "(classic)" and kinds[0] == kinds[2]


def begin(batch: Batch, received: ReceivedMessages, *, until: str) -> subprocess.Popen[bytes]:
    """Starts a run, and returns when the engine has got a message."""
    program = subprocess.Popen(
        command(*batch.arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**batch.environment, FAKE_ENGINE_HEARD=str(received.path)),
    )
    while received.next() != until:
        pass
    return program


@pytest.mark.parametrize(
    ("modern", "torn"),  # what is left of a line is no matter of the engine
    [
        ("", ""),
        ("1", '{"ind'),
        ("", '{"index": 3, "prompt": "sil'),
        ("1", '{"index": 3, "prompt": "silence", "reply": "h'),
    ],
)
def test_a_killed_run_goes_on_where_it_was(batch: Batch, received: ReceivedMessages, torn: str, modern: str) -> None:
    batch.environment["FAKE_ENGINE_MODERN"] = modern
    batch.prompts("say one", "say two", "silence", "say four")
    with begin(batch, received, until="silence") as program:
        # Each was written when it was finished: the third is not.
        assert batch.replies == ["one", "two"]
        program.kill()
        program.communicate(timeout=TIMEOUT)
    with batch.output.open("a") as file:
        file.write(torn)
    assert received.rest() == []
    done = batch.run("--timeout", "1", FAKE_ENGINE_HEARD=str(received.path))
    assert done.returncode == 124
    assert b"already has 2 of 4 replies: resuming" in done.stderr
    assert received.rest() == ["silence", "say four"]
    assert [entry["finish_reason"] for entry in batch.entries] == ["stop", "stop", "timeout", "stop"]
    assert [entry["index"] for entry in batch.entries] == [1, 2, 3, 4]
    before = batch.output.read_bytes()
    done = batch.run(FAKE_ENGINE_HEARD=str(received.path))
    assert (done.returncode, received.rest(), batch.output.read_bytes()) == (124, [], before)


def test_an_interrupted_run_goes_on_where_it_was(batch: Batch, received: ReceivedMessages) -> None:
    batch.prompts("say one", "silence", "say three")
    with begin(batch, received, until="silence") as program:
        program.send_signal(signal.SIGINT)
        _, remarks = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 130 and b"Traceback" not in remarks
    assert batch.replies == ["one"]
    done = batch.run("--timeout", "1", FAKE_ENGINE_HEARD=str(received.path))
    assert done.returncode == 124
    assert received.rest() == ["silence", "say three"]
    assert batch.replies == ["one", "", "three"]


@pytest.mark.parametrize("ending", ["\n", ""])
@pytest.mark.parametrize(
    "content",
    [
        "my letters to Ada",
        '{"prompt": "say one"}',
        '{"index": 1, "prompt": "another"}',
        '{"index": 9, "prompt": "say one"}',
        '{"index": [], "prompt": "say one"}',
        "7",
        "",
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(batch: Batch, content: str, ending: str) -> None:
    batch.prompts("say one")
    batch.output.write_text(content + ending)
    done = batch.run()
    if not content + ending:
        assert done.returncode == 0 and batch.replies == ["one"]
        return
    assert done.returncode == 2 and b"is not a reply to a line of this input" in done.stderr
    assert batch.output.read_text() == content + ending
    assert not batch.record.exists(), "an engine was started for nothing"


def test_the_input_as_output_is_refused(batch: Batch) -> None:
    batch.prompts("say one")
    before = batch.input.read_bytes()
    batch.output = batch.input
    assert batch.run().returncode == 2 and batch.input.read_bytes() == before


def test_an_output_that_cannot_be_written(batch: Batch, tmp_path: Path) -> None:
    batch.prompts("say one")
    for output in (tmp_path, tmp_path / "no" / "such" / "folder"):
        batch.output = output
        done = batch.run()
        assert done.returncode == 2 and b"cannot be written" in done.stderr
        assert not batch.record.exists(), "an engine was started for nothing"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(batch: Batch) -> None:
    batch.prompts("say one", "say two")
    batch.output = Path("/dev/full")
    done = batch.run()
    assert done.returncode == 2 and b"the reply to line 1 cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize("output", [(), ("--output", "-"), ("--output", "/dev/stdout")])
def test_stdin_and_stdout(batch: Batch, output: tuple[str, ...]) -> None:
    done = run("--engine", batch.engine, "--input", "-", *output, stdin='{"prompt": "say é"}\n{"prompt": "say two"}')
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["reply"] for line in done.stdout.decode().splitlines()] == ["é", "two"]
    assert b"replies 2/2" in done.stderr


@pytest.mark.parametrize("blank", ["", " ", "\n", "\r\n", "\t \n\n", "\u00a0"])
def test_a_blank_prompt_is_refused_wherever_it_is_given(tmp_path: Path, blank: str) -> None:
    (tmp_path / "question").write_text(blank, "utf-8")
    record, fake = str(tmp_path / "record"), str(fake_engine(tmp_path))
    for arguments, stdin in (
        ((blank,), ""),
        ((), blank),
        (("-f", str(tmp_path / "question")), ""),
        (("--input", "-"), json.dumps({"prompt": blank}) + "\n"),
    ):
        done = run("--engine", fake, *arguments, stdin=stdin, FAKE_ENGINE_RECORD=record)
        assert done.returncode == 2, (arguments, done.stderr)
        for line in done.stdout.splitlines():
            assert (json.loads(line)["reply"], json.loads(line)["finish_reason"]) == (None, "usage")
    assert not Path(record).exists()  # no engine was started for any of them


def test_what_was_taken_otherwise_is_told_once(batch: Batch) -> None:
    messages = [{"role": "user", "content": "say one", "name": "Bob"}]
    batch.write([{"messages": messages}, {"messages": messages}])
    done = batch.run()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"line 1: without effect here: messages[].name") == 1 and b"line 2" not in done.stderr


def test_an_empty_input(batch: Batch) -> None:
    batch.write([])
    assert batch.run().returncode == 0 and batch.output.read_bytes() == b""


def test_progress_is_one_line_of_a_terminal(batch: Batch, start: Start, received: ReceivedMessages) -> None:
    batch.prompts("say one", "say two", "silence", "say four")
    heard = {"FAKE_ENGINE_HEARD": str(received.path)}
    terminal = start(*batch.arguments, "--timeout", "2", lines=10, **batch.environment, **heard)
    while received.next() != "silence":
        pass
    assert terminal.end() == 124
    assert " left" in terminal.written
    assert [line for line in terminal.text.split("\n") if "replies" in line and "4/4, 1 failed" in line]
    assert terminal.text.count("replies") == 1
    assert "\x1b" not in terminal.written
    assert batch.replies == ["one", "two", "", "four"]


def test_an_engine_that_dies_of_one_prompt(batch: Batch) -> None:
    batch.prompts("say one", "kill", "say three")
    done = batch.run()
    assert done.returncode == 5
    assert batch.replies == ["one", None, "three"]
    entry = batch.entries[1]
    assert entry["finish_reason"] == "engine_died" and "SIGKILL" in entry["error"]


def test_an_engine_that_dies_of_everything(batch: Batch) -> None:
    batch.prompts(*["kill"] * 5)
    done = batch.run()
    assert done.returncode == 5 and b"SIGKILL" in done.stderr
    assert len(batch.entries) == 2, "the rest is left for another time"


def test_no_engine_and_no_model(batch: Batch, tmp_path: Path) -> None:
    batch.prompts("say one", "say two")
    done = batch.run("-m", str(tmp_path / "nothing.gguf"))
    assert done.returncode == 4 and batch.entries == []
    batch.engine = str(tmp_path / "nothing")
    assert batch.run().returncode == 3 and batch.entries == []


@pytest.mark.skipif(sys.platform == "win32", reason="a lock of POSIX")
def test_an_output_belongs_to_one_run(batch: Batch) -> None:
    """A second one is refused before it reads what may be half a line, and another file is nobody's."""
    import fcntl

    batch.prompts("say one", "say two")
    torn = b'{"index": 1, "prompt": "say o'
    batch.output.write_bytes(torn)
    with batch.output.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        done = batch.run()
        assert done.returncode == 2 and b"out.jsonl is in use by another run" in done.stderr
        assert batch.output.read_bytes() == torn and not batch.record.exists()
    assert batch.run().returncode == 0 and batch.replies == ["one", "two"]


@pytest.mark.engine
def test_a_flag_that_the_engine_refuses_ends_the_batch(batch: Batch, engine: EngineBinary) -> None:
    """As it ends one answer: no line can be answered, and none is written off."""
    batch.prompts("hello", "hello again")
    batch.engine = str(engine.path)
    done = batch.run("--", "--frobnicate", "3")
    assert (done.returncode, batch.output.read_bytes()) == (2, b"")
    assert b"does not support --frobnicate, which was given after --" in done.stderr and b"/clear" not in done.stderr
