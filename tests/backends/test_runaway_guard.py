"""The guard around a backend: runaway replies end in order, all others are those of the backend itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from random import Random

import pytest
from replies import NORMAL
from scripted_backend import STATS, Gate, ScriptedBackend, say

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta

ASKED = Conversation().with_user("tell me")
LOOP = "and then they went home, "
ENOUGH = 120.0
"""Seconds within which anything happens; none of the tests waits so long."""


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(ENOUGH):
            await body()

    asyncio.run(main())


def scripted(steps: Iterable[Event | Gate], *, deaf: bool = False) -> ScriptedBackend:
    backend = ScriptedBackend(lambda _: steps, deaf=deaf)
    backend.start()
    return backend


async def events_of(backend: Backend, conversation: Conversation = ASKED, **limits: object) -> list[Event]:
    return [event async for event in backend.reply(conversation, ReplyOptions(**limits))]  # type: ignore[arg-type]


def parts(text: str, size: int = 5) -> list[TextDelta]:
    return [TextDelta(text[at : at + size]) for at in range(0, len(text), size)]


def told(events: list[Event]) -> tuple[Completed, str]:
    """The end of a reply and the line before it; that the end agrees with the rest is checked here."""
    *_, notice, end = events
    assert isinstance(end, Completed) and isinstance(notice, Notice)
    assert sum(isinstance(event, Completed | Failed) for event in events) == 1
    assert end.text == "".join(event.text for event in events if isinstance(event, TextDelta))
    assert "\n" not in notice.text
    return end, notice.text


def test_a_reply_that_is_none_of_these_is_what_it_was() -> None:
    async def body() -> None:
        for kind in NORMAL:
            text = NORMAL[kind](Random(1))[:3000]
            script = [
                Notice("a line"),
                Started(),
                ThinkingDelta("hm"),
                *parts(text),
                Completed(FinishReason.STOP, text, STATS),
            ]
            events = await events_of(GuardedBackend(scripted(script), GuardLimits()))
            assert events[:3] == script[:3] and events[-1] == script[-1]
            assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text

    run(body)


def test_what_waited_comes_before_thoughts_and_before_the_end() -> None:
    async def body() -> None:
        script = [
            Started(),
            TextDelta("a <|im_"),
            ThinkingDelta("hm"),
            TextDelta("b \n"),
            Completed(FinishReason.STOP, ""),
        ]
        events = await events_of(GuardedBackend(scripted(script), GuardLimits()))
        assert events == [
            Started(),
            TextDelta("a"),
            TextDelta(" <|im_"),
            ThinkingDelta("hm"),
            TextDelta("b"),
            TextDelta(" \n"),
            Completed(FinishReason.STOP, "a <|im_b \n"),
        ]
        error = EngineDiedError("it died")
        script = [Started(), TextDelta("a "), Failed(error, "a ")]
        events = await events_of(GuardedBackend(scripted(script), GuardLimits()))
        assert events == [Started(), TextDelta("a"), TextDelta(" "), Failed(error, "a ")]

    run(body)


def test_a_role_marker_ends_the_reply_and_is_not_in_it() -> None:
    async def body() -> None:
        inner = scripted([Started(), *parts("Paris.\n\nUser: and Spain?" + " more" * 50), Gate()])
        backend = GuardedBackend(inner, GuardLimits(), lambda: ("User:",))
        end, line = told(await events_of(backend))
        assert end == Completed(FinishReason.ROLE_MARKER, "Paris.", STATS)
        assert "--no-guard" in line and "/regen" in line
        assert inner.calls[1:] == ["interrupt", "end of reply"]

    run(body)


def test_a_marker_in_the_last_word_and_in_one_piece_with_all_the_rest() -> None:
    async def body() -> None:
        for steps in (say("Paris. <|im_end|>"), say("Paris.<|im_end|>\nmore"), say("Paris.", "<|im_end|>")):
            end, _ = told(await events_of(GuardedBackend(scripted(steps), GuardLimits())))
            assert end == Completed(FinishReason.ROLE_MARKER, "Paris.", STATS)

    run(body)


def test_a_repetition_is_stopped_and_stays_as_it_was_shown() -> None:
    async def body() -> None:
        endless = [Started(), TextDelta("Once. "), *parts(LOOP * 200), Completed(FinishReason.LENGTH, "")]
        end, line = told(await events_of(GuardedBackend(scripted(endless), GuardLimits())))
        assert end.reason is FinishReason.REPETITION and end.stats == STATS
        assert end.text.startswith("Once. " + LOOP * 12) and len(end.text) < 1000
        assert "--repeat-limit" in line and "/continue" in line and LOOP[:8] not in line
        thoughts = [Started(), *(ThinkingDelta(LOOP) for _ in range(200)), Completed(FinishReason.STOP, "")]
        end, line = told(await events_of(GuardedBackend(scripted(thoughts), GuardLimits())))
        assert end.reason is FinishReason.REPETITION and end.text == ""
        assert "/continue" not in line
        long = "".join(f"{letter}{letter.upper()} is a word of its own. " for letter in "abcdefghijklmnopqrstuvwxyz")
        endless = [Started(), *parts(long * 20), Completed(FinishReason.LENGTH, "")]
        _, line = told(await events_of(GuardedBackend(scripted(endless), GuardLimits())))
        assert "the same 3 times in a row" in line and "(now 12, fewer for what is long)" in line

    run(body)


@pytest.mark.parametrize("kind", [TextDelta, ThinkingDelta])
@pytest.mark.parametrize("guard", [True, False])
def test_a_reply_ends_where_its_window_does(kind: type[TextDelta] | type[ThinkingDelta], guard: bool) -> None:
    """Whatever sends it: no model has a reply of many windows, and a program that floods is none."""
    sent = 0

    async def body() -> None:
        nonlocal sent
        random = Random(1)

        def flood() -> Iterator[Event]:
            nonlocal sent
            yield Started()
            while True:
                text = "".join(random.choices("abcdefghij klmnop qrstuvw xyz ", k=1000))
                sent += len(text)
                yield kind(text)

        backend = GuardedBackend(scripted(flood()), GuardLimits.of(Settings(guard=guard)))
        end, line = told(await events_of(backend))
        assert end.reason is FinishReason.CONTEXT_OVERFLOW
        assert "the context window of 2,048 tokens holds no more" in line and "/regen" in line
        assert sent <= 2048 + 4096 + 2 * 1000, "a token is a character here"

    run(body)


def test_without_guard_everything_passes() -> None:
    async def body() -> None:
        limits = GuardLimits.of(Settings(guard=False))
        text = LOOP * 40 + "\n\nUser: <|im_end|>\n"
        events = await events_of(GuardedBackend(scripted(say(text)), limits, lambda: ("User:",)))
        assert events[-1] == Completed(FinishReason.STOP, text, STATS)
        assert limits.stall_timeout == Settings().stall_timeout
        assert GuardLimits.of(Settings(repeat_limit=7)) == GuardLimits(True, 7, 120.0)

    run(body)


def test_limits_are_told_with_the_way_on() -> None:
    async def body() -> None:
        steps = say("so far", reason=FinishReason.LENGTH)
        end, line = told(await events_of(GuardedBackend(scripted(steps), GuardLimits()), max_tokens=9))
        assert end == Completed(FinishReason.LENGTH, "so far", STATS)
        assert "9 tokens" in line and "/continue" in line and "--max-tokens" in line
        steps = say("so far", reason=FinishReason.TIMEOUT)
        end, line = told(await events_of(GuardedBackend(scripted(steps), GuardLimits()), timeout=2.5))
        assert end.reason is FinishReason.TIMEOUT
        assert "2.5 s" in line and "/continue" in line and "--timeout" in line
        steps = say("", reason=FinishReason.TIMEOUT)
        assert "/continue" not in told(await events_of(GuardedBackend(scripted(steps), GuardLimits())))[1]
        steps = say("so far", reason=FinishReason.ENGINE_DIED)
        assert "/continue" in told(await events_of(GuardedBackend(scripted(steps), GuardLimits())))[1]
        for reason in (FinishReason.STOP, FinishReason.INTERRUPTED):
            events = await events_of(GuardedBackend(scripted(say("so far", reason=reason)), GuardLimits()))
            assert not any(isinstance(event, Notice) for event in events)

    run(body)


def test_a_reply_that_goes_on_is_judged_with_what_was_there() -> None:
    async def body() -> None:
        conversation = ASKED.with_assistant("Look:\n```\n<some>\n", FinishReason.LENGTH)
        text = "<|im_start|>user\n```\n"
        events = await events_of(GuardedBackend(scripted(say(text)), GuardLimits()), conversation)
        assert events[-1] == Completed(FinishReason.STOP, text, STATS)

    run(body)


def test_silence_after_a_word_is_a_stall() -> None:
    async def body() -> None:
        inner = scripted([Started(), TextDelta("Once "), Gate(), TextDelta("never")])
        end, line = told(await events_of(GuardedBackend(inner, GuardLimits(stall_timeout=0.05))))
        assert end == Completed(FinishReason.STALLED, "Once ", STATS)
        assert "--stall-timeout" in line and "0.05 s" in line
        assert "interrupt" in inner.calls

    run(body)


def test_before_the_first_word_it_takes_ten_times_as_long() -> None:
    async def body() -> None:
        inner = scripted([Started(), Gate()])
        begun = time.monotonic()
        end, line = told(await events_of(GuardedBackend(inner, GuardLimits(stall_timeout=0.02))))
        assert end.reason is FinishReason.STALLED and end.text == ""
        assert time.monotonic() - begun >= 0.2
        assert "for 0.2 s; " in line and "(now 0.02, 10 times that for the first token)" in line and "/regen" in line

    run(body)


class Slow:
    """A backend that takes its time before each event: seconds, or for ever."""

    def __init__(self, *steps: tuple[float, Event]) -> None:
        self.steps, self.closed, self.interrupts = steps, False, 0

    async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
        try:
            for seconds, event in self.steps:
                await asyncio.sleep(seconds)
                yield event
        finally:
            self.closed = True

    def interrupt(self) -> None:
        self.interrupts += 1

    def count(self, text: str) -> None:
        """It has no vocabulary."""


def guarded(inner: object, **more: float) -> GuardedBackend:
    limits = GuardLimits(stall_timeout=more.pop("stall_timeout", 120.0))
    return GuardedBackend(inner, limits, **more)  # type: ignore[arg-type]


def test_loading_thinking_and_a_slow_reader_are_no_stall() -> None:
    async def body() -> None:
        done = Completed(FinishReason.STOP, "ab")
        loading = Slow((0.3, Notice("loading")), (0.0, Started()), (0.0, TextDelta("ab")), (0.0, done))
        assert (await events_of(guarded(loading, stall_timeout=0.02)))[-1] == done
        thinking = Slow(
            (0.0, Started()), *((0.1, ThinkingDelta("hm ")) for _ in range(5)), (0.0, TextDelta("ab")), (0.0, done)
        )
        assert (await events_of(guarded(thinking, stall_timeout=0.4)))[-1] == done
        reading = Slow((0.0, Started()), (0.0, TextDelta("a")), (0.01, TextDelta("b")), (0.0, done))
        last: Event | None = None
        async for event in guarded(reading, stall_timeout=0.05).reply(ASKED):
            last = event
            await asyncio.sleep(0.12)
        assert last == done

    run(body)


def test_a_program_that_was_asleep_listens_before_it_judges() -> None:
    async def body() -> None:
        done = Completed(FinishReason.STOP, "ab")
        inner = Slow((0.0, Started()), (0.0, TextDelta("a")), (0.3, TextDelta("b")), (0.0, done))
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.6)  # as Ctrl-Z does
        assert (await events_of(guarded(inner, stall_timeout=0.2)))[-1] == done

    run(body)


def test_no_limit_is_no_limit() -> None:
    async def body() -> None:
        done = Completed(FinishReason.STOP, "a")
        inner = Slow((0.0, Started()), (0.1, TextDelta("a")), (0.1, done))
        assert (await events_of(guarded(inner, stall_timeout=0.0)))[-1] == done

    run(body)


@pytest.mark.parametrize("kind", ["stall", "repetition", "interrupt"])
def test_a_backend_that_does_not_stop_is_left(kind: str) -> None:
    async def body() -> None:
        text = LOOP * 100 if kind == "repetition" else "Once "
        inner = Slow((0.0, Started()), (0.0, TextDelta(text)), (1e6, TextDelta("never")))
        backend = guarded(inner, grace=0.05, stall_timeout=0.05 if kind == "stall" else 1000)
        events: list[Event] = []
        async for event in backend.reply(ASKED):
            events.append(event)
            if kind == "interrupt" and isinstance(event, TextDelta):
                backend.interrupt()
        end = events[-1]
        assert isinstance(end, Completed)
        reasons = {
            "stall": FinishReason.STALLED,
            "repetition": FinishReason.REPETITION,
            "interrupt": FinishReason.INTERRUPTED,
        }
        assert end.reason is reasons[kind]
        assert end.text == "".join(event.text for event in events if isinstance(event, TextDelta))
        assert inner.closed and inner.interrupts

    run(body)


def test_an_interrupt_is_that_of_the_backend() -> None:
    async def body() -> None:
        inner = scripted([Started(), TextDelta("Once "), Gate()])
        backend = GuardedBackend(inner, GuardLimits())
        events: list[Event] = []
        async for event in backend.reply(ASKED):
            events.append(event)
            if event == TextDelta("Once"):
                backend.interrupt()
        assert events == [
            Started(),
            TextDelta("Once"),
            TextDelta(" "),
            Completed(FinishReason.INTERRUPTED, "Once ", STATS),
        ]

    run(body)


def test_an_interrupt_while_it_is_being_stopped() -> None:
    async def body() -> None:
        inner = ScriptedBackend(lambda _: [Started(), TextDelta(LOOP * 100), Gate(), TextDelta("more")], deaf=True)
        inner.start()
        backend = GuardedBackend(inner, GuardLimits(), grace=0.1)
        events: list[Event] = []
        async for event in backend.reply(ASKED):
            events.append(event)
            if isinstance(event, TextDelta):
                backend.interrupt()
        assert told(events)[0].reason is FinishReason.REPETITION

    run(body)


def test_walking_away_closes_the_reply_of_the_backend() -> None:
    async def body() -> None:
        inner = Slow((0.0, Started()), (0.0, TextDelta("a")), (1e6, TextDelta("never")))
        events = guarded(inner).reply(ASKED)
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()
        assert inner.closed
        inner = Slow((0.0, Started()), (1e6, TextDelta("never")))
        task = asyncio.create_task(events_of(guarded(inner)))
        while not task.done() and not inner.interrupts:
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body)


def test_errors_and_a_missing_end_are_those_of_the_backend() -> None:
    class Broken(Slow):
        async def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncIterator[Event]:
            yield Started()
            raise TimeoutError("of its own")

    async def body() -> None:
        with pytest.raises(TimeoutError, match="of its own"):
            await events_of(guarded(Broken()))
        assert await events_of(guarded(Slow((0.0, Started()), (0.0, TextDelta("a"))))) == [Started(), TextDelta("a")]
        loop = [Started(), TextDelta(LOOP * 100), Failed(EngineDiedError("it died"), "")]
        assert told(await events_of(GuardedBackend(scripted(loop), GuardLimits())))[0].reason is FinishReason.REPETITION

    run(body)


def test_everything_else_is_the_backend() -> None:
    async def body() -> None:
        inner = ScriptedBackend(lambda _: say("a"))
        backend = GuardedBackend(inner, GuardLimits())
        backend.start()
        backend.prepare(ASKED)
        backend.interrupt()
        await events_of(backend, max_tokens=3)
        backend.interrupt()
        assert backend.count("four") == inner.count("four")
        assert backend.status() == inner.status()
        await backend.close()
        assert inner.prepared == [ASKED] and inner.options == [ReplyOptions(max_tokens=3)]
        assert inner.calls == ["start", "interrupt", "end of reply", "interrupt", "close"]

    run(body)


@pytest.mark.engine
def test_a_real_engine_is_stopped_and_goes_on(classic: EngineBinary, model: Path) -> None:
    """Without an end-of-turn token the bundled model loses its thread, and says one word for ever."""
    options = Settings(
        engine=str(classic.path), model=str(model), temperature=0.0, seed=1, engine_args=("--ignore-eos",)
    )

    async def body() -> None:
        resident = LocalEngineBackend(options)
        backend = GuardedBackend(resident, GuardLimits.of(options), resident.role_markers)
        try:
            conversation = Conversation().with_user("how do I leave?")
            end, _ = told(await events_of(backend, conversation))
            assert end.reason is FinishReason.REPETITION
            assert end.stats.context_size is not None and end.stats.tokens < end.stats.context_size * 0.95
            conversation = conversation.with_assistant(end.text, end.reason).with_user("what are you?")
            *_, last = await events_of(backend, conversation)
            assert isinstance(last, Completed) and last.text
        finally:
            await backend.close()

    run(body)


@pytest.mark.engine
def test_what_a_real_engine_ends_by_itself_is_unchanged(engine: EngineBinary, model: Path) -> None:
    options = Settings(engine=str(engine.path), model=str(model), temperature=0.0)

    async def body() -> None:
        replies: list[str] = []
        resident = LocalEngineBackend(options)
        try:
            for backend in (resident, GuardedBackend(resident, GuardLimits(), resident.role_markers)):
                for question in ("how do I leave?", "tell me a long story"):
                    *_, last = await events_of(backend, Conversation().with_user(question))
                    assert isinstance(last, Completed) and last.reason is FinishReason.STOP
                    replies.append(last.text)
        finally:
            await resident.close()
        assert replies[:2] == replies[2:]

    run(body)
