"""What one reply wants of chance, on real engines that are told so only when they start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from backend_replies import end_of, events_of, with_backend

from bitnet_chat.backend import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.errors import FinishReason, UnsupportedError
from bitnet_chat.events import Completed, Failed

STORY = Conversation().with_user("tell me a long story")


class Harness:
    """A backend, and the processes that it has started."""

    def __init__(self, settings: Settings) -> None:
        self.processes: list[EngineProcess] = []
        self.backend = LocalEngineBackend(settings, on_spawn=self.processes.append)

    async def say(self, conversation: Conversation, limit: int = 60, **sampling: float) -> str:
        options = ReplyOptions(max_tokens=limit, sampling=Sampling(**sampling))  # type: ignore[arg-type]
        return end_of(await events_of(self.backend, conversation, options)).text

    async def close(self) -> None:
        await self.backend.close()


def run(engine: EngineBinary, model: Path, body: Callable[[Harness], Awaitable[None]], **more: object) -> None:
    with_backend(lambda: Harness(Settings(engine=str(engine.path), model=str(model), **more)), body)  # type: ignore[arg-type]


@pytest.mark.engine
def test_the_same_seed_is_the_same_reply_and_another_is_another(any_engine: EngineBinary, model: Path) -> None:
    async def body(harness: Harness) -> None:
        wild = {"temperature": 2.5, "top_k": 0, "min_p": 0.0, "top_p": 1.0}
        first = await harness.say(STORY, seed=7, **wild)
        assert await harness.say(STORY, seed=7, **wild) == first
        assert await harness.say(STORY, seed=8, **wild) != first
        calm = await harness.say(STORY, temperature=0)
        assert await harness.say(STORY, temperature=0) == calm != first

    run(any_engine, model, body)


@pytest.mark.engine
def test_a_conversation_goes_on_in_one_process_while_it_wants_the_same(classic: EngineBinary, model: Path) -> None:
    async def body(harness: Harness) -> None:
        asked = Conversation().with_system("be brief").with_user("tell me a long story")
        for count, temperature in ((1, 0.0), (1, 0.0), (2, 0.5), (2, 0.5)):
            text = await harness.say(asked, 2000, temperature=temperature)
            asked = asked.with_assistant(text).with_user("how do I leave?")
            assert len(harness.processes) == count

    run(classic, model, body)


@pytest.mark.engine
def test_the_smaller_limit_of_settings_and_reply_counts(modern: EngineBinary, model: Path) -> None:
    async def body(harness: Harness) -> None:
        for wanted, made in ((5, 5), (500, 12)):
            *_, end = [event async for event in harness.backend.reply(STORY, ReplyOptions(max_tokens=wanted))]
            assert isinstance(end, Completed) and end.reason is FinishReason.LENGTH
            assert end.stats.tokens <= made + (wanted == 5) * 20, "a fast engine is a few tokens ahead of our interrupt"

    run(modern, model, body, max_tokens=12, temperature=0.0)


def test_a_grammar_is_refused_by_name(classic: EngineBinary, model: Path) -> None:
    async def body(harness: Harness) -> None:
        events = [event async for event in harness.backend.reply(STORY, ReplyOptions(format=ResponseFormat()))]
        assert isinstance(events[0], Failed) and isinstance(events[0].error, UnsupportedError) and len(events) == 1
        assert events[0].error.option == "response_format" and "--backend llama-server" in str(events[0].error)
        assert not harness.processes

    run(classic, model, body)
