"""One REPL's state: what is kept, what is put back, which backend is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest
from repl_console import RecordedOutput, ScriptedConsole
from scripted_backend import Gate, ScriptedBackend, by_message, say

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.conversation.export import restore
from bitnet_chat.errors import EngineDiedError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta
from bitnet_chat.journal import Journal
from bitnet_chat.journal.records import ReplyState
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl import reply_view as reply_module
from bitnet_chat.repl.controller import ReplController
from bitnet_chat.repl.display import ReplyDisplay


class ReplRun:
    """A controller with its backend, its output and its console. ``journal``: with one, kept in the test's own home."""

    def __init__(
        self, steps: Iterable[Event | Gate] | None = None, *, journal: bool = False, **options: object
    ) -> None:
        self.output = RecordedOutput()
        script = by_message if steps is None else lambda _: steps
        deaf = bool(options.pop("deaf", False))
        self.backend = ScriptedBackend(script, deaf=deaf)
        self.others: list[ScriptedBackend] = []
        settings = ReplSettings(model="m", options=ReplyOptions(max_tokens=5), **options)  # type: ignore[arg-type]
        display = ReplyDisplay(self.output, colour=False, spinner=False)
        self.console = ScriptedConsole()
        self.journal = Journal() if journal else None
        self.talk = ReplController(self.backend, settings, display, self.console, self.switch, self.journal)
        self.talk.start()

    def switch(self, path: str) -> ScriptedBackend:
        if path == "missing":
            raise UsageError("There is no model missing")
        self.others.append(ScriptedBackend(by_message, name=path))
        return self.others[-1]


def with_repl(
    work: Callable[[ReplRun], Awaitable[None]],
    steps: Iterable[Event | Gate] | None = None,
    *,
    journal: bool = False,
    **options: object,
) -> None:
    async def run() -> None:
        repl = ReplRun(steps, journal=journal, **options)
        async with asyncio.timeout(20):
            await work(repl)
            await repl.talk.close()

    asyncio.run(run())


def test_a_turn_is_kept() -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("hello") == ""
        assert repl.talk.conversation.messages == (
            Message("system", "Be kind."),
            Message("user", "hello"),
            Message("assistant", "You said 'hello'.", FinishReason.STOP),
        )
        assert repl.backend.asked == [Conversation().with_system("Be kind.").with_user("hello")]
        assert repl.backend.options == [ReplyOptions(max_tokens=5)]
        assert repl.talk.session_stats.tokens == 11

    with_repl(work, system="Be kind.")


def test_blank_lines_say_nothing() -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit(" \n") == ""
        assert repl.backend.asked == []

    with_repl(work)


def test_an_interrupted_reply_is_kept_and_marked() -> None:
    async def work(repl: ReplRun) -> None:
        turn = asyncio.create_task(repl.talk.submit("wait"))
        await repl.output.until("Before the gate")
        repl.talk.interrupt()
        assert await turn == ""
        assert repl.talk.conversation.last == Message("assistant", "Before the gate", FinishReason.INTERRUPTED)
        assert "Before the gate [stopped]\n" in repl.output.all
        await repl.talk.submit("next")
        assert len(repl.talk.conversation.messages) == 4

    with_repl(work)


def test_an_interrupt_before_the_first_word_leaves_the_conversation() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("first")
        before = repl.talk.conversation
        repl.backend.generating.clear()
        turn = asyncio.create_task(repl.talk.submit("hang"))
        await repl.backend.generating.wait()
        repl.talk.interrupt()
        assert await turn == ""
        assert repl.talk.conversation == before
        assert "not part of the conversation" in repl.output.all

    with_repl(work)


def test_a_backend_that_hangs_can_be_left() -> None:
    async def work(repl: ReplRun) -> None:
        turn = asyncio.create_task(repl.talk.submit("wait"))
        await repl.output.until("Before the gate")
        repl.talk.interrupt()
        repl.talk.interrupt()
        await asyncio.sleep(0)
        assert not turn.done()
        reply = repl.talk._reply
        assert reply is not None and reply._interrupted is not None
        reply._interrupted -= reply_module.ABANDON_AFTER
        repl.talk.interrupt()
        assert await turn == ""
        assert repl.backend.calls[-1] == "end of reply"
        assert repl.talk.conversation.last == Message("assistant", "Before the gate", FinishReason.INTERRUPTED)

    with_repl(work, deaf=True)


def test_an_interrupt_with_nothing_under_way() -> None:
    async def work(repl: ReplRun) -> None:
        repl.talk.interrupt()
        assert repl.backend.calls == ["start"]

    with_repl(work)


def test_cancelling_a_turn_closes_the_reply() -> None:
    async def work(repl: ReplRun) -> None:
        turn = asyncio.create_task(repl.talk.submit("wait"))
        await repl.output.until("Before the gate")
        turn.cancel()
        await asyncio.wait([turn])
        assert turn.cancelled() and repl.backend.calls[-1] == "end of reply"

    with_repl(work)


def test_a_failed_message_comes_back() -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("fail") == "fail"
        assert repl.talk.conversation == Conversation() and repl.talk.unanswered == "fail"
        assert "The engine died\n  try again\n  | ␛[31mlog tail\n" in repl.output.all
        await repl.talk.submit("hello")
        assert repl.talk.unanswered == ""

    with_repl(work)


def test_an_error_that_is_raised_is_a_failure() -> None:
    def steps() -> Iterable[Event | Gate]:
        yield TextDelta("Hel")
        raise EngineDiedError("gone")

    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("hello") == "hello"
        assert repl.output.all == "Hel\ngone\n\n"

    with_repl(work, steps())


def test_a_stream_that_just_stops_is_a_failure() -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("hello") == "hello"
        assert "ended without" in repl.output.all

    with_repl(work, [Started(), TextDelta("Hel")])


def test_regen_keeps_the_reply_before_when_it_fails() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        before = repl.talk.conversation
        repl.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        assert await repl.talk.submit("/regen") == ""
        assert repl.talk.conversation == before and repl.talk.unanswered == ""
        repl.backend.script = lambda _: say("Other.")
        await repl.talk.submit("/regen")
        assert repl.talk.conversation.last == Message("assistant", "Other.", FinishReason.STOP)
        assert len(repl.talk.conversation.messages) == 2

    with_repl(work)


def test_unknown_commands_are_explained_and_leave_the_prompt_empty() -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("/rgen") == ""
        assert repl.backend.asked == [] and "/regen" in repl.output.all
        assert await repl.talk.submit("//rgen") == ""
        assert repl.backend.asked[0].last == Message("user", "/rgen")

    with_repl(work)


def test_switching_the_model() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        await repl.talk.submit("/model other.gguf")
        assert repl.backend.calls[-1] == "close"
        assert repl.others[0].calls == ["start"]
        await repl.talk.submit("count")
        assert "3 messages" in repl.output.all
        await repl.talk.submit("/model missing")
        assert "There is no model missing" in repl.output.all
        assert repl.talk.status().model == "other.gguf"

    with_repl(work)


def test_exit() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("/exit")
        assert repl.talk.leaving

    with_repl(work)


def test_notices() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        assert repl.output.all.startswith("restarted␛[2J\nAgain.\n")

    with_repl(work, [Notice("restarted\x1b[2J"), *say("Again.")])


def test_paced_text_is_complete_before_the_figures() -> None:
    async def work(repl: ReplRun) -> None:
        text = "数据 e\u0301 " * 40
        repl.backend.script = lambda _: say(text[:100], text[100:])
        await repl.talk.submit("hello")
        assert repl.output.all.startswith(text + "\n11 tokens")

    with_repl(work, typing_speed=50.0)


def test_what_comes_evenly_is_not_paced() -> None:
    """Whether it does the backend says, after a change of models the new one."""

    async def work(repl: ReplRun) -> None:
        repl.backend.in_bursts = False
        turn = asyncio.create_task(repl.talk.submit("hello"))
        await repl.output.until("Before")
        repl.backend.open_gate()
        await turn

    steps: list[Event | Gate] = [Started(), TextDelta("Before"), Gate(), Completed(FinishReason.STOP, "Before")]
    with_repl(work, steps, typing_speed=0.1)


def test_an_interrupt_shows_at_once_what_has_arrived() -> None:
    async def work(repl: ReplRun) -> None:
        turn = asyncio.create_task(repl.talk.submit("hello"))
        await repl.output.until("B")
        assert repl.output.all == "B"
        repl.talk.interrupt()
        assert repl.output.all == "Before"
        await turn

    steps: list[Event | Gate] = [Started(), TextDelta("Before"), Gate(), Completed(FinishReason.STOP, "Before")]
    with_repl(work, steps, typing_speed=0.1)


# Errands


def test_continue_makes_the_cut_reply_longer() -> None:
    async def work(repl: ReplRun) -> None:
        repl.backend.script = lambda _: say("Once upon", reason=FinishReason.LENGTH)
        await repl.talk.submit("a tale")
        repl.backend.script = lambda _: say(" a time.")
        await repl.talk.submit("/continue")
        assert repl.backend.asked[-1].last == Message("assistant", "Once upon", FinishReason.LENGTH)
        assert repl.talk.conversation.last == Message("assistant", "Once upon a time.", FinishReason.STOP)
        assert len(repl.talk.conversation.messages) == 2
        repl.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        await repl.talk.submit("/continue")
        assert "is complete" in repl.output.all and len(repl.backend.asked) == 2

    with_repl(work, journal=True)
    stored = Journal().latest()
    assert stored is not None
    assert stored.conversation.last == Message("assistant", "Once upon a time.", FinishReason.STOP)


def test_a_continuation_that_fails_leaves_the_cut_reply() -> None:
    async def work(repl: ReplRun) -> None:
        repl.backend.script = lambda _: say("Once upon", reason=FinishReason.LENGTH)
        await repl.talk.submit("a tale")
        before = repl.talk.conversation
        repl.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        assert await repl.talk.submit("/continue") == ""
        assert repl.talk.conversation == before

    with_repl(work, journal=True)
    stored = Journal().latest()
    assert stored is not None and stored.unanswered == ""
    assert stored.conversation.last == Message("assistant", "Once upon", FinishReason.LENGTH)


def test_edit_asks_the_changed_message() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("first")
        await repl.talk.submit("secnd")
        repl.console.edited = "second, not LAST"
        assert await repl.talk.submit("/edit") == ""
        assert [each.content for each in repl.talk.conversation.turns if each.role == "user"] == [
            "first",
            "second, not secnd",
        ]
        repl.console.edited = "LAST"
        await repl.talk.submit("/edit")
        assert "The message is unchanged." in repl.output.all and len(repl.backend.asked) == 3
        repl.console.edited = ""
        await repl.talk.submit("/edit")
        assert "There is no editor" in repl.output.all and len(repl.backend.asked) == 3
        repl.console.edited = "fail"
        assert await repl.talk.submit("/edit") == "fail"
        assert repl.talk.conversation.turns[-2].content == "second, not secnd"

    with_repl(work, journal=True)
    stored = Journal().latest()
    assert stored is not None and [each.content for each in stored.conversation.turns][2] == "second, not secnd"


def test_the_backend_prepares_for_what_comes_next() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("first")
        await repl.talk.submit("second")
        after = repl.talk.conversation
        assert repl.backend.prepared == [Conversation(after.messages[:2]), after]
        await repl.talk.submit("/undo")
        assert repl.backend.prepared[2:] == [repl.talk.conversation]
        await repl.talk.submit("/clear")
        assert repl.backend.prepared[-1] == Conversation()
        await repl.talk.submit("/stats")
        assert len(repl.backend.prepared) == 4

    with_repl(work)


def test_a_conversation_is_resumed() -> None:
    async def first(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        await repl.talk.submit("/rename Greetings")
        await repl.talk.submit("/clear")
        await repl.talk.submit("wait")  # the gate: nobody opens it

    async def interrupted(repl: ReplRun) -> None:
        task = asyncio.create_task(first(repl))
        await repl.output.until("Before the gate")
        repl.talk.interrupt()
        await task

    async def second(repl: ReplRun) -> None:
        repl.console.picked = 1
        await repl.talk.submit("/resume")
        assert [entry.title for entry in repl.console.offered] == ["wait", "Greetings"]
        assert "Greetings" in repl.output.all and "> hello" in repl.output.all
        assert repl.talk.conversation.turns[-1] == Message("assistant", "You said 'hello'.", FinishReason.STOP)
        assert repl.backend.prepared == [repl.talk.conversation]
        await repl.talk.submit("/resume 2")
        assert "/continue resumes" in repl.output.all
        assert repl.output.all.endswith("]\n\n")
        assert repl.talk.conversation.turns[-1].was_cut
        for line, answer in (("/resume 3", "3 does not exist"), ("/resume 2", "This conversation is already open")):
            await repl.talk.submit(line)
            assert answer in repl.output.all, repl.output.all
        repl.console.picked = None
        await repl.talk.submit("/resume")
        assert repl.talk.conversation.turns[0].content == "wait"
        assert [entry.title for entry in repl.console.offered] == ["Greetings"], "this one is no choice"

    with_repl(interrupted, journal=True)
    with_repl(second, journal=True)


async def three_variants(repl: ReplRun) -> None:
    """Rows: 1 user, 2 and 3 its replies, 4 the edited message and 5 its reply."""
    await repl.talk.submit("hello")
    await repl.talk.submit("/regen")
    repl.console.edited = "LAST there"
    await repl.talk.submit("/edit")


def test_a_variant_has_its_position_at_its_end_and_in_the_bar() -> None:
    async def work(repl: ReplRun) -> None:
        repl.talk.conversation = repl.talk.conversation.with_system("")
        await three_variants(repl)
        ends = [line for line in repl.output.all.split("\n") if line.endswith((" · stop", " >"))]
        assert [end.rpartition(" · ")[2] for end in ends] == ["stop", "< 2/2 >", "< 2/2 >"]
        assert str(repl.talk.variant) == "< 2/2 >"
        await repl.talk.submit("/regen")
        assert "stop · < 2/2 >\n" in repl.output.all and str(repl.talk.variant) == "< 2/2 >"
        repl.console.edited = "fail"
        await repl.talk.submit("/edit")
        assert str(repl.talk.variant) == "< 2/2 >", "the reply that stays"
        await repl.talk.submit("another")
        assert repl.talk.variant is None and repl.output.all.endswith("stop\n\n")

    with_repl(work, journal=True)


def test_the_tree_is_listed_and_a_branch_is_picked() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("/system -")
        await three_variants(repl)
        repl.console.picked = 2
        await repl.talk.submit("/tree")
        assert repl.console.listed == [
            "    you < 1/2 >: hello",
            "      model < 1/2 >: You said 'hello'.",
            "    model < 2/2 >: You said 'hello'.",
            "* you < 2/2 >: hello there",
            "* model: You said 'hello there'.",
        ]
        assert repl.console.marked == 5
        assert "Another branch (2 messages · < 1/2 >).\n> hello\n\nYou said 'hello'.\n" in repl.output.all
        assert [each.content for each in repl.talk.conversation.messages] == ["hello", "You said 'hello'."]
        assert repl.backend.prepared[-1] == repl.talk.conversation
        assert str(repl.talk.variant) == "< 1/2 >"
        await repl.talk.submit("go on")
        assert await repl.talk._recorder.settled()
        assert [record.row for record in Journal().load(1).records] == [1, 2, 6, 7]
        for line, answer in (
            ("/tree 2", "This message is in the current branch.\n"),
            ("/tree 99", "Message 99 is not in this conversation: /tree lists its messages.\n"),
        ):
            await repl.talk.submit(line)
            assert answer in repl.output.all
        repl.console.picked = None
        await repl.talk.submit("/tree")
        assert len(repl.talk.conversation.turns) == 4
        await repl.talk.submit("/tree 4")
        assert repl.talk.conversation.turns[0].content == "hello there"

    with_repl(work, journal=True)


def test_all_branches_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def work(repl: ReplRun) -> None:
        await three_variants(repl)
        await repl.talk.submit("/save all.md --branches")
        await repl.talk.submit("/save one.md")
        await repl.talk.submit("/export jsonl --branches")
        assert "5 messages written to all.md" in repl.output.all

    with_repl(work, journal=True)
    assert (tmp_path / "all.md").read_text("utf-8").count("You said 'hello'.") == 2
    assert "You said 'hello'." not in (tmp_path / "one.md").read_text("utf-8")
    assert len((tmp_path / "hello-there.jsonl").read_text("utf-8").splitlines()) == 5


def test_the_last_variants_are_walked_step_by_step() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("/system -")
        assert await step(repl, 1) == "The conversation is empty.\n\n"
        await repl.talk.submit("hello")
        assert await step(repl, 1) == "No message of this branch has variants: /regen and /edit make them.\n\n"
        await repl.talk.submit("/regen")
        await repl.talk.submit("/regen")
        assert await step(repl, 1) == "This is the last of 3 variants.\n\n"
        assert (await step(repl, -1)).startswith("Another branch (2 messages · < 2/3 >).\n")
        assert Journal().load(1).head == 3 and str(repl.talk.variant) == "< 2/3 >"
        await step(repl, -1)
        assert await step(repl, -1) == "This is the first of 3 variants.\n\n"
        assert Journal().load(1).head == 2
        assert repl.backend.prepared[-1] == repl.talk.conversation

    async def step(repl: ReplRun, by: int) -> str:
        before = len(repl.output.all)
        (await repl.talk.step(by))()
        stored = await repl.talk._recorder.settled()
        assert stored
        return repl.output.all[before:]

    with_repl(work, journal=True)


def test_an_undone_turn_and_a_message_without_a_reply_are_reached() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("/system -")
        await repl.talk.submit("hello")
        await repl.talk.submit("more")
        await repl.talk.submit("/undo")
        await repl.talk.submit("/tree 3")
        assert [each.content for each in repl.talk.conversation.turns][2:] == ["more", "You said 'more'."]
        await repl.talk.submit("/undo")
        await repl.talk.submit("fail")
        await repl.talk.submit("/tree 4")
        repl.console.picked = 5
        assert await repl.talk.submit("/tree") == "fail" == repl.talk.unanswered
        assert "The last message has no reply: fail" in repl.output.all

    with_repl(work, journal=True)


def test_without_a_journal_no_branch_is_kept() -> None:
    async def work(repl: ReplRun) -> None:
        await three_variants(repl)
        await repl.talk.submit("/tree")
        assert repl.output.all.endswith("This conversation is not saved, and has no other branches.\n\n")
        assert repl.talk.variant is None

    with_repl(work)


def test_a_message_without_reply_is_on_the_prompt_after_resuming() -> None:
    async def first(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        await repl.talk.submit("fail now")

    async def second(repl: ReplRun) -> None:
        assert await repl.talk.submit("/resume 1") == repl.talk.unanswered == "fail now"
        assert "The last message has no reply: fail now" in repl.output.all
        assert len(repl.talk.conversation.turns) == 2

    with_repl(first, journal=True)
    assert Journal().list()[0].state is ReplyState.UNANSWERED
    with_repl(second, journal=True)


def test_a_reply_that_another_program_is_writing() -> None:
    async def work(writing: ReplRun) -> None:
        task = asyncio.create_task(writing.talk.submit("wait"))
        await writing.output.until("Before the gate")
        while not ((stored := Journal().latest()) and stored.records[1:]):  # noqa: ASYNC110 - the journal sets no event
            await asyncio.sleep(0.005)
        reading = ReplRun(journal=True)
        assert await reading.talk.submit("/resume 1") == ""
        assert "[another program is still writing this reply: /continue resumes it from here]" in reading.output.all
        await reading.talk.close()
        writing.talk.interrupt()
        await task

    with_repl(work, journal=True)


def test_fork_leaves_the_conversation_before_as_it_was() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        await repl.talk.submit("/fork")
        await repl.talk.submit("count")

    with_repl(work, journal=True)
    forked, before = Journal().list()
    assert (forked.turns, before.turns) == (2, 1)


def test_nothing_is_kept_without_a_journal() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        for line in ("/fork", "/rename x", "/resume"):
            await repl.talk.submit(line)
        assert repl.output.all.count("saved") == 3

    with_repl(work)
    assert Journal().list() == []


def test_what_got_no_answer_is_written_and_marked(tmp_path: Path) -> None:
    """Where it stands, as long as it stands there; what is answered in the end is an answer."""

    async def body(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        for line in ("fail", "fail", "fail again", "one"):
            await repl.talk.submit(line)
        await repl.talk.submit(f"/save {tmp_path}/talk.json")
        await repl.talk.submit("/undo")
        await repl.talk.submit("/undo")
        await repl.talk.submit(f"/save {tmp_path}/less.md")
        await repl.talk.submit("/clear")
        await repl.talk.submit("fail")
        await repl.talk.submit(f"/save {tmp_path}/alone.md")

    with_repl(body)
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    said = [(each["content"], each.get("left_out", "")) for each in messages if each["role"] == "user"]
    mark = "not answered"
    assert said == [("hello", ""), ("fail", mark), ("fail again", mark), ("one", "")]
    assert not (tmp_path / "less.md").exists()
    assert (tmp_path / "alone.md").read_text().endswith(f"## You\n\nfail\n\n*[{mark}]*\n")


def test_save_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello / 数据")
        await repl.talk.submit("/save talk.jsonl")
        await repl.talk.submit("/save talk.jsonl")
        await repl.talk.submit("/export html")
        await repl.talk.submit("/export md missing/talk.md")

    with_repl(work, journal=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello-数据.html", "talk.jsonl"]
    assert restore((tmp_path / "talk.jsonl").read_text("utf-8")).turns[0].content == "hello / 数据"


def test_files_go_with_the_next_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b c.py").write_text("beta = 1\n")

    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("/file a.txt missing.txt")
        assert "missing.txt" in repl.output.all
        await repl.talk.submit("/file a.txt 'b c.py'")
        assert "a.txt: 5 bytes" in repl.output.all and "% of the window" in repl.output.all
        repl.backend.script = lambda _: [Failed(EngineDiedError("gone"))]
        assert await repl.talk.submit("hello") == "hello"
        await repl.talk.submit("/file")
        repl.backend.script = lambda _: say("Read.")
        await repl.talk.submit("compare with @a.txt, me@example.org and @nobody")
        message = repl.backend.asked[-1].turns[-1].content
        assert message.count("alpha") == 1 and "beta = 1" in message
        assert message.endswith("compare with @a.txt, me@example.org and @nobody")
        await repl.talk.submit("and now")
        assert repl.backend.asked[-1].turns[-1].content == "and now"
        await repl.talk.submit("/file a.txt")
        await repl.talk.submit("/file -")
        await repl.talk.submit("again")
        assert repl.backend.asked[-1].turns[-1].content == "again"

    with_repl(work)


def test_a_mentioned_file_that_cannot_be_read_brings_the_message_back(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(range(256)) * 9)

    async def work(repl: ReplRun) -> None:
        line = f"what is @{tmp_path}/blob"
        assert await repl.talk.submit(line) == line
        assert repl.backend.asked == [] and "blob" in repl.output.all

    with_repl(work)


def test_a_mention_that_is_not_a_file_is_asked_about(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        repl.console.agrees = False
        line = f"what is in @{tmp_path}/notse.md, @pytest.fixture?"
        assert await repl.talk.submit(line) == repl.talk.unanswered == line
        assert repl.backend.asked == [] and repl.talk.conversation == Conversation()
        assert repl.console.questions == [f"@{tmp_path}/notse.md is not a file: send the message unchanged?"]
        repl.console.agrees = True
        assert await repl.talk.submit(line) == ""
        assert repl.backend.asked[-1].last == Message("user", line)

    with_repl(work)


def test_what_is_undone_is_on_the_prompt_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")

    async def work(repl: ReplRun) -> None:
        for line in ("hello", "//stats is a command", f"read @{tmp_path}/a.txt"):
            await repl.talk.submit(line)
            assert await repl.talk.submit("/undo") == repl.talk.unanswered == line
        assert "Its attachments are removed" in repl.output.all and repl.talk.conversation == Conversation()
        assert await repl.talk.submit("/undo") == ""

    with_repl(work)


def test_copy() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("hello")
        await repl.talk.submit("/copy")
        assert repl.console.clipboard == "You said 'hello'." and "clipboard" in repl.output.all
        repl.console.has_clipboard = False
        await repl.talk.submit("/copy")
        assert "clipboard requires a terminal" in repl.output.all
        repl.console.clipboard = None
        repl.backend.script = lambda _: say("x" * 80_000)
        await repl.talk.submit("much")
        await repl.talk.submit("/copy")
        assert repl.console.clipboard is None and "too large for the clipboard" in repl.output.all

    with_repl(work)


def test_thoughts_are_kept_apart_and_shown_again() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("think")
        assert repl.talk.conversation.last == Message("assistant", "So it is.", FinishReason.STOP, "Let me see.")
        shown = repl.output.all.count("Let me see.")
        await repl.talk.submit("/thinking")
        assert repl.output.all.count("Let me see.") == shown + 1
        await repl.talk.submit("/thinking hide")
        await repl.talk.submit("think")
        assert repl.output.all.count("Let me see.") == shown + 1

    with_repl(work, journal=True)
    stored = Journal().latest()
    assert stored is not None and stored.conversation.turns[-1].thinking == "Let me see."


def test_a_spare_keeps_the_model_before() -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("/model other.gguf")
        assert "close" not in repl.backend.calls
        assert repl.talk.status().spare_memory == 123_456_789
        await repl.talk.submit("/model scripted.gguf")
        assert repl.talk.status().model == "scripted.gguf"
        assert "close" in repl.others[1].calls and "close" not in repl.others[0].calls
        await repl.talk.submit("/model third.gguf")
        assert "close" in repl.others[0].calls

    with_repl(work, spare=True)
