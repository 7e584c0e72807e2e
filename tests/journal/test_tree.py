"""The tree of a conversation: every message has a place, and every branch can be made the current one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.journal import Journal, JournalRecorder, MessageRecord, MessageTree, Position
from bitnet_chat.journal.journal import DatabaseJournal
from bitnet_chat.journal.memory import MemoryJournal
from bitnet_chat.journal.tree import Links, TreeNode

STOP = FinishReason.STOP


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseJournal]:
    yield Journal(tmp_path / "journal.db") if request.param == "file" else MemoryJournal()


def reply(recorder: JournalRecorder, conversation: Conversation, text: str, model: str = "m") -> Conversation:
    recorder.begin_reply(conversation, model=model, options={"seed": len(text)})
    recorder.end_reply(STOP, text=text)
    return conversation.with_assistant(text, STOP)


async def branched(journal: DatabaseJournal) -> JournalRecorder:
    """Rows: 1 q1, 2 a1, 3 q2, 4 a2, 5 a2', 6 q2', 7 a3, 8 q1', 9 a4. 4 and 5 are replies to 3; 3 and 6 follow 2."""
    recorder = JournalRecorder(journal, pytest.fail)
    one = reply(recorder, Conversation().with_user("q1"), "a1")
    reply(recorder, one.with_user("q2"), "a2")
    reply(recorder, one.with_user("q2"), "a2'", "other")
    reply(recorder, one.with_user("q2'"), "a3")
    reply(recorder, Conversation().with_user("q1'"), "a4")
    assert await recorder.settled()
    return recorder


def lines(journal: DatabaseJournal) -> list[str]:
    return [record.message.content for record in journal.load(1).shown]


def test_the_tree(journal: DatabaseJournal) -> None:
    async def talk() -> MessageTree:
        recorder = await branched(journal)
        await recorder.close()
        return journal.tree(1)

    tree = asyncio.run(talk())
    assert (list(tree.nodes), tree.head, tree.damage, tree.misplaced) == ([*range(1, 10)], 9, (), frozenset())
    assert (tree.siblings(1), tree.siblings(5), tree.siblings(6), tree.siblings(9)) == ((1, 8), (4, 5), (3, 6), (9,))
    assert [str(tree.position(row)) for row in (8, 4, 6, 2)] == ["< 2/2 >", "< 1/2 >", "< 2/2 >", ""]
    assert (tree.neighbour(5, -1), tree.neighbour(5, 1), tree.neighbour(2, 1)) == (4, None, None)
    assert [tree.newest_leaf(row) for row in (1, 3, 4, 6, 8)] == [7, 5, 4, 7, 9]
    assert (tree.path(5), tree.path(None), tree.current) == ((1, 2, 3, 5), (), {8, 9})
    assert list(tree.walk()) == [(1, 1), (2, 1), (3, 2), (4, 3), (5, 2), (6, 1), (7, 1), (8, 0), (9, 0)]
    stored = journal.load(1, 5)
    assert [record.row for record in stored.records] == [1, 2, 3, 5]
    assert (stored.head, stored.model, stored.options) == (5, "other", {"seed": 3})
    assert stored.siblings == {1: (1, 8), 3: (3, 6), 5: (4, 5)}
    assert stored.position(5) == Position(2, 2) and stored.position(2) == Position(1, 1)
    with pytest.raises(UsageError, match="message 99 does not exist in conversation 1"):
        journal.load(1, 99)
    with pytest.raises(UsageError, match="conversation 2 does not exist"):
        journal.tree(2)


def test_another_branch_becomes_the_current_one_and_goes_on(journal: DatabaseJournal) -> None:
    async def talk() -> None:
        recorder = await branched(journal)
        stored = journal.load(1, 4)
        recorder.set_head(stored)
        assert recorder.title == "q1"
        assert await recorder.settled()
        assert lines(journal) == ["q1", "a1", "q2", "a2"]
        [entry] = journal.list()
        assert (entry.title, entry.turns, entry.model) == ("q1", 2, "m")
        reply(recorder, stored.conversation.with_user("q3"), "a5")
        await recorder.close()

    asyncio.run(talk())
    tree = journal.tree(1)
    assert lines(journal) == ["q1", "a1", "q2", "a2", "q3", "a5"]
    assert (tree.path(tree.head), len(tree.nodes)) == ((1, 2, 3, 4, 10, 11), 11)


def test_a_given_title_stays(journal: DatabaseJournal) -> None:
    async def talk() -> None:
        recorder = await branched(journal)
        recorder.rename("named")
        recorder.set_head(journal.load(1, 7))
        await recorder.close()
        assert recorder.title == "named"

    asyncio.run(talk())
    assert (journal.list()[0].title, lines(journal)) == ("named", ["q1", "a1", "q2'", "a3"])


def test_a_branch_without_a_reply_at_its_end(journal: DatabaseJournal) -> None:
    async def talk() -> None:
        recorder = await branched(journal)
        recorder.set_head(journal.load(1, 3))
        assert await recorder.settled()
        stored = journal.load(1)
        assert (stored.unanswered, stored.head) == ("q2", 3)
        recorder.set_head(journal.load(1, 9))
        await recorder.close()

    asyncio.run(talk())
    assert lines(journal) == ["q1'", "a4"]


def test_a_head_moved_by_another_program_is_left_alone(tmp_path: Path) -> None:
    journal, notes = Journal(tmp_path / "journal.db"), list[str]()

    async def talk() -> None:
        await (await branched(journal)).close()
        mine, other = (JournalRecorder(journal, notes.append) for _ in range(2))
        stored = journal.load(1)
        mine.resume(stored)
        other.resume(stored)
        reply(other, stored.conversation.with_user("q5"), "a6")
        assert await other.settled()
        branch = journal.load(1, 4)
        mine.set_head(branch)
        assert await mine.settled()
        assert journal.load(1).head == 11
        reply(mine, branch.conversation.with_user("q3"), "a5")
        await mine.close()
        await other.close()
        await asyncio.sleep(0)

    asyncio.run(talk())
    assert len(notes) == 1 and "from here on this one is kept as 2" in notes[0]
    assert [record.message.content for record in journal.load(2).records] == ["q1", "a1", "q2", "a2", "q3", "a5"]


def test_another_conversation_is_not_touched(journal: DatabaseJournal) -> None:
    async def talk() -> None:
        recorder = await branched(journal)
        branch = journal.load(1, 4)
        recorder.fork()
        recorder.set_head(branch)
        await recorder.close()

    asyncio.run(talk())
    assert (journal.load(1).head, lines(journal)) == (9, ["q1'", "a4"])


def test_damaged_and_misplaced_messages_stay_in_the_tree(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def talk() -> None:
        await (await branched(journal)).close()

    asyncio.run(talk())
    with closing(sqlite3.connect(journal.path)) as connection, connection:
        connection.execute("UPDATE messages SET parent = 77 WHERE id = 4")
        connection.execute("UPDATE messages SET role = 'robot' WHERE id = 6")
        connection.execute("UPDATE messages SET role = 'system' WHERE id = 9")
    tree = journal.tree(1)
    assert list(tree.nodes) == [1, 2, 3, 4, 5, 7, 8, 9]
    assert (tree.nodes[4].parent, tree.nodes[7].parent, tree.misplaced) == (3, 2, {7, 9})
    assert tree.damage == (
        "conversation 1, message 4: its parent cannot be found",
        "conversation 1, message 6: its role is 'robot'",
        "conversation 1, message 7: the role 'assistant' cannot stand there",
        "conversation 1, message 9: the role 'system' cannot stand there",
    )
    assert journal.load(1).damage == ("conversation 1, message 9: the role 'system' cannot stand there",)


def test_a_running_reply_without_text_is_not_a_message_yet(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def talk() -> None:
        recorder = await branched(journal)
        recorder.begin_reply(Conversation().with_user("q1'"))
        assert await recorder.settled()
        tree = journal.tree(1)
        assert (tree.head, tree.siblings(9)) == (8, (9,))
        recorder.text("word")
        assert await recorder.settled()
        assert journal.tree(1).siblings(9) == (9, 10) == journal.load(1).siblings[10]
        await recorder.close()

    asyncio.run(talk())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(-1, 40), st.booleans()), max_size=40), st.integers(0, 40))
def test_every_message_of_any_tree_is_walked_once_and_reached(given: list[tuple[int, bool]], head: int) -> None:
    rows: dict[int, tuple[object, str]] = {
        row: (parent if parent > 0 else None, "user" if is_user else "assistant")
        for row, (parent, is_user) in enumerate(given, 1)
    }
    links = Links.of(rows, set(rows))
    message = Conversation().with_user("x").messages[0]
    nodes = {row: TreeNode(MessageRecord(row, message, 0.0), parent) for row, parent in links.messages.items()}
    tree = MessageTree(1, nodes, head if head in nodes else None)
    walked = dict(tree.walk())
    assert sorted(walked) == sorted(rows) and len(list(tree.walk())) == len(rows)
    assert all(walked[row] == 0 for row in tree.current)
    for row in rows:
        leaf = tree.newest_leaf(row)
        assert row in tree.path(leaf) and leaf not in tree.children and row in tree.siblings(row)
        assert tuple(links.path(row)) == tree.path(row)
        after = tree.neighbour(row, 1)
        assert after is None or tree.neighbour(after, -1) == row


def test_a_long_chain_takes_no_recursion() -> None:
    rows: dict[int, tuple[object, str]] = {row: (row - 1 or None, "user") for row in range(1, 20_001)}
    links = Links.of(rows, set(rows))
    message = Conversation().with_user("x").messages[0]
    tree = MessageTree(1, {row: TreeNode(MessageRecord(row, message, 0.0), up) for row, up in links.messages.items()})
    assert len(list(tree.walk())) == 20_000 and tree.newest_leaf(1) == 20_000
