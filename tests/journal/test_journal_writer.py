"""A disk that is slow, full, locked or broken never stops a chat, and what can be kept is kept."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.journal import Journal, JournalRecorder, ReplyState, database, recorder, schema, writer_thread
from bitnet_chat.journal.commands import AddText, BeginReply, EndReply, Follow, Sync
from bitnet_chat.journal.damaged_file import open_file
from bitnet_chat.journal.database import unsaved_since
from bitnet_chat.journal.transactions import ConversationStore, ReplyOrigin
from bitnet_chat.journal.writer_thread import DELAY, PendingText, WriterThread

QUESTION = Conversation().with_user("a question")
TIMEOUT = 30.0


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "folder" / "journal.db")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are tried again soon."""
    monkeypatch.setattr(writer_thread, "RETRY", 0.01)
    monkeypatch.setattr(writer_thread, "MAX_RETRY", 0.05)
    monkeypatch.setattr(writer_thread, "LAST_RETRY", 0.01)
    monkeypatch.setattr(writer_thread, "BUSY", 0.05)
    monkeypatch.setattr(writer_thread, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(recorder, "PATIENCE", 5.0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what a thread does to a file sets no event
            await asyncio.sleep(0.005)


# When pieces are written


@given(gaps=st.lists(st.floats(0, 1)), taken=st.lists(st.booleans()))
def test_no_piece_waits_longer_than_the_delay(gaps: list[float], taken: list[bool]) -> None:
    """By the clock of the program: when a piece comes, a flush is due 100 ms later at the latest."""

    class Sink:
        got = ""

        def add(self, new: list[tuple[bool, str]]) -> None:
            self.got += "".join(text for _, text in new)

    now, asked, sink = 0.0, None, Sink()
    pieces = PendingText()
    for number, gap in enumerate(gaps):
        now += gap
        if asked is not None and (now >= asked or taken[number : number + 1] == [True]):
            pieces.write(sink)  # type: ignore[arg-type]
            asked = None
        if pieces.append((False, "x"), now):
            assert asked is None
            asked = pieces.due
        assert asked is not None and asked <= now + DELAY
    pieces.write(sink)  # type: ignore[arg-type]
    assert sink.got == "x" * len(gaps)
    assert DELAY <= 0.1


def test_pieces_reach_the_file_while_the_reply_goes_on(journal: Journal) -> None:
    async def talk() -> None:
        supervisor = JournalRecorder(journal, pytest.fail)
        supervisor.begin_reply(QUESTION)
        said = ""
        for piece in ("one ", "two ", "three"):
            supervisor.text(piece)
            said += piece

            def arrived(said: str = said) -> bool:
                stored = journal.load(1) if journal.list() else None
                return stored is not None and bool(stored.records) and stored.conversation.messages[-1].content == said

            await until(arrived)
        assert journal.load(1).state is ReplyState.ANSWERING
        await supervisor.close()

    asyncio.run(talk())


def test_nothing_is_written_twice_or_left_out_at_full_speed(journal: Journal) -> None:
    async def talk() -> str:
        supervisor = JournalRecorder(journal, pytest.fail)
        supervisor.begin_reply(QUESTION)
        for number in range(20_000):
            supervisor.text(f"{number} ")
            if number % 500 == 0:
                await asyncio.sleep(0.002)
        await supervisor.settled()
        before = journal.load(1).conversation.messages[-1].content
        supervisor.end_reply(FinishReason.STOP)
        await supervisor.close()
        return before

    expected = "".join(f"{number} " for number in range(20_000))
    assert asyncio.run(talk()) == expected
    assert journal.load(1).conversation.messages[-1].content == expected
    connection = sqlite3.connect(journal.path)
    assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (0,)
    connection.close()


def test_the_thread_ends_with_the_recorder(journal: Journal) -> None:
    async def talk() -> None:
        supervisor = JournalRecorder(journal, pytest.fail)
        supervisor.sync(QUESTION)
        await supervisor.close()
        await supervisor.close()

    others = set(threading.enumerate())
    asyncio.run(talk())
    for thread in set(threading.enumerate()) - others:
        if thread.name == "journal":
            thread.join(TIMEOUT)
            assert not thread.is_alive()
    assert sorted(path.name for path in journal.path.parent.iterdir()) == ["journal.db"]


# When it cannot be written


def test_a_lock_of_another_program_stops_nobody(journal: Journal) -> None:
    open_file(journal.path)[0].close()
    other = sqlite3.connect(journal.path, isolation_level=None)
    complaints: list[str] = []

    async def talk() -> None:
        supervisor = JournalRecorder(journal, complaints.append)
        other.execute("BEGIN IMMEDIATE")
        supervisor.begin_reply(QUESTION)
        supervisor.text("said while it was locked")
        supervisor.end_reply(FinishReason.STOP)
        assert supervisor.id is None
        other.execute("COMMIT")
        await supervisor.close()

    asyncio.run(talk())
    other.close()
    assert complaints == []
    assert journal.load(1).conversation.messages[-1].content == "said while it was locked"


@pytest.mark.parametrize("lets_go", [True, False])
def test_a_lock_that_is_held_at_the_end(journal: Journal, lets_go: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried until the patience is over, and only then it is said what is not kept: that, and nothing else."""
    monkeypatch.setattr(recorder, "PATIENCE", TIMEOUT if lets_go else 0.2)
    monkeypatch.setattr(writer_thread, "REPORT_AFTER", TIMEOUT)
    open_file(journal.path)[0].close()
    other = sqlite3.connect(journal.path, isolation_level=None)
    complaints: list[str] = []

    async def talk() -> JournalRecorder:
        supervisor = JournalRecorder(journal, complaints.append)
        other.execute("BEGIN IMMEDIATE")
        supervisor.begin_reply(QUESTION)
        supervisor.text("word ")
        supervisor.end_reply(FinishReason.STOP)
        closing = asyncio.create_task(supervisor.close())
        if lets_go:
            await asyncio.sleep(10 * writer_thread.BUSY)
            other.execute("COMMIT")
        await closing
        return supervisor

    supervisor = asyncio.run(talk())
    other.close()
    mark = unsaved_since(journal.path)
    if lets_go:
        assert (complaints, supervisor.unsaved, mark) == ([], "", None)
        assert journal.load(1).conversation.messages[-1].content == "word "
    else:
        why = f"this conversation is not kept: the journal cannot be written: database is locked: {journal.path}"
        assert complaints == [supervisor.unsaved] == [why] and mark is not None and journal.list() == []
        asyncio.run(_say(journal, "next"))
        assert unsaved_since(journal.path) is None


async def _say(journal: Journal, text: str) -> None:
    supervisor = JournalRecorder(journal, pytest.fail)
    supervisor.begin_reply(Conversation().with_user(text))
    supervisor.end_reply(FinishReason.STOP, text="reply")
    await supervisor.close()


def test_what_is_not_kept_of_a_longer_conversation(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it goes on the user hears that it is tried again, and at the end what is missing."""
    monkeypatch.setattr(recorder, "PATIENCE", 0.1)
    complaints: list[str] = []

    async def talk(asked: int) -> None:
        supervisor = JournalRecorder(journal, complaints.append)
        supervisor.begin_reply(QUESTION)
        supervisor.end_reply(FinishReason.STOP, text="reply")
        await until(lambda: supervisor.id)
        other = sqlite3.connect(journal.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        conversation = QUESTION.with_assistant("reply", FinishReason.STOP)
        for number in range(asked):
            conversation = conversation.with_user(f"question {number}")
            supervisor.begin_reply(conversation)
            supervisor.end_reply(FinishReason.STOP, text="reply")
            conversation = conversation.with_assistant("reply", FinishReason.STOP)
        if not asked:
            supervisor.rename("a title")
        await until(lambda: len(complaints) == 1)
        await supervisor.close()
        other.close()

    for asked, what in ((0, "the end of this conversation is"), (1, "the last message and its reply are"),
                        (3, "the last 3 messages and their replies are")):  # fmt: skip
        asyncio.run(talk(asked))
        first, last = complaints
        assert "cannot be written, and is retried: database is locked" in first
        assert last.startswith(f"{what} not kept: ")
        complaints.clear()


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_full_disk(journal: Journal) -> None:
    import resource

    complaints: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    text = "words that need a lot of room " * 10_000

    async def talk() -> None:
        supervisor = JournalRecorder(journal, complaints.append)
        supervisor.begin_reply(QUESTION)
        supervisor.text("the beginning, ")
        assert await supervisor.settled()
        log = journal.path.with_name("journal.db-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 8192, hard))
        try:
            supervisor.text(text)
            await until(lambda: complaints)
            supervisor.text("while it was full, ")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        supervisor.text("the end")
        assert await supervisor.settled()
        assert journal.load(1).conversation.messages[-1].content.endswith("while it was full, the end")
        supervisor.end_reply(FinishReason.STOP)
        await supervisor.close()

    asyncio.run(talk())
    assert len(complaints) == 1 and str(journal.path) in complaints[0]
    assert journal.load(1).conversation.messages[-1].content == f"the beginning, {text}while it was full, the end"
    assert journal.check() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_a_folder_that_vanishes(journal: Journal) -> None:
    async def talk() -> None:
        supervisor = JournalRecorder(journal, pytest.fail)
        supervisor.begin_reply(QUESTION)
        supervisor.text("before ")
        await supervisor.settled()
        shutil.rmtree(journal.path.parent)
        supervisor.text("after")
        supervisor.end_reply(FinishReason.STOP)
        await supervisor.close()

    asyncio.run(talk())
    assert journal.load(1).conversation.messages[-1].content == "before after"


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbled(path: Path) -> None:
    path.write_bytes(b"\xe5" * path.stat().st_size)


def _beheaded(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(b"\0" * 4096)


def _written_over(path: Path) -> None:
    """By a sound journal, in which a conversation has the same number."""
    other = Journal(path.with_name("other.db"))
    asyncio.run(_say(other, "in the other"))
    path.write_bytes(other.path.read_bytes())


def _emptied_with_its_log(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path.with_name("journal.db-wal"), 0)


def _removed(path: Path) -> None:
    for each in (path, path.with_name("journal.db-wal"), path.with_name("journal.db-shm")):
        each.unlink()


def _without_log(path: Path) -> None:
    path.with_name("journal.db-wal").unlink()


def _with_a_cut_log(path: Path) -> None:
    os.truncate(path.with_name("journal.db-wal"), 0)


def _without_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE chunks")
        connection.execute("DROP TABLE messages")


@pytest.mark.skipif(sys.platform == "win32", reason="a file in use stays as it is there")
@pytest.mark.parametrize("again", [True, False], ids=["goes on", "ends"])
@pytest.mark.parametrize(
    "damage",
    [
        *(_emptied, _halved, _garbled, _beheaded, _written_over, _without_log, _with_a_cut_log, _without_tables),
        *(_emptied_with_its_log, _removed),
    ],
    ids=lambda each: each.__name__,
)
def test_a_file_that_is_damaged_in_its_place(journal: Journal, damage: Callable[[Path], None], again: bool) -> None:
    """While a conversation goes on, which is in the file at its end as a whole: what is known of it is written anew.
    Where it has ended before, it is looked at once more."""
    if not again and damage in (_without_tables, _removed):
        return  # the user has removed it
    told: list[str] = []
    asyncio.run(_say(journal, "many words " * 3000))
    conversation = QUESTION.with_assistant("a reply", FinishReason.STOP).with_user("another")

    async def talk() -> None:
        supervisor = JournalRecorder(journal, told.append)
        supervisor.begin_reply(QUESTION)
        supervisor.end_reply(FinishReason.STOP, text="a reply")
        supervisor.begin_reply(conversation)
        supervisor.text("before ")
        assert await supervisor.settled()
        if not again:
            supervisor.end_reply(FinishReason.STOP)
            assert await supervisor.settled()
        await asyncio.sleep(0.02)  # a file system tells times in steps
        await asyncio.to_thread(damage, journal.path)
        if again:
            supervisor.text("after")
        await supervisor.close()
        assert supervisor.unsaved == ""

    asyncio.run(talk())
    for _ in range(3):  # what is left of the others may be damaged, which is found when it is read
        with suppress(BitnetChatError):
            kept = [[said.content for said in journal.load(each.id).conversation.messages] for each in journal.list()]
            break
    expected = [*(message.content for message in conversation.messages), "before after" if again else "before "]
    assert expected in kept
    if damage in (_emptied_with_its_log, _removed):
        what = "removed" if damage is _removed else "emptied"
        assert [line.split(" was ")[1].partition(" by another program: its earlier")[0] for line in told] == [what]


def test_a_place_that_comes_back(journal: Journal) -> None:
    """Such as a drive that was not there when the chat began."""
    complaints: list[str] = []
    journal.path.parent.write_text("in the way")

    async def talk() -> None:
        supervisor = JournalRecorder(journal, complaints.append)
        supervisor.begin_reply(QUESTION)
        supervisor.text("said meanwhile")
        await until(lambda: complaints)
        journal.path.parent.unlink()
        supervisor.end_reply(FinishReason.STOP)
        await supervisor.settled()
        await supervisor.close()

    asyncio.run(talk())
    assert len(complaints) == 1
    assert journal.load(1).conversation.messages[-1].content == "said meanwhile"


def test_too_much_that_waits(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_thread, "MAX_JOBS", 20)
    complaints: list[str] = []
    journal.path.mkdir(parents=True)

    async def talk() -> None:
        supervisor = JournalRecorder(journal, complaints.append)
        for _ in range(100):
            supervisor.begin_reply(QUESTION)
            supervisor.end_reply(FinishReason.STOP, text="reply")
            await asyncio.sleep(0.001)
        await supervisor.close()
        await asyncio.sleep(0)

    asyncio.run(talk())
    assert len(complaints) == 2 and "later messages are not kept" in complaints[1]


def _text(*pieces: tuple[bool, str]) -> AddText:
    text = PendingText()
    for piece in pieces:
        text.append(piece, 0.0)
    return AddText(text)


def test_damage_that_is_found_while_writing(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is known of the conversation goes into the new file, the reply that is being written included."""
    complaints: list[str] = []
    ended, reached = threading.Event(), threading.Event()
    work = WriterThread(journal.path, complaints.append, ended.set)
    times = 0

    def broken(store: ConversationStore, row: int | None) -> None:
        nonlocal times
        times += 1
        if times == 1:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        reached.set()

    conversation = QUESTION.with_assistant("a reply", FinishReason.STOP).with_user("another")
    monkeypatch.setattr(ConversationStore, "follow", broken)
    work.put(BeginReply(conversation, (ReplyOrigin("a model"),)))
    work.put(_text((True, "hm"), (False, "before ")))
    work.put(Follow(None))
    work.put(_text((False, "after")))
    work.put(EndReply(FinishReason.STOP, {}))
    work.stop()
    assert reached.wait(TIMEOUT) and ended.wait(TIMEOUT)
    assert len(complaints) == 1 and "set aside as" in complaints[0]
    stored, read_back = [journal.load(entry.id) for entry in journal.list()]
    assert stored.conversation == conversation.with_assistant("before after", FinishReason.STOP, "hm")
    assert (read_back.id, read_back.conversation.messages[-1].content) == (1, "before ")
    [aside] = [path for path in journal.path.parent.iterdir() if ".damaged-" in path.name]
    assert Journal(aside).load(1).conversation.messages[-1].content == "before "


def test_a_disk_that_damages_all_that_is_written(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[str] = []
    ended = threading.Event()
    work = WriterThread(journal.path, complaints.append, ended.set)

    def broken(store: ConversationStore, row: int | None) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(ConversationStore, "follow", broken)
    work.put(Follow(None))
    work.stop()
    assert ended.wait(TIMEOUT)
    assert "damaged repeatedly" in complaints[-1] and len(complaints) == 4


def test_a_fault_of_ours_ends_no_chat(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[str] = []
    ended = threading.Event()
    work = WriterThread(journal.path, complaints.append, ended.set)
    monkeypatch.delattr(ConversationStore, "follow")
    work.put(Follow(None))
    work.put(Sync(QUESTION))
    work.stop()
    assert ended.wait(TIMEOUT) and work.off
    assert len(complaints) == 1 and "follow" in complaints[0]


def test_the_end_is_waited_for_a_bounded_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PATIENCE", 0.05)
    complaints: list[str] = []
    hung = threading.Event()

    async def talk() -> None:
        supervisor = JournalRecorder(journal, complaints.append)
        supervisor.sync(QUESTION)
        await until(lambda: supervisor.id)
        monkeypatch.setattr(ConversationStore, "follow", lambda store, row: hung.wait(TIMEOUT))
        supervisor.follow(None)
        assert not await supervisor.settled()
        await supervisor.close()
        hung.set()

    asyncio.run(talk())
    assert len(complaints) == 1 and "does not answer" in complaints[0]


def test_a_file_that_another_program_is_creating_is_not_taken_for_a_damaged_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is read before the other program has made the tables, and the tables after that."""
    read, others, calls = schema.version, list[threading.Thread](), itertools.count(1)

    def version(connection: sqlite3.Connection) -> int:
        found = read(connection)
        if next(calls) == 2:  # the last one before the tables are read
            others.append(threading.Thread(target=lambda: open_file(journal.path)[0].close()))
            others[0].start()
            others[0].join(0.3)
        return found

    monkeypatch.setattr(schema, "version", version)
    connection, note = open_file(journal.path)
    connection.close()
    others[0].join()
    assert not note and [path.name for path in journal.path.parent.glob("*damaged*")] == []


def test_a_file_that_cannot_be_seen_for_a_moment_is_not_reported(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[str] = []

    async def talk() -> None:
        recorder = JournalRecorder(journal, complaints.append)
        recorder.begin_reply(QUESTION)
        recorder.end_reply(FinishReason.STOP, text="a reply")
        assert await recorder.settled()
        seen = iter([database.DatabaseState(None, None, None)])
        real = database.state_of
        monkeypatch.setattr(writer_thread, "state_of", lambda path: next(seen, None) or real(path))
        recorder.begin_reply(QUESTION.with_assistant("a reply", FinishReason.STOP).with_user("another"))
        recorder.end_reply(FinishReason.STOP, text="one more")
        await recorder.close()

    asyncio.run(talk())
    assert complaints == []
    (entry,) = journal.list()
    assert [each.content for each in journal.load(entry.id).conversation.messages][-1] == "one more"
