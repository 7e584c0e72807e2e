"""The pipeline of a reply: how many asynchronous frames an event passes, what filters may do, what leaving costs."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from api_server import ApiServer, ollama
from program import TIMEOUT, fake_engine
from scripted_backend import ScriptedBackend, by_message, say
from test_attach import attached

from bitnet_chat.backend import Backend, ReplyOptions, Sampling
from bitnet_chat.backends.attached_server import client as attached_client
from bitnet_chat.backends.http.client import CancellableRequest
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.ollama import ollama_backend
from bitnet_chat.backends.openai import openai_backend
from bitnet_chat.backends.pipeline import (
    BackendWrapper,
    PipelineBackend,
    ReplyFilter,
    ReplyPipeline,
    StallWatch,
    only,
    run,
)
from bitnet_chat.backends.wrappers.optional_tools import OptionalToolsBackend, SingleCallBackend
from bitnet_chat.backends.wrappers.recording import record_reply, recorded
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.backends.wrappers.tool_prompting import PromptToolAdapter
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.process import EngineProcess
from bitnet_chat.engine_output import Frame
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Notice, Started, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder
from bitnet_chat.server.reply_cache import ReplyCache
from bitnet_chat.templates.chat_template import ChatTemplate

HELLO = Conversation().with_user("say one two three")
ENDLESS = Conversation().with_user("story")
NONE = ReplyOptions()
TOOLS = ReplyOptions(tools=(Tool("add"),))
MODELS = Path(__file__).parents[1] / "data" / "models"
posix = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")

Replies = Callable[[Conversation], AsyncGenerator[Event]]


def play(scene: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(scene(), TIMEOUT))  # type: ignore[arg-type]


async def everything(events: AsyncGenerator[Event]) -> list[Event]:
    found: list[Event] = []
    async with aclosing(events):
        async for event in events:
            found.append(event)  # a comprehension is a frame of its own
    return found


# What an event passes


def asynchronous(frame: FrameType | None) -> list[str]:
    """The generators and coroutines of a stack, the innermost first, up to the reader."""
    found: list[str] = []
    while frame is not None and frame.f_code is not everything.__code__:
        if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


class Tooled(BackendWrapper):
    """Tools in the prompt of any backend."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        template = ChatTemplate((MODELS / "tool-demo.jinja").read_text("utf-8"), name="of the test")
        self._adapter = PromptToolAdapter(lambda: template, inner.reply, inner.interrupt)

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        return self._adapter.pipeline(conversation, options)


class Resident(BackendWrapper):
    """The session of an engine as a backend of its own."""

    def pipeline(self, conversation: Conversation, options: ReplyOptions) -> ReplyPipeline:
        raise AssertionError("reply is enough")

    def reply(self, conversation: Conversation, options: ReplyOptions | None = None) -> AsyncGenerator[Event]:
        assert isinstance(self.inner, LocalEngineBackend)
        return self.inner._session.reply(conversation, options or NONE)


def ways(backend: LocalEngineBackend, recorder: JournalRecorder) -> dict[str, Replies]:
    """All that stands between a resident engine and a front end, with less of it to begin with."""
    guarded = GuardedBackend(backend, GuardLimits(), backend.role_markers)
    offered = OptionalToolsBackend(guarded)
    single = SingleCallBackend(offered)
    entry = ReplyCache().entry(b"key")
    assert entry is not None
    speaking = OptionalToolsBackend(GuardedBackend(Tooled(Resident(backend)), GuardLimits()))

    def served(conversation: Conversation) -> AsyncGenerator[Event]:
        return run(
            lambda: recorded(single, recorder, conversation, NONE).then(entry.filter(backend.status()))
        )  # as a server does it

    return {
        "engine": lambda conversation: backend.reply(conversation),
        "guarded": lambda conversation: guarded.reply(conversation),
        "terminal": lambda conversation: record_reply(offered, recorder, conversation, NONE),
        "terminal with tools in the prompt": lambda conversation: record_reply(speaking, recorder, conversation, TOOLS),
        "server": served,
    }


WAYS = ("engine", "guarded", "terminal", "terminal with tools in the prompt", "server")


def on_engine(
    folder: Path, model: Path, scene: Callable[[dict[str, Replies]], object], transport: str = "pipe"
) -> None:
    async def main() -> None:
        settings = Settings(engine=str(fake_engine(folder)), model=str(model), io=transport)  # type: ignore[arg-type]
        backend, recorder = LocalEngineBackend(settings), JournalRecorder(Journal(folder / "journal.db"), pytest.fail)
        try:
            await scene(ways(backend, recorder))  # type: ignore[misc]
        finally:
            await backend.close()
            await recorder.close()

    play(main)


@posix
@pytest.mark.parametrize("way", WAYS)
def test_an_event_passes_two_generators_at_most(
    way: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the session and the loop of the pipeline, however many backends are around that of the engine."""
    stacks: list[list[str]] = []
    real = EngineProcess.frames

    async def frames(process: EngineProcess) -> list[Frame]:
        found = await real(process)
        stacks.append(asynchronous(sys._getframe(1)))
        return found

    monkeypatch.setattr(EngineProcess, "frames", frames)

    async def scene(replies: dict[str, Replies]) -> None:
        events = await everything(replies[way](HELLO))
        assert "".join(each.text for each in events if isinstance(each, TextDelta)) == "one two three"

    on_engine(tmp_path, model, scene)
    expected = ["reply"] if way == "engine" else ["reply", "run"]
    assert stacks and all(each == expected for each in stacks), stacks


def test_an_event_of_an_api_passes_three_generators_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the response, that of the backend, and the loop of the pipeline."""
    stacks: list[list[str]] = []
    real = CancellableRequest.chunk

    async def chunk(request: CancellableRequest) -> bytes:
        found = await real(request)
        stacks.append(asynchronous(sys._getframe(1)))
        return found

    monkeypatch.setattr(CancellableRequest, "chunk", chunk)

    async def main() -> None:
        async with ApiServer(ollama) as server:
            inner = ollama_backend(Settings(backend="ollama", base_url=server.url))
            backend = OptionalToolsBackend(GuardedBackend(inner, GuardLimits()))
            try:
                await everything(backend.reply(Conversation().with_user("say 3 words")))
            finally:
                await backend.close()

    play(main)
    assert stacks and all(each == ["events", "reply", "run"] for each in stacks), stacks


def test_an_event_of_an_attached_server_passes_three_generators_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the stream, that of the backend, and the loop of the pipeline."""
    stacks: list[list[str]] = []
    real = attached_client.chunk

    async def chunk(response: Any) -> bytes:
        found = await real(response)
        stacks.append(asynchronous(sys._getframe(1)))
        return found

    monkeypatch.setattr(attached_client, "chunk", chunk)

    async def main() -> None:
        async with attached(by_message) as (_, backend, _journal):
            await everything(GuardedBackend(backend, GuardLimits()).reply(HELLO))

    play(main)
    assert stacks and all(each == ["decode_events", "reply", "run"] for each in stacks), stacks


# Leaving


async def left(replies: Replies, conversation: Conversation) -> None:
    async with aclosing(replies(conversation)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break


@posix
@pytest.mark.parametrize("transport", ["pty", "pipe"])
def test_who_leaves_a_reply_of_an_engine_may_ask_at_once(transport: str, tmp_path: Path, model: Path) -> None:
    async def scene(replies: dict[str, Replies]) -> None:
        for way in WAYS:
            await left(replies[way], ENDLESS)
            end = (await everything(replies[way](HELLO)))[-1]
            assert isinstance(end, Completed) and end.text == "one two three", way

    on_engine(tmp_path, model, scene, transport)


@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_who_leaves_a_reply_of_an_api_may_ask_at_once(kind: str) -> None:
    from test_openai_backend import GOOD, script

    async def main() -> None:
        async with ApiServer(ollama if kind == "ollama" else script(GOOD)) as server:
            make = ollama_backend if kind == "ollama" else openai_backend
            url = server.url if kind == "ollama" else f"{server.url}/v1"
            inner = make(Settings(backend=kind, base_url=url))  # type: ignore[arg-type]
            backend = GuardedBackend(inner, GuardLimits())
            try:
                for each in (inner, backend):
                    await left(each.reply, Conversation().with_user("say 500 words"))
                    end = (await everything(each.reply(Conversation().with_user("say 3 words"))))[-1]
                    assert isinstance(end, Completed) and end.reason is FinishReason.STOP
            finally:
                await backend.close()

    play(main)


@pytest.mark.parametrize("kept", [True, False])
def test_who_leaves_a_reply_of_a_server_may_ask_at_once(kept: bool) -> None:
    async def main() -> None:
        async with attached(by_message, kept=kept) as (_, backend, _journal):
            await left(backend.reply, Conversation().with_user("wait"))
            end = (await everything(backend.reply(Conversation().with_user("Hello"))))[-1]
            assert isinstance(end, Completed) and end.text == "You said 'Hello'."

    play(main)


def test_a_reply_that_is_left_is_written_down_as_interrupted(tmp_path: Path) -> None:
    async def main() -> None:
        backend, journal = ScriptedBackend(lambda _: say("one", " two")), Journal(tmp_path / "journal.db")
        backend.start()
        recorder = JournalRecorder(journal, pytest.fail)
        await left(lambda conversation: record_reply(backend, recorder, conversation, NONE), HELLO)
        assert backend.calls[-1] == "end of reply"
        await recorder.close()
        last = journal.load(1).conversation.last
        assert last is not None and (last.content, last.finish) == ("one", FinishReason.INTERRUPTED)

    play(main)


# Filters


class Doubled(ReplyFilter):
    """Each text twice, and a last word."""

    closed = 0

    def feed(self, event: Event) -> Sequence[Event]:
        return (event, event) if isinstance(event, TextDelta) else (event,)

    def flush(self) -> Sequence[Event]:
        return [TextDelta("last")]

    def close(self) -> None:
        self.closed += 1


class Again(ReplyFilter):
    """Asks another source once, after the end of the first."""

    def __init__(self, other: ReplyPipeline | None) -> None:
        self.other = other

    def feed(self, event: Event) -> Sequence[Event]:
        if isinstance(event, Completed) and self.other is not None:
            self.step = self.ask_again
            return ()
        return (event,)

    async def ask_again(self) -> ReplyPipeline | None:
        other, self.other = self.other, None
        return other


async def source(events: Sequence[Event], log: list[str], name: str = "source") -> AsyncGenerator[Event]:
    log.append(f"{name} begins")
    try:
        for event in events:
            yield event
    finally:
        log.append(f"{name} ends")


A, B, END = TextDelta("a"), TextDelta("b"), Completed(FinishReason.STOP, "")


def test_events_pass_all_filters_in_order_and_so_do_last_ones() -> None:
    async def main() -> None:
        log: list[str] = []
        filters = Doubled(), Doubled()
        pipeline = ReplyPipeline(source([A, END], log)).then(filters[0]).then(filters[1])
        last = TextDelta("last")
        assert await everything(run(lambda: pipeline)) == [A, A, A, A, END, last, last, last]
        assert log == ["source begins", "source ends"] and [each.closed for each in filters] == [1, 1]

    play(main)


def test_nothing_begins_before_the_first_event_is_asked_for() -> None:
    async def main() -> None:
        made: list[int] = []
        events = run(lambda: made.append(1) or ReplyPipeline(only(END)))  # type: ignore[func-returns-value]
        await asyncio.sleep(0)
        assert not made
        assert await everything(events) == [END] and made == [1]

    play(main)


def test_a_filter_may_go_on_with_another_source() -> None:
    """What stands before it is closed and replaced; what stands behind it stays."""

    async def main() -> None:
        log: list[str] = []
        before, behind = Doubled(), Doubled()
        other = ReplyPipeline(source([B, END], log, "other"))
        pipeline = ReplyPipeline(source([A, END], log)).then(before).then(Again(other)).then(behind)
        assert await everything(run(lambda: pipeline)) == [A, A, A, A, B, B, END, TextDelta("last")]
        assert log == ["source begins", "source ends", "other begins", "other ends"]
        assert before.closed == behind.closed == 1

    play(main)


def test_a_filter_that_breaks_closes_the_source() -> None:
    class Broken(ReplyFilter):
        def feed(self, event: Event) -> Sequence[Event]:
            raise ZeroDivisionError

    async def main() -> None:
        log: list[str] = []
        doubled = Doubled()
        with pytest.raises(ZeroDivisionError):
            await everything(run(lambda: ReplyPipeline(source([A], log)).then(doubled).then(Broken())))
        assert log == ["source begins", "source ends"] and doubled.closed == 1

    play(main)


def test_wrappers_are_backends_with_a_pipeline() -> None:
    inner = ScriptedBackend(by_message)
    assert not isinstance(inner, PipelineBackend)
    wrapped: Backend
    for wrapped in (GuardedBackend(inner, GuardLimits()), OptionalToolsBackend(inner), SingleCallBackend(inner)):
        assert isinstance(wrapped, PipelineBackend)


# Time limits


async def deaf(begun: asyncio.Event) -> AsyncGenerator[Event]:
    yield Started()
    begun.set()
    await asyncio.sleep(1e6)


class Watched(ReplyFilter):
    def flush(self) -> Sequence[Event]:
        return [Notice("left")]


def test_a_source_that_does_not_end_in_time_is_left() -> None:
    async def main() -> None:
        begun = asyncio.Event()
        watch = StallWatch(lambda: None, 0.0, 0.01)
        reading = asyncio.ensure_future(everything(run(lambda: ReplyPipeline(deaf(begun)).then(Watched(), watch))))
        await begun.wait()
        watch.interrupted()
        assert await reading == [Started(), Notice("left")]
        assert watch.is_abandoned and not reading.cancelling()

    play(main)


def test_a_cancellation_from_elsewhere_is_one_whatever_the_time_limits_do() -> None:
    async def main() -> None:
        begun = asyncio.Event()
        watch = StallWatch(lambda: None, 0.0, 0.0)
        reading = asyncio.ensure_future(everything(run(lambda: ReplyPipeline(deaf(begun)).then(Watched(), watch))))
        await begun.wait()
        reading.cancel()
        watch.interrupted()
        with pytest.raises(asyncio.CancelledError):
            await reading

    play(main)


def test_sampling_is_not_touched_on_the_way() -> None:
    """The options of a reply get to the innermost backend as they are."""

    async def main() -> None:
        inner = ScriptedBackend(by_message)
        inner.start()
        options = ReplyOptions(sampling=Sampling(temperature=0.5, seed=3), max_tokens=7)
        await everything(
            SingleCallBackend(OptionalToolsBackend(GuardedBackend(inner, GuardLimits()))).reply(HELLO, options)
        )
        assert inner.options == [options]

    play(main)
