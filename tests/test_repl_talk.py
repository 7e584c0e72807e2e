"""One REPL's state: what is kept, what is put back, which backend is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from scripted_backend import Gate, ScriptedBackend, by_message, say

from bitnet_chat.backends import ReplyOptions
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.errors import EngineDied, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta
from bitnet_chat.repl import ReplSettings
from bitnet_chat.repl import reply as reply_module
from bitnet_chat.repl.display import Display
from bitnet_chat.repl.talk import Talk


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


class Room:
    """A talk with its backend and its paper."""

    def __init__(self, steps: Iterable[Event | Gate] | None = None, **options: object) -> None:
        self.paper = Paper()
        script = by_message if steps is None else lambda _: steps
        deaf = bool(options.pop("deaf", False))
        self.backend = ScriptedBackend(script, deaf=deaf)
        self.others: list[ScriptedBackend] = []
        settings = ReplSettings(model="m", options=ReplyOptions(max_tokens=5), **options)  # type: ignore[arg-type]
        display = Display(self.paper, colour=False, spinner=False)
        self.talk = Talk(self.backend, settings, display, self.switch)
        self.talk.start()

    def switch(self, path: str) -> ScriptedBackend:
        if path == "missing":
            raise UsageError("There is no model missing")
        self.others.append(ScriptedBackend(by_message, name=path))
        return self.others[-1]


def in_room(
    work: Callable[[Room], Awaitable[None]], steps: Iterable[Event | Gate] | None = None, **options: object
) -> None:
    async def run() -> None:
        room = Room(steps, **options)
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
        assert room.talk.tally.tokens == 11

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
        reply._interrupted -= reply_module.PATIENCE
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
        raise EngineDied("gone")

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
        room.backend.script = lambda _: [Failed(EngineDied("gone"))]
        assert await room.talk.submit("/regen") == ""
        assert room.talk.conversation == before and room.talk.unanswered == ""
        room.backend.script = lambda _: say("Other.")
        await room.talk.submit("/regen")
        assert room.talk.conversation.last == Message("assistant", "Other.", FinishReason.STOP)
        assert len(room.talk.conversation.messages) == 2

    in_room(work)


def test_unknown_commands_come_back() -> None:
    async def work(room: Room) -> None:
        assert await room.talk.submit("/rgen") == "/rgen"
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
