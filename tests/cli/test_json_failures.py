"""``--json`` prints its object for every failure, also before a backend is open."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import fake_engine, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")

FIELDS = ["reply", "finish_reason", "tokens", "timings", "model", "engine", "error", "conversation", "kept"]
Arranged = tuple[str, ...]


def unknown_model(folder: Path) -> Arranged:
    return "-m", "no-such-model", "hello"


def model_that_is_a_folder(folder: Path) -> Arranged:
    return "-m", str(folder), "hello"


def missing_engine(folder: Path) -> Arranged:
    return "--engine", str(folder / "none"), "hello"


def engine_that_is_none(folder: Path) -> Arranged:
    (folder / "notes.txt").write_text("words")
    return "--engine", str(folder / "notes.txt"), "hello"


def missing_file(folder: Path) -> Arranged:
    return "-f", str(folder / "none.txt")


def file_that_is_no_text(folder: Path) -> Arranged:
    (folder / "latin.txt").write_bytes(b"\xe9t\xe9")
    return "-f", str(folder / "latin.txt")


def missing_attachment(folder: Path) -> Arranged:
    return "-a", str(folder / "none.txt"), "hello"


def empty_question(folder: Path) -> Arranged:
    return ("  ",)


def unknown_flag(folder: Path) -> Arranged:
    return "--no-such-flag", "hello"


def bad_value_of_a_flag(folder: Path) -> Arranged:
    return "--ctx", "-5", "hello"


def value_that_is_no_number(folder: Path) -> Arranged:
    return "--ctx", "many", "hello"


def flags_that_clash(folder: Path) -> Arranged:
    return "--interactive", "hello"


def bad_setting_of_the_config(folder: Path) -> Arranged:
    (folder / "config.toml").write_text('ctx = "many"\n')
    return ("hello",)


def broken_config(folder: Path) -> Arranged:
    (folder / "config.toml").write_text("ctx = \n")
    return ("hello",)


def config_that_is_a_folder(folder: Path) -> Arranged:
    (folder / "config.toml").mkdir()
    return ("hello",)


def unknown_persona(folder: Path) -> Arranged:
    return "--persona", "none", "hello"


def missing_tools(folder: Path) -> Arranged:
    return "--tools", str(folder / "none.py"), "--allow-tools", "all", "hello"


def unknown_conversation(folder: Path) -> Arranged:
    return "--resume", "77", "hello"


def no_conversation(folder: Path) -> Arranged:
    return "--continue", "hello"


def address_that_is_none(folder: Path) -> Arranged:
    return "--attach=http://", "hello"


def server_that_does_not_run(folder: Path) -> Arranged:
    return "--attach=http://127.0.0.1:9", "hello"


def backend_without_an_address(folder: Path) -> Arranged:
    return "--backend", "openai", "hello"


def journal_that_is_none(folder: Path) -> Arranged:
    journal_file(folder).write_bytes(b"no database, but longer than its magic" * 200)
    return "--continue", "hello"


def journal_of_a_later_release(folder: Path) -> Arranged:
    with sqlite3.connect(journal_file(folder)) as connection:
        connection.execute("PRAGMA user_version = 9999")
        connection.execute("CREATE TABLE conversation (id INTEGER)")
    connection.close()
    return "--continue", "hello"


def journal_that_is_a_folder(folder: Path) -> Arranged:
    journal_file(folder).mkdir()
    return "--continue", "hello"


def journal_file(folder: Path) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    return folder / "data" / "journal.db"


@pytest.mark.parametrize(
    ("arrange", "reason", "code"),
    [
        (unknown_model, "bad_model", 4),
        (model_that_is_a_folder, "bad_model", 4),
        (missing_engine, "no_engine", 3),
        (engine_that_is_none, "no_engine", 3),
        (missing_file, "usage", 2),
        (file_that_is_no_text, "usage", 2),
        (missing_attachment, "usage", 2),
        (empty_question, "usage", 2),
        (unknown_flag, "usage", 2),
        (bad_value_of_a_flag, "usage", 2),
        (value_that_is_no_number, "usage", 2),
        (flags_that_clash, "usage", 2),
        (bad_setting_of_the_config, "usage", 2),
        (broken_config, "usage", 2),
        (config_that_is_a_folder, "usage", 2),
        (unknown_persona, "usage", 2),
        (missing_tools, "usage", 2),
        (unknown_conversation, "usage", 2),
        (no_conversation, "usage", 2),
        (address_that_is_none, "usage", 2),
        (server_that_does_not_run, "no_engine", 3),
        (backend_without_an_address, "usage", 2),
        (journal_that_is_none, "journal", 9),
        (journal_of_a_later_release, "journal", 9),
        (journal_that_is_a_folder, "journal", 9),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_failure_before_the_reply_is_an_object(
    arrange: Callable[[Path], Arranged], reason: str, code: int, home: Path, tmp_path: Path
) -> None:
    arguments = arrange(home)
    engine = () if "engine" in arrange.__name__ else ("--engine", str(fake_engine(tmp_path)))
    if "--attach" in arguments[0] or "--backend" in arguments:
        engine = ()
    done = run("--json", *engine, *arguments)
    answer = json.loads(done.stdout)
    assert list(answer) == FIELDS, done.stderr
    assert (done.returncode, answer["finish_reason"]) == (code, reason), answer
    assert (answer["reply"], answer["tokens"], answer["conversation"], answer["kept"]) == (None, 0, None, False)
    told = " ".join(done.stderr.decode().removeprefix("bitnet-chat: ").split())
    assert " ".join(answer["error"].split()).split("  ")[0] in told


def test_no_object_is_printed_where_the_word_belongs_to_the_engine(tmp_path: Path) -> None:
    done = run("--engine", str(tmp_path / "none"), "hello", "--", "--json")
    assert (done.returncode, done.stdout) == (3, b"")
