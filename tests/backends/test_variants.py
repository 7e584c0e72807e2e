"""Several replies of any backend: in sequence, with an end for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

import pytest
from scripted_backend import STATS, Gate, ScriptedBackend

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.variants import MOST, options_of, variants_of
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import EngineDiedError, FinishReason, UsageError
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta, VariantEvent
from bitnet_chat.util.merge_generators import merged

ASKED = Conversation().with_user("hi")


def script(conversation: Conversation) -> Iterable[Event | Gate]:
    return [Started(), TextDelta("hel"), TextDelta("lo"), Completed(FinishReason.STOP, "hello", STATS)]


async def collected(backend: ScriptedBackend | GuardedBackend, options: ReplyOptions, count: int) -> list[VariantEvent]:
    return [each async for each in variants_of(backend, ASKED, options, count)]


def ends(events: list[VariantEvent]) -> list[object]:
    return [each.event.reason for each in events if isinstance(each.event, Completed)]


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_a_number_that_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"from 1 to {MOST}"):
        variants_of(ScriptedBackend(script), ASKED, ReplyOptions(), count)


def test_each_has_a_seed_of_its_own() -> None:
    backend = ScriptedBackend(script)
    backend._loaded.set()
    events = asyncio.run(collected(backend, ReplyOptions(sampling=Sampling(seed=4)), 3))
    assert [each.sampling.seed for each in backend.options] == [4, 5, 6]
    assert ends(events) == [FinishReason.STOP] * 3
    assert options_of(ReplyOptions(), 2) == ReplyOptions()


def test_nothing_begins_after_an_interrupt() -> None:
    async def main(wrapped: bool, at: type[Event]) -> None:
        backend = ScriptedBackend(script)
        backend._loaded.set()
        whole = GuardedBackend(backend, GuardLimits(), advice="nothing") if wrapped else backend
        found = []
        async for each in variants_of(whole, ASKED, ReplyOptions(), 3):
            found.append(each)
            if isinstance(each.event, at) and each.variant == 0:
                whole.interrupt()
        expected = FinishReason.INTERRUPTED if at is TextDelta else FinishReason.STOP
        assert ends(found) == [expected, FinishReason.INTERRUPTED, FinishReason.INTERRUPTED]
        assert len(backend.asked) == 1

    asyncio.run(main(False, TextDelta))
    asyncio.run(main(True, TextDelta))
    asyncio.run(main(True, Completed))


def test_a_request_that_fails_is_not_repeated() -> None:
    backend = ScriptedBackend(lambda conversation: [Failed(EngineDiedError("it is gone"))])
    backend._loaded.set()
    events = asyncio.run(collected(backend, ReplyOptions(), 3))
    assert [type(each.event) for each in events] == [Failed] * 3 and [each.variant for each in events] == [0, 1, 2]
    assert len(backend.asked) == 1


def test_the_time_limit_is_that_of_all() -> None:
    class Slow(ScriptedBackend):
        async def reply(self, conversation: Conversation, options: ReplyOptions = ReplyOptions()):  # type: ignore[no-untyped-def]  # noqa: B008
            self.options.append(options)
            await asyncio.sleep(0.2)
            yield Completed(FinishReason.STOP, "", STATS)

    backend = Slow(script)
    events = asyncio.run(collected(backend, ReplyOptions(timeout=0.3), 4))
    assert ends(events)[-1] is FinishReason.TIMEOUT and ends(events)[0] is FinishReason.STOP
    assert [each.timeout is not None and each.timeout <= 0.3 for each in backend.options] == [True] * len(
        backend.options
    )
    assert len(backend.options) < 4


def test_merged_generators() -> None:
    closed: list[str] = []

    async def source(name: str, fails: bool = False) -> AsyncGenerator[str]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield f"{name}{number}"
            if fails:
                raise ValueError(name)
        finally:
            closed.append(name)

    async def main() -> None:
        found = [each async for each in merged([source("a"), source("b")])]
        assert [text for number, text in found if number == 1] == ["b0", "b1", "b2"] and len(found) == 6
        events = merged([source("c"), source("d")])
        assert (await anext(events))[1][1] == "0"
        await events.aclose()
        assert sorted(closed) == ["a", "b", "c", "d"]
        with pytest.raises(ValueError, match="e"):
            async for _ in merged([source("e", fails=True), source("f")]):
                pass

    asyncio.run(main())
