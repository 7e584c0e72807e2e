"""Replies that are written at the same time, and votes between replies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_backend import STATS, ScriptedBackend

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.variants import VariantEvent
from bitnet_chat.backends.wrappers import recording
from bitnet_chat.backends.wrappers.recording import record_variants
from bitnet_chat.cli import main
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Stats, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder, ReplyState
from bitnet_chat.journal.damaged_file import read_back
from bitnet_chat.journal.journal import DatabaseJournal
from bitnet_chat.journal.memory import MemoryJournal
from bitnet_chat.journal.transactions import MessageRows
from bitnet_chat.journal.votes import Count, ModelVotes, PairVotes, Vote, VotedReply, by_model, by_pair

STOP, CUT_OFF = FinishReason.STOP, FinishReason.CUT_OFF
QUESTION = Conversation().with_user("question")


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseJournal]:
    yield Journal(tmp_path / "journal.db") if request.param == "file" else MemoryJournal()


async def rows_of(recorder: JournalRecorder) -> MessageRows:
    rows = await recorder.rows()
    assert rows is not None
    return rows


def texts(journal: DatabaseJournal) -> list[tuple[str, FinishReason | None]]:
    """The replies to the question, in their order."""
    nodes = journal.tree(1).nodes.values()
    return [(each.record.message.content, each.record.message.finish) for each in nodes if each.parent == 1]


def test_replies_that_are_written_at_the_same_time_are_siblings(journal: DatabaseJournal) -> None:
    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        first, second, third = recorder.begin_replies(
            QUESTION, [{"seed": 1}, {"seed": 2}, {"seed": 3}], model="m", engine="e"
        )
        begun = await rows_of(recorder)
        assert (begun.line, begun.reply, begun.replies) == ((1,), 2, (2, 3, 4))
        for piece in ("1", "2"):
            for name, writer in (("a", first), ("b", second), ("c", third)):
                writer.text(f"{name}{piece} ")
        third.thinking("hm")
        third.tool_call(ToolCall("1", "look", "{}"))
        second.end(STOP, Stats(tokens=2), text="b whole", options={"seed": 2, "read": {}})
        second.text("no longer")
        second.end(FinishReason.INTERRUPTED)
        assert (await rows_of(recorder)).reply == 2
        assert texts(journal) == [("a1 a2 ", CUT_OFF), ("b whole", STOP), ("c1 c2 ", CUT_OFF)]
        third.end(FinishReason.TOOL_CALLS)
        first.end(FinishReason.LENGTH)
        ended = await rows_of(recorder)
        assert (ended.line, ended.reply, ended.replies) == ((1, 2), None, (2, 3, 4))
        recorder.set_head(journal.load(1, 3))
        recorder.begin_reply(QUESTION.with_assistant("b whole", STOP).with_user("more"))
        recorder.end_reply(STOP, text="yes")
        await recorder.close()

    asyncio.run(talk())
    tree, stored = journal.tree(1), journal.load(1)
    assert [record.message.content for record in stored.records] == ["question", "b whole", "more", "yes"]
    assert [str(tree.position(row)) for row in (2, 3, 4)] == ["< 1/3 >", "< 2/3 >", "< 3/3 >"]
    records = [tree.nodes[row].record for row in (2, 3, 4)]
    assert [each.options for each in records] == [{"seed": 1}, {"seed": 2, "read": {}}, {"seed": 3}]
    assert {(each.model, each.engine) for each in records} == {("m", "e")}
    assert (records[1].stats["tokens"], records[2].message.thinking) == (2, "hm")
    assert records[2].message.tool_calls == (ToolCall("1", "look", "{}"),)


@pytest.mark.parametrize(
    ("ends", "kept", "head"),
    [
        (["", "b"], ["b"], "b"),
        (["a", ""], ["a"], "a"),
        (["", ""], [], "question"),
    ],
)
def test_an_empty_one_is_not_kept(journal: DatabaseJournal, ends: list[str], kept: list[str], head: str) -> None:
    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        for writer, text in zip(recorder.begin_replies(QUESTION, [{}, {}]), ends, strict=True):
            writer.end(FinishReason.INTERRUPTED, text=text)
        assert [row is not None for row in (await rows_of(recorder)).replies] == [bool(text) for text in ends]
        await recorder.close()

    asyncio.run(talk())
    assert [text for text, _ in texts(journal)] == kept
    assert journal.load(1).shown[-1].message.content == head


def test_begun_again_before_the_first_text(journal: DatabaseJournal) -> None:
    """The server begins them with the names of the request, and the backend again with all it knows."""

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        recorder.begin_replies(QUESTION, [{}, {}], model="asked")
        writers = recorder.begin_replies(QUESTION, [{"seed": 1}, {"seed": 2}], model="backend", engine="e")
        for writer in writers:
            writer.end(STOP, text="yes")
        await recorder.close()

    asyncio.run(talk())
    nodes = journal.tree(1).nodes
    assert [(each.record.model, each.record.engine) for each in nodes.values()] == [("", ""), *[("asked", "e")] * 2]


def test_what_is_not_ended_is_interrupted_when_the_recorder_closes(journal: DatabaseJournal) -> None:
    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        for number, writer in enumerate(recorder.begin_replies(QUESTION, [{}] * 3)):
            writer.text(f"part {number}")
        await recorder.close()

    asyncio.run(talk())
    assert texts(journal) == [(f"part {number}", FinishReason.INTERRUPTED) for number in range(3)]


def test_a_file_that_is_removed_meanwhile_is_written_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    async def talk() -> None:
        recorder = JournalRecorder(journal, lambda line: None)
        first, second = recorder.begin_replies(QUESTION, [{}, {}])
        first.text("a ")
        second.end(STOP, text="b")
        await recorder.rows()
        await asyncio.to_thread(lambda: [file.unlink() for file in tmp_path.glob("journal.db*")])
        first.text("whole")
        first.end(STOP)
        await recorder.close()

    asyncio.run(talk())
    assert texts(journal) == [("a whole", STOP), ("b", STOP)]


def test_another_program_has_gone_on(tmp_path: Path) -> None:
    """The variants stay where they are; the first one goes on in a copy."""
    journal = Journal(tmp_path / "journal.db")
    told: list[str] = []

    async def talk() -> None:
        recorder = JournalRecorder(journal, told.append)
        first, second = recorder.begin_replies(QUESTION, [{}, {}])
        first.text("a")
        await recorder.rows()
        with closing(sqlite3.connect(journal.path, isolation_level=None)) as connection:
            connection.execute(
                "INSERT INTO messages (conversation, parent, role, content, created) VALUES (1, 1, 'assistant', 'x', 1)"
            )
            connection.execute("UPDATE conversations SET head = 4 WHERE id = 1")
        second.end(STOP, text="b")
        first.end(STOP)
        await recorder.close()
        assert recorder.id == 2

    asyncio.run(talk())
    assert "another program has continued conversation 1" in told[0]
    assert texts(journal) == [("a", STOP), ("b", STOP), ("x", None)]
    assert journal.load(2).conversation.messages[-1].content == "a"


CHILD = """
import asyncio, sys
from pathlib import Path
from bitnet_chat.conversation import Conversation
from bitnet_chat.journal import Journal, JournalRecorder

async def main():
    recorder = JournalRecorder(Journal(Path(sys.argv[1])), print)
    seeds = [{"seed": each} for each in range(3)]
    writers = recorder.begin_replies(Conversation().with_user("question"), seeds, model="m")
    for number in range(2000):
        for name, writer in zip("abc", writers):
            writer.text(f"{name}{number} ")
        await recorder.rows()
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
@pytest.mark.parametrize("seen", [1, 7])
def test_a_kill_loses_nothing_that_was_written(tmp_path: Path, seen: int) -> None:
    journal = Journal(tmp_path / "journal.db")
    command = [sys.executable, "-c", CHILD, str(journal.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(seen):
            last = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
    for again in range(2):  # as it was left, and after a search, which settles it
        replies = texts(journal)
        assert [finish for _, finish in replies] == [CUT_OFF] * 3
        for name, (text, _) in zip("abc", replies, strict=True):
            whole = "".join(f"{name}{number} " for number in range(2000))
            assert whole.startswith(text) and text.startswith("".join(f"{name}{each} " for each in range(last + 1)))
        assert [node.record.options.get("seed") for node in journal.tree(1).nodes.values()] == [None, 0, 1, 2]
        stored = journal.load(1)
        assert (stored.state, stored.siblings[2]) == (ReplyState.CUT_OFF, (2, 3, 4)), again
        assert journal.search("question")


# Variants of a backend


def test_variants_of_a_backend_are_recorded_each_with_its_own_seed(journal: DatabaseJournal) -> None:
    backend = ScriptedBackend(lambda _: [TextDelta("reply"), Completed(STOP, "reply", STATS)])
    options = ReplyOptions(sampling=Sampling(seed=7))

    async def talk() -> list[VariantEvent]:
        backend.start()
        recorder = JournalRecorder(journal, pytest.fail)
        async with aclosing(record_variants(backend, recorder, QUESTION, options, 3)) as events:
            seen = [event async for event in events]
        await recorder.close()
        return seen

    seen = asyncio.run(talk())
    assert [each.variant for each in seen if isinstance(each.event, Completed)] == [0, 1, 2]
    records = [each.record for each in journal.tree(1).nodes.values()][1:]
    assert [each.options["seed"] for each in records] == [7, 8, 9]
    assert [each.message.finish for each in records] == [STOP] * 3 and records[0].stats["tokens"] == STATS.tokens


def test_variants_that_are_given_up_keep_their_parts(journal: DatabaseJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same time, as an engine makes them."""
    backend = ScriptedBackend(lambda _: [])

    async def together(*_: object) -> AsyncGenerator[VariantEvent]:
        events: list[tuple[int, Event]] = [(0, TextDelta("a")), (1, TextDelta("b")), (0, Completed(STOP, "a", STATS))]
        for variant, event in events:
            yield VariantEvent(variant, event)
        yield VariantEvent(1, TextDelta(" more"))

    monkeypatch.setattr(recording, "variants_of", together)

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        events = record_variants(backend, recorder, QUESTION, ReplyOptions(), 2)
        for _ in range(3):
            await anext(events)
        await events.aclose()
        await recorder.close()

    asyncio.run(talk())
    assert texts(journal) == [("a", STOP), ("b", FinishReason.INTERRUPTED)]


def test_a_count_that_cannot_be() -> None:
    async def talk() -> None:
        backend, recorder = ScriptedBackend(lambda _: []), JournalRecorder(None, print)
        await anext(record_variants(backend, recorder, QUESTION, ReplyOptions(), 9))

    with pytest.raises(UsageError, match="from 1 to 8"):
        asyncio.run(talk())


# Votes

HOSTILE = "evil\x1b[2J\u202e"


async def compared(journal: DatabaseJournal, *models: str, chosen: int | None, blind: bool = False) -> JournalRecorder:
    """A conversation with a reply of each model, and a vote for the one at this place."""
    recorder = JournalRecorder(journal, pytest.fail)
    for model in models:
        recorder.begin_reply(QUESTION, model=model, engine="e")
        recorder.end_reply(STOP, text=f"of {model}")
    await recorder.settled()
    rows = journal.tree(recorder.id or 0).siblings((await rows_of(recorder)).line[-1])
    recorder.vote(rows, None if chosen is None else rows[chosen], blind=blind)
    await recorder.close()
    return recorder


def test_a_vote_comes_back(journal: DatabaseJournal) -> None:
    asyncio.run(compared(journal, "x", "y", chosen=1, blind=True))
    asyncio.run(compared(journal, "x", "y", chosen=None))
    first, second = journal.votes()
    assert (first.conversation, first.blind, first.chosen, first.damage) == (1, True, 3, "")
    assert first.replies == (VotedReply(2, "x", "e"), VotedReply(3, "y", "e"))
    assert first.created > 1e9 and (second.conversation, second.blind, second.chosen) == (2, False, None)
    assert journal.tree(1).votes == (first,)
    journal.remove([1])
    assert journal.votes() == [second]


def test_a_vote_for_replies_of_another_conversation_is_not_kept(journal: DatabaseJournal) -> None:
    asyncio.run(compared(journal, "x", chosen=0))
    told: list[str] = []

    async def talk() -> None:
        recorder = JournalRecorder(journal, told.append)
        recorder.vote((1,), None, blind=False)  # without a conversation
        recorder.begin_reply(QUESTION)
        recorder.end_reply(STOP, text="yes")
        recorder.vote((2, 4), 2, blind=False)
        recorder.vote((3, 4), 4, blind=False)  # 3 is the question
        await recorder.close()

    asyncio.run(talk())
    assert told == ["the choice is not kept: its replies are not in conversation 2"]
    assert len(journal.votes()) == 1


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("chosen", "99", "the chosen reply is not one of its replies"),
        ("chosen", "'x'", "'chosen' is not a row number; the chosen reply is not one of its replies"),
        ("replies", "'[2, 99]'", "message 99 does not exist"),
        *(("replies", f"'{value}'", "its replies are not row numbers") for value in ("[", "{}", "[true]", "[2, 2]")),
        ("created", "'x'", "'created' is not a time"),
    ],
)
def test_damaged_votes_are_told_and_cost_the_others_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], column: str, value: str, told: str
) -> None:
    journal = Journal()
    for _ in range(2):
        asyncio.run(compared(journal, "x", "y", chosen=1))
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE votes SET {column} = {value} WHERE id = 1")
    assert told in journal.votes()[0].damage
    assert main(["history", "votes"]) == 0
    out, err = capsys.readouterr()
    assert "y  chosen" in out and f"vote 1 is damaged: {journal.votes()[0].damage}" in err
    assert main(["history", "show", "--tree", "1"]) == 0
    assert "damaged: conversation 1, vote 1" in capsys.readouterr().err


def test_votes_are_read_back_from_a_damaged_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    for _ in range(2):
        asyncio.run(compared(journal, "x", "y", chosen=1, blind=True))
    before = journal.votes()
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM messages WHERE conversation = 2")
    assert read_back(journal.path, tmp_path / "new.db") == 1
    assert Journal(tmp_path / "new.db").votes() == before[:1]


def test_a_file_without_votes_that_cannot_be_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    asyncio.run(compared(journal, "x", "y", chosen=1))
    from bitnet_chat.journal import queries

    with closing(sqlite3.connect(journal.path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE votes")
        assert queries.votes(connection) == []


MODELS = st.sampled_from(["x", "y", "z"])


@st.composite
def some_votes(draw: st.DrawFn) -> Vote:
    models = draw(st.lists(MODELS, min_size=2, max_size=3, unique=True))
    replies = tuple(VotedReply(row, model) for row, model in enumerate(models, 1))
    chosen = draw(st.sampled_from([None, *range(1, len(models) + 1)]))
    return Vote(1, 1, 1.0, draw(st.booleans()), replies, chosen)


@given(st.lists(some_votes()))
def test_sums(votes: list[Vote]) -> None:
    for sums in by_model(votes):
        mine = [vote for vote in votes if sums.model in {reply.model for reply in vote.replies}]
        won = [vote for vote in mine if vote.chosen and vote.replies[vote.chosen - 1].model == sums.model]
        for count, counted in ((sums.votes, mine), (sums.chosen, won)):
            assert count == Count(len(counted), sum(vote.blind for vote in counted))
    pairs = by_pair(votes)
    assert [(pair.first, pair.second) for pair in pairs] == sorted((pair.first, pair.second) for pair in pairs)
    two = [vote for vote in votes if len(vote.replies) == 2]
    for pair in by_pair(two):
        both = [vote for vote in two if {reply.model for reply in vote.replies} == {pair.first, pair.second}]
        assert pair.first_chosen.all + pair.second_chosen.all + pair.ties.all == len(both)


def test_history_votes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "votes"]) == 0
    assert "The journal has no votes" in capsys.readouterr().err
    journal = Journal()
    for chosen, blind in ((1, False), (1, True), (0, True), (None, True)):
        asyncio.run(compared(journal, HOSTILE, "m", chosen=chosen, blind=blind))
    assert main(["history", "votes"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out
    lines = out.splitlines()
    assert lines[0] == "4 votes, 3 of them blind"
    assert lines[1].startswith("m ") and lines[1].endswith("chosen 2 of 4, 1 without a preference, blind: 1 of 3")
    assert lines[2].endswith("chosen 1 of 4, 1 without a preference, blind: 1 of 3")
    assert lines[3].endswith(" against m: 1 to 2, 1 without a preference; blind: 1 to 1, 1 without a preference")
    assert main(["history", "votes", "--json"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\u202e" not in text
    facts = json.loads(text)
    assert [each["model"] for each in facts["models"]] == ["m", HOSTILE]
    assert facts["models"][0] | {"model": ""} == {
        "model": "", "votes": 4, "chosen": 2, "ties": 1, "blind_votes": 3, "blind_chosen": 1, "blind_ties": 1,
    }  # fmt: skip
    assert facts["pairs"][0]["second_chosen"] == 2 and facts["pairs"][0]["blind_ties"] == 1
    assert facts["votes"][0]["chosen"] == 3 and facts["votes"][0]["replies"][1] == {
        "message": 3, "model": "m", "engine": "e",
    }  # fmt: skip
    for arguments in (["export", "1", "--branches", "--format", "json"], ["show", "1", "--tree", "--json"]):
        assert main(["history", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["votes"] == facts["votes"][:1]
    assert main(["history", "rm", "1", "2", "3", "4", "-y"]) == 0
    assert journal.votes() == []


def test_a_model_against_itself_and_an_unknown_one() -> None:
    votes = [Vote(1, 1, 1.0, False, (VotedReply(1, "x"), VotedReply(2, "x")), 1)]
    assert by_model(votes) == [ModelVotes("x", Count(1), Count(1))] and by_pair(votes) == []
    votes = [Vote(1, 1, 1.0, True, (VotedReply(1, ""), VotedReply(2, "x")), 1)]
    assert by_pair(votes) == [PairVotes("", "x", Count(1, 1))]
