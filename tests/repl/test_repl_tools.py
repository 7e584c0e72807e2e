"""Calls of tools in a conversation: who is asked, what is called, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import pytest
from scripted_backend import STATS, Gate, ScriptedBackend, say

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.conversation.message import NOT_CALLED
from bitnet_chat.errors import ContextOverflowError, EngineDiedError, FinishReason, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta
from bitnet_chat.journal import Journal, JournalEntry
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


class Paper:
    def __init__(self) -> None:
        self.all = ""

    def words(self, text: str) -> None:
        self.all += text

    remarks = words


class Desk:
    """A console whose user has decided beforehand."""

    def __init__(self, verdicts: Iterable[Verdict | None]) -> None:
        self.verdicts = list(verdicts)
        self.questions: list[str] = []

    async def decide(self, question: str) -> Verdict | None:
        self.questions.append(question)
        return self.verdicts.pop(0)

    async def edit(self, text: str) -> str:
        return text

    async def pick(self, entries: Sequence[JournalEntry]) -> int | None:
        return None

    def complain(self, text: str) -> None:
        pytest.fail(text)

    def copy(self, text: str) -> bool:
        return True


def asks(text: str, *calls: ToolCall, after: str = "") -> list[Event | Gate]:
    """The steps of a reply with calls."""
    deltas = [TextDelta(each) for each in (text, after) if each]
    return [Started(), *deltas[:1], *calls, *deltas[1:], Completed(FinishReason.TOOL_CALLS, text + after, STATS)]


class Room:
    def __init__(
        self, folder: Path, replies: Sequence[list[Event | Gate]], verdicts: Iterable[Verdict | None], *,
        journal: bool = False, allowed: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        path = folder / "tools_of_room.py"
        path.write_text(TOOLS)
        self.box = load(path)
        self.module = self.box._functions["block"].call.__globals__
        self.paper, self.desk = Paper(), Desk(verdicts)
        left = list(replies)
        self.backend = ScriptedBackend(lambda _: left.pop(0) if len(left) > 1 else left[0])
        self.journal = Journal() if journal else None
        settings = ReplSettings(
            model="m", options=ReplyOptions(tools=self.box.tools), toolbox=self.box, allowed_tools=allowed
        )
        display = ReplyDisplay(self.paper, colour=False, spinner=False)
        self.talk = ReplController(self.backend, settings, display, self.desk, None, self.journal)
        self.talk.start()

    @property
    def results(self) -> list[str]:
        return [each.content for each in self.talk.conversation.messages if each.role == "tool"]


def in_room(
    folder: Path,
    work: Callable[[Room], Awaitable[None]],
    replies: Sequence[list[Event | Gate]],
    verdicts: Iterable[Verdict | None] = (),
    *,
    journal: bool = False,
    allowed: tuple[str, ...] = (),
) -> None:
    async def run() -> None:
        room = Room(folder, replies, verdicts, journal=journal, allowed=allowed)
        async with asyncio.timeout(60):
            await work(room)
            await room.talk.close()

    asyncio.run(run())


def test_text_a_call_text(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("weather?") == ""
        assert room.talk.conversation.turns == (
            Message("user", "weather?"),
            Message("assistant", "I look.", FinishReason.TOOL_CALLS, tool_calls=(OSLO,)),
            Message("tool", "fine in Oslo", call_id="1", tool_name="get_weather"),
            Message("assistant", "Fine there.", FinishReason.STOP),
        )
        assert room.desk.questions == ['Call get_weather {"city": "Oslo"}?']
        places = [
            room.paper.all.index(each) for each in ("I look.", "calls get_weather", "fine in Oslo", "Fine there.")
        ]
        assert places == sorted(places)
        assert room.backend.asked[1].messages == room.talk.conversation.messages[:-1]
        assert [each.tools for each in room.backend.options] == [room.box.tools] * 2
        assert room.talk.session_stats.replies == 2

    in_room(tmp_path, work, [asks("I look.", OSLO), say("Fine there.")], ["yes"])


def test_always_is_for_this_tool_and_this_session(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        assert len(room.desk.questions) == 2 and not room.desk.verdicts
        assert room.results == ["fine in Oslo", "fine in Rome", "done\x1b]0;x\x07"]
        await room.talk.submit("/tools")
        assert "get_weather: The weather. (always allowed)\nshout: Prints.\n" in room.paper.all

    in_room(tmp_path, work, [asks("", OSLO, ROME, ToolCall("3", "shout", "{}")), say("Fine.")], ["always", "yes"])


def test_what_a_tool_says_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("shout")
        assert "\x1b" not in room.paper.all and "\x07" not in room.paper.all
        assert "shout printed: loud␛[31m" in room.paper.all and "shout: done␛]0;x␇" in room.paper.all
        assert "calls shout {}␛ …" not in room.paper.all and not room.desk.questions

    evil = ToolCall("1", "shout", "{}")
    in_room(tmp_path, work, [asks("", evil), say("ok")], allowed=("shout",))


def test_a_result_that_does_not_fit(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        assert "The results are saved: /undo removes the message." in room.paper.all
        await room.talk.submit("/undo")
        assert not room.talk.conversation.turns

    full: list[Event | Gate] = [Failed(ContextOverflowError("too long"))]
    in_room(tmp_path, work, [asks("", OSLO), full], ["yes"])


def test_names_and_arguments_are_made_safe(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("x")
        assert "\x1b" not in room.paper.all + room.desk.questions[0] and "\n" not in room.desk.questions[0]
        assert "(3,000 more characters)" in room.paper.all
        assert room.results == ["error: unknown tool 'a\\x1b[2J\\nb'; available: get_weather, shout, page, block"]

    evil = ToolCall("1", "a\x1b[2J\nb", '{"x": "' + "\u202e" * 4991 + '"}')
    in_room(tmp_path, work, [asks("", evil), say("ok")], ["yes"])


def test_no_tells_the_model(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        assert room.results == [DECLINED, "fine in Rome"]
        assert room.talk.conversation.last == Message("assistant", "As you like.", FinishReason.STOP)

    in_room(tmp_path, work, [asks("", OSLO, ROME), say("As you like.")], ["no", "yes"])


def test_ctrl_c_at_the_question_stops(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("weather?") == ""
        assert room.results == [DECLINED, NOT_CALLED] and len(room.backend.asked) == 1
        assert room.backend.prepared[-1] == room.talk.conversation
        await room.talk.submit("/continue")
        assert room.talk.conversation.last == Message("assistant", "Then not.", FinishReason.STOP)
        await room.talk.submit("/regen")
        assert room.backend.asked[-1] == Conversation().with_user("weather?")

    in_room(tmp_path, work, [asks("", OSLO, ROME), say("Then not.")], [None])


def test_a_message_after_a_stop(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        await room.talk.submit("never mind")
        assert [each.role for each in room.backend.asked[-1].messages] == ["user", "assistant", "tool", "user"]
        await room.talk.submit("/undo")
        await room.talk.submit("/undo")
        assert not room.talk.conversation.messages

    in_room(tmp_path, work, [asks("", OSLO), say("Fine.")], [None])


def test_ctrl_c_stops_a_call(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        turn = asyncio.ensure_future(room.talk.submit("block"))
        await asyncio.to_thread(room.module["begun"].wait, 30)
        room.talk.interrupt()
        await turn
        room.module["released"].set()
        assert room.results == ["error: the user stopped this call", NOT_CALLED] and len(room.backend.asked) == 1
        assert "block was stopped" in room.paper.all

    in_room(tmp_path, work, [asks("", ToolCall("1", "block", "{}"), OSLO)], ["yes"])


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.ENGINE_DIED, FinishReason.STALLED])
def test_a_reply_that_was_cut_calls_nothing(tmp_path: Path, reason: FinishReason) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        assert not room.desk.questions and len(room.backend.asked) == 1
        assert room.talk.conversation.last == Message("assistant", "I look. And", reason)

    cut: list[Event | Gate] = [
        Started(),
        TextDelta("I look."),
        OSLO,
        TextDelta(" And"),
        Completed(reason, "I look. And"),
    ]
    in_room(tmp_path, work, [cut])


def test_a_failure_after_a_call_keeps_what_there_is(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("weather?") == ""
        assert [each.role for each in room.talk.conversation.messages] == ["user", "assistant", "tool"]
        assert "The results are saved" in room.paper.all and not room.talk.unanswered
        await room.talk.submit("/continue")
        assert room.talk.conversation.last == Message("assistant", "Fine.", FinishReason.STOP)

    failed: list[Event | Gate] = [Started(), Failed(EngineDiedError("dead"))]
    in_room(tmp_path, work, [asks("", OSLO), failed, say("Fine.")], ["yes"])


def test_a_model_that_always_wants_more_is_stopped(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        assert len(room.backend.asked) == 9 and room.results == ["fine in Oslo"] * 8 + [NOT_CALLED]
        assert "The model has called tools in 8 replies in a row" in room.paper.all
        await room.talk.submit("/continue")
        assert len(room.backend.asked) == 18

    in_room(tmp_path, work, [asks("", OSLO)], allowed=("get_weather",))


def test_the_journal_has_it_all(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("weather?")
        await room.talk.close()
        assert room.journal is not None
        entry = room.journal.list()[0]
        stored = room.journal.load(entry.id)
        assert stored.conversation == room.talk.conversation and entry.turns == 1
        assert len({record.row for record in stored.records}) == 4 == max(record.row for record in stored.records)

    in_room(tmp_path, work, [asks("I look.", OSLO), say("Fine.")], ["yes"], journal=True)


def test_no_tools(tmp_path: Path) -> None:
    async def work() -> None:
        paper = Paper()
        talk = ReplController(
            ScriptedBackend(lambda _: say("x")),
            ReplSettings(model="m"),
            ReplyDisplay(paper, colour=False, spinner=False),
            Desk([]),
        )
        await talk.submit("/tools")
        assert "No tools: --tools FILE.py" in paper.all
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
        box, paper = load(path), Paper()
        settings = ReplSettings(model="m", options=ReplyOptions(tools=box.tools), toolbox=box)
        talk = ReplController(
            backend("small"), settings, ReplyDisplay(paper, colour=False, spinner=False), Desk([]), backend
        )
        talk.start()
        for line in ("hello", "again", "/model other", "hello", "again", "/model able", "hello"):
            assert await talk.submit(line) == ""
        await talk.close()
        told = [f"the model is not offered the tools: {name} does not support tools\n" for name in ("small", "other")]
        assert [paper.all.count(each) for each in told] == [1, 1] and paper.all.count("not offered") == 2
        assert paper.all.index(told[0]) < paper.all.index("Hello.") and "is not supported" not in paper.all
        assert [each.content for each in talk.conversation.turns[1::2]] == ["Hello."] * 5
        asked = [[bool(each.tools) for each in backend.options] for backend in made]
        assert asked == [[True, False, False], [True, False, False], [True]]

    asyncio.run(run())


# A result that is long


def test_a_result_is_cut_to_the_window(tmp_path: Path) -> None:
    """The backend counts a token for each character, in a window of 2,048."""

    async def work(room: Room) -> None:
        await room.talk.submit("page?")
        (text,) = room.results
        kept, _, mark = text.rpartition("\n")
        assert kept.startswith("0000000001") and 500 < len(text) <= 1024
        assert mark == f"[cut here: {50_000 - len(kept):,} of 50,000 characters are left out]"
        assert f"[{50_000 - len(kept):,} characters are left out: the context window is full]\n" in room.paper.all

    in_room(tmp_path, work, [asks("", PAGE), say("ok")], allowed=("page",))


def test_results_share_what_is_left_of_the_window(tmp_path: Path) -> None:
    async def work(room: Room) -> None:
        await room.talk.submit("page?")
        short, *long = room.results
        assert short == "fine in Oslo" and len(long) == 2 and sum(map(len, room.results)) <= 1024
        assert all(len(each) > 300 and "are left out]" in each for each in long)

    calls = asks("", OSLO, PAGE, ToolCall("9", "page", "{}"))
    in_room(tmp_path, work, [calls, say("ok")], allowed=("page", "get_weather"))
