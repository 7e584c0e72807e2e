"""Nothing that was ever said is unreachable: ``history show --tree``, ``history export --branches``, ``/save``."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bitnet_chat.cli import main
from bitnet_chat.conversation import Conversation
from bitnet_chat.conversation.export import FORMATS, restore
from bitnet_chat.errors import FinishReason
from bitnet_chat.journal import Journal, JournalRecorder

HOSTILE = "\x1b[2J \u202e ```\n# <script>alert(1)</script>"


@pytest.fixture
def journal(home: Path) -> Journal:
    """One conversation with replaced replies, edited messages, an undone turn, a failed reply, thoughts and another
    system prompt. Each message contains its number as ``said-N-``."""
    journal, count = Journal(), 0

    def said(more: str = "") -> str:
        nonlocal count
        count += 1
        return f"said-{count}-{more}"

    async def talk() -> None:
        recorder = JournalRecorder(journal, pytest.fail)

        def reply(conversation: Conversation, reason: FinishReason = FinishReason.STOP, more: str = "") -> Conversation:
            recorder.begin_reply(conversation, model="m")
            recorder.thinking("" if more else f"thought-{count}-")
            text = said(more)
            recorder.end_reply(reason, text=text)
            return conversation.with_assistant(text, reason)

        one = reply(Conversation().with_user(said()))
        for _ in range(3):
            two = one.with_user(said("line\nline"))
            for _ in range(3):
                three = reply(two)
        four = reply(three.with_user(said()), FinishReason.INTERRUPTED, HOSTILE)
        recorder.sync(three)
        recorder.begin_reply(three.with_user(said()))
        recorder.end_reply(FinishReason.ENGINE_DIED)  # without a reply
        recorder.sync(three)
        reply(four.with_user(said()))
        other = reply(Conversation().with_system(said()).with_user(said()))
        recorder.sync(other.with_user(said()))
        await recorder.close()

    asyncio.run(talk())
    return journal


def stored_texts(journal: Journal) -> list[str]:
    with closing(sqlite3.connect(journal.path)) as connection:
        found = connection.execute("SELECT content, thinking FROM messages WHERE conversation = 1").fetchall()
    texts = [text for row in found for text in row if text]
    assert len(texts) > 30
    return texts


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["history", *arguments]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    return output


def mark(text: str) -> str:
    return text[: text.rindex("-") + 1].split("line")[0].split("\x1b")[0]


def test_every_message_is_in_the_tree_and_in_every_export(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [shown(capsys, "show", "1", "--tree"), shown(capsys, "show", "1", "--tree", "--json")]
    outputs += [shown(capsys, "export", "1", "--branches", "--format", format) for format in FORMATS]
    for text in stored_texts(journal):
        for output in outputs:
            assert mark(text) in output
    for output in outputs:
        assert not [sign for sign in output if sign != "\n" and (ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0)]
        assert "\u202e" not in output


def test_every_message_is_on_a_branch_that_can_be_made_the_current_one(journal: Journal) -> None:
    tree = journal.tree(1)
    for row in tree.nodes:
        stored = journal.load(1, tree.newest_leaf(row))
        assert row in {record.row for record in stored.shown}
    with closing(sqlite3.connect(journal.path)) as connection:
        assert {row for (row,) in connection.execute("SELECT id FROM messages")} == set(tree.nodes)


def test_the_text_of_the_tree(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def talk() -> None:
        recorder = JournalRecorder(Journal(), pytest.fail)
        for text in ("first\nreply", "second"):
            recorder.begin_reply(Conversation().with_user("hello"), model="m")
            recorder.end_reply(FinishReason.INTERRUPTED, text=text)
        await recorder.close()

    asyncio.run(talk())
    assert shown(capsys, "show", "1", "--tree") == (
        "hello\nconversation 1 · m\n"
        "\n* 1 you\n  hello\n"
        "\n    2 model < 1/2 >\n    first\n    reply\n    [interrupted]\n"
        "\n* 3 model < 2/2 >\n  second\n  [interrupted]\n"
    )
    messages = json.loads(shown(capsys, "show", "1", "--tree", "--json"))["messages"]
    assert [(each["id"], each["parent"], each.get("left_out")) for each in messages] == [
        (1, None, None), (2, 1, "another branch"), (3, 1, None),
    ]  # fmt: skip
    markdown = shown(capsys, "export", "1", "--branches")
    assert markdown == (
        "# hello\n\nconversation 1 · m\n\n## You 1\n\nhello\n\n## Model 3 < 2/2 >\n\nsecond\n\n*[interrupted]*\n\n"
        "# Another branch after message 1\n\n## Model 2 < 1/2 >\n\nfirst\nreply\n\n*[interrupted]*\n"
    )
    page = shown(capsys, "export", "1", "--branches", "--format", "html")
    assert "<h1>Another branch after message 1</h1>\n" in page and "<h2>Model 2 &lt; 1/2 &gt;</h2>" in page
    assert "left_out" not in shown(capsys, "export", "1", "--json"), "without the flag as before"


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_the_current_branch_comes_back_from_an_export_of_all(
    journal: Journal, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    text = shown(capsys, "export", "1", "--branches", "--format", format)
    assert restore(text) == journal.load(1).conversation


def test_all_messages_undone_are_still_exported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def talk() -> None:
        recorder = JournalRecorder(Journal(), pytest.fail)
        recorder.begin_reply(Conversation().with_user("hello"))
        recorder.end_reply(FinishReason.STOP, text="yes")
        recorder.sync(Conversation())
        await recorder.close()

    asyncio.run(talk())
    assert "# Another branch, from the beginning\n\n## You 1\n\nhello\n\n## Model 2\n\nyes\n" in shown(
        capsys, "export", "1", "--branches"
    )
    assert "\n  1 you\n  hello\n" in shown(capsys, "show", "1", "--tree")


def test_damage_outside_of_the_current_branch_is_reported(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(journal.path)) as connection, connection:
        connection.execute("UPDATE messages SET parent = 1000 WHERE id = 4")
    assert main(["history", "show", "1", "--tree"]) == 0
    assert capsys.readouterr().err == "bitnet-chat: damaged: conversation 1, message 4: its parent cannot be found\n"
