"""The journal is foreign data: whatever stands in a column, all others work, and the damaged row is named."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sqlite3
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from itertools import cycle
from pathlib import Path

import pytest
from serving import serving

from bitnet_chat.cli import main
from bitnet_chat.cli.arguments import find_conversation
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason, JournalError
from bitnet_chat.events import Stats
from bitnet_chat.journal import Journal, JournalRecorder
from bitnet_chat.journal.damaged_file import open_file

VALUES = {
    "NULL": "NULL",
    "text": "'x'",
    "hostile": "char(27) || '[2J' || char(8238, 0)",
    "no UTF-8": "CAST(x'ff80fe' AS TEXT)",
    "blob": "x'ff80fe'",
    "1e300": "1e300",
    "infinity": "9e999",
    "minus": "-1",
    "largest": "9223372036854775807",
    "JSON": """'{"a": 1e999, "b": NaN}'""",
    "deep JSON": "'" + "[" * 3000 + "'",
}
TABLES = {
    "conversations": "id title created updated model engine options forked_from head turns",
    "messages": "id conversation parent role content thinking finish created model engine options stats writer indexed"
    " tools",
    "chunks": "id message thinking text",
    "votes": "id conversation created blind replies chosen",
}
NO_NUMBER = ("text", "hostile", "no UTF-8", "blob")
NAMED = {
    "created": {*NO_NUMBER, "NULL", "1e300", "infinity", "minus", "largest"},
    "head": {*NO_NUMBER, "1e300", "minus", "largest"},
    "turns": {*NO_NUMBER, "NULL", "minus"},
    "title": {"NULL", "no UTF-8", "blob"},
    "role": {*VALUES},
    "content": {"NULL", "no UTF-8", "blob"},
    "parent": {*NO_NUMBER, "NULL", "minus", "largest"},
    "options": {*VALUES} - {"JSON"} | {"JSON"},
    "tools": {"text", "no UTF-8", "blob", "NULL", "deep JSON", "JSON"} - {"JSON"},
}
NAMED["updated"], NAMED["stats"], NAMED["thinking"] = NAMED["created"], NAMED["options"], NAMED["content"]
SOUND = 1, len(VALUES) + 2
"""Conversations that stay as they are; each of those between has one of the values."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Conversations, most with tools, thoughts, and a reply whose program was killed. NULL may stand in any column, as
    in a file that was repaired by hand."""
    path = tmp_path_factory.mktemp("sound") / "journal.db"
    look = ToolCall("c1", "look", "{}")

    async def talk() -> None:
        recorder = JournalRecorder(Journal(path), pytest.fail)
        for number in range(SOUND[0], SOUND[1] + 1):
            recorder.start_new()
            line = Conversation().with_system("sys").with_user(f"question {number}")
            recorder.begin_reply(line, model="m", engine="e")
            recorder.thinking("hm")
            if number in SOUND:
                recorder.end_reply(FinishReason.STOP, Stats(tokens=3), text=f"answer {number}")
                continue
            recorder.tool_call(look)
            recorder.end_reply(FinishReason.TOOL_CALLS, text="let me look")
            line = line.with_assistant("let me look", FinishReason.TOOL_CALLS, "hm", (look,))
            line = line.with_tool_result(look, "found")
            recorder.begin_reply(line)
            recorder.end_reply(FinishReason.STOP, text="answer")
            rows = await recorder.rows()
            assert rows is not None
            recorder.vote((rows.line[2], rows.line[4]), rows.line[4], blind=True)
            recorder.begin_reply(line.with_assistant("answer", FinishReason.STOP).with_user("more?"))
            recorder.end_reply(FinishReason.INTERRUPTED, text="cut ")
        await recorder.close()

    asyncio.run(talk())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table'")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO chunks SELECT id, id, 0, content FROM messages WHERE content = 'cut '")
        connection.execute("UPDATE messages SET content = '', finish = NULL, writer = '1:1.0' WHERE content = 'cut '")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path.read_bytes()


def history(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["history", *arguments])
    text = out.getvalue() + err.getvalue()
    assert "Traceback" not in text and not any(sign in text for sign in "\x1b\0\u202e"), text
    return code, out.getvalue(), err.getvalue()


FRONT_ENDS = (
    "show 2",
    "search look",
    "show 2 --json",
    "export 2 --format html",
    "list",
    "export 2 --format jsonl",
    "votes",
    "votes --json",
)


def all_work(journal: Journal, place: str) -> None:
    entries = journal.list()
    assert {(each.id, each.title) for each in entries} >= {(number, f"question {number}") for number in SOUND}, place
    for number in SOUND:
        assert journal.load(number).conversation.messages[-1].content == f"answer {number}", place
    for line in FRONT_ENDS:
        code, out, err = history(*line.split())
        assert code in (0, 1, 2), (place, line, err)
        if "--json" in line and code == 0:
            json.loads(out, parse_constant=pytest.fail)
    stored = find_conversation(argparse.Namespace(resume_last=True), journal, lambda line: None)
    assert stored is not None and (stored.updated > 0 or not any(each.updated for each in entries)), place


def goes_on(journal: Journal, place: str, damaged: int = 2) -> None:
    """Something new is kept, in a conversation of its own and in a damaged one."""
    complaints: list[str] = []

    async def talk() -> None:
        recorder = JournalRecorder(journal, complaints.append)
        for number in (0, damaged):
            conversation = Conversation()
            if number in {entry.id for entry in journal.list()}:
                stored = journal.load(number)
                recorder.resume(stored)
                conversation = stored.conversation
            recorder.begin_reply(conversation.with_user("and now?"))
            recorder.end_reply(FinishReason.STOP, text="kept all the same")
        await recorder.close()
        assert not recorder.unsaved, (place, recorder.unsaved)

    asyncio.run(talk())
    assert not complaints, (place, complaints)
    assert journal.load(journal.list()[0].id).conversation.messages[-1].content == "kept all the same", place


@pytest.mark.parametrize("table", TABLES)
def test_any_value_in_any_column(table: str, sound: bytes, home: Path) -> None:
    """Each conversation between the sound ones has another value in the same column."""
    journal = Journal()
    journal.path.parent.mkdir(parents=True)
    serious = cycle(range(SOUND[0] + 1, SOUND[1]))
    row = {
        "conversations": "{0}",
        "messages": "(SELECT id FROM messages WHERE conversation = {0} AND content = 'let me look')",
        "votes": "(SELECT id FROM votes WHERE conversation = {0})",
        "chunks": "(SELECT m.id FROM messages m JOIN conversations c ON c.head = m.id WHERE c.id = {0})",
    }[table]
    for column in TABLES[table].split():
        place, told = f"{table}.{column}", {}
        journal.path.write_bytes(sound)
        with closing(sqlite3.connect(journal.path)) as connection:
            for number, value in enumerate(VALUES.values(), SOUND[0] + 1):
                if column == "id" and value not in ("NULL", "-1"):
                    continue  # not what the number of a row can be
                with suppress(sqlite3.IntegrityError):
                    connection.execute(f"UPDATE {table} SET {column} = {value} WHERE id = {row.format(number)}")
            connection.commit()
        all_work(journal, place)
        for number, kind in enumerate(VALUES, SOUND[0] + 1):
            code, _, told[kind] = history("show", str(number))
            assert (code in (0, 2) and "answer" in _) or column == "id", (place, kind)
        if table in ("conversations", "messages"):
            assert not [kind for kind in NAMED.get(column, ()) if "damaged" not in told[kind]], (place, told)
        goes_on(journal, place, next(serious))


@pytest.mark.parametrize(
    "damage",
    [
        *(f"PRAGMA user_version = {number}" for number in (0, 1, 2, 3, -3, 2_000_000)),
        *(f"DROP TABLE {name}" for name in ("chunks", "conversations", "messages", "votes")),
        "DELETE FROM sqlite_sequence",
        "UPDATE sqlite_sequence SET seq = 9223372036854775807",
        "UPDATE sqlite_sequence SET seq = 'x'",
        "UPDATE messages SET id = 9223372036854775807 WHERE id = 5",
        "ALTER TABLE messages RENAME COLUMN role TO part",
        "ALTER TABLE messages DROP COLUMN tools",
        "CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM conversations; END",
        "DROP INDEX conversations_by_time",
        "CREATE TABLE words (other)",
    ],
)
def test_tables_that_are_not_ours(damage: str, sound: bytes, home: Path) -> None:
    """What cannot be used is set aside, with all that can be read of it in the new file, and what is said is kept."""
    journal = Journal()
    journal.path.parent.mkdir(parents=True)
    journal.path.write_bytes(sound)
    with closing(sqlite3.connect(journal.path)) as connection:
        connection.execute(damage)
        connection.commit()
    code, shown, _ = history("list")
    assert code == 0
    lost = "DROP TABLE messages" in damage or "RENAME" in damage
    assert lost or shown.strip()
    if not lost:
        all_work(journal, damage)
    goes_on(journal, damage)
    assert lost or history("rm", "1", "--yes")[0] == 0


def test_the_chats_of_a_server(sound: bytes, home: Path) -> None:
    """A damaged one costs the others nothing."""
    import aiohttp

    journal = Journal()
    journal.path.parent.mkdir(parents=True)
    journal.path.write_bytes(sound)
    with closing(sqlite3.connect(journal.path)) as connection:
        connection.execute("UPDATE conversations SET updated = 9e999, title = x'ff' WHERE id = 2")
        connection.execute(
            "UPDATE messages SET created = 'x', stats = '{\"a\": 1e999}', role = 'x' WHERE conversation = 2"
        )
        connection.commit()

    async def ask() -> None:
        async with serving(journal=journal) as served, aiohttp.ClientSession(served.url) as session:
            for path in ("/chats", "/chats?q=answer", "/chats/1", "/chats/2?render=html"):
                async with session.get(path) as response:
                    assert response.status == 200, path
                    json.loads(await response.text(), parse_constant=pytest.fail)

    asyncio.run(ask())


def test_a_table_that_is_dropped_meanwhile(sound: bytes, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.path.write_bytes(sound)
    connection, _ = open_file(journal.path)
    with closing(connection):
        connection.execute("DROP TABLE chunks")
    with pytest.raises(JournalError, match="set aside"):
        journal.load(1)
    assert journal.load(1).conversation.messages[-1].content == "answer 1"
