"""One REPL's state: what is kept, what is put back, which backend is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import pytest
from scripted_backend import Gate, ScriptedBackend, by_message, say

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.export import restore
from bitnet_chat.errors import EngineDiedError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta
from bitnet_chat.journal import Journal, JournalEntry
from bitnet_chat.journal.records import ReplyState
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl import reply_view as reply_module
from bitnet_chat.repl.controller import ReplController
from bitnet_chat.repl.display import ReplyDisplay


class Paper:
    def __init__(self) -> None:
        self.all = ""
        self.changed = asyncio.Event()

    def words(self, text: str) -> None:
        self.all += text
        self.changed.set()

    remarks = words

    async def until(self, text: str) -> None:
        async with asyncio.timeout(20):
            while text not in self.all:
                self.changed.clear()
                await self.changed.wait()


class Desk:
    """A console whose user has decided beforehand."""

    def __init__(self) -> None:
        self.edited = ""
        self.picked: int | None = None
        self.offered: list[JournalEntry] = []
        self.clipboard: str | None = None
        self.has_clipboard = True
        self.agrees = True
        self.questions: list[str] = []
        self.complaints: list[str] = []

    async def edit(self, text: str) -> str:
        if not self.edited:
            raise UsageError("There is no editor")
        return self.edited.replace("LAST", text)

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        self.offered = list(entries)
        return self.picked

    async def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.agrees

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def copy(self, text: str) -> bool:
        self.clipboard = text
        return self.has_clipboard


class Room:
    """A talk with its backend, its paper and its desk. ``journal``: with one, kept in the test's own home."""

    def __init__(
        self, steps: Iterable[Event | Gate] | None = None, *, journal: bool = False, **options: object
    ) -> None:
        self.paper = Paper()
        script = by_message if steps is None else lambda _: steps
        deaf = bool(options.pop("deaf", False))
        self.backend = ScriptedBackend(script, deaf=deaf)
        self.others: list[ScriptedBackend] = []
        settings = ReplSettings(model="m", options=ReplyOptions(max_tokens=5), **options)  # type: ignore[arg-type]
        display = ReplyDisplay(self.paper, colour=False, spinner=False)
        self.desk = Desk()
        self.journal = Journal() if journal else None
        self.talk = ReplController(self.backend, settings, display, self.desk, self.switch, self.journal)
        self.talk.start()

    def switch(self, path: str) -> ScriptedBackend:
        if path == "missing":
            raise UsageError("There is no model missing")
        self.others.append(ScriptedBackend(by_message, name=path))
        return self.others[-1]


def in_room(
    work: Callable[[Room], Awaitable[None]],
    steps: Iterable[Event | Gate] | None = None,
    *,
    journal: bool = False,
    **options: object,
) -> None:
    async def run() -> None:
        room = Room(steps, journal=journal, **options)
        async with asyncio.timeout(20):
            await work(room)
            await room.talk.close()

    asyncio.run(run())


def test_a_turn_is_kept() -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("hello") == ""
        assert room.talk.conversation.messages == (
            Message("system", "Be kind."),
            Message("user", "hello"),
            Message("assistant", "You said 'hello'.", FinishReason.STOP),
        )
        assert room.backend.asked == [Conversation().with_system("Be kind.").with_user("hello")]
        assert room.backend.options == [ReplyOptions(max_tokens=5)]
        assert room.talk.session_stats.tokens == 11

    in_room(work, system="Be kind.")


def test_blank_lines_say_nothing() -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit(" \n") == ""
        assert room.backend.asked == []

    in_room(work)


def test_an_interrupted_reply_is_kept_and_marked() -> None:
    async def work(room: Room) -> None:
        turn = asyncio.create_task(room.talk.submit("wait"))
        await room.paper.until("Before the gate")
        room.talk.interrupt()
        assert await turn == ""
        assert room.talk.conversation.last == Message("assistant", "Before the gate", FinishReason.INTERRUPTED)
        assert "Before the gate [stopped]\n" in room.paper.all
        await room.talk.submit("next")
        assert len(room.talk.conversation.messages) == 4

    in_room(work)


def test_an_interrupt_before_the_first_word_leaves_the_conversation() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("first")
        before = room.talk.conversation
        room.backend.generating.clear()
        turn = asyncio.create_task(room.talk.submit("hang"))
        await room.backend.generating.wait()
        room.talk.interrupt()
        assert await turn == ""
        assert room.talk.conversation == before
        assert "not part of the conversation" in room.paper.all

    in_room(work)


def test_a_backend_that_hangs_can_be_left() -> None:
    async def work(room: Room) -> None:
        turn = asyncio.create_task(room.talk.submit("wait"))
        await room.paper.until("Before the gate")
        room.talk.interrupt()
        room.talk.interrupt()
        await asyncio.sleep(0)
        assert not turn.done()
        reply = room.talk._reply
        assert reply is not None and reply._interrupted is not None
        reply._interrupted -= reply_module.ABANDON_AFTER
        room.talk.interrupt()
        assert await turn == ""
        assert room.backend.calls[-1] == "end of reply"
        assert room.talk.conversation.last == Message("assistant", "Before the gate", FinishReason.INTERRUPTED)

    in_room(work, deaf=True)


def test_an_interrupt_with_nothing_under_way() -> None:
    async def work(room: Room) -> None:
        room.talk.interrupt()
        assert room.backend.calls == ["start"]

    in_room(work)


def test_cancelling_a_turn_closes_the_reply() -> None:
    async def work(room: Room) -> None:
        turn = asyncio.create_task(room.talk.submit("wait"))
        await room.paper.until("Before the gate")
        turn.cancel()
        await asyncio.wait([turn])
        assert turn.cancelled() and room.backend.calls[-1] == "end of reply"

    in_room(work)


def test_a_failed_message_comes_back() -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("fail") == "fail"
        assert room.talk.conversation == Conversation() and room.talk.unanswered == "fail"
        assert "The engine died\n  try again\n  | ␛[31mlog tail\n" in room.paper.all
        await room.talk.submit("hello")
        assert room.talk.unanswered == ""

    in_room(work)


def test_an_error_that_is_raised_is_a_failure() -> None:
    def steps() -> Iterable[Event | Gate]:
        yield TextDelta("Hel")
        raise EngineDiedError("gone")

    async def work(room: Room) -> None:
        assert await room.talk.submit("hello") == "hello"
        assert room.paper.all == "Hel\ngone\n\n"

    in_room(work, steps())


def test_a_stream_that_just_stops_is_a_failure() -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("hello") == "hello"
        assert "ended without" in room.paper.all

    in_room(work, [Started(), TextDelta("Hel")])


def test_regen_keeps_the_reply_before_when_it_fails() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("hello")
        before = room.talk.conversation
        room.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        assert await room.talk.submit("/regen") == ""
        assert room.talk.conversation == before and room.talk.unanswered == ""
        room.backend.script = lambda _: say("Other.")
        await room.talk.submit("/regen")
        assert room.talk.conversation.last == Message("assistant", "Other.", FinishReason.STOP)
        assert len(room.talk.conversation.messages) == 2

    in_room(work)


def test_unknown_commands_are_explained_and_leave_the_prompt_empty() -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("/rgen") == ""
        assert room.backend.asked == [] and "/regen" in room.paper.all
        assert await room.talk.submit("//rgen") == ""
        assert room.backend.asked[0].last == Message("user", "/rgen")

    in_room(work)


def test_switching_the_model() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("hello")
        await room.talk.submit("/model other.gguf")
        assert room.backend.calls[-1] == "close"
        assert room.others[0].calls == ["start"]
        await room.talk.submit("count")
        assert "3 messages" in room.paper.all
        await room.talk.submit("/model missing")
        assert "There is no model missing" in room.paper.all
        assert room.talk.status().model == "other.gguf"

    in_room(work)


def test_exit() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("/exit")
        assert room.talk.leaving

    in_room(work)


def test_notices() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("hello")
        assert room.paper.all.startswith("restarted␛[2J\nAgain.\n")

    in_room(work, [Notice("restarted\x1b[2J"), *say("Again.")])


def test_paced_text_is_complete_before_the_figures() -> None:
    async def work(room: Room) -> None:
        text = "数据 e\u0301 " * 40
        room.backend.script = lambda _: say(text[:100], text[100:])
        await room.talk.submit("hello")
        assert room.paper.all.startswith(text + "\n11 tokens")

    in_room(work, typing_speed=50.0)


def test_what_comes_evenly_is_not_paced() -> None:
    """Whether it does the backend says, after a change of models the new one."""

    async def work(room: Room) -> None:
        room.backend.in_bursts = False
        turn = asyncio.create_task(room.talk.submit("hello"))
        await room.paper.until("Before")
        room.backend.open_gate()
        await turn

    steps: list[Event | Gate] = [Started(), TextDelta("Before"), Gate(), Completed(FinishReason.STOP, "Before")]
    in_room(work, steps, typing_speed=0.1)


def test_an_interrupt_shows_at_once_what_has_arrived() -> None:
    async def work(room: Room) -> None:
        turn = asyncio.create_task(room.talk.submit("hello"))
        await room.paper.until("B")
        assert room.paper.all == "B"
        room.talk.interrupt()
        assert room.paper.all == "Before"
        await turn

    steps: list[Event | Gate] = [Started(), TextDelta("Before"), Gate(), Completed(FinishReason.STOP, "Before")]
    in_room(work, steps, typing_speed=0.1)


# Errands


def test_continue_makes_the_cut_reply_longer() -> None:
    async def work(room: Room) -> None:
        room.backend.script = lambda _: say("Once upon", reason=FinishReason.LENGTH)
        await room.talk.submit("a tale")
        room.backend.script = lambda _: say(" a time.")
        await room.talk.submit("/continue")
        assert room.backend.asked[-1].last == Message("assistant", "Once upon", FinishReason.LENGTH)
        assert room.talk.conversation.last == Message("assistant", "Once upon a time.", FinishReason.STOP)
        assert len(room.talk.conversation.messages) == 2
        room.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        await room.talk.submit("/continue")
        assert "is complete" in room.paper.all and len(room.backend.asked) == 2

    in_room(work, journal=True)
    stored = Journal().latest()
    assert stored is not None
    assert stored.conversation.last == Message("assistant", "Once upon a time.", FinishReason.STOP)


def test_a_continuation_that_fails_leaves_the_cut_reply() -> None:
    async def work(room: Room) -> None:
        room.backend.script = lambda _: say("Once upon", reason=FinishReason.LENGTH)
        await room.talk.submit("a tale")
        before = room.talk.conversation
        room.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        assert await room.talk.submit("/continue") == ""
        assert room.talk.conversation == before

    in_room(work, journal=True)
    stored = Journal().latest()
    assert stored is not None and stored.unanswered == ""
    assert stored.conversation.last == Message("assistant", "Once upon", FinishReason.LENGTH)


def test_edit_asks_the_changed_message() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("first")
        await room.talk.submit("secnd")
        room.desk.edited = "second, not LAST"
        assert await room.talk.submit("/edit") == ""
        assert [each.content for each in room.talk.conversation.turns if each.role == "user"] == [
            "first",
            "second, not secnd",
        ]
        room.desk.edited = "LAST"
        await room.talk.submit("/edit")
        assert "The message is unchanged." in room.paper.all and len(room.backend.asked) == 3
        room.desk.edited = ""
        await room.talk.submit("/edit")
        assert "There is no editor" in room.paper.all and len(room.backend.asked) == 3
        room.desk.edited = "fail"
        assert await room.talk.submit("/edit") == "fail"
        assert room.talk.conversation.turns[-2].content == "second, not secnd"

    in_room(work, journal=True)
    stored = Journal().latest()
    assert stored is not None and [each.content for each in stored.conversation.turns][2] == "second, not secnd"


def test_the_backend_prepares_for_what_comes_next() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("first")
        await room.talk.submit("second")
        after = room.talk.conversation
        assert room.backend.prepared == [Conversation(after.messages[:2]), after]
        await room.talk.submit("/undo")
        assert room.backend.prepared[2:] == [room.talk.conversation]
        await room.talk.submit("/clear")
        assert room.backend.prepared[-1] == Conversation()
        await room.talk.submit("/stats")
        assert len(room.backend.prepared) == 4

    in_room(work)


def test_a_conversation_is_resumed() -> None:
    async def first(room: Room) -> None:
        await room.talk.submit("hello")
        await room.talk.submit("/rename Greetings")
        await room.talk.submit("/clear")
        await room.talk.submit("wait")  # the gate: nobody opens it

    async def interrupted(room: Room) -> None:
        task = asyncio.create_task(first(room))
        await room.paper.until("Before the gate")
        room.talk.interrupt()
        await task

    async def second(room: Room) -> None:
        room.desk.picked = 1
        await room.talk.submit("/resume")
        assert [entry.title for entry in room.desk.offered] == ["wait", "Greetings"]
        assert "Greetings" in room.paper.all and "> hello" in room.paper.all
        assert room.talk.conversation.turns[-1] == Message("assistant", "You said 'hello'.", FinishReason.STOP)
        assert room.backend.prepared == [room.talk.conversation]
        await room.talk.submit("/resume 2")
        assert "/continue resumes" in room.paper.all
        assert room.paper.all.endswith("]\n\n")
        assert room.talk.conversation.turns[-1].was_cut
        for line, answer in (("/resume 3", "3 does not exist"), ("/resume 2", "This conversation is already open")):
            await room.talk.submit(line)
            assert answer in room.paper.all, room.paper.all
        room.desk.picked = None
        await room.talk.submit("/resume")
        assert room.talk.conversation.turns[0].content == "wait"
        assert [entry.title for entry in room.desk.offered] == ["Greetings"], "this one is no choice"

    in_room(interrupted, journal=True)
    in_room(second, journal=True)


def test_a_message_without_reply_is_on_the_prompt_after_resuming() -> None:
    async def first(room: Room) -> None:
        await room.talk.submit("hello")
        await room.talk.submit("fail now")

    async def second(room: Room) -> None:
        assert await room.talk.submit("/resume 1") == room.talk.unanswered == "fail now"
        assert "The last message has no reply: fail now" in room.paper.all
        assert len(room.talk.conversation.turns) == 2

    in_room(first, journal=True)
    assert Journal().list()[0].state is ReplyState.UNANSWERED
    in_room(second, journal=True)


def test_a_reply_that_another_program_is_writing() -> None:
    async def work(writing: Room) -> None:
        task = asyncio.create_task(writing.talk.submit("wait"))
        await writing.paper.until("Before the gate")
        while not ((stored := Journal().latest()) and stored.records[1:]):  # noqa: ASYNC110 - the journal sets no event
            await asyncio.sleep(0.005)
        reading = Room(journal=True)
        assert await reading.talk.submit("/resume 1") == ""
        assert "[another program is still writing this reply: /continue resumes it from here]" in reading.paper.all
        await reading.talk.close()
        writing.talk.interrupt()
        await task

    in_room(work, journal=True)


def test_fork_leaves_the_conversation_before_as_it_was() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("hello")
        await room.talk.submit("/fork")
        await room.talk.submit("count")

    in_room(work, journal=True)
    forked, before = Journal().list()
    assert (forked.turns, before.turns) == (2, 1)


def test_nothing_is_kept_without_a_journal() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("hello")
        for line in ("/fork", "/rename x", "/resume"):
            await room.talk.submit(line)
        assert room.paper.all.count("saved") == 3

    in_room(work)
    assert Journal().list() == []


def test_what_got_no_answer_is_written_and_marked(tmp_path: Path) -> None:
    """Where it stands, as long as it stands there; what is answered in the end is an answer."""

    async def body(room: Room) -> None:
        await room.talk.submit("hello")
        for line in ("fail", "fail", "fail again", "one"):
            await room.talk.submit(line)
        await room.talk.submit(f"/save {tmp_path}/talk.json")
        await room.talk.submit("/undo")
        await room.talk.submit("/undo")
        await room.talk.submit(f"/save {tmp_path}/less.md")
        await room.talk.submit("/clear")
        await room.talk.submit("fail")
        await room.talk.submit(f"/save {tmp_path}/alone.md")

    in_room(body)
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    said = [(each["content"], each.get("left_out", "")) for each in messages if each["role"] == "user"]
    mark = "not answered"
    assert said == [("hello", ""), ("fail", mark), ("fail again", mark), ("one", "")]
    assert not (tmp_path / "less.md").exists()
    assert (tmp_path / "alone.md").read_text().endswith(f"## You\n\nfail\n\n*[{mark}]*\n")


def test_save_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def work(room: Room) -> None:
        await room.talk.submit("hello / 数据")
        await room.talk.submit("/save talk.jsonl")
        await room.talk.submit("/save talk.jsonl")
        await room.talk.submit("/export html")
        await room.talk.submit("/export md missing/talk.md")

    in_room(work, journal=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello-数据.html", "talk.jsonl"]
    assert restore((tmp_path / "talk.jsonl").read_text("utf-8")).turns[0].content == "hello / 数据"


def test_files_go_with_the_next_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b c.py").write_text("beta = 1\n")

    async def work(room: Room) -> None:
        await room.talk.submit("/file a.txt missing.txt")
        assert "missing.txt" in room.paper.all
        await room.talk.submit("/file a.txt 'b c.py'")
        assert "a.txt: 5 bytes" in room.paper.all and "% of the window" in room.paper.all
        room.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        assert await room.talk.submit("hello") == "hello"
        await room.talk.submit("/file")
        room.backend.script = lambda _: say("Read.")
        await room.talk.submit("compare with @a.txt, me@example.org and @nobody")
        message = room.backend.asked[-1].turns[-1].content
        assert message.count("alpha") == 1 and "beta = 1" in message
        assert message.endswith("compare with @a.txt, me@example.org and @nobody")
        await room.talk.submit("and now")
        assert room.backend.asked[-1].turns[-1].content == "and now"
        await room.talk.submit("/file a.txt")
        await room.talk.submit("/file -")
        await room.talk.submit("again")
        assert room.backend.asked[-1].turns[-1].content == "again"

    in_room(work)


def test_a_mentioned_file_that_cannot_be_read_brings_the_message_back(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(range(256)) * 9)

    async def work(room: Room) -> None:
        line = f"what is @{tmp_path}/blob"
        assert await room.talk.submit(line) == line
        assert room.backend.asked == [] and "blob" in room.paper.all

    in_room(work)


def test_a_mention_that_is_not_a_file_is_asked_about(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        room.desk.agrees = False
        line = f"what is in @{tmp_path}/notse.md, @pytest.fixture?"
        assert await room.talk.submit(line) == room.talk.unanswered == line
        assert room.backend.asked == [] and room.talk.conversation == Conversation()
        assert room.desk.questions == [f"@{tmp_path}/notse.md is not a file: send the message unchanged?"]
        room.desk.agrees = True
        assert await room.talk.submit(line) == ""
        assert room.backend.asked[-1].last == Message("user", line)

    in_room(work)


def test_what_is_undone_is_on_the_prompt_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")

    async def work(room: Room) -> None:
        for line in ("hello", "//stats is a command", f"read @{tmp_path}/a.txt"):
            await room.talk.submit(line)
            assert await room.talk.submit("/undo") == room.talk.unanswered == line
        assert "Its attachments are removed" in room.paper.all and room.talk.conversation == Conversation()
        assert await room.talk.submit("/undo") == ""

    in_room(work)


def test_copy() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("hello")
        await room.talk.submit("/copy")
        assert room.desk.clipboard == "You said 'hello'." and "clipboard" in room.paper.all
        room.desk.has_clipboard = False
        await room.talk.submit("/copy")
        assert "clipboard requires a terminal" in room.paper.all
        room.desk.clipboard = None
        room.backend.script = lambda _: say("x" * 80_000)
        await room.talk.submit("much")
        await room.talk.submit("/copy")
        assert room.desk.clipboard is None and "too large for the clipboard" in room.paper.all

    in_room(work)


def test_thoughts_are_kept_apart_and_shown_again() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("think")
        assert room.talk.conversation.last == Message("assistant", "So it is.", FinishReason.STOP, "Let me see.")
        shown = room.paper.all.count("Let me see.")
        await room.talk.submit("/thinking")
        assert room.paper.all.count("Let me see.") == shown + 1
        await room.talk.submit("/thinking hide")
        await room.talk.submit("think")
        assert room.paper.all.count("Let me see.") == shown + 1

    in_room(work, journal=True)
    stored = Journal().latest()
    assert stored is not None and stored.conversation.turns[-1].thinking == "Let me see."


def test_a_spare_keeps_the_model_before() -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("/model other.gguf")
        assert "close" not in room.backend.calls
        assert room.talk.status().spare_memory == 123_456_789
        await room.talk.submit("/model scripted.gguf")
        assert room.talk.status().model == "scripted.gguf"
        assert "close" in room.others[1].calls and "close" not in room.others[0].calls
        await room.talk.submit("/model third.gguf")
        assert "close" in room.others[0].calls

    in_room(work, spare=True)
