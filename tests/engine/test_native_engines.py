"""A session with each prebuilt library: figures, limits, formats, progress, a small window, and no process left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from backend_replies import end_of, events_of, with_backend
from program import ENTER, Start, assert_gone, run, start

from bitnet_chat.backend import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.variants import variants_of
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, PromptProgress, TextDelta

__all__ = ["start"]
pytestmark = pytest.mark.engine
HELLO, STORY = Conversation().with_user("hello"), Conversation().with_user("tell me a long story")
REPLY = "Hello! Ask me how to use bitnet-chat."
"""11 tokens of the bundled model, and one that ends it."""


def protocol(
    engine: EngineBinary, model: Path, body: Callable[[LocalEngineBackend], Awaitable[None]], **more: object
) -> None:
    settings = Settings(engine=str(engine.path), model=str(model), temperature=0.0, threads=1, **more)  # type: ignore[arg-type]
    pids: set[int] = set()

    with_backend(lambda: LocalEngineBackend(settings, on_spawn=lambda process: pids.add(process.pid)), body)
    assert len(pids) == 1, "one process for everything"


async def ask(backend: LocalEngineBackend, asked: Conversation, options: ReplyOptions | None = None) -> Completed:
    return end_of(await events_of(backend, asked, options))


def test_figures_and_limits(any_native: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        end = await ask(backend, HELLO)
        stats = end.stats
        assert (end.text, end.reason, stats.tokens, stats.exact) == (REPLY, FinishReason.STOP, 11, True)
        assert stats.prompt_size is not None and stats.context_used == stats.prompt_size + 12
        assert backend.status().context_used == stats.context_used and backend.status().context_exact
        more = await ask(backend, HELLO.with_assistant(end.text).with_user("hello"))
        new, size = more.stats.prompt_tokens, more.stats.prompt_size
        assert new is not None and size is not None and 0 < new < size, "what it knew already is not new"
        for limit in (1, 2, 7, 30):
            end = await ask(backend, STORY, ReplyOptions(max_tokens=limit))
            counted = backend.count(end.text)
            assert (end.reason, end.stats.tokens) == (FinishReason.LENGTH, limit)
            assert counted is not None and counted.count == limit
        for limit in (10, 11, 12):  # a reply that has just as many tokens is whole
            end = await ask(backend, HELLO, ReplyOptions(max_tokens=limit))
            assert end.text == (REPLY if limit > 10 else REPLY[:-1]), limit
        end = await ask(backend, STORY, ReplyOptions(stop=("small model",)))
        assert end.reason is FinishReason.STOP and end.text.endswith("a ") and "small" not in end.text

    protocol(any_native, model, body)


def test_a_history_is_read_before_there_is_a_message(any_native: EngineBinary, model: Path) -> None:
    ended = asyncio.Event()

    class Tape:
        def output(self, data: bytes) -> None:
            if b'"ended"' in data:
                ended.set()

        def wrote(self, data: bytes, *, command: bool) -> None: ...
        def logged(self, data: bytes) -> None: ...
        def signalled(self, name: str) -> None: ...
        def exited(self, code: int) -> None: ...

    def spawned(process: EngineProcess) -> None:
        process.trace_listener = Tape()

    async def main() -> None:
        backend = LocalEngineBackend(
            Settings(engine=str(any_native.path), model=str(model), temperature=0.0, threads=1), on_spawn=spawned
        )
        history = Conversation().with_system("You are brief. " * 20).with_user("hello").with_assistant(REPLY)
        backend.prepare(history)
        await ended.wait()
        stats = (await ask(backend, history.with_user("hello"))).stats
        assert stats.prompt_tokens is not None and stats.prompt_tokens < 10 and (stats.prompt_size or 0) > 60
        await backend.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_reply_in_a_format(any_native: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        end = await ask(backend, STORY, ReplyOptions(format=ResponseFormat({"enum": ["Ada", "Bo"]})))
        assert end.reason is FinishReason.STOP and json.loads(end.text) in ("Ada", "Bo")
        assert (await ask(backend, HELLO)).text == REPLY, "the next reply has no format"

    protocol(any_native, model, body)


def test_how_far_a_prompt_is_read(any_native: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user("hello there my friend " * 200)
        events: list[Event] = []
        async for event in backend.reply(asked, ReplyOptions(max_tokens=2)):
            events.append(event)
        told = [event for event in events if isinstance(event, PromptProgress)]
        end = events[-1]
        assert isinstance(end, Completed) and len(told) > 2
        assert {event.total for event in told} == {end.stats.prompt_size}
        assert [event.done for event in told] == sorted(event.done for event in told)
        assert isinstance(events[events.index(told[-1]) + 1], TextDelta | Completed)

    protocol(any_native, model, body, ctx=2048)


def test_many_turns_in_a_small_window(any_native: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation, left = Conversation().with_system("You are brief."), 0
        for number in range(60):
            asked = conversation.with_user(("hello", "how do I leave?", "my name is Ada")[number % 3])
            end = None
            async for event in backend.reply(asked):
                if isinstance(event, Completed):
                    end = event
                left += "left it" in getattr(event, "text", "") and not isinstance(event, Completed | TextDelta)
            assert end is not None and end.reason is FinishReason.STOP, number
            assert (end.stats.context_used or 0) < 256 == end.stats.context_size
            conversation = asked.with_assistant(end.text, end.reason)
        assert left > 5

    protocol(any_native, model, body, ctx=256)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
@pytest.mark.parametrize("io", ["pty", "pipe"])
def test_no_process_is_left_behind_a_program_that_was_killed(
    start: Start, any_native: EngineBinary, model: Path, io: str
) -> None:
    terminal = start("--engine", str(any_native.path), "-m", str(model), "-t", "1", "--io", io)
    terminal.until(lambda: terminal.prompt == "")
    terminal.send("tell me a long story", ENTER)
    terminal.until("small model")
    engines = terminal.running_engines()
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.end()
    assert_gone(engines)


def test_the_engines_that_buffer_what_they_say(classic: EngineBinary, native: EngineBinary, model: Path) -> None:
    """What they say on a pipe comes in bursts, and is shown at an even pace."""
    told = {}
    for engine in (classic, native):
        for io in ("pty", "pipe"):
            backend = LocalEngineBackend(Settings(engine=str(engine.path), model=str(model), io=io))  # type: ignore[arg-type]
            told[engine.dialect.value, io] = backend.status().in_bursts
    assert told.pop(("classic", "pipe")) and not any(told.values())


def test_an_engine_by_its_name_and_a_report_of_it(native: EngineBinary, model: Path, tmp_path: Path) -> None:
    """``--engine llama.cpp``; the recording of such a session can be read, with its words masked."""
    assert packages.name_of(native) == "llama.cpp"
    words = ["--engine", str(native.path), "-m", str(model), "-t", "1", "--temp", "0"]
    done = json.loads(run(*words, "--json", "hello").stdout)
    assert (done["reply"], done["engine"]) == (REPLY, "llama.cpp (native)")
    for options, message, reply in (
        ([], "xxxxx", "Xxxxx! Xxx xx xxx xx xxx xxxxxx-xxxx."),
        (["--with-text"], "hello", REPLY),
    ):
        report = tmp_path / "report.jsonl"
        assert run("report", *options, "--force", "-o", str(report)).returncode == 0
        shown = run("replay", "--speed", "0", str(report)).stdout.decode()
        assert f"> {message}\n{reply}\n" in shown, shown
        assert ("hello" in report.read_text() + shown) is bool(options)


def test_several_replies_are_the_single_ones(any_native: EngineBinary, model: Path) -> None:
    """At once or one after another, as the library can; the engine goes on with any of them in the same process."""

    async def body(backend: LocalEngineBackend) -> None:
        for temperature in (0.0, 0.9):
            sampling = Sampling(temperature=temperature, seed=3)
            options = ReplyOptions(max_tokens=20, sampling=sampling)
            alone = [(await ask(backend, STORY, options.for_variant(number))).text for number in range(3)]
            ends: dict[int, Completed] = {}
            async for each in variants_of(backend, STORY, options, 3):
                if isinstance(each.event, Completed):
                    ends[each.variant] = each.event
            assert [ends[number].text for number in range(3)] == alone
            assert all(end.stats.exact and end.stats.tokens <= 20 for end in ends.values())
            for end in ends.values():
                followed = await ask(backend, STORY.with_assistant(end.text).with_user("hello"))
                new, size = followed.stats.prompt_tokens, followed.stats.prompt_size
                assert new is not None and size is not None and new <= size - (end.stats.prompt_size or 0) + 2

    protocol(any_native, model, body)
