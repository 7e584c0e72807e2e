"""Who gets which backend, and when: no seat lost, none given twice, people first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_backend import ScriptedBackend, say
from serving import scripted_source

from bitnet_chat.backend import Sampling
from bitnet_chat.backends.pool import BackendFactory, Pool, Slot, number
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import BusyError, EngineNotFoundError, FinishReason


def pool(parallel: int = 1, **options: int) -> Pool:
    return Pool(scripted_source(lambda _: say("hi"), [], parallel=parallel), **options)


def protocol(*texts: str) -> Conversation:
    """A conversation of user and assistant in turn."""
    conversation = Conversation()
    for index, text in enumerate(texts):
        conversation = conversation.with_assistant(text) if index % 2 else conversation.with_user(text)
    return conversation


async def lived(pool: Pool, *texts: str, sampling: Sampling | None = None) -> Slot:
    """A seat that answers the last but one of ``texts`` with the last one."""
    async with pool.lease(protocol(*texts[:-1]), sampling) as slot:
        slot.memory = protocol(*texts)
    return slot


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    asyncio.run(whole())


def test_a_conversation_comes_back_to_the_seat_that_knows_it() -> None:
    async def main() -> None:
        seats = pool(2)
        one = await lived(seats, "a", "A")
        other = await lived(seats, "b", "B")
        assert one is not other
        assert await lived(seats, "a", "A", "a2", "A2") is one
        assert await lived(seats, "b", "B", "b2", "B2") is other
        assert await lived(seats, "a", "A", "a2", "A2", "a3", "A3") is one
        assert len(seats.backends) == 2

    run(main)


def test_the_one_that_is_loaded_is_taken_before_another_is_made() -> None:
    async def main() -> None:
        backends: list[ScriptedBackend] = []
        seats = Pool(scripted_source(lambda _: say("hi"), backends, parallel=3))
        seats.start()
        await lived(seats, "a", "A")
        assert len(backends) == 1

    run(main)


def test_another_branch_of_a_conversation_takes_the_place_of_the_one_it_leaves() -> None:
    async def main() -> None:
        seats = pool(2)
        one = await lived(seats, "a", "A")
        other = await lived(seats, "b", "B")
        again = await lived(seats, "a", "A, regenerated")
        assert again is one, "though it was used more recently"
        assert await lived(seats, "b", "B", "b2", "B2") is other

    run(main)


def test_a_new_conversation_takes_the_seat_that_was_not_used_for_longest() -> None:
    async def main() -> None:
        seats = pool(2)
        one = await lived(seats, "a", "A")
        await lived(seats, "b", "B")
        assert await lived(seats, "c", "C") is one

    run(main)


def test_a_request_that_stands_for_itself_takes_the_seat_whose_loss_costs_least() -> None:
    """A conversation of several turns is kept, though others were used later; not for ever."""

    async def main() -> None:
        seats = pool(2)
        long = await lived(seats, "a" * 50, "A", "a2", "A2", "a3", "A3")
        other = await lived(seats, "b" * 50, "B")
        for at in range(3):
            assert await lived(seats, f"once {at}" * 10, "C") is other
        assert await lived(seats, "a" * 50, "A", "a2", "A2", "a3", "A3", "a4", "A4") is long
        taken = [await lived(seats, f"again {at}" * 10, "C") for at in range(40)]
        assert taken[0] is other and long in taken

    run(main)


def test_a_seat_that_draws_otherwise_does_not_know_the_conversation() -> None:
    async def main() -> None:
        seats = pool(2)
        cold = await lived(seats, "a", "A", sampling=Sampling(temperature=0.0))
        hot = await lived(seats, "x", "X", sampling=Sampling(temperature=1.5))
        async with seats.lease(protocol("a", "A", "a2"), Sampling(temperature=0.0)) as slot:
            assert slot is cold
        async with seats.lease(protocol("x", "X", "x2"), Sampling(temperature=1.5)) as slot:
            assert slot is hot

    run(main)


def test_why_a_reply_ended_and_what_was_thought_does_not_matter_to_who_knows_it() -> None:
    async def main() -> None:
        seats = pool(2)
        one = await lived(seats, "a", "A")
        await lived(seats, "b", "B")
        stored = protocol("a").with_assistant("A", FinishReason.STOP, thinking="hm").with_user("a2")
        async with seats.lease(stored) as slot:
            assert slot is one

    run(main)


def test_who_waits_comes_in_turn_and_people_before_batch_work() -> None:
    async def main() -> None:
        seats, order = pool(), []

        async def visit(name: str, urgent: bool) -> None:
            async with seats.lease(protocol(name), urgent=urgent):
                order.append(name)

        tasks = []
        async with held(seats):
            for name, urgent in (("b1", False), ("p1", True), ("b2", False), ("p2", True)):
                tasks.append(asyncio.ensure_future(visit(name, urgent)))
                await turns()
            assert (seats.busy, seats.waiting) == (1, 4)
        await asyncio.gather(*tasks)
        assert order == ["p1", "p2", "b1", "b2"]
        assert (seats.busy, seats.waiting) == (0, 0)

    run(main)


@asynccontextmanager
async def held(seats: Pool, **options: object) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A lease that is held until the function is awaited, or the block ends."""
    release, taken = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with seats.lease(protocol("held"), **options):  # type: ignore[arg-type]
            taken.set()
            await release.wait()

    task = asyncio.ensure_future(hold())
    await taken.wait()

    async def end() -> None:
        release.set()
        await task

    try:
        yield end
    finally:
        await end()


def test_too_many_are_sent_away_with_the_time_it_takes() -> None:
    async def main() -> None:
        now = [0.0]
        seats = Pool(scripted_source(lambda _: say("hi"), []), queue=2, clock=lambda: now[0])
        async with seats.lease(protocol("slow")):
            now[0] += 20.0
        async with held(seats):
            waiting = [asyncio.ensure_future(lived(seats, name, "")) for name in "ab"]
            await turns()
            with pytest.raises(BusyError, match="2 requests wait") as refused:
                await lived(seats, "c", "")
            assert refused.value.retry_after == 20.0
        await asyncio.gather(*waiting)

    run(main)


def test_a_person_is_not_sent_away_for_batch_work_that_waits() -> None:
    async def main() -> None:
        seats = pool(queue=2)

        async def batch(name: str) -> str:
            async with seats.lease(protocol(name), urgent=False):
                return name

        async with held(seats):
            one, two = asyncio.ensure_future(batch("1")), asyncio.ensure_future(batch("2"))
            await turns()
            with pytest.raises(BusyError):
                await batch("3")
            person = asyncio.ensure_future(lived(seats, "p", "P"))
            await turns()
            with pytest.raises(BusyError):
                await two
        await person
        assert await one == "1"

    run(main)


def test_batch_work_makes_way_once_for_each_person_the_newest_first() -> None:
    async def main() -> None:
        seats, asked = pool(3), []

        def way(name: str, does: bool = True) -> Callable[[], bool]:
            def make() -> bool:
                asked.append(name)
                return does

            return make

        async with (
            held(seats, urgent=False, make_way=way("old")),
            held(seats, urgent=False, make_way=way("stubborn", False)) as stubborn,
            held(seats, urgent=False, make_way=way("new")) as new,
        ):
            one = asyncio.ensure_future(lived(seats, "p1", ""))
            await turns()
            assert asked == ["new"]
            other = asyncio.ensure_future(lived(seats, "p2", ""))
            await turns()
            assert asked == ["new", "stubborn", "old"]
            await new()
            await one
            assert not other.done() or await other
            await stubborn()
            await other
        assert asked == ["new", "stubborn", "old"]

    run(main)


def test_batch_work_that_made_way_keeps_its_place_and_is_not_sent_away() -> None:
    async def main() -> None:
        seats, order = pool(queue=1), []
        turn = number()

        async def batch(name: str, **options: object) -> None:
            async with seats.lease(protocol(name), urgent=False, **options):  # type: ignore[arg-type]
                order.append(name)

        async with held(seats):
            other = asyncio.ensure_future(batch("other"))
            await turns()
            again = asyncio.ensure_future(batch("again", turn=turn, again=True))
            await turns()
            assert seats.waiting == 2
        await asyncio.gather(other, again)
        assert order == ["again", "other"]

    run(main)


def test_a_backend_that_cannot_be_made_costs_nobody_else_a_seat() -> None:
    async def main() -> None:
        made: list[ScriptedBackend] = []

        def make() -> ScriptedBackend:
            if len(made) == 1:
                raise EngineNotFoundError("the second is one too many")
            made.append(ScriptedBackend(lambda _: say("hi")))
            return made[-1]

        seats = Pool(BackendFactory("m", 2, make))
        async with held(seats):
            waiting = asyncio.ensure_future(lived(seats, "a", "A"))
            await turns()
            assert (seats.busy, seats.waiting) == (1, 1), "the first one will do"
        await waiting
        await lived(seats, "held", "H")
        assert (seats.busy, len(made)) == (0, 1)
        made.clear()
        await lived(seats, "now it can be made", "A")
        assert (seats.busy, len(seats.backends)) == (0, 2)

    run(main)


def test_a_pool_that_can_have_no_backend_says_why_to_all() -> None:
    async def main() -> None:
        def make() -> ScriptedBackend:
            raise EngineNotFoundError("there is none")

        seats = Pool(BackendFactory("m", 1, make))
        for _ in range(2):
            with pytest.raises(EngineNotFoundError):
                await lived(seats, "a", "A")
        assert (seats.busy, seats.waiting) == (0, 0)

    run(main)


def test_closing_ends_all_and_tells_who_waits() -> None:
    async def main() -> None:
        backends: list[ScriptedBackend] = []
        seats = Pool(scripted_source(lambda _: say("hi"), backends))
        async with held(seats):
            waiting = asyncio.ensure_future(lived(seats, "a", "A"))
            await turns()
            await seats.close()
            assert backends[0].calls == ["start", "close"], "though it is lent"
            with pytest.raises(BusyError):
                await waiting
            with pytest.raises(BusyError):
                await lived(seats, "b", "B")
        seats.start()
        assert len(backends) == 1

    run(main)


steps = st.lists(
    st.tuples(st.sampled_from(("come", "cancel", "turn", "leave")), st.integers(0, 20), st.booleans()), max_size=60
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(0, 4), steps)
def test_no_seat_is_lost_or_given_twice(parallel: int, queue: int, steps: list[tuple[str, int, bool]]) -> None:
    """Visitors come, are cancelled at any moment, and leave in any order."""

    async def main() -> None:
        seats = pool(parallel, queue=queue)
        taken: list[Slot] = []
        releases: list[asyncio.Event] = []
        visits: list[asyncio.Task[None]] = []

        async def visit(name: int, urgent: bool, release: asyncio.Event) -> None:
            with suppress(BusyError):
                async with seats.lease(
                    protocol(f"{name % 4}", "A", "b"), urgent=urgent, make_way=lambda: bool(name % 2)
                ) as slot:
                    assert not any(slot is each for each in taken), "given twice"
                    taken.append(slot)
                    try:
                        await release.wait()
                        slot.memory = protocol(f"{name % 4}", "A")
                    finally:
                        taken.remove(slot)

        for what, index, urgent in steps:
            if what == "come":
                releases.append(asyncio.Event())
                visits.append(asyncio.ensure_future(visit(len(visits), urgent, releases[-1])))
            elif what == "cancel" and visits:
                visits[index % len(visits)].cancel()
            elif what == "leave" and releases:
                releases[index % len(releases)].set()
            elif what == "turn":
                await turns(index % 4)
            assert len(taken) <= seats.busy <= parallel and seats.waiting <= queue + parallel
        await turns()
        assert seats.waiting == 0 or seats.busy == parallel, "somebody waits beside a free seat"
        for release in releases:
            release.set()
        await asyncio.gather(*visits, return_exceptions=True)
        assert (seats.busy, seats.waiting, taken) == (0, 0, [])
        async with asyncio.timeout(60):
            await asyncio.gather(*(lived(seats, str(name), "A") for name in range(min(parallel, queue + 1))))

    run(main)
