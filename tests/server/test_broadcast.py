"""One reply and its watchers: whatever the cuts, each gets every character once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.server.broadcast import ReplyBroadcast

DONE = Completed(FinishReason.STOP, "")
texts = st.text(st.sampled_from("abc\n äß€👩‍💻\udcf0"), min_size=1, max_size=8) | st.integers(1000, 2100).map(
    lambda size: "long ä" * (size // 6)
)
events = st.lists(
    texts.map(TextDelta) | texts.map(ThinkingDelta) | st.just(Notice("a notice")) | st.just(ToolCall("1", "add", "{}")),
    max_size=12,
)


def flat(said: list[Event]) -> list[object]:
    """Every character and every other event, one by one: what is left when the cuts are taken out."""
    found: list[object] = []
    for event in said:
        if isinstance(event, TextDelta | ThinkingDelta):
            found += [(type(event), character) for character in event.text]
        elif not isinstance(event, Completed | Failed | Started):
            found.append(event)
    return found


async def watched(generation: ReplyBroadcast, place: int, pauses: list[int]) -> list[Event]:
    """What a watcher gets that lets the loop turn so often after each piece, and leaves at 99 and comes back."""
    found: list[Event] = []
    turn = 0
    while True:
        async with aclosing(generation.watch(place)) as seen_pieces:
            async for seen in seen_pieces:
                found.append(seen.event)
                place = seen.place
                if isinstance(seen.event, Completed | Failed):
                    return found
                pause = pauses[turn % len(pauses)] if pauses else 0
                turn += 1
                if pause == 99:
                    break
                for _ in range(pause):
                    await asyncio.sleep(0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    events,
    st.lists(st.integers(0, 3), max_size=12),
    st.lists(st.tuples(st.integers(0, 3000), st.lists(st.integers(0, 3) | st.just(99), max_size=4)), max_size=4),
)
def test_every_watcher_gets_all_behind_its_place_once(
    said: list[Event], rhythm: list[int], watchers: list[tuple[int, list[int]]]
) -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        whole = flat(said)
        places = [min(place, len(whole)) for place, _ in watchers]
        tasks = [
            asyncio.ensure_future(watched(generation, place, pauses))
            for place, (_, pauses) in zip(places, watchers, strict=True)
        ]
        generation.put(Started())
        for number, event in enumerate(said):
            for _ in range(rhythm[number % len(rhythm)] if rhythm else 0):
                await asyncio.sleep(0)
            generation.put(event)
        assert len(generation.calls) == sum(isinstance(event, ToolCall) for event in said)
        generation.put(DONE)
        assert not generation.calls, "it has ended for another reason"
        for place, task in zip(places, tasks, strict=True):
            found = await task
            assert found[-1] is DONE
            assert flat(found) == whole[place:]
        late = await watched(generation, 0, [])
        assert flat(late) == whole and generation.place == len(whole)
        assert generation.text == "".join(event.text for event in said if isinstance(event, TextDelta))
        assert generation.thinking == "".join(event.text for event in said if isinstance(event, ThinkingDelta))
        assert generation.watchers == 0

    asyncio.run(main())


def test_a_place_is_that_of_the_text_wherever_it_was_cut() -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        for event in (TextDelta("Hel"), TextDelta("lo"), Notice("n"), ThinkingDelta("hm"), TextDelta("!"), DONE):
            generation.put(event)
        found = [(seen.event, seen.place) async for seen in generation.watch(1)]
        assert found == [
            (TextDelta("ello"), 5),
            (Notice("n"), 6),
            (ThinkingDelta("hm"), 8),
            (TextDelta("!"), 9),
            (DONE, 9),
        ]
        assert [seen.event async for seen in generation.watch(9)] == [DONE]
        assert [seen.event async for seen in generation.watch(1234)] == [DONE]

    asyncio.run(main())


def test_a_watcher_that_does_not_read_costs_its_place_and_nothing_else() -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        slow = generation.watch()
        generation.put(TextDelta("a"))
        assert (await anext(slow)).event == TextDelta("a")
        for _ in range(100_000):
            generation.put(TextDelta("token "))
        assert len(generation._blocks) < 700
        generation.put(DONE)
        rest = await anext(slow)
        assert isinstance(rest.event, TextDelta) and len(rest.event.text) == 600_000
        assert [seen.event async for seen in slow] == [DONE]

    asyncio.run(main())


def test_what_comes_after_the_end_is_not_heard() -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        failed = Failed(EngineDiedError("gone"))
        for event in (failed, TextDelta("late"), DONE):
            generation.put(event)
        assert await generation.ended() is failed
        assert generation.text == "" and generation.started.is_set()

    asyncio.run(main())


def test_a_notice_alone_is_no_beginning() -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        generation.put(Notice("loading takes a while"))
        assert not generation.started.is_set()
        generation.put(Started())
        assert generation.started.is_set()

    asyncio.run(main())


def test_stopping_before_anything_can_stop_it_is_remembered() -> None:
    stopped: list[str] = []
    generation = ReplyBroadcast("g", "m")
    assert generation.on_stop(lambda: stopped.append("wait"))
    generation.stop()
    assert stopped == ["wait"]
    assert not generation.on_stop(lambda: stopped.append("reply"))
    generation.put(DONE)
    generation.stop()
    assert stopped == ["wait"], "what has ended is not stopped"


def test_what_nobody_has_seen_can_begin_again() -> None:
    async def main() -> None:
        generation = ReplyBroadcast("g", "m")
        watcher = asyncio.ensure_future(watched(generation, 0, []))
        await asyncio.sleep(0)
        generation.put(Started())
        generation.put(TextDelta("first"))
        assert not generation.seen
        generation.reset()
        generation.put(TextDelta("second"))
        generation.put(DONE)
        assert await watcher == [TextDelta("second"), DONE]
        assert generation.seen

    asyncio.run(main())
