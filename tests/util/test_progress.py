"""How far a prompt is read: from the engine to whoever waits, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from repl_console import RecordedOutput
from scripted_backend import Gate, ScriptedBackend, say

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.attached_server.messages import data_of, event_of
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.batch import ask
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.errors import FinishReason, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Notice, PromptProgress, Started, TextDelta
from bitnet_chat.repl import reply_view as replies
from bitnet_chat.repl.display import ReplyDisplay
from bitnet_chat.server.broadcast import ReplyBroadcast, watch_all
from bitnet_chat.server.chats.events import EventEncoder, ReplyStart
from bitnet_chat.text.sse import SseDecoder

HELLO = Conversation().with_user("hello")
HALF, MORE = PromptProgress(600, 1200), PromptProgress(1200, 1200)
AGAIN = PromptProgress(600, 1200, repeats=True)
STEPS: list[Event | Gate] = [Started(), HALF, MORE, *say("Hello.")[1:]]


async def shown(steps: Sequence[Event | Gate], output: RecordedOutput, until: str) -> None:
    backend = ScriptedBackend(lambda _: steps)
    backend.start()
    display = ReplyDisplay(output, colour=False, spinner=True, size=lambda: (80, 24))
    running = asyncio.ensure_future(replies.ReplyView(backend, HELLO, ReplyOptions(), display).run())
    await output.until(until)
    backend.open_gate()
    await running


@pytest.mark.parametrize(
    ("told", "text"), [(HALF, "reading 600 of 1,200 tokens"), (AGAIN, "repeating 600 of 1,200 tokens")]
)
def test_the_terminal_says_how_far(monkeypatch: pytest.MonkeyPatch, told: PromptProgress, text: str) -> None:
    monkeypatch.setattr(replies, "PROGRESS_AFTER", 0.0)
    monkeypatch.setattr(replies, "SPIN", 0.001)

    async def main() -> None:
        output = RecordedOutput()
        await shown([Started(), told, Gate(), *say("Hello.")[1:]], output, text)
        assert "Hello.\n" in output.all

    asyncio.run(asyncio.wait_for(main(), 20))


def test_it_says_nothing_of_a_prompt_that_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither within the first second, nor when there is nothing left to read."""
    monkeypatch.setattr(replies, "SPIN", 0.001)

    async def main() -> None:
        output = RecordedOutput()
        await shown([Started(), HALF, Gate(), *say("Hello.")[1:]], output, "0.0 s")
        monkeypatch.setattr(replies, "PROGRESS_AFTER", 0.0)
        await shown([Started(), HALF, MORE, Gate(), *say("Hello.")[1:]], output, "⠹")
        assert "reading" not in output.all

    asyncio.run(asyncio.wait_for(main(), 20))


async def events_of(backend: Backend, options: ReplyOptions) -> list[Event]:
    backend.start()
    return [event async for event in backend.reply(HELLO, options)]


def test_what_stands_before_a_backend_passes_it_on() -> None:
    async def main() -> None:
        guarded = GuardedBackend(ScriptedBackend(lambda _: STEPS), GuardLimits())
        assert await events_of(guarded, ReplyOptions()) == STEPS
        empty = GuardedBackend(ScriptedBackend(lambda _: [Started(), HALF, *say("")[1:]]), GuardLimits())
        end = (await events_of(empty, ReplyOptions()))[-1]
        assert isinstance(end, Completed) and end.reason is FinishReason.EMPTY, "it is no word of a reply"
        inner = ScriptedBackend(
            lambda _: [HALF, Failed(UnsupportedError("tools", "no"))] if inner.options[-1].tools else STEPS
        )
        offered = await events_of(OptionalToolsBackend(inner), ReplyOptions(tools=(Tool("add", "", {}),)))
        assert isinstance(offered[1], Notice) and offered[2:] == STEPS
        backend = ScriptedBackend(lambda _: STEPS)
        backend.start()
        assert (await ask(backend, HELLO, ReplyOptions(), lambda line: None)).text == "Hello."

    asyncio.run(main())


@pytest.mark.parametrize("half", [HALF, AGAIN])
def test_a_server_tells_the_newest_to_those_who_want_it(half: PromptProgress) -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        opening = ReplyStart(generation="g", chat=1, model="m", user=(1, "hello"), message=2, before=None, parent=None)
        encoder = EventEncoder(opening)
        for event in (Started(), PromptProgress(1, 1200), half):
            generation.put(event)
        watched, plain = watch_all([generation], [0]), generation.watch()
        _, seen = await anext(watched)
        assert seen.event == half, "of two only the newer one"
        (told,) = SseDecoder().feed(b"".join(encoder.tell(seen)))
        assert event_of(told.event, data_of(told), "") == half
        generation.put(MORE)
        assert (await anext(watched))[1].event == MORE
        generation.put(TextDelta("Hello."))
        assert (await anext(watched))[1].event == (await anext(plain)).event == TextDelta("Hello.")
        late = watch_all([generation], [0])
        assert (await anext(late))[1].event == TextDelta("Hello."), "what is read is read"
        for each in (watched, plain, late):
            await each.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("data", [{}, {"done": "1", "total": 2}, {"done": 1}])
def test_what_a_server_tells_that_makes_no_sense(data: dict[str, object]) -> None:
    assert event_of("progress", data, "") is None
