"""The file: private, brought up to date, never overwritten when it is damaged, safe for several programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, FinishReason, JournalTooNewError, UsageError
from bitnet_chat.journal import Journal, JournalRecorder, ReplyState, damaged_file, schema
from bitnet_chat.journal.damaged_file import open_file, read_back
from bitnet_chat.journal.database import clear_unsaved, describe_error, mark_unsaved, unsaved_since


def say(journal: Journal, text: str = "hello") -> list[str]:
    """One turn; the complaints about it."""
    complaints: list[str] = []

    async def talk() -> None:
        recorder = JournalRecorder(journal, complaints.append)
        recorder.begin_reply(Conversation().with_user(text))
        recorder.text(f"{text} too")
        recorder.end_reply(FinishReason.STOP)
        await recorder.close()
        await asyncio.sleep(0)

    asyncio.run(talk())
    return complaints


def titles(journal: Journal) -> list[str]:
    return [entry.title for entry in journal.list()]


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes")
def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "journal.db"
    before = os.umask(0)
    try:
        connection, note = open_file(path)
        connection.execute("INSERT INTO conversations (title, created, updated) VALUES ('t', 1, 1)")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        connection.close()
    finally:
        os.umask(before)
    assert note == ""
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}


def test_settings_of_a_connection(tmp_path: Path) -> None:
    connection, _ = open_file(tmp_path / "journal.db")
    asked = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "foreign_keys")}
    assert asked == {"journal_mode": "wal", "foreign_keys": 1}
    assert connection.execute("PRAGMA secure_delete").fetchone()[0] == 1
    assert schema.version(connection) == schema.VERSION == 4
    connection.close()


# Migrations


def version_1(path: Path) -> None:
    """A file as the first release made it, with a conversation that was cut off."""
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, 1)
    assert schema.version(connection) == 1
    with connection:
        connection.execute(
            "INSERT INTO conversations (title, created, updated, head, turns) VALUES ('old', 1, 2, 2, 1)"
        )
        connection.execute(
            "INSERT INTO messages (conversation, role, content, created) VALUES (1, 'user', 'old question', 1)"
        )
        connection.execute(
            "INSERT INTO messages (conversation, parent, role, content, created, writer)"
            " VALUES (1, 1, 'assistant', 'old ', 1, '1:1.0')"
        )
        connection.execute("INSERT INTO chunks (message, thinking, text) VALUES (2, 0, 'answer')")
    connection.close()


@pytest.mark.parametrize("old", range(schema.VERSION))
def test_each_version_becomes_the_present_one(tmp_path: Path, old: int) -> None:
    new, stepped = tmp_path / "new.db", tmp_path / "stepped.db"
    connection = sqlite3.connect(stepped, isolation_level=None)
    schema.migrate(connection, old)
    connection.close()
    tables = []
    for path in (new, stepped):
        connection, note = open_file(path)
        assert (note, schema.version(connection)) == ("", schema.VERSION)
        tables.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall())
        connection.close()
    assert tables[0] == tables[1]


def test_what_an_old_file_holds_is_kept_and_found(tmp_path: Path) -> None:
    version_1(tmp_path / "journal.db")
    journal = Journal(tmp_path / "journal.db")
    stored = journal.load(1)
    assert [message.content for message in stored.conversation.messages] == ["old question", "old answer"]
    assert stored.state is ReplyState.CUT_OFF
    assert say(journal, "new") == []
    assert [hit.entry.title for hit in journal.search("answer")] == ["old"]
    assert titles(journal) == ["new", "old"]


def test_a_migration_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path / "journal.db")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (x)", "no SQL at all")))
    monkeypatch.setattr(schema, "VERSION", len(schema.MIGRATIONS))
    connection = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, schema.VERSION)
    assert schema.version(connection) == 1
    assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'more'").fetchall()
    connection.close()


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE things_to_come (x)")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    journal = Journal(path)
    for use in (journal.list, journal.latest, journal.check, lambda: journal.load(1), lambda: journal.search("x")):
        with pytest.raises(JournalTooNewError, match="version 99"):
            use()
    [complaint] = say(journal)
    assert "version 99" in complaint and "--no-journal" in complaint
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["journal.db", "journal.db.not-kept"]


# Damage


def grown(path: Path) -> bytes:
    """The bytes of a sound file of many pages."""
    journal = Journal(path)
    for number in range(3):
        say(journal, f"{number} " + "many words " * 3000)
    journal.search("words")
    return path.read_bytes()


def other_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (dish)")
    connection.execute("INSERT INTO recipes VALUES ('soup')")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", ["garbage", "short garbage", "cut", "half a header", "first page", "other database"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.db"
    if damage == "other database":
        other_database(path)
    else:
        data = grown(path)
        path.write_bytes(
            {
                "garbage": os.urandom(50_000),
                "short garbage": b"no database",
                "cut": data[: len(data) // 2],
                "half a header": data[:50],
                "first page": data[:100] + b"\xaa" * 4000 + data[4100:],
            }[damage]
        )
    before = path.read_bytes()
    [complaint] = say(Journal(path))
    [aside] = [file for file in tmp_path.iterdir() if ".damaged-" in file.name]
    assert str(aside) in complaint and aside.read_bytes() == before
    assert titles(Journal(path))[0] == "hello" and (len(titles(Journal(path))) == 1 or damage == "cut")
    assert f"sqlite3 {aside} .recover" in complaint or "nothing in it can be read" in complaint
    assert (damage in ("garbage", "short garbage")) <= ("nothing in it" in complaint)
    assert say(Journal(path)) == []


def spoken(journal: Journal) -> dict[int, list[str]]:
    return {
        entry.id: [said.content for said in journal.load(entry.id).conversation.messages] for entry in journal.list()
    }


@pytest.mark.parametrize("page", [0.5, 0.55])
def test_what_can_be_read_of_a_damaged_file_is_read_back(tmp_path: Path, page: float) -> None:
    """Garbage in the middle, at the beginning of a page and within one: a few conversations have it, all others are as
    they were, under their numbers."""
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(12):
        say(journal, f"{number} " + "many words " * 500)
    before = spoken(journal)
    data = bytearray(path.read_bytes())
    at = int(len(data) // 4096 * page * 2) * 2048
    data[at : at + 8192] = b"\xe5" * 8192
    path.write_bytes(data)
    with pytest.raises(BitnetChatError, match="set aside as") as caught:
        spoken(journal)
    after = spoken(journal)
    assert journal.check() == "" and f"what could be read of {len(after)} conversations" in str(caught.value)
    assert len([id for id, said in after.items() if said == before[id]]) >= 8
    [aside] = [file for file in tmp_path.iterdir() if ".damaged-" in file.name]
    assert aside.read_bytes() == data and f"sqlite3 {aside} .recover" in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["journal.db", aside.name]
    assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert say(journal) == [] and [hit.entry.title for hit in journal.search("hello too")] == ["hello"]


def test_rows_that_are_lost_leave_the_others_in_their_order(tmp_path: Path) -> None:
    """Of a file of the first release, with a reply that was being written."""
    path, new = tmp_path / "journal.db", tmp_path / "new.db"
    version_1(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO conversations (title, created, updated, head) VALUES ('empty', 1, 2, 77)")
    said = [(3, 7, None, "user", "a lost title"), (5, 7, 4, "user", "again"), (6, 7, 5, "assistant", "yes")]
    said += [(1 << 40, 1, 1, "user", "garbage"), (8, 1, 2, "nobody", "garbage")]
    connection.executemany(
        "INSERT INTO messages (id, conversation, parent, role, content, created) VALUES (?, ?, ?, ?, ?, 3)", said
    )
    connection.commit()
    connection.close()
    assert read_back(path, new) == 2
    journal = Journal(new)
    assert {entry.id: (entry.title, entry.turns) for entry in journal.list()} == {1: ("old", 1), 7: ("a lost title", 2)}
    assert spoken(journal) == {1: ["old question", "old answer"], 7: ["again", "yes"]}
    assert [record.message.content for record in journal.load(7).passed_over] == ["a lost title"]
    assert journal.load(1).state is ReplyState.CUT_OFF


def test_another_program_sets_it_aside_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    data = grown(path)
    path.write_bytes(data[: len(data) // 2])

    def slowly(damaged: Path, new: Path) -> int | None:
        path.rename(tmp_path / "aside")
        say(Journal(path), "of the other")
        return read_back(tmp_path / "aside", new)

    monkeypatch.setattr(damaged_file, "read_back", slowly)
    assert titles(Journal(path)) == ["of the other"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["aside", "journal.db"]


def test_damage_that_is_found_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    grown(path)
    connection = sqlite3.connect(path)
    [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = b"\x05" * 4096
    path.write_bytes(data)
    journal = Journal(path)
    with pytest.raises(BitnetChatError, match="set aside as"):
        journal.load(1)
    assert journal.list() == []
    [aside] = [file for file in tmp_path.iterdir() if ".damaged-" in file.name]
    assert aside.read_bytes() == bytes(data)


def test_check_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    data = bytearray(grown(path))
    assert Journal(path).check() == ""
    connection = sqlite3.connect(path)
    [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'chunks_of_message'").fetchone()
    connection.close()
    data[(root - 1) * 4096] = 2  # an inner page without what one has
    data[(root - 1) * 4096 + 3] = 200
    path.write_bytes(data)
    with contextlib.suppress(BitnetChatError):
        assert Journal(path).check() != ""


def test_the_log_goes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for ending in ("", "-wal", "-shm"):
        (tmp_path / f"journal.db{ending}").write_bytes(b"nothing that anybody could read " * 100)
    say(Journal(path))
    aside = sorted(file.name for file in tmp_path.iterdir() if ".damaged-" in file.name)
    assert len(aside) == 3 and [name[-4:] for name in aside[1:]] == ["-shm", "-wal"]
    assert titles(Journal(path)) == ["hello"]


def test_two_set_aside_in_the_same_second(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for _ in range(3):
        path.write_bytes(b"garbage, nothing but garbage" * 10)
        with pytest.raises(BitnetChatError, match="set aside as"):
            Journal(path).list()
    assert len([file for file in tmp_path.iterdir() if ".damaged-" in file.name]) == 3


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    assert Journal(path).list() == [] and say(Journal(path)) == []
    assert titles(Journal(path)) == ["hello"]


@pytest.mark.parametrize("place", ["a folder", "below a file", "a pipe"])
def test_a_place_where_no_file_can_be(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.journal.recorder.PATIENCE", 0.1)
    path = tmp_path / "journal.db"
    if place == "a folder":
        path.mkdir()
    elif place == "a pipe":
        if not hasattr(os, "mkfifo"):
            return
        os.mkfifo(path)
    else:
        path.write_text("a file")
        path = path / "journal.db"
    [complaint] = say(Journal(path))
    assert "cannot be written" in complaint and str(path) in complaint and "\n" not in complaint
    if place != "below a file":
        with pytest.raises(BitnetChatError, match="cannot be used"):
            Journal(path).list()


def test_what_was_kept_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A full disk, a backup: SQLite cannot make the files that it keeps beside the journal."""
    path = tmp_path / "journal.db"
    assert say(Journal(path)) == []
    before = path.read_bytes()
    (tmp_path / "journal.db-wal").mkdir()
    journal = Journal(path)
    assert titles(journal) == ["hello"]
    assert [hit.entry.title for hit in journal.search("hello too")] == ["hello"]
    assert journal.load(1).conversation.messages[-1].content == "hello too"
    with pytest.raises(BitnetChatError, match="the journal cannot be used"):
        journal.remove([1])
    assert path.read_bytes() == before


def test_an_empty_file_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The disk was full when the journal was made."""
    path = tmp_path / "journal.db"
    path.touch()
    (tmp_path / "journal.db-wal").mkdir()
    assert Journal(path).list() == [] and Journal(path).search("hello") == []
    with pytest.raises(UsageError):
        Journal(path).load(1)
    with pytest.raises(BitnetChatError, match="the journal cannot be used"):
        Journal(path).remove([1])


def test_a_newer_file_where_nothing_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert say(Journal(path)) == []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    (tmp_path / "journal.db-wal").mkdir()
    with pytest.raises(JournalTooNewError):
        Journal(path).list()


@pytest.mark.parametrize("full", [True, False])
def test_why_it_cannot_be_written_is_told(tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: shutil._ntuple_diskusage(100, 100, 0 if full else 1 << 30))
    monkeypatch.setattr("os.access", lambda place, mode: False)
    told = describe_error(sqlite3.OperationalError("disk I/O error"), tmp_path / "journal.db")
    assert told.startswith("the disk is full (" if full else "its folder cannot be written (")


# Several programs

_TALK = """
import asyncio, sys
from pathlib import Path
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal import Journal, JournalRecorder

async def main(path, name):
    journal = Journal(Path(path))
    for number in range(6):
        recorder = JournalRecorder(journal, lambda text: sys.exit(text))
        recorder.begin_reply(Conversation().with_user(f"{name} {number}"))
        for _ in range(20):
            recorder.text("word ")
            await asyncio.sleep(0.001)
        recorder.end_reply(FinishReason.STOP)
        await recorder.close()
        journal.search("word")

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main(*sys.argv[1:]))
"""


def test_programs_that_make_and_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    names = ("a", "b", "c")
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", _TALK, str(path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    for program in programs:
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
    for program in programs:
        _, errors = program.communicate(timeout=60)
        assert (program.returncode, errors) == (0, "")
    journal = Journal(path)
    assert sorted(titles(journal)) == sorted(f"{name} {number}" for name in names for number in range(6))
    assert journal.check() == ""
    assert all(journal.load(entry.id).conversation.messages[-1].content == "word " * 20 for entry in journal.list())


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_reading_takes_no_lock_from_the_writer(tmp_path: Path) -> None:
    """A process that closes any descriptor of a file loses all its locks on it; another program would then take itself
    for the last one and remove the log."""
    path = tmp_path / "journal.db"
    connection, _ = open_file(path)
    connection.execute("INSERT INTO conversations (title, created, updated) VALUES ('t', 1, 1)")
    assert titles(Journal(path)) == ["t"]
    other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM messages').fetchall()"
    subprocess.run([sys.executable, "-c", f"{other}; c.close()", str(path)], check=True)
    assert path.with_name("journal.db-wal").exists()
    connection.execute("INSERT INTO conversations (title, created, updated) VALUES ('u', 2, 2)")
    connection.close()
    assert titles(Journal(path)) == ["u", "t"]


def test_the_mark_of_unsaved_messages_has_a_second_place(tmp_path: Path, home: Path) -> None:
    """Where the folder of the journal cannot be written."""
    (tmp_path / "file").write_text("in the place of a folder")
    places = [tmp_path / "file" / "journal.db", tmp_path / "other.db", tmp_path / "third.db"]
    for number, journal in enumerate(places[:2]):
        assert [unsaved_since(each) is not None for each in places] == [False] * 3
        mark_unsaved(journal)
        assert [unsaved_since(each) is not None for each in places] == [at == number for at in range(3)]
        clear_unsaved(journal)
