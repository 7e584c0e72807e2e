"""``bitnet-chat history``, and one-shot questions in the journal, as a script sees them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from program import ENTER, TIMEOUT, Start, Terminal, command, environment, fake_engine, run, start

from bitnet_chat import paths
from bitnet_chat.cli import main
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.export import restore
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal import Journal, JournalRecorder, ReplyState
from bitnet_chat.prompt_cache.key import StateIdentity
from bitnet_chat.prompt_cache.store import StateStore
from bitnet_chat.trace import recorder

__all__ = ["start"]
HOSTILE = "title \x1b]0;x\x07 \x9b2J \u202e \udcf0 数据"


@pytest.fixture
def journal(home: Path) -> Journal:
    """Conversation 1 is hostile, 2 is plain and was stopped."""
    journal = Journal()

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        recorder.begin_reply(Conversation().with_system("sys").with_user(HOSTILE), model=HOSTILE, engine="e")
        recorder.thinking("hm")
        recorder.end_reply(FinishReason.STOP, text=f"{HOSTILE}\nneedle")
        recorder.start_new()
        recorder.begin_reply(Conversation().with_user("plain question"), model="m")
        recorder.end_reply(FinishReason.INTERRUPTED, text="plain answer")
        await recorder.close()

    asyncio.run(talk())
    return journal


def history(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["history", *arguments])
    output, errors = capsys.readouterr()
    for text in (output, errors):
        assert not [sign for sign in text if sign != "\n" and (ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0)]
        assert "\u202e" not in text
    return code, output, errors


def test_list(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = history(capsys, "list")
    first, second = output.splitlines()
    assert code == 0 and first.startswith("2  2") and first.endswith("  plain question  [1 turn, m]")
    assert "title ␛]0;x␇ <U+009B>2J <U+202E> <F0> 数据" in second
    code, output, _ = history(capsys, "list", "--json", "-n", "1")
    [entry] = json.loads(output)
    assert (entry["id"], entry["title"], entry["turns"], entry["state"]) == (2, "plain question", 1, "whole")


def test_saved_states_are_marked_and_removed(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    store = StateStore(paths.states_dir(), 1000)
    identity = StateIdentity("m", "e", "v", 1, 1, "f16", "f16", "t")

    def keep(id: int, *digits: int) -> None:
        """A state of a conversation; ``digits``: of its messages."""
        pending = store.begin(identity, tuple(str(digit) * 40 for digit in (0, *digits)))
        assert pending is not None
        pending.path.write_bytes(b"x")
        assert store.commit(pending, tokens=1, owner=store.owner(journal.path, id, 0))

    def marked() -> list[bool]:
        """Whether conversations 2 and 1 are."""
        lines = history(capsys, "list")[1].splitlines()
        entries = json.loads(history(capsys, "list", "--json")[1])
        assert [(entry["id"], entry["state"]) for entry in entries] == [(2, "whole"), (1, "whole")]
        assert "head" not in entries[0]
        marks = [line.endswith(", state saved]") for line in lines]
        assert marks == [entry["saved_state"] for entry in entries] == ["state saved" in line for line in lines]
        return marks

    assert marked() == [False, False]
    keep(2, 1, 2)
    assert marked() == [True, False]
    keep(2, 1, 3)
    keep(2, 1, 3, 4)
    assert marked() == [True, False] and store.usage().count == 2, "of two branches"
    keep(1, 5)
    assert marked() == [True, True]
    prompt = store.begin(identity, ("0" * 40,))
    assert prompt is not None
    prompt.path.write_bytes(b"x")
    assert store.commit(prompt, tokens=1) and marked() == [True, True]
    assert history(capsys, "rm", "2", "--yes")[0] == 0
    assert store.usage().count == 2 and store.heads(journal.path) == {(1, 0)}
    assert history(capsys, "rm", "1", "--yes")[0] == 0
    assert store.usage() == store.prompt_usage() and store.usage().count == 1, "the shared system prompt stays"


def test_nothing_to_list(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert history(capsys, "list") == (0, "", "The journal is empty.\n")
    assert history(capsys, "list", "--json") == (0, "[]\n", "")
    assert not (home / "data").exists()


def test_show(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = history(capsys, "show", "2")
    assert (code, output) == (
        0, "plain question\nconversation 2 · m\n\n> plain question\n\nplain answer\n[interrupted]\n",
    )  # fmt: skip
    code, output, _ = history(capsys, "show", "1")
    assert "system: sys" in output and "(thinks) hm" in output and output.endswith("数据\nneedle\n")
    code, output, _ = history(capsys, "show", "1", "--json")
    assert restore(output) == journal.load(1).conversation
    assert json.loads(output)["model"] == HOSTILE


def test_show_messages_that_got_no_reply(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        for text in ("lost?", "last?"):
            stored = journal.load(2)
            recorder.resume(stored)
            if stored.pending is not None:
                recorder.follow(stored.pending.row)
            recorder.begin_reply(stored.conversation.with_user(text))
            recorder.end_reply(FinishReason.ENGINE_DIED)
            assert await recorder.settled()
        await recorder.close()

    asyncio.run(talk())
    shown = history(capsys, "show", "2")[1]
    assert shown.endswith("plain answer\n[interrupted]\n\n> lost?\n[not answered]\n\n> last?\n[not answered]\n")
    marked = [("user", "lost?", "not answered"), ("user", "last?", "not answered")]
    for verb in ("show 2 --json", "export 2 --format json", "export 2 --format jsonl"):
        text = history(capsys, *verb.split())[1]
        messages = json.loads(text)["messages"] if "jsonl" not in verb else list(map(json.loads, text.splitlines()))
        assert [(each["role"], each["content"], each.get("left_out")) for each in messages][2:] == marked
        assert restore(text) == journal.load(2).conversation
    text = history(capsys, "export", "2", "--format", "md")[1]
    assert text.endswith("## You\n\nlost?\n\n*[not answered]*\n\n## You\n\nlast?\n\n*[not answered]*\n")
    assert history(capsys, "export", "2", "--format", "html")[1].count("[not answered]") == 2


def test_search(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = history(capsys, "search", "NEEDLE")
    assert code == 0 and output.startswith("1  ") and "needle" in output.splitlines()[1]
    assert history(capsys, "search", "plain", "nothing") == (1, "", "No match.\n")
    code, output, _ = history(capsys, "search", "--json", "据")
    assert [hit["id"] for hit in json.loads(output)] == [1]
    assert history(capsys, "search", " ")[0] == 2


@pytest.mark.parametrize("arguments", [("show", "9"), ("export", "9"), ("rm", "9", "--yes"), ("rm", "1", "9", "--yes")])
def test_a_number_that_none_has(journal: Journal, capsys: pytest.CaptureFixture[str], arguments: tuple[str]) -> None:
    code, output, errors = history(capsys, *arguments)
    assert (code, output) == (2, "") and "conversation 9 does not exist" in errors and "history list" in errors
    assert len(journal.list()) == 2


@pytest.mark.parametrize("number", ["x", "0", "-1", "1.5", "99999999999999999999", "١", ""])
def test_what_is_no_number(capsys: pytest.CaptureFixture[str], number: str) -> None:
    code, _, errors = history(capsys, "show", "--", number)
    assert code == 2 and errors


@pytest.mark.parametrize("verb", ["list", "show 1", "search needle", "search nothing", "export 1", "rm 1 --yes"])
def test_json_everywhere_and_nothing_else(journal: Journal, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    _, output, _ = history(capsys, *verb.split(), "--json")
    json.loads(output)
    assert output.count("\n") > 0 and not any(sign in output for sign in "\x1b\x9b\u202e")


def test_rm_tells_what_it_could_not_remove(
    journal: Journal, capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recorder.folder() / "20261120-1"
    recording.mkdir(parents=True)
    (recording / "000000").write_bytes(b"words")
    (paths.data_dir() / "history").write_text('"plain question"')
    monkeypatch.setattr("shutil.rmtree", lambda folder, ignore_errors: None)
    code, output, errors = history(capsys, "rm", "2", "--yes")
    assert (code, output) == (0, "removed: 2\n")
    assert f"the recordings in {recorder.folder()} cannot be removed" in errors
    assert f"the input history is still in {paths.data_dir() / 'history'}" in errors


def test_what_is_no_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "list", "-n", "0"]) == 2
    assert "'0' is not a limit" in capsys.readouterr().err


def test_export(journal: Journal, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, output, _ = history(capsys, "export", "2")
    assert code == 0 and output.startswith("# plain question\n")
    file = tmp_path / "out.html"
    code, output, errors = history(capsys, "export", "2", "-o", str(file))
    assert (code, errors) == (0, "") and output == f"{file}: conversation 2 as html\n"
    page = file.read_text()
    assert page.startswith("<!DOCTYPE html>")
    code, _, errors = history(capsys, "export", "1", "-o", str(file))
    assert code == 2 and "already exists" in errors and file.read_text() == page
    code, output, _ = history(capsys, "export", "1", "-o", str(file), "--force", "--format", "json", "--json")
    assert code == 0 and json.loads(output) == {"id": 1, "format": "json", "file": str(file)}
    assert restore(file.read_text()) == journal.load(1).conversation
    assert history(capsys, "export", "1", "-o", str(tmp_path / "no" / "x.md"))[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"], "nothing half-written is left"


def test_rm_asks_and_refuses_where_it_cannot(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = history(capsys, "rm", "1")
    assert code == 2 and "--yes" in errors and len(journal.list()) == 2
    recording = recorder.folder() / "20261120-1"
    recording.mkdir(parents=True)
    (recording / "000000").write_bytes(b"words")
    code, output, errors = history(capsys, "rm", "1", "1", "--yes")
    assert (code, errors) == (0, "") and output.startswith("removed: 1, and the recordings")
    assert not recording.exists()
    assert history(capsys, "rm", "2", "--yes", "--json") == (0, '{\n  "removed": [\n    2\n  ]\n}\n', "")
    assert journal.list() == []


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_rm_on_a_terminal(start: Start, journal: Journal, answer: str) -> None:
    terminal: Terminal = start("history", "rm", "2")
    terminal.until("plain question")
    terminal.until("[y/N]")
    terminal.send(answer, ENTER)
    assert terminal.end() == (0 if answer == "y" else 1)
    assert len(journal.list()) == (1 if answer == "y" else 2)


def test_a_newer_journal(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(journal.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    code, output, errors = history(capsys, "list")
    assert (code, output) == (9, "") and "version 99" in errors


# Questions

posix = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")


@pytest.fixture
def fake(tmp_path: Path) -> str:
    return str(fake_engine(tmp_path))


def contents(number: int) -> list[str]:
    return [message.content for message in Journal().load(number).conversation.messages]


@posix
def test_questions_are_kept_and_gone_on_with(fake: str) -> None:
    done = run("--engine", fake, "--system", "be brief", "say one")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n", b"")
    answer = json.loads(run("--engine", fake, "--json", "say other").stdout)
    assert answer["conversation"] == 2
    answer = json.loads(run("--engine", fake, "--json", "--resume", "1", "say two").stdout)
    assert (answer["conversation"], answer["reply"]) == (1, "two")
    assert run("--engine", fake, "--no-stream", "-C", stdin="say three").stdout == b"three\n"
    assert contents(1) == ["be brief", "say one", "one", "say two", "two", "say three", "three"]
    assert contents(2) == ["say other", "other"]
    last = Journal().load(1).records[-1]
    assert (last.model, last.engine, last.stats["tokens"]) == ("bitnet-demo", "fake-engine (classic)", 2)


@posix
def test_the_engine_gets_the_history(fake: str, tmp_path: Path) -> None:
    run("--engine", fake, "--system", "be brief", "say one")
    record = tmp_path / "record"
    run("--engine", fake, "-C", "say two", FAKE_ENGINE_RECORD=str(record))
    prompt = json.loads(record.read_text().splitlines()[-1])["prompt"]
    assert "be brief" in prompt and "say one" in prompt and "one" in prompt.partition("say one")[2]


@posix
def test_private_questions(fake: str, home: Path) -> None:
    answer = json.loads(run("--engine", fake, "--json", "--no-journal", "say it").stdout)
    assert (answer["reply"], answer["conversation"]) == ("it", None)
    assert not (home / "data" / "journal.db").exists()


@posix
def test_a_batch_is_not_kept(fake: str, home: Path, tmp_path: Path) -> None:
    run("--engine", fake, "--input", "-", "--output", str(tmp_path / "out"), stdin='{"prompt": "say it"}')
    assert not (home / "data" / "journal.db").exists()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("-C",), "no conversation to continue"),
        (("--resume", "7"), "conversation 7 does not exist"),
        (("--resume", "seven"), "not 'seven'"),
        (("--resume",), "requires the number"),
        (("-C", "--resume", "7"), "cannot be combined with"),
    ],
)
def test_conversations_that_cannot_be_gone_on_with(flags: tuple[str, ...], error: str) -> None:
    done = run("-f", "-", *flags, stdin="a question")
    assert done.returncode == 2 and error in done.stderr.decode() and b"Traceback" not in done.stderr


@posix
def test_a_question_that_got_no_answer_is_kept(fake: str) -> None:
    done = run("--engine", fake, "--json", "kill so far")
    assert done.returncode == 5 and json.loads(done.stdout)["conversation"] == 1
    assert contents(1) == ["kill so far", "so far"]
    assert run("--engine", fake, "exit 3").returncode == 5
    assert Journal().load(2).unanswered == "exit 3"


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_question_that_was_stopped(fake: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        command("--engine", fake, "story"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as program:
        assert program.stdout is not None
        os.read(program.stdout.fileno(), 100)
        program.send_signal(number)
        program.communicate(timeout=TIMEOUT)
        assert program.returncode == 128 + number
    stored = Journal().load(1)
    assert stored.conversation.last is not None
    assert stored.conversation.last.finish is FinishReason.INTERRUPTED and stored.state is ReplyState.WHOLE
    assert stored.conversation.last.content.startswith("word0")


@posix
def test_an_answer_that_is_not_kept(fake: str, home: Path) -> None:
    """One line, JSON and the exit code say so, and what goes on with the last conversation says which one that is."""
    run("--engine", fake, "say one")
    path = home / "data" / "journal.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = run("--engine", fake, "--json", "say two")
    other.close()
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["reply"], answer["finish_reason"]) == (9, "two", "stop")
    [line] = done.stderr.decode().splitlines()
    assert line == f"bitnet-chat: {answer['not_kept']}" and (answer["kept"], answer["conversation"]) == (False, None)
    assert "this conversation is not kept: the journal cannot be written: database is locked: " in line
    done = run("--engine", fake, "-C", "say three")
    [line] = done.stderr.decode().splitlines()
    assert done.returncode == 0 and "was not saved: continuing conversation 1, “say one”, of 2" in line
    done = run("--engine", fake, "--json", "-C", "say four")
    assert (done.returncode, done.stderr, json.loads(done.stdout)["kept"]) == (0, b"", True)
