"""Replies that are given again: only those that would be the same, as the streams that they were, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from dataclasses import replace
from typing import Any

import pytest
from program import TIMEOUT
from scripted_backend import STATS, Gate, ScriptedBackend, by_message, say

from bitnet_chat.backend import BackendState, BackendStatus, ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.pipeline import ReplyPipeline, run
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.journal import Journal
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.server.reply_cache import CacheEntry, ReplyCache
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler

HELLO = Conversation().with_user("hello")
COLD = ReplyOptions(sampling=Sampling(temperature=0))
STATUS = BackendStatus("model", "engine", BackendState.IDLE)


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, TIMEOUT))


def filled(place: CacheEntry, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    return run(lambda: ReplyPipeline(events).then(place.filter(STATUS)))


async def fill(
    cache: ReplyCache, events: Iterable[Event | Gate], options: ReplyOptions = COLD, text: str = "hello"
) -> None:
    """What a backend says goes into the cache, and comes out of it as it is."""

    async def said() -> Any:
        for event in events:
            yield event

    place = cache.entry(cache.key("model", Conversation().with_user(text), options))
    assert place is not None and place.replay is None
    assert [event async for event in filled(place, said())] == list(events)


async def again(cache: ReplyCache, options: ReplyOptions = COLD, text: str = "hello") -> list[Event] | None:
    conversation = Conversation().with_user(text)
    place = cache.entry(cache.key("model", conversation, options))
    if place is None or place.replay is None:
        return None
    assert place.replay.status() == STATUS
    return [event async for event in place.replay.reply(conversation, options)]


def test_a_reply_is_given_again_piece_by_piece() -> None:
    async def scene() -> None:
        call = ToolCall("call_1", "weather", '{"city": "Łódź"}')
        pieces = [ThinkingDelta("Hm"), ThinkingDelta("."), TextDelta("It "), TextDelta("is \udcf0"), call]
        events = [Started(), *pieces, Completed(FinishReason.TOOL_CALLS, "It is \udcf0", STATS)]
        cache = ReplyCache()
        await fill(cache, events)
        assert await again(cache) == events
        assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)

    play(scene())


@pytest.mark.parametrize("reason", FinishReason)
def test_only_what_came_to_its_own_end_is_kept(reason: FinishReason) -> None:
    async def scene() -> None:
        cache = ReplyCache()
        await fill(cache, say("a", "b", reason=reason))
        assert (await again(cache) is not None) == (reason in ("stop", "length", "role_marker", "tool_calls"))

    play(scene())


@pytest.mark.parametrize(
    "events",
    [
        [Started(), TextDelta("a"), Failed(EngineDiedError("it died"), "a")],
        [Failed(EngineDiedError("it died"))],
        [Notice("the oldest turns left"), *say("a")],
        [Started(), TextDelta("a"), Notice("the engine was restarted"), Completed(FinishReason.STOP, "a")],
        [Started(), TextDelta("a")],
    ],
    ids=["failed in the middle", "failed", "a notice before", "a notice in the middle", "no end"],
)
def test_what_may_be_otherwise_next_time_is_not_kept(events: list[Event]) -> None:
    async def scene() -> None:
        cache = ReplyCache()
        await fill(cache, events)
        assert await again(cache) is None and cache.size == 0

    play(scene())


def test_what_repeats() -> None:
    def repeats(cache: ReplyCache, **sampling: Any) -> bool:
        return cache.entry(cache.key("model", HELLO, ReplyOptions(sampling=Sampling(**sampling)))) is not None

    cache = ReplyCache()
    assert not repeats(cache) and not repeats(cache, temperature=0.1) and not repeats(cache, top_p=0.1)
    assert repeats(cache, temperature=0) and repeats(cache, seed=0) and repeats(cache, seed=7, temperature=1.5)
    cold = ReplyCache(Sampling(temperature=0))
    assert repeats(cold) and repeats(cold, temperature=0) and not repeats(cold, temperature=0.5)
    assert repeats(ReplyCache(Sampling(seed=3))) and repeats(ReplyCache(Sampling(seed=3)), temperature=0.5)


def test_another_request_is_another_reply() -> None:
    cache = ReplyCache()
    tool = Tool("f", "does", {"type": "object", "properties": {"x": {"type": "string"}}})
    options = [
        COLD,
        replace(COLD, max_tokens=5),
        replace(COLD, stop=("x",)),
        replace(COLD, sampling=Sampling(temperature=0, seed=1)),
        replace(COLD, sampling=Sampling(temperature=0, top_k=1)),
        replace(COLD, tools=(tool,)),
        replace(COLD, tools=(replace(tool, parameters={"type": "object"}),)),
        replace(COLD, tools=(tool,), tool_choice="required"),
        replace(COLD, format=ResponseFormat()),
        replace(COLD, format=ResponseFormat({"type": "string"})),
    ]
    said = [
        HELLO,
        HELLO.with_system("Be kind."),
        HELLO.with_assistant("Hi").with_user("hello"),
        HELLO.with_assistant("Hi", FinishReason.LENGTH),
        Conversation().with_user("hello\udcf0"),
        HELLO.with_assistant("", tool_calls=(ToolCall("1", "f", "{}"),)).with_tool_result(ToolCall("1", "f", ""), "x"),
        HELLO.with_assistant("", tool_calls=(ToolCall("1", "f", "{}"),)).with_tool_result(ToolCall("1", "f", ""), "y"),
    ]
    keys = [cache.key("model", HELLO, each) for each in options] + [cache.key("m", each, COLD) for each in said]
    places = [cache.entry(key) for key in keys]
    keys = [place.key for place in places if place is not None]
    assert len(set(keys)) == len(options) + len(said)
    one = cache.entry(cache.key("m", HELLO, COLD))
    other = cache.entry(cache.key("m", HELLO, replace(COLD, timeout=5.0)))
    assert one and other and one.key == other.key


def test_the_least_recently_used_leave_when_there_are_too_many() -> None:
    async def scene() -> None:
        cache = ReplyCache(limit=5000)
        for text in "abcd":
            await fill(
                cache, say("x" * 300), text=text
            )  # 1,900 bytes each: text in pieces, the whole, and their frames
        assert cache.size <= 5000 and 1 < len(cache) < 4
        kept = [text for text in "abcd" if await again(cache, text=text)]
        assert kept == ["c", "d"]
        await again(cache, text="c")
        await fill(cache, say("x" * 300), text="e")
        assert [text for text in "cde" if await again(cache, text=text)] == ["c", "e"]
        before = cache.size
        await fill(cache, say("x" * 6000), text="large")
        assert cache.size == before and await again(cache, text="large") is None
        for event in (TextDelta("é"), TextDelta("\udcf0")):
            await fill(cache, [Started(), event, Completed(FinishReason.STOP, event.text)], text=event.text)

    play(scene())


def test_the_same_reply_twice_at_once_is_kept_once() -> None:
    async def scene() -> None:
        cache = ReplyCache()
        places = [cache.entry(cache.key("model", HELLO, COLD)) for _ in range(2)]

        async def said() -> Any:
            for event in say("a"):
                yield event

        for place in places:
            assert place is not None
            assert len([event async for event in filled(place, said())]) == 3
        size = cache.size
        assert len(cache) == 1 and 0 < size < 1000

    play(scene())


# Behind the desk


def desk_of(cache: ReplyCache, made: list[ScriptedBackend]) -> ReplyScheduler:
    def make() -> ScriptedBackend:
        made.append(ScriptedBackend(by_message))
        return made[-1]

    scheduler = ReplyScheduler(ModelManager({"scripted": BackendFactory("scripted", 1, make)}), cache=cache)
    scheduler.start()
    return scheduler


async def heard(generation: ReplyBroadcast) -> list[Event]:
    return [seen.event async for seen in generation.watch()]


def test_the_desk_gives_again_what_it_has() -> None:
    async def scene() -> None:
        made: list[ScriptedBackend] = []
        scheduler = desk_of(ReplyCache(), made)
        first = scheduler.begin(ReplyRequest(HELLO, COLD))
        end = await first.ended()
        second = scheduler.begin(ReplyRequest(HELLO, COLD))
        assert await second.ended() == end and second.text == first.text == "You said 'hello'."
        assert not first.cached and second.cached and second.id != first.id
        over = asyncio.Event()
        warm = scheduler.begin(ReplyRequest(HELLO), on_end=lambda generation: over.set())
        await over.wait()
        assert not warm.cached
        assert len(made[0].asked) == 2
        page = scheduler.metrics.render("")[0].decode()
        assert 'bitnet_chat_cached_replies_total{model="scripted"} 1.0' in page
        assert 'bitnet_chat_generated_tokens_total{model="scripted"} 22.0' in page, "what was made, not what was said"
        await scheduler.close()

    play(scene())


def test_what_was_stopped_is_asked_again() -> None:
    async def scene() -> None:
        made: list[ScriptedBackend] = []
        scheduler = desk_of(ReplyCache(), made)
        order = ReplyRequest(Conversation().with_user("wait"), COLD)
        generation = scheduler.begin(order)
        await made[0].generating.wait()
        generation.stop()
        end = await generation.ended()
        assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
        other = scheduler.begin(order)
        assert not other.cached
        made[0].open_gate()
        await other.ended()
        third = scheduler.begin(order)
        third.stop()
        stopped = await third.ended()
        assert third.cached and isinstance(stopped, Completed) and stopped.reason is FinishReason.INTERRUPTED
        fourth = scheduler.begin(order)
        assert await fourth.ended() == await other.ended(), "a replay that was stopped changes nothing"
        assert fourth.cached
        await scheduler.close()

    play(scene())


def test_a_reply_that_is_given_again_stands_in_the_journal_too() -> None:
    async def scene() -> None:
        made: list[ScriptedBackend] = []
        scheduler = desk_of(ReplyCache(), made)
        journal = Journal()
        await scheduler.begin(ReplyRequest(HELLO, COLD)).ended()
        recorder = journal.recorder(lambda text: pytest.fail(text))
        generation = scheduler.begin(ReplyRequest(HELLO, COLD, recorder=recorder))
        await heard(generation)
        await recorder.close()
        assert generation.cached
        entry = journal.list()[0]
        last = journal.load(entry.id).conversation.last
        assert last is not None and last.content == "You said 'hello'."
        await scheduler.close()

    play(scene())
