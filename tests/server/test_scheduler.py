"""From an order to its reply: stopping, making way, ending, and what breaks on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from scripted_backend import Gate, Script, ScriptedBackend, say
from serving import scripted_source

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import (
    BusyError,
    EngineDiedError,
    EngineNotFoundError,
    FinishReason,
    ShuttingDownError,
    UnknownModelError,
)
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder
from bitnet_chat.server.broadcast import ReplyBroadcast
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler, RequestDefaults

TIMEOUT = 60.0


def asks(text: str, **options: object) -> ReplyRequest:
    return ReplyRequest(Conversation().with_user(text), **options)  # type: ignore[arg-type]


def gated(conversation: Conversation) -> Iterable[Event | Gate]:
    assert conversation.last is not None
    text = conversation.last.content
    return [Started(), TextDelta(f"{text} begins"), Gate(), TextDelta(" and ends"), Completed(FinishReason.STOP, "")]


@asynccontextmanager
async def desk_of(
    script: Script, *, parallel: int = 1, queue: int = 64, **options: bool
) -> AsyncIterator[tuple[ReplyScheduler, list[ScriptedBackend]]]:
    backends: list[ScriptedBackend] = []
    source = scripted_source(script, backends, parallel=parallel, **options)  # type: ignore[arg-type]
    scheduler = ReplyScheduler(ModelManager({"m": source}, queue=queue))
    scheduler.start()
    async with asyncio.timeout(TIMEOUT):
        try:
            yield scheduler, backends
        finally:
            await scheduler.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # there is no event for all that is asked for here
        await asyncio.sleep(0)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    asyncio.run(whole())


def test_a_reply_from_order_to_end() -> None:
    async def main() -> None:
        async with desk_of(lambda _: say("Hel", "lo")) as (scheduler, backends):
            ended: list[str] = []
            generation = scheduler.begin(
                asks("hi", options=ReplyOptions(max_tokens=3)), on_end=lambda each: ended.append(each.id)
            )
            assert (generation.model, scheduler.running) == ("m", 1)
            *said, end = [seen.event async for seen in generation.watch()]
            assert said in ([TextDelta("Hello")], [TextDelta("Hel"), TextDelta("lo")])
            assert end == await generation.ended()
            await until(lambda: not scheduler.running)
            assert ended == [generation.id]
            assert backends[0].options == [ReplyOptions(max_tokens=3, alone=True)]
            assert backends[0].calls == ["start", "end of reply"]

    run(main)


def test_what_the_seat_remembers_is_the_conversation_with_its_reply() -> None:
    async def main() -> None:
        async with desk_of(lambda _: say("Hello"), parallel=2) as (scheduler, _):
            first = Conversation().with_user("a")
            await scheduler.begin(ReplyRequest(first)).ended()
            await scheduler.begin(asks("other")).ended()
            await until(lambda: not scheduler.running)
            pool = scheduler.model_manager.pools["m"]
            assert pool.seats[0].memory == first.with_assistant("Hello")
            again = ReplyRequest(first.with_assistant("Hello", FinishReason.STOP).with_user("b"))
            await scheduler.begin(again).ended()
            await until(lambda: not scheduler.running)
            assert pool.seats[0].memory.turns[-2].content == "b"
            cold = ReplyOptions(sampling=Sampling(temperature=0.0))
            await scheduler.begin(ReplyRequest(Conversation().with_user("z"), cold)).ended()
            await until(lambda: not scheduler.running)
            assert [slot.sampling.temperature for slot in pool.seats] == [None, 0.0]

    run(main)


def test_what_holds_where_an_order_says_nothing() -> None:
    async def main() -> None:
        backends: list[ScriptedBackend] = []
        model_manager = ModelManager({"m": scripted_source(lambda _: say("hi"), backends)})
        scheduler = ReplyScheduler(model_manager, defaults=RequestDefaults("Be brief.", max_tokens=7, timeout=60.0))
        scheduler.start()
        await scheduler.begin(asks("one")).ended()
        said = ReplyRequest(
            Conversation().with_system("Be long.").with_user("two"), ReplyOptions(max_tokens=9, timeout=5.0)
        )
        await scheduler.begin(said).ended()
        assert [each.system for each in backends[0].asked] == ["Be brief.", "Be long."]
        assert [(each.max_tokens, each.timeout) for each in backends[0].options] == [(7, 60.0), (9, 5.0)]
        await scheduler.close()

    run(main)


def test_stopping_at_every_moment_ends_the_reply_and_frees_the_seat() -> None:
    """After n turns of the loop, for every n until it has ended by itself."""

    async def main() -> None:
        async with desk_of(lambda _: say(*"abcd")) as (scheduler, _):
            reasons: list[FinishReason] = []
            while FinishReason.STOP not in reasons:
                generation = scheduler.begin(asks("hi"))
                for _ in range(len(reasons)):
                    await asyncio.sleep(0)
                generation.stop()
                end = await generation.ended()
                assert isinstance(end, Completed) and end.text == generation.text
                reasons.append(end.reason)
                await until(lambda: not scheduler.running)
                pool = scheduler.model_manager.pools["m"]
                assert (pool.busy, pool.waiting) == (0, 0)
            assert len(reasons) > 5 and set(reasons[:-1]) == {FinishReason.INTERRUPTED}

    run(main)


def test_stopping_reaches_the_engine_at_once() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            generation = scheduler.begin(asks("hi"))
            await until(lambda: bool(generation.text))
            generation.stop()
            assert backends[0].calls[-1] == "interrupt", "before the loop has turned"
            end = await generation.ended()
            assert isinstance(end, Completed)
            assert (end.reason, end.text) == (FinishReason.INTERRUPTED, "hi begins")

    run(main)


def test_who_waits_can_be_stopped_while_the_engine_is_busy_or_loads() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            busy = scheduler.begin(asks("hi"))
            await until(lambda: bool(busy.text))
            waiting = scheduler.begin(asks("next"))
            await until(lambda: scheduler.model_manager.pools["m"].waiting == 1)
            waiting.stop()
            end = await waiting.ended()
            assert isinstance(end, Completed) and (end.reason, end.text) == (FinishReason.INTERRUPTED, "")
            assert scheduler.model_manager.pools["m"].waiting == 0
            assert "interrupt" not in backends[0].calls, "that is the reply of somebody else"
            backends[0].open_gate()
            assert (await busy.ended()).text == ""
            assert busy.text == "hi begins and ends"
        async with desk_of(gated, gated=True) as (scheduler, backends):
            loading = scheduler.begin(asks("hi"))
            await until(lambda: bool(backends[0].asked))
            loading.stop()
            assert isinstance(await loading.ended(), Completed)

    run(main)


def test_one_that_is_stopped_before_it_begins_never_reaches_an_engine() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            generation = scheduler.begin(asks("hi"))
            generation.stop()
            assert isinstance(await generation.ended(), Completed)
            await until(lambda: not scheduler.running)
            assert backends[0].asked == []

    run(main)


def test_too_many_and_unknown_models() -> None:
    async def main() -> None:
        async with desk_of(gated, queue=1) as (scheduler, backends):
            with pytest.raises(UnknownModelError):
                scheduler.begin(asks("hi", model="other"))
            replies = [scheduler.begin(asks(str(number))) for number in range(4)]
            ends = [await reply.ended() for reply in replies[2:]]
            assert all(isinstance(end, Failed) and isinstance(end.error, BusyError) for end in ends)
            for _ in replies[:2]:
                backends[0].open_gate()
            await asyncio.gather(*(reply.ended() for reply in replies))
            assert [reply.text for reply in replies] == ["0 begins and ends", "1 begins and ends", "", ""]

    run(main)


async def overtaken(scheduler: ReplyScheduler) -> tuple[ReplyBroadcast, ReplyBroadcast]:
    """A reply of batch work that has begun, and an urgent one that it has made way for."""
    batch = scheduler.begin(asks("batch", urgent=False))
    await until(lambda: bool(batch.text))
    return batch, await urgent(scheduler)


async def urgent(scheduler: ReplyScheduler) -> ReplyBroadcast:
    person = scheduler.begin(asks("person"))
    await until(lambda: bool(person.text))
    return person


def test_batch_work_makes_way_for_people_and_begins_again() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            batch, person = await overtaken(scheduler)
            assert "interrupt" in backends[0].calls
            assert (batch.text, batch.end) == ("", None)
            backends[0].open_gate()
            await person.ended()
            await until(lambda: bool(batch.text))
            backends[0].open_gate()
            await batch.ended()
            assert (person.text, batch.text) == ("person begins and ends", "batch begins and ends")

    run(main)


def test_batch_work_that_was_seen_or_is_written_down_does_not_make_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            recorder = JournalRecorder(Journal(tmp_path / "journal.db"), lambda line: None)
            for batch in (asks("seen", urgent=False), asks("written", urgent=False, recorder=recorder)):
                reply = scheduler.begin(batch)
                if batch.recorder is None:
                    await anext(reply.watch())
                await until(lambda: bool(reply.text))  # noqa: B023
                person = scheduler.begin(asks("person"))
                await until(lambda: scheduler.model_manager.pools["m"].waiting == 1)
                assert "interrupt" not in backends[0].calls
                for each in (reply, person):
                    backends[0].open_gate()
                    await each.ended()
                assert reply.text.endswith("begins and ends")
            await recorder.close()

    run(main)


def test_batch_work_makes_way_so_often_and_then_ends() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            batch = scheduler.begin(asks("batch", urgent=False))
            for _ in range(3):
                await until(lambda: bool(batch.text))
                person = await urgent(scheduler)
                backends[0].open_gate()
                await person.ended()
            await until(lambda: bool(batch.text))
            person = scheduler.begin(asks("person"))
            await until(lambda: scheduler.model_manager.pools["m"].waiting == 1)
            assert batch.text, "it does not make way any more"
            backends[0].open_gate()
            assert isinstance(await batch.ended(), Completed)
            backends[0].open_gate()
            await person.ended()

    run(main)


def test_batch_work_that_makes_way_can_be_stopped() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            batch, person = await overtaken(scheduler)
            batch.stop()
            end = await batch.ended()
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
            assert scheduler.model_manager.pools["m"].waiting == 0
            backends[0].open_gate()
            await person.ended()

    run(main)


class Broken(ScriptedBackend):
    """Raises what no backend should."""

    async def reply(self, conversation: Conversation, options: ReplyOptions = ReplyOptions()) -> AsyncIterator[Event]:  # noqa: B008
        yield Started()
        yield TextDelta("so far")
        raise ZeroDivisionError("a fault of the program")


def test_a_fault_in_one_reply_is_told_and_takes_nothing_with_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        backends = iter([Broken(lambda _: []), ScriptedBackend(lambda _: say("fine"))])
        scheduler = ReplyScheduler(ModelManager({"m": BackendFactory("m", 2, lambda: next(backends))}))
        scheduler.start()
        broken = await scheduler.begin(asks("one")).ended()
        assert isinstance(broken, Failed) and isinstance(broken.error, EngineDiedError) and broken.text == "so far"
        assert "ZeroDivisionError" in caplog.text
        whole = scheduler.begin(asks("two"))
        await whole.ended()
        assert whole.text == "fine"
        await scheduler.close()

    run(main)


def test_an_engine_that_is_missing_is_what_the_reply_fails_with() -> None:
    async def main() -> None:
        def make() -> ScriptedBackend:
            raise EngineNotFoundError("no engine")

        scheduler = ReplyScheduler(ModelManager({"m": BackendFactory("m", 1, make)}))
        end = await scheduler.begin(asks("hi")).ended()
        assert isinstance(end, Failed) and isinstance(end.error, EngineNotFoundError)
        await scheduler.close()

    run(main)


def test_an_ending_desk_finishes_what_is_under_way_and_refuses_the_rest() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            reply = scheduler.begin(asks("hi"))
            await until(lambda: bool(reply.text))
            closing = asyncio.ensure_future(scheduler.close(grace=TIMEOUT))
            await until(scheduler.ending.is_set)
            with pytest.raises(ShuttingDownError):
                scheduler.begin(asks("too late"))
            backends[0].open_gate()
            await closing
            assert reply.text == "hi begins and ends" and backends[0].calls[-1] == "close"

    run(main)


def test_an_ending_desk_stops_what_has_no_time_left_and_marks_it(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path / "journal.db")
        recorder = JournalRecorder(journal, lambda line: None)
        async with desk_of(gated) as (scheduler, _):
            reply = scheduler.begin(asks("hi", recorder=recorder))
            waiting = scheduler.begin(asks("next"))
            await until(lambda: bool(reply.text))
            await scheduler.close(grace=0.01)
            for each in (reply, waiting):
                end = await each.ended()
                assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
        await recorder.close()
        stored = journal.load(journal.list()[0].id)
        last = stored.conversation.last
        assert last is not None and (last.content, last.finish) == ("hi begins", FinishReason.INTERRUPTED)

    run(main)


def test_a_desk_that_is_told_twice_to_end_waits_no_longer() -> None:
    async def main() -> None:
        async with desk_of(gated) as (scheduler, backends):
            reply = scheduler.begin(asks("hi"))
            await until(lambda: bool(reply.text))
            closing = asyncio.ensure_future(scheduler.close(grace=1e6))
            await until(scheduler.ending.is_set)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            end = await reply.ended()
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
            assert backends[0].calls[-1] == "close"

    run(main)
