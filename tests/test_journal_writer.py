"""A disk that is slow, full, locked or broken never stops a chat, and what can be kept is kept."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal import Journal, Recorder, State, file, recorder, writer
from bitnet_chat.journal.file import open_file
from bitnet_chat.journal.scribe import Origin, Scribe
from bitnet_chat.journal.writer import DELAY, Pieces, Writer

QUESTION = Conversation().with_user("a question")
PATIENCE = 30.0


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "folder" / "journal.db")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are tried again soon."""
    monkeypatch.setattr(writer, "RETRY", 0.01)
    monkeypatch.setattr(writer, "RETRY_MOST", 0.05)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
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
    pieces = Pieces()
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
        keeper = Recorder(journal, pytest.fail)
        keeper.begin_reply(QUESTION)
        said = ""
        for piece in ("one ", "two ", "three"):
            keeper.text(piece)
            said += piece

            def arrived(said: str = said) -> bool:
                stored = journal.load(1) if journal.list() else None
                return stored is not None and bool(stored.records) and stored.conversation.messages[-1].content == said

            await until(arrived)
        assert journal.load(1).state is State.ANSWERING
        await keeper.close()

    asyncio.run(talk())


def test_nothing_is_written_twice_or_left_out_at_full_speed(journal: Journal) -> None:
    async def talk() -> str:
        keeper = Recorder(journal, pytest.fail)
        keeper.begin_reply(QUESTION)
        for number in range(20_000):
            keeper.text(f"{number} ")
            if number % 500 == 0:
                await asyncio.sleep(0.002)
        await keeper.settled()
        before = journal.load(1).conversation.messages[-1].content
        keeper.end_reply(FinishReason.STOP)
        await keeper.close()
        return before

    expected = "".join(f"{number} " for number in range(20_000))
    assert asyncio.run(talk()) == expected
    assert journal.load(1).conversation.messages[-1].content == expected
    connection = sqlite3.connect(journal.path)
    assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (0,)
    connection.close()


def test_the_thread_ends_with_the_recorder(journal: Journal) -> None:
    async def talk() -> None:
        keeper = Recorder(journal, pytest.fail)
        keeper.sync(QUESTION)
        await keeper.close()
        await keeper.close()

    others = set(threading.enumerate())
    asyncio.run(talk())
    for thread in set(threading.enumerate()) - others:
        if thread.name == "journal":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert sorted(path.name for path in journal.path.parent.iterdir()) == ["journal.db"]


# When it cannot be written


def test_a_lock_of_another_program_stops_nobody(journal: Journal) -> None:
    open_file(journal.path)[0].close()
    other = sqlite3.connect(journal.path, isolation_level=None)
    complaints: list[str] = []

    async def talk() -> None:
        keeper = Recorder(journal, complaints.append)
        other.execute("BEGIN IMMEDIATE")
        keeper.begin_reply(QUESTION)
        keeper.text("said while it was locked")
        keeper.end_reply(FinishReason.STOP)
        assert keeper.id is None
        other.execute("COMMIT")
        await keeper.close()

    asyncio.run(talk())
    other.close()
    assert complaints == []
    assert journal.load(1).conversation.messages[-1].content == "said while it was locked"


def test_a_lock_that_is_never_let_go_of(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file.open_file, "__kwdefaults__", {"busy": 0.05})
    monkeypatch.setattr(recorder, "PATIENCE", 5.0)
    open_file(journal.path)[0].close()
    other = sqlite3.connect(journal.path, isolation_level=None)
    complaints: list[str] = []

    async def talk() -> None:
        keeper = Recorder(journal, complaints.append)
        other.execute("BEGIN IMMEDIATE")
        keeper.begin_reply(QUESTION)
        for _ in range(50):
            keeper.text("word ")
        keeper.end_reply(FinishReason.STOP)
        await until(lambda: complaints)
        await keeper.close()
        await asyncio.sleep(0)

    asyncio.run(talk())
    other.close()
    assert len(complaints) == 1 and "locked" in complaints[0] and str(journal.path) in complaints[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_full_disk(journal: Journal) -> None:
    import resource

    complaints: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    text = "words that need a lot of room " * 10_000

    async def talk() -> None:
        keeper = Recorder(journal, complaints.append)
        keeper.begin_reply(QUESTION)
        keeper.text("the beginning, ")
        assert await keeper.settled()
        log = journal.path.with_name("journal.db-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 8192, hard))
        try:
            keeper.text(text)
            await until(lambda: complaints)
            keeper.text("while it was full, ")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        keeper.text("the end")
        assert await keeper.settled()
        assert journal.load(1).conversation.messages[-1].content.endswith("while it was full, the end")
        keeper.end_reply(FinishReason.STOP)
        await keeper.close()

    asyncio.run(talk())
    assert len(complaints) == 1 and str(journal.path) in complaints[0]
    assert journal.load(1).conversation.messages[-1].content == f"the beginning, {text}while it was full, the end"
    assert journal.check() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_a_folder_that_vanishes(journal: Journal) -> None:
    async def talk() -> None:
        keeper = Recorder(journal, pytest.fail)
        keeper.begin_reply(QUESTION)
        keeper.text("before ")
        await keeper.settled()
        shutil.rmtree(journal.path.parent)
        keeper.text("after")
        keeper.end_reply(FinishReason.STOP)
        await keeper.close()

    asyncio.run(talk())
    assert journal.load(1).conversation.messages[-1].content == "before after"


def test_a_place_that_comes_back(journal: Journal) -> None:
    """Such as a drive that was not there when the chat began."""
    complaints: list[str] = []
    journal.path.parent.write_text("in the way")

    async def talk() -> None:
        keeper = Recorder(journal, complaints.append)
        keeper.begin_reply(QUESTION)
        keeper.text("said meanwhile")
        await until(lambda: complaints)
        journal.path.parent.unlink()
        keeper.end_reply(FinishReason.STOP)
        await keeper.settled()
        await keeper.close()

    asyncio.run(talk())
    assert len(complaints) == 1
    assert journal.load(1).conversation.messages[-1].content == "said meanwhile"


def test_too_much_that_waits(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "JOBS_MOST", 20)
    complaints: list[str] = []
    journal.path.mkdir(parents=True)

    async def talk() -> None:
        keeper = Recorder(journal, complaints.append)
        for _ in range(100):
            keeper.begin_reply(QUESTION)
            keeper.end_reply(FinishReason.STOP, text="reply")
            await asyncio.sleep(0.001)
        await keeper.close()
        await asyncio.sleep(0)

    asyncio.run(talk())
    assert len(complaints) == 2 and "nothing more is kept" in complaints[1]


def test_damage_that_is_found_while_writing(journal: Journal) -> None:
    """All that is known of the conversation goes into the new file, the reply that is being written included."""
    complaints: list[str] = []
    ended, reached = threading.Event(), threading.Event()
    work = Writer(journal.path, complaints.append, ended.set)
    times = 0

    def broken(scribe: Scribe) -> None:
        nonlocal times
        times += 1
        if times == 1:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        reached.set()

    conversation = QUESTION.with_assistant("a reply", FinishReason.STOP).with_user("another")
    work.put(lambda scribe: scribe.begin_reply(conversation, Origin("a model")))
    work.put(lambda scribe: scribe.add([(True, "hm"), (False, "before ")]))
    work.put(broken)
    work.put(lambda scribe: scribe.add([(False, "after")]))
    work.put(lambda scribe: scribe.end_reply(FinishReason.STOP, {}))
    work.stop()
    assert reached.wait(PATIENCE) and ended.wait(PATIENCE)
    assert len(complaints) == 1 and "set aside as" in complaints[0]
    stored, read_back = [journal.load(entry.id) for entry in journal.list()]
    assert stored.conversation == conversation.with_assistant("before after", FinishReason.STOP, "hm")
    assert (read_back.id, read_back.conversation.messages[-1].content) == (1, "before ")
    [aside] = [path for path in journal.path.parent.iterdir() if ".damaged-" in path.name]
    assert Journal(aside).load(1).conversation.messages[-1].content == "before "


def test_a_disk_that_damages_all_that_is_written(journal: Journal) -> None:
    complaints: list[str] = []
    ended = threading.Event()
    work = Writer(journal.path, complaints.append, ended.set)

    def broken(scribe: Scribe) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    work.put(broken)
    work.stop()
    assert ended.wait(PATIENCE)
    assert "again and again" in complaints[-1] and len(complaints) == 4


def test_a_fault_of_ours_ends_no_chat(journal: Journal) -> None:
    complaints: list[str] = []
    ended = threading.Event()
    work = Writer(journal.path, complaints.append, ended.set)
    work.put(lambda scribe: scribe.no_such_thing())  # type: ignore[attr-defined]
    work.put(lambda scribe: scribe.sync(QUESTION))
    work.stop()
    assert ended.wait(PATIENCE) and work.off
    assert len(complaints) == 1 and "no_such_thing" in complaints[0]


def test_the_end_is_waited_for_a_bounded_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PATIENCE", 0.05)
    complaints: list[str] = []
    hung = threading.Event()

    async def talk() -> None:
        keeper = Recorder(journal, complaints.append)
        keeper.sync(QUESTION)
        await until(lambda: keeper.id)
        assert keeper._writer is not None
        keeper._writer.put(lambda scribe: hung.wait(PATIENCE) and None)
        assert not await keeper.settled()
        await keeper.close()
        hung.set()

    asyncio.run(talk())
    assert len(complaints) == 1 and "does not answer" in complaints[0]
