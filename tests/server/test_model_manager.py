"""Several models: loaded on demand, the least recently used unloaded, and nothing that answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from program import TIMEOUT, engines_of
from scripted_backend import NO_LIMITS, ScriptedBackend, by_message
from serving import ServedProcess, served_process

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import BusyError, ModelError, UnknownModelError, UsageError
from bitnet_chat.events import Completed, Event, Failed
from bitnet_chat.server import model_manager as catalogue_module
from bitnet_chat.server.model_manager import ModelCard, ModelManager, read_card
from bitnet_chat.server.scheduler import ReplyRequest, ReplyScheduler

HELLO = Conversation().with_user("hello")


class SlowToClose(ScriptedBackend):
    """Loads when it is asked, as an engine does. Its end waits for an event, where it has one."""

    def __init__(self, name: str, ends: asyncio.Event | None) -> None:
        super().__init__(by_message, name=name)
        self.ends = ends
        self.closed = False

    def reply(self, conversation: Conversation, options: ReplyOptions = NO_LIMITS) -> AsyncIterator[Event]:
        if self._loading is None:
            self.start()
        return super().reply(conversation, options)

    async def close(self) -> None:
        if self.ends is not None:
            await self.ends.wait()
        self.closed = True
        await super().close()


class Shelf:
    """A catalogue of models that need as much memory as is said, and all backends that were made for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], limit: int = 0, queue: int = 64) -> None:
        self.sizes, self.limit = sizes, limit
        self.made: list[SlowToClose] = []
        self.ends: asyncio.Event | None = None
        monkeypatch.setattr(catalogue_module, "read_card", lambda name, source: ModelCard(name, memory=sizes[name]))
        sources = {name: BackendFactory(name, 1, self._maker(name)) for name in sizes}
        self.model_manager = ModelManager(sources, queue=queue, memory_limit=limit)

    def _maker(self, name: str) -> Callable[[], SlowToClose]:
        def make() -> SlowToClose:
            self.made.append(SlowToClose(name, self.ends))
            taken = sum(self.sizes[each.name] for each in self.made if not each.closed)
            assert not self.limit or taken <= self.limit, "more is loaded than may be"
            return self.made[-1]

        return make

    @property
    def alive(self) -> list[str]:
        return sorted(each.name for each in self.made if not each.closed)

    @asynccontextmanager
    async def answering(self, name: str) -> AsyncIterator[None]:
        async with self.model_manager.held(name) as pool, pool.lease(HELLO):
            yield

    async def use(self, *names: str) -> None:
        for name in names:
            async with self.answering(name):
                pass

    def later(self, name: str, until: asyncio.Event | None = None) -> Visitor:
        return Visitor(self, name, until)


class Visitor:
    """Somebody who uses a model in the background. ``inside``: set when it has been let in."""

    def __init__(self, shelf: Shelf, name: str, until: asyncio.Event | None) -> None:
        self.inside, self.until = asyncio.Event(), until or asyncio.Event()
        self._work = self._visit(shelf, name)
        self.task = asyncio.ensure_future(self._work)

    async def _visit(self, shelf: Shelf, name: str) -> None:
        async with shelf.answering(name):
            self.inside.set()
            await self.until.wait()

    async def leave(self) -> None:
        self.until.set()
        await self.task


async def settle() -> None:
    """All that can happen without anything new happening has happened. Cards are read in a thread: once for each."""
    for _ in range(50):
        await asyncio.sleep(0)


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, TIMEOUT))


def test_the_card_of_the_bundled_model(model: Path) -> None:
    card = read_card("demo", BackendFactory("demo", 1, lambda: ScriptedBackend(by_message), path=model, context=1000))
    assert (card.name, card.size, card.window) == ("demo", model.stat().st_size, 1024)
    assert card.architecture and card.parameters > 1000 and card.quantization and card.trained and card.template
    assert card.modified == model.stat().st_mtime
    three = read_card("demo", BackendFactory("demo", 3, lambda: ScriptedBackend(by_message), path=model, context=1000))
    assert card.memory > card.size, "a window takes room too"
    assert three.memory - card.memory == 2 * (card.memory - card.size), "the weights are shared"


def test_a_card_of_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing else")
    for path in (broken, tmp_path / "missing.gguf", tmp_path):
        assert read_card("x", BackendFactory("x", 1, lambda: ScriptedBackend(by_message), path=path)) == ModelCard("x")
    assert read_card("far", BackendFactory("far", 1, lambda: ScriptedBackend(by_message), context=512)).window == 512


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(monkeypatch, {"main": 1, "code": 1}).model_manager
    assert shelf.names == ["main", "code"]
    assert shelf.listed == ["main", "code", "auto"]
    assert shelf.choose("") == "main"
    assert shelf.choose("code") == "code"
    assert shelf.choose("auto") == "main"
    assert shelf.choose("auto", Conversation().with_user("my python script")) == "code"
    with pytest.raises(UnknownModelError, match=r"'gpt-4'.*\n.*main, code, auto"):
        shelf.choose("gpt-4")
    alone = Shelf(monkeypatch, {"main": 1}).model_manager
    assert alone.listed == ["main"]
    assert alone.choose("auto") == "main"
    with pytest.raises(UsageError, match="'auto'"):
        Shelf(monkeypatch, {"auto": 1})


def test_windows_are_those_of_the_files_until_a_backend_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 1})
        monkeypatch.setattr(catalogue_module, "read_card", lambda name, source: ModelCard(name, window=512))
        assert shelf.model_manager.window("a") == 0
        assert (await shelf.model_manager.card("a")).window == shelf.model_manager.window("a") == 512
        await shelf.use("a")
        assert shelf.model_manager.window("a") == 2048
        await shelf.model_manager.close()

    play(scene())


def test_models_are_loaded_when_they_are_asked_for_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 1, "b": 1, "c": 1})
        shelf.model_manager.start()
        await settle()
        assert shelf.alive == ["a"], "the default one"
        await shelf.use("b", "a", "b")
        assert [each.name for each in shelf.made] == ["a", "b"]
        assert shelf.model_manager.loaded == ["a", "b"]
        await shelf.model_manager.load("c")
        assert shelf.made[-1].calls == ["start"]
        await shelf.model_manager.close()
        assert shelf.alive == []

    play(scene())


def test_the_least_recently_used_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 4, "b": 4, "c": 4, "large": 10, "small": 1}, limit=10)
        await shelf.use("a", "b", "c")
        assert shelf.alive == ["b", "c"]
        await shelf.use("b", "a")
        assert shelf.alive == ["a", "b"]
        await shelf.use("small")
        assert shelf.alive == ["a", "b", "small"]
        await shelf.use("large")
        assert shelf.alive == ["large"]
        await shelf.use("a")
        assert shelf.alive == ["a"]
        await shelf.model_manager.close()

    play(scene())


def test_what_answers_is_not_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 4, "b": 4, "c": 4}, limit=10)
        await shelf.use("a", "b")
        first = shelf.later("a")
        await first.inside.wait()
        await shelf.use("c")
        assert shelf.alive == ["a", "c"], "b was used later than a, and was idle"
        second = shelf.later("c")
        await second.inside.wait()
        newcomer = shelf.later("b")
        await settle()
        assert not newcomer.inside.is_set() and shelf.model_manager.waiting == 1
        await second.leave()
        await newcomer.inside.wait()
        assert shelf.alive == ["a", "b"]
        await first.leave()
        await newcomer.leave()
        await shelf.model_manager.close()

    play(scene())


def test_neither_keeps_the_other_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes for a model whose room is waited for goes behind who waits; other models are not concerned."""

    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 6, "b": 6, "c": 4}, limit=10)
        a, c = shelf.later("a"), shelf.later("c")
        await a.inside.wait()
        await c.inside.wait()
        b = shelf.later("b")
        await settle()
        more, other = shelf.later("a"), shelf.later("c")
        await settle()
        await c.leave()
        await other.inside.wait()
        assert not b.inside.is_set() and not more.inside.is_set()
        await a.leave()
        await b.inside.wait()
        assert not more.inside.is_set()
        await b.leave()
        await more.inside.wait()
        for each in (more, other):
            await each.leave()
        await shelf.model_manager.close()

    play(scene())


def test_who_goes_away_while_it_waits_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 6, "b": 6}, limit=10)
        a = shelf.later("a")
        await a.inside.wait()
        b = shelf.later("b")
        await settle()
        behind = shelf.later("a")
        await settle()
        assert shelf.model_manager.waiting == 2
        b.task.cancel()
        await settle()
        assert b.task.cancelled() and shelf.model_manager.waiting == 0, "the way is free again"
        await a.leave()
        await behind.inside.wait()
        await behind.leave()
        assert [each.name for each in shelf.made] == ["a"]
        await shelf.model_manager.close()

    play(scene())


def test_a_request_for_a_model_that_is_being_unloaded_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 6, "b": 6}, limit=10)
        shelf.ends = asyncio.Event()
        await shelf.use("a")
        b = shelf.later("b")
        await settle()
        again = shelf.later("a")
        await settle()
        assert shelf.alive == ["a"] and not again.inside.is_set()
        b.task.cancel()  # who wanted it gone is gone itself: it still ends in order
        await settle()
        assert len(shelf.made) == 1 and not again.inside.is_set()
        shelf.ends.set()
        await again.inside.wait()
        assert [each.name for each in shelf.made] == ["a", "a"] and shelf.made[0].closed
        await again.leave()
        await shelf.model_manager.close()

    play(scene())


def test_what_can_never_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 4, "large": 3_000_000_000}, limit=2_000_000_000)
        await shelf.use("a")
        with pytest.raises(ModelError, match=r"large needs 3\.0 GB.* 2\.0 GB"):
            await shelf.use("large")
        assert shelf.alive == ["a"], "and nothing was unloaded for it"
        scheduler = ReplyScheduler(shelf.model_manager)
        end = await scheduler.begin(ReplyRequest(HELLO, model="large")).ended()
        assert isinstance(end, Failed) and isinstance(end.error, ModelError)
        assert isinstance(await scheduler.begin(ReplyRequest(HELLO, model="a")).ended(), Completed)
        await scheduler.close()

    play(scene())
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" * 100)
    with pytest.raises(ModelError, match="x needs"):
        ModelManager({"x": BackendFactory("x", 1, lambda: ScriptedBackend(by_message), path=file)}, memory_limit=399)


def test_the_default_model_is_loaded_at_the_start_if_it_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(size: int) -> None:
        shelf = Shelf(monkeypatch, {"a": size}, limit=10)
        with caplog.at_level(logging.WARNING, "bitnet_chat.server"):
            shelf.model_manager.start()
            await asyncio.wait(shelf.model_manager._tasks)
        assert shelf.alive == (["a"] if size <= 10 else [])
        await shelf.model_manager.close()

    monkeypatch.setattr(logging.getLogger("bitnet_chat.server"), "propagate", True)
    play(scene(10))
    assert not caplog.records
    play(scene(11))
    assert "loading of a model failed: the model a needs" in caplog.text


def test_unload(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 1})
        shelf.model_manager.unload("a")  # it is not loaded
        await shelf.model_manager.unloaded("a")
        await shelf.use("a")
        shelf.model_manager.unload("a")
        await shelf.model_manager.unloaded("a")
        assert shelf.alive == [] and shelf.model_manager.loaded == []
        visitor = shelf.later("a")
        await visitor.inside.wait()
        shelf.model_manager.unload("a")
        await shelf.model_manager.unloaded("a")
        assert shelf.alive == ["a"], "it answers"
        await visitor.leave()
        await shelf.model_manager.unloaded("a")
        assert shelf.alive == []
        visitor = shelf.later("a")
        await visitor.inside.wait()
        shelf.model_manager.unload("a")
        other = shelf.later("a")
        await settle()
        await visitor.leave()
        await other.inside.wait()
        await other.leave()
        await settle()
        assert shelf.alive == ["a"], "somebody wanted it after that"
        await shelf.model_manager.close()

    play(scene())


def test_no_more_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 6, "b": 6}, limit=10, queue=2)
        a = shelf.later("a")
        await a.inside.wait()
        waiting = [shelf.later("b"), shelf.later("b")]
        await settle()
        with pytest.raises(BusyError, match="2 requests already wait"):
            await shelf.use("b")
        await a.leave()
        for each in waiting:
            await each.inside.wait()
            await each.leave()
        await shelf.model_manager.close()

    play(scene())


def test_a_model_that_cannot_be_made_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 6, "b": 6}, limit=10)

        def broken() -> ScriptedBackend:
            raise ModelError("it is broken")

        sources = {"a": BackendFactory("a", 1, shelf._maker("a")), "b": BackendFactory("b", 1, broken)}
        model_manager = shelf.model_manager = ModelManager(sources, memory_limit=10)
        for _ in range(2):
            await shelf.use("a")
            with pytest.raises(ModelError, match="it is broken"):
                async with model_manager.held("b") as pool, pool.lease(HELLO):
                    pass
        await model_manager.close()

    play(scene())


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_coming_and_going(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Never more than the limit (which the shelf checks), nobody forgotten, and all is as it was at the end."""
    dice = random.Random(seed)

    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 3, "b": 4, "c": 5, "d": 9, "e": 0}, limit=10)
        served = 0

        async def visit() -> None:
            nonlocal served
            async with shelf.answering(dice.choice("abcde")):
                for _ in range(dice.randrange(5)):
                    await asyncio.sleep(0)
            served += 1

        tasks = []
        for _ in range(150):
            tasks.append(asyncio.ensure_future(visit()))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            if dice.random() < 0.2:
                dice.choice(tasks).cancel()
            if dice.random() < 0.1:
                shelf.model_manager.unload(dice.choice("abcde"))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = sum(isinstance(each, asyncio.CancelledError | BusyError) for each in results)
        assert served + refused == 150 and served > 60
        assert shelf.model_manager.waiting == 0
        await shelf.use("d", "a", "b")
        assert set(shelf.alive) >= {"a", "b"} and "d" not in shelf.alive
        await shelf.model_manager.close()
        assert shelf.alive == []

    play(scene())


def test_the_desk_tells_which_model_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"main": 1, "code": 1})
        scheduler = ReplyScheduler(shelf.model_manager)
        generation = scheduler.begin(ReplyRequest(Conversation().with_user("my python script"), model="auto"))
        assert generation.model == "code"
        await generation.ended()
        assert [each.name for each in shelf.made] == ["code"]
        await scheduler.close()

    play(scene())


def test_the_end_comes_while_models_are_loaded_and_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        shelf = Shelf(monkeypatch, {"a": 6, "b": 6}, limit=10)
        shelf.ends = asyncio.Event()
        scheduler = ReplyScheduler(shelf.model_manager)
        await shelf.use("a")
        waits = scheduler.begin(ReplyRequest(HELLO, model="b"))  # for a to be gone
        await settle()
        asyncio.get_running_loop().call_soon(shelf.ends.set)
        await scheduler.close()
        assert isinstance(await waits.ended(), Completed)
        assert shelf.alive == []

    play(scene())


@pytest.mark.engine
def test_real_models_take_turns(classic: EngineBinary, model: Path, tmp_path: Path) -> None:
    """One is 100 MB: there is room for one."""
    flags = ["--engine", str(classic.path), "--no-journal", "-m", f"main={model}", "-m", f"code={model}"]
    with (
        served_process(*flags, "--memory-limit", "150M", home=tmp_path) as process,
        httpx.Client(base_url=process.url, trust_env=False, timeout=TIMEOUT) as client,
    ):
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["main", "code", "auto"]

        def asked(text: str) -> str:
            body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 5}
            answer = client.post("/v1/chat/completions", json=body).json()
            assert answer["choices"][0]["message"]["content"]
            running = client.get("/api/ps").json()["models"]
            assert [each["name"] for each in running] == [answer["model"] + ":latest"]
            assert len(engines_of(process.pid)) <= 1  # none while the child of a reply that was cut is replaced
            return str(answer["model"])

        assert [asked(text) for text in ("hello", "my python script", "hello")] == ["main", "code", "main"]
        assert process.end() == 143
    with pytest.raises(AssertionError, match=r"the model main needs 99 MB of memory; .* 52 MB"):
        ServedProcess(*flags, "--memory-limit", "50M")
