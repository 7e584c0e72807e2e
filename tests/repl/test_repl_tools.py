"""Calls of tools in a conversation: who is asked, what is called, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import pytest
from repl_console import RecordedOutput, ScriptedConsole
from scripted_backend import STATS, Gate, ScriptedBackend, say

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.conversation.message import NOT_CALLED
from bitnet_chat.errors import ContextOverflowError, EngineDiedError, FinishReason, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta
from bitnet_chat.journal import Journal
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl.controller import ReplController
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.repl.interfaces import Verdict
from bitnet_chat.repl.tool_approval import DECLINED
from bitnet_chat.tools.loading import load

TOOLS = '''
import threading
begun, released = threading.Event(), threading.Event()

def get_weather(city: str) -> str:
    """The weather."""
    return f"fine in {city}"

def shout() -> str:
    """Prints."""
    print("loud\\x1b[31m")
    return "done\\x1b]0;x\\x07"

def page() -> str:
    """Long."""
    return "".join(f"{number:05}" for number in range(10_000))

def block() -> str:
    """Blocks."""
    begun.set()
    released.wait(60)
    return "released"
'''
OSLO, ROME = ToolCall("1", "get_weather", '{"city": "Oslo"}'), ToolCall("2", "get_weather", '{"city": "Rome"}')

PAGE = ToolCall("8", "page", "{}")


def asks(text: str, *calls: ToolCall, after: str = "") -> list[Event | Gate]:
    """The steps of a reply with calls."""
    deltas = [TextDelta(each) for each in (text, after) if each]
    return [Started(), *deltas[:1], *calls, *deltas[1:], Completed(FinishReason.TOOL_CALLS, text + after, STATS)]


class ReplRun:
    def __init__(
        self, folder: Path, replies: Sequence[list[Event | Gate]], verdicts: Iterable[Verdict | None], *,
        journal: bool = False, allowed: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        path = folder / "tools_of_repl.py"
        path.write_text(TOOLS)
        self.box = load(path)
        self.module = self.box._functions["block"].call.__globals__
        self.output, self.console = RecordedOutput(), ScriptedConsole(verdicts)
        left = list(replies)
        self.backend = ScriptedBackend(lambda _: left.pop(0) if len(left) > 1 else left[0])
        self.journal = Journal() if journal else None
        settings = ReplSettings(
            model="m", options=ReplyOptions(tools=self.box.tools), toolbox=self.box, allowed_tools=allowed
        )
        display = ReplyDisplay(self.output, colour=False, spinner=False)
        self.talk = ReplController(self.backend, settings, display, self.console, None, self.journal)
        self.talk.start()

    @property
    def results(self) -> list[str]:
        return [each.content for each in self.talk.conversation.messages if each.role == "tool"]


def with_repl(
    folder: Path,
    work: Callable[[ReplRun], Awaitable[None]],
    replies: Sequence[list[Event | Gate]],
    verdicts: Iterable[Verdict | None] = (),
    *,
    journal: bool = False,
    allowed: tuple[str, ...] = (),
) -> None:
    async def run() -> None:
        repl = ReplRun(folder, replies, verdicts, journal=journal, allowed=allowed)
        async with asyncio.timeout(60):
            await work(repl)
            await repl.talk.close()
        assert not repl.console.complaints

    asyncio.run(run())


def test_text_a_call_text(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("weather?") == ""
        assert repl.talk.conversation.turns == (
            Message("user", "weather?"),
            Message("assistant", "I look.", FinishReason.TOOL_CALLS, tool_calls=(OSLO,)),
            Message("tool", "fine in Oslo", call_id="1", tool_name="get_weather"),
            Message("assistant", "Fine there.", FinishReason.STOP),
        )
        assert repl.console.questions == ['Call get_weather {"city": "Oslo"}?']
        places = [
            repl.output.all.index(each) for each in ("I look.", "calls get_weather", "fine in Oslo", "Fine there.")
        ]
        assert places == sorted(places)
        assert repl.backend.asked[1].messages == repl.talk.conversation.messages[:-1]
        assert [each.tools for each in repl.backend.options] == [repl.box.tools] * 2
        assert repl.talk.session_stats.replies == 2

    with_repl(tmp_path, work, [asks("I look.", OSLO), say("Fine there.")], ["yes"])


def test_always_is_for_this_tool_and_this_session(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        assert len(repl.console.questions) == 2 and not repl.console.verdicts
        assert repl.results == ["fine in Oslo", "fine in Rome", "done\x1b]0;x\x07"]
        await repl.talk.submit("/tools")
        assert "get_weather: The weather. (always allowed)\nshout: Prints.\n" in repl.output.all

    with_repl(tmp_path, work, [asks("", OSLO, ROME, ToolCall("3", "shout", "{}")), say("Fine.")], ["always", "yes"])


def test_what_a_tool_says_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("shout")
        assert "\x1b" not in repl.output.all and "\x07" not in repl.output.all
        assert "shout printed: loud␛[31m" in repl.output.all and "shout: done␛]0;x␇" in repl.output.all
        assert "calls shout {}␛ …" not in repl.output.all and not repl.console.questions

    evil = ToolCall("1", "shout", "{}")
    with_repl(tmp_path, work, [asks("", evil), say("ok")], allowed=("shout",))


def test_a_result_that_does_not_fit(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        assert "The results are saved: /undo removes the message." in repl.output.all
        await repl.talk.submit("/undo")
        assert not repl.talk.conversation.turns

    full: list[Event | Gate] = [Failed(ContextOverflowError("too long"))]
    with_repl(tmp_path, work, [asks("", OSLO), full], ["yes"])


def test_names_and_arguments_are_made_safe(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("x")
        assert "\x1b" not in repl.output.all + repl.console.questions[0] and "\n" not in repl.console.questions[0]
        assert "(3,000 more characters)" in repl.output.all
        assert repl.results == ["error: unknown tool 'a\\x1b[2J\\nb'; available: get_weather, shout, page, block"]

    evil = ToolCall("1", "a\x1b[2J\nb", '{"x": "' + "\u202e" * 4991 + '"}')
    with_repl(tmp_path, work, [asks("", evil), say("ok")], ["yes"])


def test_no_tells_the_model(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        assert repl.results == [DECLINED, "fine in Rome"]
        assert repl.talk.conversation.last == Message("assistant", "As you like.", FinishReason.STOP)

    with_repl(tmp_path, work, [asks("", OSLO, ROME), say("As you like.")], ["no", "yes"])


def test_ctrl_c_at_the_question_stops(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("weather?") == ""
        assert repl.results == [DECLINED, NOT_CALLED] and len(repl.backend.asked) == 1
        assert repl.backend.prepared[-1] == repl.talk.conversation
        await repl.talk.submit("/continue")
        assert repl.talk.conversation.last == Message("assistant", "Then not.", FinishReason.STOP)
        await repl.talk.submit("/regen")
        assert repl.backend.asked[-1] == Conversation().with_user("weather?")

    with_repl(tmp_path, work, [asks("", OSLO, ROME), say("Then not.")], [None])


def test_a_message_after_a_stop(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        await repl.talk.submit("never mind")
        assert [each.role for each in repl.backend.asked[-1].messages] == ["user", "assistant", "tool", "user"]
        await repl.talk.submit("/undo")
        await repl.talk.submit("/undo")
        assert not repl.talk.conversation.messages

    with_repl(tmp_path, work, [asks("", OSLO), say("Fine.")], [None])


def test_ctrl_c_stops_a_call(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        turn = asyncio.ensure_future(repl.talk.submit("block"))
        await asyncio.to_thread(repl.module["begun"].wait, 30)
        repl.talk.interrupt()
        await turn
        repl.module["released"].set()
        assert repl.results == ["error: the user stopped this call", NOT_CALLED] and len(repl.backend.asked) == 1
        assert "block was stopped" in repl.output.all

    with_repl(tmp_path, work, [asks("", ToolCall("1", "block", "{}"), OSLO)], ["yes"])


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.ENGINE_DIED, FinishReason.STALLED])
def test_a_reply_that_was_cut_calls_nothing(tmp_path: Path, reason: FinishReason) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        assert not repl.console.questions and len(repl.backend.asked) == 1
        assert repl.talk.conversation.last == Message("assistant", "I look. And", reason)

    cut: list[Event | Gate] = [
        Started(),
        TextDelta("I look."),
        OSLO,
        TextDelta(" And"),
        Completed(reason, "I look. And"),
    ]
    with_repl(tmp_path, work, [cut])


def test_a_failure_after_a_call_keeps_what_there_is(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        assert await repl.talk.submit("weather?") == ""
        assert [each.role for each in repl.talk.conversation.messages] == ["user", "assistant", "tool"]
        assert "The results are saved" in repl.output.all and not repl.talk.unanswered
        await repl.talk.submit("/continue")
        assert repl.talk.conversation.last == Message("assistant", "Fine.", FinishReason.STOP)

    failed: list[Event | Gate] = [Started(), Failed(EngineDiedError("dead"))]
    with_repl(tmp_path, work, [asks("", OSLO), failed, say("Fine.")], ["yes"])


def test_a_model_that_always_wants_more_is_stopped(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        assert len(repl.backend.asked) == 9 and repl.results == ["fine in Oslo"] * 8 + [NOT_CALLED]
        assert "The model has called tools in 8 replies in a row" in repl.output.all
        await repl.talk.submit("/continue")
        assert len(repl.backend.asked) == 18

    with_repl(tmp_path, work, [asks("", OSLO)], allowed=("get_weather",))


def test_the_journal_has_it_all(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("weather?")
        await repl.talk.close()
        assert repl.journal is not None
        entry = repl.journal.list()[0]
        stored = repl.journal.load(entry.id)
        assert stored.conversation == repl.talk.conversation and entry.turns == 1
        assert len({record.row for record in stored.records}) == 4 == max(record.row for record in stored.records)

    with_repl(tmp_path, work, [asks("I look.", OSLO), say("Fine.")], ["yes"], journal=True)


def test_no_tools(tmp_path: Path) -> None:
    async def work() -> None:
        output = RecordedOutput()
        talk = ReplController(
            ScriptedBackend(lambda _: say("x")),
            ReplSettings(model="m"),
            ReplyDisplay(output, colour=False, spinner=False),
            ScriptedConsole([]),
        )
        await talk.submit("/tools")
        assert "No tools: --tools FILE.py" in output.all
        await talk.close()

    asyncio.run(work())


def test_a_model_without_a_place_for_tools_answers_and_the_user_is_told_once(tmp_path: Path) -> None:
    made: list[ScriptedBackend] = []

    def backend(name: str) -> Backend:
        refusal = Failed(UnsupportedError("tools", f"{name} does not support tools", remedy="choose another"))

        def script(_: Conversation) -> list[Event | Gate]:
            return [refusal] if made[-1].options[-1].tools and name != "able" else say("Hello.")

        made.append(ScriptedBackend(script, name=name))
        return OptionalToolsBackend(made[-1])

    async def run() -> None:
        path = tmp_path / "tools_of_toolless.py"
        path.write_text(TOOLS)
        box, output = load(path), RecordedOutput()
        settings = ReplSettings(model="m", options=ReplyOptions(tools=box.tools), toolbox=box)
        talk = ReplController(
            backend("small"), settings, ReplyDisplay(output, colour=False, spinner=False), ScriptedConsole([]), backend
        )
        talk.start()
        for line in ("hello", "again", "/model other", "hello", "again", "/model able", "hello"):
            assert await talk.submit(line) == ""
        await talk.close()
        told = [f"the model is not offered the tools: {name} does not support tools\n" for name in ("small", "other")]
        assert [output.all.count(each) for each in told] == [1, 1] and output.all.count("not offered") == 2
        assert output.all.index(told[0]) < output.all.index("Hello.") and "is not supported" not in output.all
        assert [each.content for each in talk.conversation.turns[1::2]] == ["Hello."] * 5
        asked = [[bool(each.tools) for each in backend.options] for backend in made]
        assert asked == [[True, False, False], [True, False, False], [True]]

    asyncio.run(run())


# A result that is long


def test_a_result_is_cut_to_the_window(tmp_path: Path) -> None:
    """The backend counts a token for each character, in a window of 2,048."""

    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("page?")
        (text,) = repl.results
        kept, _, mark = text.rpartition("\n")
        assert kept.startswith("0000000001") and 500 < len(text) <= 1024
        assert mark == f"[cut here: {50_000 - len(kept):,} of 50,000 characters are left out]"
        assert f"[{50_000 - len(kept):,} characters are left out: the context window is full]\n" in repl.output.all

    with_repl(tmp_path, work, [asks("", PAGE), say("ok")], allowed=("page",))


def test_results_share_what_is_left_of_the_window(tmp_path: Path) -> None:
    async def work(repl: ReplRun) -> None:
        await repl.talk.submit("page?")
        short, *long = repl.results
        assert short == "fine in Oslo" and len(long) == 2 and sum(map(len, repl.results)) <= 1024
        assert all(len(each) > 300 and "are left out]" in each for each in long)

    calls = asks("", OSLO, PAGE, ToolCall("9", "page", "{}"))
    with_repl(tmp_path, work, [calls, say("ok")], allowed=("page", "get_weather"))
