"""Commands of the journal, run without a thread and without a file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import get_args

import pytest

from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal import branch, commands, schema
from bitnet_chat.journal.commands import (
    AddText,
    BeginReply,
    CastVote,
    Command,
    Create,
    EndReply,
    Follow,
    ForkConversation,
    RenameConversation,
    Report,
    ResumeConversation,
    SetHead,
    StartNew,
    Sync,
    Verify,
    run,
)
from bitnet_chat.journal.records import StoredConversation
from bitnet_chat.journal.transactions import ConversationStore, ReplyOrigin
from bitnet_chat.journal.writer_thread import PendingText

QUESTION = Conversation().with_user("a question")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        schema.migrate(connection)
        yield connection


@pytest.fixture
def store(connection: sqlite3.Connection) -> ConversationStore:
    return ConversationStore(connection)


def stored(connection: sqlite3.Connection, id: int | None) -> StoredConversation:
    assert id is not None
    found = branch.stored(connection, id)
    if connection.in_transaction:
        connection.rollback()
    assert found is not None
    return found


def test_a_reply(connection: sqlite3.Connection, store: ConversationStore) -> None:
    text = PendingText()
    call = ToolCall("1", "look", "{}")
    run(BeginReply(QUESTION, (ReplyOrigin("a model", "an engine"),)), store)
    text.append((True, "hm"), 0.0)
    text.append((False, "one "), 0.0)
    run(AddText(text), store)
    text.append((False, "two"), 0.0)
    run(AddText(text), store)
    run(AddText(text), store)  # nothing waits any more
    run(EndReply(FinishReason.TOOL_CALLS, {"tokens": 3}, calls=(call,)), store)
    found = stored(connection, store.id)
    last = found.conversation.last
    assert last is not None and (last.content, last.thinking, last.tool_calls) == ("one two", "hm", (call,))
    assert (found.records[-1].model, found.records[-1].stats) == ("a model", {"tokens": 3})


def test_the_text_of_the_end_takes_the_place_of_the_pieces(
    connection: sqlite3.Connection, store: ConversationStore
) -> None:
    text = PendingText()
    run(BeginReply(QUESTION, (ReplyOrigin(),)), store)
    text.append((False, "torn"), 0.0)
    run(AddText(text), store)
    run(EndReply(FinishReason.STOP, {}, "whole", "thought", options='{"seed": 1}'), store)
    found = stored(connection, store.id)
    last = found.conversation.last
    assert last is not None and (last.content, last.thinking) == ("whole", "thought")
    assert found.records[-1].options == {"seed": 1}


def test_titles_copies_and_new_conversations(connection: sqlite3.Connection, store: ConversationStore) -> None:
    run(Create(QUESTION, "a title", "a model"), store)
    first = store.id
    assert (stored(connection, first).title, stored(connection, first).model) == ("a title", "a model")
    run(RenameConversation("another"), store)
    assert stored(connection, first).title == "another"
    run(ForkConversation("a copy"), store)
    second = store.id
    assert second != first and stored(connection, second).title == "a copy"
    assert stored(connection, second).forked_from == first
    run(StartNew(), store)
    assert store.id is None
    run(ResumeConversation(stored(connection, first)), store)
    assert store.id == first
    run(Sync(QUESTION.with_assistant("a reply", FinishReason.STOP)), store)
    assert len(stored(connection, first).conversation.messages) == 2


def test_a_message_behind_a_row_that_was_named(connection: sqlite3.Connection, store: ConversationStore) -> None:
    run(Sync(QUESTION), store)
    run(Follow(None), store)
    run(Sync(Conversation().with_user("another beginning")), store)
    found = stored(connection, store.id)
    assert [message.content for message in found.conversation.messages] + [found.unanswered] == ["another beginning"]


def test_what_changes_nothing(connection: sqlite3.Connection, store: ConversationStore) -> None:
    before = connection.total_changes
    loop = asyncio.new_event_loop()
    with closing(loop):
        run(Report(loop.create_future()), store)
    run(Verify(), store)
    assert connection.total_changes == before and store.id is None


def test_every_command_tells_what_it_is_and_is_run() -> None:
    """The match in ``run`` has an arm for each: none is dropped without a word."""

    class Calls:
        def __init__(self) -> None:
            self.names: list[str] = []

        def __getattr__(self, name: str) -> object:
            return lambda *arguments: self.names.append(name)

    made: list[Command] = [
        Create(QUESTION, "", ""),
        Sync(QUESTION),
        BeginReply(QUESTION, (ReplyOrigin(),)),
        AddText(PendingText()),
        EndReply(FinishReason.STOP, {}),
        CastVote((1, 2), 1, True),
        ResumeConversation(None),
        SetHead(None),  # type: ignore[arg-type]
        Follow(1),
        StartNew(),
        RenameConversation("x"),
        ForkConversation(""),  # type: ignore[arg-type]
        Report(None),
        Verify(),  # type: ignore[arg-type]
    ]
    assert {type(each) for each in made} == set(get_args(commands.Command))
    calls = Calls()
    for each in made:
        run(each, calls)  # type: ignore[arg-type]
        assert repr(each).startswith(type(each).__name__)
    assert calls.names == [
        "create",
        "sync",
        "begin_reply",
        "add",
        "end_reply",
        "vote",
        "resume",
        "set_head",
        "follow",
        "start_new",
        "rename",
        "fork",
    ]
