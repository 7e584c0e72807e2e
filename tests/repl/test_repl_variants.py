"""``/regen N`` and ``/compare``: several replies, of which one goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest
from repl_console import RecordedOutput, ScriptedConsole
from scripted_backend import STATS, Gate, JointBackend, ScriptedBackend, say

from bitnet_chat.backend import Backend, ReplyOptions, Sampling
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.backends.variants import VariantEvent
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import EngineDiedError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.journal import Journal
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl import comparison as comparison_module
from bitnet_chat.repl.controller import ReplController
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.tools.loading import toolbox_of

STOP, INTERRUPTED = FinishReason.STOP, FinishReason.INTERRUPTED
Steps = Iterable[Event | Gate]


class Run:
    """A controller. ``replies``: the script of each reply in turn, the last one again and again. ``width``: columns of
    the window; 0: no terminal."""

    def __init__(
        self, *replies: Steps, width: int = 0, journal: bool = True, other: Steps = (), **settings: object
    ) -> None:
        self.output, self.console = RecordedOutput(), ScriptedConsole()
        self.replies = list(replies)
        self.backend = ScriptedBackend(self.script, name="present")
        self.others: list[ScriptedBackend] = []
        self.other = other or say("of the other")
        self.width, self.gated = width, False
        options = settings.pop("options", ReplyOptions())
        made = ReplSettings(model="m", options=options, **settings)  # type: ignore[arg-type]
        size = (lambda: (self.width, 24)) if width else None
        display = ReplyDisplay(self.output, colour=False, spinner=bool(width), size=size)
        journals = Journal() if journal else None
        self.talk = ReplController(self.backend, made, display, self.console, self.switch, journals)
        self.talk.start()

    def script(self, conversation: Conversation) -> Steps:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def switch(self, name: str) -> ScriptedBackend:
        if name == "missing":
            raise UsageError("the model missing was not found")
        self.others.append(ScriptedBackend(lambda _: self.other, name=name, gated=self.gated))
        return self.others[-1]

    @property
    def texts(self) -> list[str]:
        """The current branch."""
        return [message.content for message in self.talk.conversation.messages]

    async def stored(self) -> list[str]:
        await self.talk._recorder.settled()
        return [record.message.content for record in Journal().load(1).records]


def running(work: Callable[[Run], Awaitable[None]], *replies: Steps, **options: object) -> Run:
    async def run() -> Run:
        made = Run(*replies, **options)  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            await work(made)
            await made.talk.close()
        assert not made.console.complaints
        return made

    return asyncio.run(run())


THREE = (say("zero"), say("one ", "1"), say("two ", "2"), say("three ", "3"))


# /regen N


@pytest.mark.parametrize(
    ("answer", "kept", "position"), [(2, "two 2", "< 3/4 >"), (0, "one 1", "< 2/4 >"), (None, "one 1", "< 2/4 >")]
)
def test_one_of_several_replies_goes_on(answer: int | None, kept: str, position: str) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [answer]
        assert await run.talk.submit("/regen 3") == ""
        assert run.texts == await run.stored() == ["hello", kept]
        assert str(run.talk.variant) == position
        assert run.backend.prepared[-1] == run.talk.conversation
        run.replies = [say("and on")]
        await run.talk.submit("more")
        assert await run.stored() == ["hello", kept, "more", "and on"]

    run = running(work, *THREE)
    nodes = Journal().tree(1).nodes
    replies = [each.record.message.content for each in nodes.values() if each.parent == 1]
    assert replies == ["zero", "one 1", "two 2", "three 3"]
    assert run.console.questions == ["Which reply continues the conversation?"]
    places = [run.output.all.index(text) for text in ("1 of 3", "one 1", "2 of 3", "two 2", "3 of 3", "three 3")]
    assert places == sorted(places)
    assert f"continues the conversation. {position}" in run.output.all
    assert run.talk.session_stats.replies == 5


def test_without_a_journal() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [3]
        await run.talk.submit("/regen 3")
        assert run.texts == ["hello", "three 3"]

    running(work, *THREE, journal=False)


@pytest.mark.parametrize("argument", ["0", "9", "x", "-1", "1.5", "2 3", "²", "999999999999"])
def test_what_is_not_a_number_of_replies(argument: str) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit(f"/regen {argument}")
        assert len(run.backend.asked) == 1
        assert f"{argument} is not a number of replies: /regen N, where N is from 1 to 8.\n" in run.output.all

    running(work, *THREE)


def test_one_is_a_single_reply() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit("/regen 1")
        assert run.texts == ["hello", "one 1"] and not run.console.questions

    running(work, *THREE)


def test_equal_replies_are_announced() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit("/regen")
        assert "will be equal" not in run.output.all
        run.console.choices = [1]
        await run.talk.submit("/regen 2")
        assert "The temperature is 0: all replies will be equal.\n" in run.output.all

    running(work, *THREE, options=ReplyOptions(sampling=Sampling(temperature=0)))


def test_nothing_to_regenerate() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("/regen 3")
        assert "No reply to regenerate." in run.output.all and not run.backend.asked

    running(work, *THREE)


def test_an_interrupt_stops_all_and_keeps_the_parts() -> None:
    """Those that were not begun are not."""

    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [2]
        turn = asyncio.create_task(run.talk.submit("/regen 3"))
        await run.output.until("part of two")
        run.talk.interrupt()
        await turn
        assert run.texts == await run.stored() == ["hello", "part of two"]
        assert run.talk.conversation.last == Message("assistant", "part of two", INTERRUPTED)
        assert len(run.backend.asked) == 3 and "3 of 3\n[not generated]\n" in run.output.all

    running(work, say("zero"), say("one"), [Started(), TextDelta("part of two"), Gate()], say("three"))


def test_an_interrupt_before_the_first_word_changes_nothing() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.backend.generating.clear()
        turn = asyncio.create_task(run.talk.submit("/regen 2"))
        await run.backend.generating.wait()
        run.talk.interrupt()
        await turn
        assert run.texts == await run.stored() == ["hello", "zero"]
        assert len(Journal().tree(1).nodes) == 2 and "The conversation is unchanged." in run.output.all
        assert not run.console.questions

    running(work, say("zero"), [Started(), Gate()])


def test_a_failure_ends_all() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit("/regen 3")
        assert run.texts == await run.stored() == ["hello", "one"]
        assert len(run.backend.asked) == 3 and not run.console.questions
        assert "The engine died" in run.output.all

    run = running(work, say("zero"), say("one"), [Started(), Failed(EngineDiedError("The engine died"))])
    assert run.talk.failure is FinishReason.ENGINE_DIED


def test_calls_are_made_for_the_picked_one_only() -> None:
    made: list[str] = []

    def look(what: str) -> str:
        """Look."""
        made.append(what)
        return f"saw {what}"

    def calling(what: str) -> Steps:
        call = ToolCall(what, "look", json.dumps({"what": what}))
        return [Started(), TextDelta(what), call, Completed(FinishReason.TOOL_CALLS, what, STATS)]

    box = toolbox_of([look])

    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [2]
        await run.talk.submit("/regen 2")
        assert made == ["b"]
        assert run.texts == await run.stored() == ["hello", "b", "saw b", "found"]

    options = ReplyOptions(tools=box.tools)
    replies = (say("zero"), calling("a"), calling("b"), say("found"))
    running(work, *replies, toolbox=box, allowed_tools=("look",), options=options)


class Together(JointBackend):
    """Generates variants at the same time."""

    def together(self, conversation: Conversation, options: ReplyOptions, count: int) -> AsyncGenerator[VariantEvent]:
        async def events() -> AsyncGenerator[VariantEvent]:
            for number in range(count):
                yield VariantEvent(number, Started())
            yield VariantEvent(1, ThinkingDelta("hm"))
            for word in ("a ", "b ", "c"):
                for number in reversed(range(count)):
                    yield VariantEvent(number, TextDelta(f"{word}{number} "))
                    await asyncio.sleep(0)
            yield VariantEvent(0, Notice("a notice"))
            for number in reversed(range(count)):
                yield VariantEvent(number, Completed(STOP, f"a {number} b {number} c{number} ", STATS))

        return events()


@pytest.mark.parametrize("width", [0, 80, 130])
def test_replies_at_the_same_time(width: int) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.backend.__class__ = Together
        run.console.choices = [3]
        await run.talk.submit("/regen 3")
        assert run.texts == await run.stored() == ["hello", "a 2 b 2 c2 "]

    run = running(work, say("zero"), width=width)
    assert ("│" in run.output.all) == (width == 130)
    if width != 130:
        places = [
            run.output.all.index(text) for text in ("1 of 3", "a 0", "a notice", "2 of 3", "a 1", "3 of 3", "a 2")
        ]
        assert places == sorted(places)
    replies = [node.record.message for node in Journal().tree(1).nodes.values()][2:]
    assert [(each.content, each.thinking) for each in replies] == [
        ("a 0 b 0 c0 ", ""), ("a 1 b 1 c1 ", "hm"), ("a 2 b 2 c2 ", ""),
    ]  # fmt: skip


# /compare


def of_other(run: Run) -> list[str]:
    return run.others[-1].calls


@pytest.mark.parametrize(
    ("answer", "kept", "chosen", "position"),
    [(1, "zero", 2, "< 1/2 >"), (2, "of the other", 3, "< 2/2 >"), (0, "zero", None, "< 1/2 >")],
)
def test_a_vote(answer: int, kept: str, chosen: int | None, position: str) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [answer]
        await run.talk.submit("/compare other model")
        assert run.texts == await run.stored() == ["hello", kept]
        assert str(run.talk.variant) == position
        assert of_other(run)[-1] == "close" and run.backend.asked == [Conversation().with_user("hello")]
        assert run.talk.session_stats.replies == 2

    run = running(work, say("zero"))
    [vote] = Journal().votes()
    assert (vote.chosen, vote.blind, [reply.model for reply in vote.replies]) == (
        chosen, False, ["present", "other model"],
    )  # fmt: skip
    assert [reply.row for reply in vote.replies] == [2, 3]
    for text in ("1 present", "2 other model"):
        assert text in run.output.all
    if answer == 2:
        assert "The reply of other model continues the conversation with present: /model other model switches" in (
            run.output.all
        )


@pytest.mark.parametrize("options", [{}, {"width": 100}])
def test_side_by_side(options: dict[str, int]) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [None]
        await run.talk.submit("/compare other")
        assert run.texts == await run.stored() == ["hello", "zero"]
        assert "No vote." in run.output.all and ("│" in run.output.all) == bool(options)

    running(work, say("zero"), **options)
    assert Journal().votes() == []


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("answer", [1, 2, 0, None])
def test_blind(swap: bool, answer: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on the screen before the choice depends on which of the models was first."""
    before: list[str] = []

    def shuffle(order: list[int]) -> None:
        order[:] = [1, 0] if swap else [0, 1]

    monkeypatch.setattr(comparison_module._ORDER, "shuffle", shuffle)
    monkeypatch.setitem(comparison_module.Comparison.__init__.__kwdefaults__, "shuffle", shuffle)  # type: ignore[arg-type]

    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [answer]
        run.console.on_choose = lambda: before.append(run.output.all)
        length = len(run.output.all)
        await run.talk.submit("/compare other --blind")
        shown = before[0][length:]
        assert not any(name in shown for name in ("present", "other --", "tok/s", "tokens"))
        first, second = ("of the other", "anew") if swap else ("anew", "of the other")
        assert shown.index("reply 1") < shown.index(first) < shown.index("reply 2") < shown.index(second)
        after = run.output.all[len(before[0]) :]
        names = ["other", "present"] if swap else ["present", "other"]
        assert after.index(f"1 is {names[0]}") < after.index(f"2 is {names[1]}") and "tok/s" in after
        by_name = {"present": "anew", "other": "of the other"}
        expected = by_name[names[answer - 1]] if answer else "zero"
        assert run.texts == await run.stored() == ["hello", expected]

    running(work, say("zero"), say("anew"))
    votes = Journal().votes()
    assert [vote.blind for vote in votes] == ([] if answer is None else [True])
    replies = [node.record.message.content for node in Journal().tree(1).nodes.values()][1:]
    assert sorted(replies) == ["anew", "of the other", "zero"]
    if answer:
        assert {reply.model for reply in votes[0].replies if reply.row == votes[0].chosen} == (
            {"other"} if swap == (answer == 1) else {"present"}
        )


def test_both_are_generated_for_a_message_without_a_reply() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        assert run.texts == []
        run.console.choices = [2]
        await run.talk.submit("/compare other")
        assert run.texts == await run.stored() == ["hello", "of the other"]

    running(work, [Failed(EngineDiedError("gone"))], say("of the present"))
    assert [[reply.model for reply in vote.replies] for vote in Journal().votes()] == [["present", "other"]]
    assert len(Journal().tree(1).nodes) == 3  # the message keeps its row


def test_a_reply_of_an_earlier_model_is_not_that_of_the_present_one() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit("/model second")
        run.console.choices = [0]
        run.other = say("of the third")
        await run.talk.submit("/compare third")
        assert [len(each.asked) for each in run.others] == [1, 1]

    running(work, say("zero"))
    [vote] = Journal().votes()
    assert [reply.model for reply in vote.replies] == ["second", "third"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/compare", "A model is missing: /compare MODEL [--blind]\n"),
        ("/compare --blind", "A model is missing: /compare MODEL [--blind]\n"),
        ("/compare missing", "the model missing was not found"),
        ("/compare present", "present is the present model: /regen 2 generates two of its replies.\n"),
    ],
)
def test_what_cannot_be_compared(line: str, told: str) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit(line)
        assert told in run.output.all and run.texts == ["hello", "zero"]
        assert all(each.calls == ["close"] for each in run.others)

    running(work, say("zero"))


def test_without_a_message_or_another_model() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("/compare other")
        assert "No message to compare replies to.\n" in run.output.all and not run.others
        await run.talk.submit("hello")
        run.talk._switch_model = None
        await run.talk.submit("/compare other")
        assert "Models cannot be compared in this session" in run.output.all

    running(work, say("zero"))


def test_the_other_model_fails() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        await run.talk.submit("/compare other")
        assert run.texts == await run.stored() == ["hello", "zero"]
        assert "The engine died" in run.output.all and not run.console.questions
        assert of_other(run)[-1] == "close" and len(Journal().tree(1).nodes) == 2

    running(work, say("zero"), other=[Started(), Failed(EngineDiedError("The engine died"))])
    assert Journal().votes() == []


@pytest.mark.parametrize("blind", ["", " --blind"])
def test_an_interrupt_keeps_the_parts(blind: str) -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        turn = asyncio.create_task(run.talk.submit(f"/compare other{blind}"))
        while not (run.others and run.others[0].generating.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for _ in range(10):
            await asyncio.sleep(0)
        run.talk.interrupt()
        await turn
        assert of_other(run)[-1] == "close" and not run.console.questions
        assert run.texts == await run.stored() == ["hello", "zero"]
        assert "part" in [node.record.message.content for node in Journal().tree(1).nodes.values()]

    running(work, say("zero"), other=[Started(), TextDelta("part"), Gate()])


def test_an_interrupt_while_the_other_model_loads() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.gated = True
        turn = asyncio.create_task(run.talk.submit("/compare other"))
        await run.output.until("2 other")
        run.talk.interrupt()
        await turn
        assert run.texts == await run.stored() == ["hello", "zero"] and of_other(run)[-1] == "close"

    running(work, say("zero"))


def test_the_other_model_stays_loaded_with_a_spare_one() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [1, 1, 1]
        await run.talk.submit("/compare other")
        assert "close" not in of_other(run)
        await run.talk.submit("/compare other")
        assert run.others[1].calls == ["close"] and len(run.others[0].asked) == 2
        await run.talk.submit("/compare third")
        assert of_other(run)[-1] != "close" and run.others[0].calls[-1] == "close"

    run = running(work, say("zero"), spare=True)
    assert all(each.calls[-1] == "close" for each in run.others)


def test_a_choice_without_a_journal_is_not_kept() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [2]
        await run.talk.submit("/compare other")
        assert run.texts == ["hello", "of the other"]
        assert "The choice is not kept: this conversation is not saved." in run.output.all

    running(work, say("zero"), journal=False)


def test_hostile_names_of_models() -> None:
    async def work(run: Run) -> None:
        await run.talk.submit("hello")
        run.console.choices = [2]
        await run.talk.submit("/compare evil\x1b[2J\u202e")
        assert "\x1b" not in run.output.all and "\u202e" not in run.output.all

    running(work, say("zero"))


# Real engines


@pytest.mark.engine
def test_an_engine_generates_several_replies(exact_engine: EngineBinary, model: Path) -> None:
    """Each with the origin of its own; the chosen one goes on."""
    settings = Settings(engine=str(exact_engine.path), model=str(model), threads=1, ctx=512, temperature=1.0)

    async def main() -> None:
        output, console = RecordedOutput(), ScriptedConsole()
        display = ReplyDisplay(output, colour=False, spinner=True, size=lambda: (130, 24))
        made = ReplSettings(model="demo", options=ReplyOptions(max_tokens=8))
        talk = ReplController(open_backend(settings, ""), made, display, console, None, Journal())
        talk.start()
        async with asyncio.timeout(120):
            await talk.submit("What is a token?")
            console.choices = [3]
            await talk.submit("/regen 3")
            assert str(talk.variant) == "< 4/4 >" and "1 of 3" in output.all and "│" in output.all
            await talk.submit("And then?")
            await talk.close()

    asyncio.run(main())
    tree, stored = Journal().tree(1), Journal().load(1)
    variants = [node.record for node in tree.nodes.values() if node.parent == 1]
    assert len(variants) == 4 and stored.records[1] == variants[3] and len(stored.records) == 4
    for record in variants[1:]:
        assert record.message.content and record.stats["tokens"]
        assert record.options["engine_version"] == variants[0].options["engine_version"]
    if exact_engine.dialect.value == "native":
        seeds = [record.options["seed"] for record in variants[1:]]
        assert len({str(seed) for seed in seeds}) == 3


@pytest.mark.engine
def test_two_models_of_an_engine(native: EngineBinary, model: Path, smollm2: Path) -> None:
    made = {"demo": model, "smollm2": smollm2}

    def switch(name: str) -> Backend:
        return open_backend(Settings(engine=str(native.path), model=str(made[name]), threads=1, ctx=512), "")

    async def main() -> None:
        output, console = RecordedOutput(), ScriptedConsole()
        display = ReplyDisplay(output, colour=False, spinner=False)
        settings = ReplSettings(model="demo", options=ReplyOptions(max_tokens=4))
        talk = ReplController(switch("demo"), settings, display, console, switch, Journal())
        talk.start()
        async with asyncio.timeout(170):
            await talk.submit("What is a token?")
            console.choices = [2, 1]
            await talk.submit("/compare smollm2")
            await talk.submit("/compare smollm2 --blind")
            await talk.close()

    asyncio.run(main())
    first, second = Journal().votes()
    assert (first.blind, second.blind) == (False, True)
    for vote in (first, second):
        assert {reply.model.partition("-")[0] for reply in vote.replies} == {model.stem.partition("-")[0], "smollm2"}
    assert first.chosen == first.replies[1].row and second.chosen == second.replies[0].row
