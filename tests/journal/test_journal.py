"""Conversations come back as they were: whole, branched, cut off, renamed, forked, removed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_backend import ScriptedBackend, by_message

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.factory import made_with
from bitnet_chat.backends.wrappers.recording import record_reply as written_down
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message, Tool
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.events import Stats
from bitnet_chat.journal import Journal, JournalRecorder, ReplyState
from bitnet_chat.journal.damaged_file import open_file
from bitnet_chat.journal.records import TITLE_LENGTH, title_of
from bitnet_chat.journal.transactions import ConversationStore, ReplyOrigin
from bitnet_chat.util.process_identity import is_alive, this_process
from bitnet_chat.version import __version__

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
STOP, CUT_OFF, INTERRUPTED = FinishReason.STOP, FinishReason.CUT_OFF, FinishReason.INTERRUPTED


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def recorded(journal: Journal | None, what: Callable[[JournalRecorder], Awaitable[None] | None]) -> JournalRecorder:
    """The recorder after ``what`` and its end; nothing was to complain about."""
    complaints: list[str] = []

    async def record() -> JournalRecorder:
        recorder = JournalRecorder(journal, complaints.append)
        waiting = what(recorder)
        if waiting is not None:
            await waiting
        await recorder.close()
        await asyncio.sleep(0)
        return recorder

    recorder = asyncio.run(record())
    assert complaints == []
    return recorder


def turn(recorder: JournalRecorder, conversation: Conversation, text: str, reason: FinishReason = STOP) -> Conversation:
    """A reply to ``conversation``, and what it is then."""
    recorder.begin_reply(conversation, model="a model", engine="an engine", options={"max_tokens": 9})
    for piece in text.split(" "):
        recorder.text(f"{piece} ")
    recorder.end_reply(reason, Stats(tokens=3, seconds=1.5), text=text)
    return conversation.with_assistant(text, reason)


def dialogue(journal: Journal, *texts: str, system: str = "") -> tuple[int, Conversation]:
    """A conversation of these messages, user and assistant in turn."""
    conversation = Conversation().with_system(system)

    def talk(recorder: JournalRecorder) -> None:
        nonlocal conversation
        for question, answer in zip(texts[::2], texts[1::2], strict=True):
            conversation = turn(recorder, conversation.with_user(question), answer)

    id = recorded(journal, talk).id
    assert id is not None
    return id, conversation


# What was said


def test_a_conversation_comes_back(journal: Journal) -> None:
    id, conversation = dialogue(journal, "first", "one", "second", "two", system="be brief")
    stored = journal.load(id)
    assert stored.conversation == conversation
    assert (stored.title, stored.state, stored.unanswered) == ("first", ReplyState.WHOLE, "")
    assert (stored.model, stored.engine, stored.options) == ("a model", "an engine", {"max_tokens": 9})
    last = stored.records[-1]
    assert (last.model, last.engine, last.options) == ("a model", "an engine", {"max_tokens": 9})
    assert last.stats == {"tokens": 3, "seconds": 1.5, "exact": False, "first_tokens": 1}
    assert stored.created <= last.created <= stored.updated
    [entry] = journal.list()
    assert (entry.id, entry.title, entry.turns, entry.model, entry.state) == (
        id,
        "first",
        2,
        "a model",
        ReplyState.WHOLE,
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(system=ANY_TEXT, question=ANY_TEXT, answer=ANY_TEXT, thoughts=ANY_TEXT, title=ANY_TEXT)
def test_any_text_comes_back(
    journal: Journal, system: str, question: str, answer: str, thoughts: str, title: str
) -> None:
    def talk(recorder: JournalRecorder) -> None:
        recorder.rename(title)
        recorder.begin_reply(asked, model=title, engine=answer, options={"any": question})
        recorder.thinking(thoughts)
        recorder.text(answer)
        recorder.end_reply(STOP)

    asked = Conversation().with_system(system).with_user(question)
    stored = journal.load(recorded(journal, talk).id or 0)
    assert stored.conversation == asked.with_assistant(answer, STOP, thoughts)
    assert (stored.model, stored.engine, stored.options) == (title, answer, {"any": question})
    assert stored.title == (title or title_of(asked))
    journal.remove([stored.id])


@pytest.mark.parametrize("text", ["123", "0x10", "1e5", "NULL", "'; DROP TABLE messages; --", "\0", "a\0b", "\udcff\0"])
def test_nothing_is_taken_for_anything_but_text(journal: Journal, text: str) -> None:
    id, conversation = dialogue(journal, text, text)
    assert journal.load(id).conversation == conversation


def test_a_reply_whose_end_differs_from_its_pieces_is_kept_as_it_ended(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        recorder.begin_reply(Conversation().with_user("q"))
        recorder.text("the reply\nUser: and")  # of which a guard leaves the first line
        recorder.end_reply(FinishReason.ROLE_MARKER, text="the reply")

    stored = journal.load(recorded(journal, talk).id or 0)
    assert stored.conversation.last == Message("assistant", "the reply", FinishReason.ROLE_MARKER)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Why?", "Why?"),
        ("\n\n  many \t blanks  \nsecond line", "many blanks"),
        ("x" * 500, "x" * (TITLE_LENGTH - 1) + "…"),
        ("", ""),
        ("[File: notes.md]\n```md\ntext of the file\n```\n\nWhat is this?", "What is this?"),
    ],
)
def test_titles(text: str, title: str) -> None:
    assert title_of(Conversation().with_system("not this").with_user(text)) == title


def test_nothing_is_made_before_the_first_message(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        recorder.sync(Conversation().with_system("be brief"))
        recorder.start_new()
        recorder.end_reply(STOP)
        recorder.text("nobody asked")

    assert recorded(journal, talk).id is None
    assert not journal.path.exists()


def test_without_a_journal_nothing_happens(tmp_path: Path, home: Path) -> None:
    def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("q"), "a")
        recorder.rename("t")
        recorder.fork()
        recorder.sync(conversation)

    assert recorded(None, talk).id is None
    assert not [*tmp_path.iterdir(), *home.iterdir()]


# Branches


def test_what_is_taken_back_stays_as_a_branch(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        first = turn(recorder, Conversation().with_user("q1"), "a1")
        turn(recorder, first.with_user("q2"), "lost words")
        recorder.sync(first)  # /undo
        turn(recorder, first.with_user("q3"), "a3")

    id = recorded(journal, talk).id or 0
    assert [message.content for message in journal.load(id).conversation.messages] == ["q1", "a1", "q3", "a3"]
    assert [hit.entry.id for hit in journal.search("lost")] == [id]
    assert journal.list()[0].turns == 2


def test_a_line_that_is_gone_back_to_is_not_written_twice(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("question"), "answer")
        recorder.sync(conversation)
        recorder.begin_reply(conversation.with_user("failed"))
        recorder.end_reply(FinishReason.ENGINE_DIED)
        recorder.sync(conversation)

    recorded(journal, talk)
    [hit] = journal.search("question")
    assert hit.count == 1
    assert journal.load(hit.entry.id).unanswered == ""


def test_another_system_prompt(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("q"), "a")
        conversation = turn(recorder, conversation.with_system("be brief").with_user("q2"), "a2")
        expected.append(conversation)

    expected: list[Conversation] = []
    assert journal.load(recorded(journal, talk).id or 0).conversation == expected[0]


def test_a_reply_that_goes_on_makes_the_message_longer(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("q"), "half of", INTERRUPTED)
        recorder.begin_reply(conversation)
        recorder.text(" the reply")
        recorder.end_reply(STOP)
        longer = conversation.without_last_reply().with_assistant("half of the reply", STOP)
        turn(recorder, longer.with_user("q2"), "a2")

    contents = [message.content for message in journal.load(recorded(journal, talk).id or 0).conversation.messages]
    assert contents == ["q", "half of the reply", "q2", "a2"]


def test_a_reply_that_failed_to_go_on_stays_as_it_was(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("q"), "half", FinishReason.LENGTH)
        recorder.begin_reply(conversation)
        recorder.end_reply(FinishReason.ENGINE_DIED)

    last = journal.load(recorded(journal, talk).id or 0).conversation.last
    assert last == Message("assistant", "half", FinishReason.LENGTH)


@pytest.mark.parametrize("reason", [INTERRUPTED, FinishReason.ENGINE_DIED, FinishReason.NO_ENGINE])
def test_a_message_without_a_reply_is_kept_and_told_apart(journal: Journal, reason: FinishReason) -> None:
    def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("q"), "a")
        recorder.begin_reply(conversation.with_user("the last words"))
        recorder.end_reply(reason)

    stored = journal.load(recorded(journal, talk).id or 0)
    assert (stored.state, stored.unanswered) == (ReplyState.UNANSWERED, "the last words")
    assert [message.content for message in stored.conversation.messages] == ["q", "a"]
    assert journal.list()[0].state is ReplyState.UNANSWERED


def passed_over(journal: Journal) -> tuple[int, int]:
    """A conversation whose second message got no reply before the third one was sent behind it, and its row."""
    id, conversation = dialogue(journal, "q", "a")

    def fail(recorder: JournalRecorder) -> None:
        recorder.resume(journal.load(id))
        recorder.begin_reply(conversation.with_user("lost?"))
        recorder.end_reply(FinishReason.ENGINE_DIED)

    recorded(journal, fail)
    pending = journal.load(id).pending
    assert pending is not None

    def send(recorder: JournalRecorder) -> None:
        recorder.resume(journal.load(id))
        recorder.follow(pending.row)
        turn(recorder, conversation.with_user("q2"), "a2")

    recorded(journal, send)
    return id, pending.row


def test_a_message_without_a_reply_stays_before_the_next_one(journal: Journal) -> None:
    id, row = passed_over(journal)
    stored = journal.load(id)
    assert [message.content for message in stored.conversation.messages] == ["q", "a", "q2", "a2"]
    assert [(each.row, each.message.content) for each in stored.passed_over] == [(row, "lost?")]
    assert (stored.state, stored.unanswered, journal.list()[0].turns) == (ReplyState.WHOLE, "", 2)
    assert stored.about()["passed_over"] == [{"content": "lost?", "created": stored.passed_over[0].created}]


@pytest.mark.parametrize("then", ["more", "again", "edited", "undone", "failed"])
def test_it_stays_whatever_is_done_behind_it(journal: Journal, then: str) -> None:
    """As a REPL does it, which is told of the conversation alone."""
    id, row = passed_over(journal)

    def talk(recorder: JournalRecorder) -> None:
        stored = journal.load(id)
        recorder.resume(stored)
        conversation = stored.conversation
        if then == "more":
            turn(recorder, conversation.with_user("q3"), "a3")
        elif then == "again":
            turn(recorder, conversation.without_last_reply(), "other")
        elif then == "edited":
            turn(recorder, conversation.without_last_turn().with_user("other"), "a3")
        elif then == "undone":
            recorder.sync(conversation.without_last_turn())
        else:
            recorder.begin_reply(conversation.without_last_turn().with_user("other"))
            recorder.end_reply(FinishReason.ENGINE_DIED)

    recorded(journal, talk)
    stored = journal.load(id)
    if then != "undone":
        assert [each.row for each in stored.passed_over] == [row]
        return
    assert stored.pending is not None and (stored.pending.row, stored.passed_over) == (row, ())

    def talk_on(recorder: JournalRecorder) -> None:
        stored = Journal(journal.path).load(before)
        recorder.resume(stored)
        conversation = stored.conversation.without_last_turn()
        recorder.sync(conversation)
        turn(recorder, conversation.with_user("q3"), "a3")

    before, row = passed_over(journal)
    recorded(journal, talk_on)
    assert [each.row for each in journal.load(before).passed_over] == [row]


def test_a_first_message_that_is_edited_leaves_nothing_before_it(journal: Journal) -> None:
    """Also where another one had been taken back to before a message without a reply."""
    id, _ = passed_over(journal)

    def talk(recorder: JournalRecorder) -> None:
        recorder.resume(journal.load(id))
        recorder.sync(journal.load(id).conversation.without_last_turn())
        turn(recorder, Conversation().with_user("all new"), "a")

    recorded(journal, talk)
    stored = journal.load(id)
    assert [message.content for message in stored.conversation.messages] == ["all new", "a"]
    assert stored.passed_over == ()


def test_a_model_may_say_nothing(journal: Journal) -> None:
    id, conversation = dialogue(journal, "q", "", "q2", "a2")
    assert journal.load(id).conversation == conversation


def test_a_partial_reply_that_failed_is_kept(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        turn(recorder, Conversation().with_user("q"), "as far as", FinishReason.ENGINE_DIED)

    last = journal.load(recorded(journal, talk).id or 0).conversation.last
    assert last == Message("assistant", "as far as", FinishReason.ENGINE_DIED)


# More than one conversation


def test_anew_rename_fork_and_resume(journal: Journal) -> None:
    async def talk(recorder: JournalRecorder) -> None:
        one = turn(recorder, Conversation().with_user("one"), "a")
        recorder.rename("The first")
        recorder.start_new()
        assert (recorder.id, recorder.title) == (None, "")
        two = turn(recorder, Conversation().with_user("two"), "b")
        assert recorder.title == "two"
        recorder.fork()
        turn(recorder, two.with_user("in the fork"), "c")
        assert await recorder.settled() and recorder.id == 3
        recorder.start_new()
        recorder.resume(journal.load(3))
        assert (recorder.id, recorder.title) == (3, "two")
        recorder.resume(journal.load(1))
        assert recorder.title == "The first"
        turn(recorder, one.with_user("again"), "d")

    assert recorded(journal, talk).id == 1
    assert [(entry.id, entry.title, entry.turns) for entry in journal.list()] == [
        (1, "The first", 2),
        (3, "two", 2),
        (2, "two", 1),
    ]
    fork = journal.load(3)
    assert [message.content for message in fork.conversation.messages] == ["two", "b", "in the fork", "c"]
    assert fork.forked_from == 2 and fork.records[1].model == "a model"
    latest = journal.latest()
    assert latest is not None and latest.id == 1
    assert [entry.id for entry in journal.list(2)] == [1, 3]


def test_numbers_that_none_has(journal: Journal) -> None:
    assert journal.list() == [] and journal.latest() is None
    for id in (1, 0, -1, 2**63 - 1):
        with pytest.raises(UsageError, match="does not exist"):
            journal.load(id)
    assert not journal.path.exists(), "looking makes no file"
    id, _ = dialogue(journal, "q", "a")
    with pytest.raises(UsageError, match=f"conversation {id + 1} does not exist"):
        journal.remove([id, id + 1])
    assert len(journal.list()) == 1


def test_a_removed_number_is_not_given_again(journal: Journal) -> None:
    first, _ = dialogue(journal, "q", "a")
    journal.remove([first])
    second, _ = dialogue(journal, "q", "a")
    assert second > first


@pytest.fixture
def two(journal: Journal) -> Iterator[tuple[ConversationStore, ConversationStore]]:
    """Two writers, as two programs have them."""
    connections = [open_file(journal.path)[0] for _ in range(2)]
    yield ConversationStore(connections[0]), ConversationStore(connections[1])
    for connection in connections:
        connection.close()


def answer(
    store: ConversationStore, conversation: Conversation, text: str, reason: FinishReason = STOP
) -> Conversation:
    store.begin_reply(conversation, ReplyOrigin())
    store.end_reply(reason, {}, text=text)
    return conversation.with_assistant(text, reason) if text else conversation


def shown(journal: Journal, id: int | None) -> list[str]:
    return [record.message.content for record in journal.load(id or 0).shown]


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("said", ["q", "a", "lost?", "q2", "a2", "mine", "to me"]),
        ("again", ["q", "a", "lost?", "q2", "to me"]),
        ("edited", ["q", "a", "lost?", "mine", "to me"]),
        ("undone", ["q", "a", "lost?"]),
        ("failed", ["q", "a", "lost?", "q2", "a2", "mine"]),
        ("continued", ["q", "a", "lost?", "q2", "a2 and on"]),
    ],
)
def test_what_another_program_has_said_is_never_hidden(
    journal: Journal, two: tuple[ConversationStore, ConversationStore], then: str, expected: list[str]
) -> None:
    """Whoever has not read it goes on in a copy, and is told so once."""
    id, _ = passed_over(journal)
    before, stored = shown(journal, id), journal.load(id)
    conversation = stored.conversation
    theirs, mine = two
    for each in two:
        each.resume(stored)
    answer(theirs, conversation.with_user("theirs"), "to them")
    if then == "said":
        answer(mine, conversation.with_user("mine"), "to me")
    elif then == "again":
        answer(mine, conversation.without_last_reply(), "to me")
    elif then == "edited":
        answer(mine, conversation.without_last_turn().with_user("mine"), "to me")
    elif then == "undone":
        mine.sync(conversation.without_last_turn())
    elif then == "failed":
        answer(mine, conversation.with_user("mine"), "", FinishReason.ENGINE_DIED)
    else:
        answer(mine, conversation, " and on")
    assert shown(journal, id) == [*before, "theirs", "to them"]
    copy = journal.load(mine.id or 0)
    assert shown(journal, mine.id) == expected
    assert (copy.forked_from, copy.title, theirs.id) == (id, stored.title, id)
    # From here on each has its own.
    mine_on = answer(mine, copy.conversation.with_user("on"), "mine")
    answer(mine, mine_on.without_last_reply(), "again")
    expected = expected[:-1] if then == "failed" else expected  # the next message takes its place, as ever
    answer(theirs, journal.load(id).conversation.with_user("on"), "theirs")
    assert shown(journal, mine.id) == [*expected, "on", "again"]
    assert shown(journal, id) == [*before, "theirs", "to them", "on", "theirs"]
    assert len(mine.notes) == 1 and theirs.notes == [] and len(journal.list()) == 2
    assert f"continued conversation {id}: from here on this one is kept as {mine.id} " in mine.notes[0]


def test_one_that_is_overtaken_is_told(journal: Journal) -> None:
    id, conversation = dialogue(journal, "q", "a")
    complaints: list[str] = []
    stored = journal.load(id)

    def theirs(recorder: JournalRecorder) -> None:
        recorder.resume(stored)
        turn(recorder, conversation.with_user("theirs"), "to them")

    recorded(journal, theirs)

    async def talk() -> int | None:
        recorder = JournalRecorder(journal, complaints.append)
        recorder.resume(stored)
        turn(recorder, conversation.with_user("mine"), "to me")
        await recorder.close()
        await asyncio.sleep(0)
        return recorder.id

    assert asyncio.run(talk()) == id + 1
    assert complaints == [
        f"another program has continued conversation {id}: from here on this one is kept as {id + 1}"
        f" (bitnet-chat history show {id} shows the other)"
    ]


def test_what_was_said_in_an_empty_conversation_names_its_copy(
    journal: Journal, two: tuple[ConversationStore, ConversationStore]
) -> None:
    theirs, mine = two
    theirs.create(Conversation(), "", "")
    mine.resume(journal.load(theirs.id or 0))
    answer(theirs, Conversation().with_user("theirs"), "to them")
    answer(mine, Conversation().with_user("mine"), "to me")
    assert sorted(entry.title for entry in journal.list()) == ["mine", "theirs"]


def test_a_message_without_a_reply_goes_along(
    journal: Journal, two: tuple[ConversationStore, ConversationStore]
) -> None:
    id, _ = passed_over(journal)
    theirs, mine = two
    stored = journal.load(id)
    conversation = stored.conversation.without_last_turn()
    for each in two:
        each.resume(stored)
    mine.sync(conversation)
    assert shown(journal, id) == ["q", "a", "lost?"]
    answer(theirs, stored.conversation.with_user("theirs"), "to them")
    answer(mine, conversation.with_user("mine"), "to me")
    assert shown(journal, mine.id) == ["q", "a", "lost?", "mine", "to me"]
    # What they went on behind was not the head any more, but they had read all that was.
    assert shown(journal, id) == ["q", "a", "lost?", "q2", "a2", "theirs", "to them"]


@pytest.mark.parametrize("first", ["", "some"])
def test_overtaken_while_a_reply_is_written(
    journal: Journal, two: tuple[ConversationStore, ConversationStore], first: str
) -> None:
    """Who goes on behind the reply has it in its line; who does not leaves it to be kept in a copy."""
    id, conversation = dialogue(journal, "q", "a")
    theirs, mine = two
    stored = journal.load(id)
    mine.resume(stored)
    mine.begin_reply(conversation.with_user("mine"), ReplyOrigin())
    mine.add([(False, first)] if first else [])
    stored = journal.load(id)
    theirs.resume(stored)
    if not first:
        theirs.follow(stored.shown[0].row)  # as a server does where an earlier message is edited
        theirs._seen.add(stored.head or 0)
        answer(theirs, Conversation().with_user("theirs"), "to them")
    else:
        answer(theirs, stored.conversation.with_user("theirs"), "to them")
    mine.add([(False, " words")])
    mine.end_reply(STOP, {})
    said = f"{first} words"
    if first:
        assert (mine.id, mine.notes) == (id, [])
        assert shown(journal, id) == ["q", "a", "mine", said, "theirs", "to them"]
    else:
        assert shown(journal, id)[-2:] == ["theirs", "to them"]
        assert mine.id != id and shown(journal, mine.id) == ["q", "a", "mine", said]
    answer(mine, conversation.with_user("mine").with_assistant(said, STOP).with_user("more"), "of it")
    assert shown(journal, mine.id) == ["q", "a", "mine", said, "more", "of it"]
    assert len(mine.notes) == 1 and shown(journal, id)[-2:] == ["theirs", "to them"]


def test_a_reply_that_was_being_made_when_the_conversation_was_read(
    journal: Journal, two: tuple[ConversationStore, ConversationStore]
) -> None:
    """It had no word yet: what goes on without it hides nothing."""
    id, conversation = dialogue(journal, "q", "a")
    theirs, mine = two
    theirs.resume(journal.load(id))
    theirs.begin_reply(conversation.with_user("theirs"), ReplyOrigin())
    mine.resume(journal.load(id))
    theirs.end_reply(STOP, {}, text="to them")
    answer(mine, conversation.with_user("mine"), "to me")
    assert shown(journal, id) == ["q", "a", "theirs", "to them"]
    assert shown(journal, mine.id) == ["q", "a", "mine", "to me"] and len(mine.notes) == 1


def test_a_reply_of_another_program_is_copied_as_far_as_it_was_read(
    journal: Journal, two: tuple[ConversationStore, ConversationStore]
) -> None:
    id, conversation = dialogue(journal, "q", "a")
    theirs, mine = two
    theirs.resume(journal.load(id))
    theirs.begin_reply(conversation.with_user("theirs"), ReplyOrigin())
    theirs.add([(False, "to")])
    mine.resume(journal.load(id))
    mine.fork()
    theirs.end_reply(STOP, {}, text="to them")
    assert journal.load(mine.id or 0).conversation.last == Message("assistant", "to", CUT_OFF)
    assert shown(journal, id) == ["q", "a", "theirs", "to them"]


# Replies without an end


DEAD = f"{2**22 + 7}:1.0"  # no system has so many processes by default


def began(journal: Journal, *pieces: str, writer: str, start: str = "") -> int:
    """A reply that a program with this writer has begun and not ended."""
    connection, _ = open_file(journal.path)
    store = ConversationStore(connection)
    store._writer = writer
    conversation = Conversation().with_user("a question")
    if start:
        conversation = conversation.with_assistant(start, FinishReason.LENGTH)
    store.begin_reply(conversation, ReplyOrigin("m"))
    store.add([(piece.startswith("("), piece) for piece in pieces])
    connection.close()
    assert store.id is not None
    return store.id


def test_a_reply_whose_writer_is_dead_was_cut_off(journal: Journal) -> None:
    id = began(journal, "(thought)", "as far", " as it came \udcf0", writer=DEAD)
    expected = Message("assistant", "as far as it came \udcf0", CUT_OFF, "(thought)")
    for _ in range(2):  # as it was left, and after a search, which settles it
        stored = journal.load(id)
        assert stored.conversation.last == expected
        assert stored.state is ReplyState.CUT_OFF is journal.list()[0].state
        assert journal.search("question")
    assert [hit.entry.id for hit in journal.search("came")] == [id]


def test_one_that_went_on_with_another_too(journal: Journal) -> None:
    id = began(journal, " and on", writer=DEAD, start="on")
    assert journal.load(id).conversation.last == Message("assistant", "on and on", CUT_OFF)


@pytest.mark.parametrize("pieces", [(), ("(only a thought)",)])
def test_one_without_a_word_is_none(journal: Journal, pieces: tuple[str, ...]) -> None:
    id = began(journal, *pieces, writer=DEAD)
    for _ in range(2):
        stored = journal.load(id)
        assert (stored.records, stored.unanswered, stored.state) == ((), "a question", ReplyState.UNANSWERED)
        assert journal.list()[0].state is ReplyState.UNANSWERED
        assert journal.search("question")


def test_a_conversation_in_use_is_not_taken_for_dead(journal: Journal) -> None:
    id = began(journal, "so far", writer=this_process())
    for _ in range(2):
        stored = journal.load(id)
        assert stored.state is ReplyState.ANSWERING is journal.list()[0].state
        assert stored.conversation.last == Message("assistant", "so far", CUT_OFF)
        journal.search("question")


def test_writers() -> None:
    assert is_alive(this_process())
    pid, _, start = this_process().partition(":")
    assert not is_alive(f"{pid}:{float(start) - 60:.2f}"), "the number of a process that ended an hour ago is reused"
    for strange in ("", "x", "1:", ":", "-5:1.0", f"{2**70}:1", DEAD):
        assert not is_alive(strange)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    writer = f"{child.pid}:{psutil.Process(child.pid).create_time():.2f}"
    assert is_alive(writer)
    child.stdin.close()
    child.wait()
    assert not is_alive(writer)


def test_resuming_one_that_was_cut_off(journal: Journal) -> None:
    id = began(journal, "half", writer=DEAD)

    def talk(recorder: JournalRecorder) -> None:
        stored = journal.load(id)
        recorder.resume(stored)
        recorder.begin_reply(stored.conversation)
        recorder.text(" and half")
        recorder.end_reply(STOP)

    recorded(journal, talk)
    assert journal.load(id).conversation.last == Message("assistant", "half and half", STOP)


@pytest.mark.parametrize("pieces", [(), ("half",)])
def test_one_that_is_found_dead_after_it_was_read_is_gone_on_with(journal: Journal, pieces: tuple[str, ...]) -> None:
    id = began(journal, *pieces, writer=DEAD)
    stored = journal.load(id)
    journal.search("question")  # settles it

    def talk(recorder: JournalRecorder) -> None:
        recorder.resume(stored)
        turn(recorder, stored.conversation.with_user("more"), "of it")

    assert recorded(journal, talk).id == id
    assert [entry.id for entry in journal.list()] == [id]


def test_a_program_that_was_taken_for_dead_loses_nothing(journal: Journal) -> None:
    """Two containers that share a folder see each other's processes as dead."""
    for pieces in (("said ",), ()):
        connection, _ = open_file(journal.path)
        store = ConversationStore(connection)
        store._writer = DEAD
        store.begin_reply(Conversation().with_user("question"), ReplyOrigin())
        store.add([(False, piece) for piece in pieces])
        journal.search("question")  # settles it
        store.add([(False, "more")])
        store.end_reply(STOP, {})
        connection.close()
        last = journal.load(store.id or 0).conversation.last
        assert last == Message("assistant", "".join(pieces) + "more", STOP)


def test_a_reply_that_nobody_ended_is_interrupted_when_the_recorder_closes(journal: Journal) -> None:
    def talk(recorder: JournalRecorder) -> None:
        recorder.begin_reply(Conversation().with_user("q"))
        recorder.text("a word")

    stored = journal.load(recorded(journal, talk).id or 0)
    assert stored.conversation.last == Message("assistant", "a word", INTERRUPTED)


# Removing


def test_what_is_removed_is_gone_from_the_disk(journal: Journal) -> None:
    secret = "xylophonequartz ꙮꙮꙮꙮ"
    kept, conversation = dialogue(journal, "stay", "here")
    gone, _ = dialogue(journal, f"{secret} question", f"{secret} answer " * 200)
    began(journal, secret, writer=DEAD)
    assert len(journal.search("xylophonequartz")) == 2
    assert journal.remove([gone, gone + 1])
    assert journal.search("xylophonequartz") == [] and [entry.id for entry in journal.list()] == [kept]
    for file in journal.path.parent.iterdir():
        data = file.read_bytes()
        assert b"xyloph" not in data and "ꙮ".encode() not in data, file.name
    assert journal.load(kept).conversation == conversation
    assert journal.check() == ""


def test_removing_while_another_program_reads(journal: Journal) -> None:
    id, _ = dialogue(journal, "q", "a")
    connection, _ = open_file(journal.path)
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM messages").fetchall()
    dialogue(journal, "newer", "than what it sees")
    assert journal.remove([id]) is False
    connection.close()
    assert [entry.id for entry in journal.list()] == [id + 1]


def test_one_that_is_removed_while_it_is_used(journal: Journal) -> None:
    complaints: list[str] = []

    async def talk() -> None:
        recorder = JournalRecorder(journal, complaints.append)
        conversation = turn(recorder, Conversation().with_user("q"), "a")
        assert await recorder.settled() and recorder.id is not None
        journal.remove([recorder.id])
        conversation = turn(recorder, conversation.with_user("q2"), "a2")
        turn(recorder, conversation.with_user("q3"), "a3")
        recorder.start_new()
        turn(recorder, Conversation().with_user("another"), "one")
        await recorder.close()
        await asyncio.sleep(0)

    asyncio.run(talk())
    assert len(complaints) == 1 and "removed" in complaints[0]
    assert [entry.title for entry in journal.list()] == ["another"]


@pytest.mark.skipif(sys.platform == "win32", reason="a file in use cannot be removed there")
def test_a_file_that_is_removed_while_it_is_used_is_written_anew(journal: Journal) -> None:
    async def talk(recorder: JournalRecorder) -> None:
        conversation = turn(recorder, Conversation().with_user("q"), "a")
        recorder.begin_reply(conversation.with_user("q2"))
        recorder.text("before")
        assert await recorder.settled() and recorder.id is not None
        assert journal.load(recorder.id).conversation.messages[-1].content == "before"
        for file in journal.path.parent.iterdir():
            os.unlink(file)  # noqa: PTH108
        recorder.text(" and after")
        recorder.end_reply(STOP)

    told: list[str] = []

    async def main() -> int | None:
        recorder = JournalRecorder(journal, told.append)
        await talk(recorder)
        await recorder.close()
        return recorder.id

    stored = journal.load(asyncio.run(main()) or 0)
    assert [message.content for message in stored.conversation.messages] == ["q", "a", "q2", "before and after"]
    assert ["was removed by another program" in line for line in told] == [True]


def test_a_title_follows_its_message(journal: Journal) -> None:
    """Here, in the file, and in a copy; one that was given stays."""

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        recorder.begin_reply(Conversation().with_user("frist"))
        recorder.end_reply(FinishReason.STOP, text="reply")
        recorder.begin_reply(Conversation().with_user("first"))
        recorder.end_reply(FinishReason.STOP, text="reply")
        assert await recorder.settled()
        assert recorder.title == journal.load(1).title == "first"
        recorder.resume(journal.load(1))
        recorder.fork()
        recorder.sync(Conversation())
        assert await recorder.settled()
        assert [entry.title for entry in journal.list()] == ["", "first"]
        recorder.sync(Conversation().with_user("of the copy"))
        assert await recorder.settled()
        assert [entry.title for entry in journal.list()] == ["of the copy", "first"]
        recorder.rename("given")
        recorder.begin_reply(Conversation().with_user("another"))
        recorder.end_reply(FinishReason.STOP, text="reply")
        assert await recorder.settled()
        recorder.resume(journal.load(2))
        recorder.sync(Conversation().with_user("one more"))
        await recorder.close()
        assert recorder.title == journal.load(2).title == "given"

    asyncio.run(talk())


def test_all_that_a_reply_was_made_with(journal: Journal) -> None:
    """What the settings, the request and the backend say, in the order of who decides."""
    backend = ScriptedBackend(by_message)
    status = backend.status
    sampling = Sampling(temperature=0.5, top_k=7)
    backend.status = lambda: replace(status(), sampling=sampling, engine_version="b1")  # type: ignore[method-assign]
    journal.made_with = made_with(
        Settings(ctx=512, seed=4, overflow="stop", chat_template="chatml", engine_args=("--x",))
    )
    asked = ReplyOptions(max_tokens=9, sampling=Sampling(temperature=0.0, seed=3), stop=("x",), tools=(Tool("look"),))

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        backend.start()
        async for _ in written_down(backend, recorder, Conversation().with_user("hello"), asked):
            pass
        await recorder.close()

    asyncio.run(talk())
    assert journal.load(1).records[-1].options == {
        "bitnet_chat": __version__, "overflow": "stop", "ctx": 512, "chat_template": "chatml", "engine_args": ["--x"],
        "max_tokens": 9, "temperature": 0.0, "seed": 3, "top_k": 7, "stop": ["x"], "tools": ["look"],
        "window": 2048, "engine_version": "b1",
    }  # fmt: skip
    assert journal.load(1).options == journal.load(1).records[-1].options
