"""Saved states of a real llama-server: what its slots have read outlives the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.backend import JournalPlace, ReplyOptions, Sampling
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Stats, TextDelta
from bitnet_chat.prompt_cache.store import StateStore

STORY = " ".join(f"I have {number} questions about the terminal, the model and the engine." for number in range(30))
SHORT = 60
"""Tokens, at most, that are read again."""
LONG = 300
TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "states"
    monkeypatch.setattr(paths, "states_dir", lambda: folder)
    return folder


class Servers:
    """Servers that are started one after the other, as by several runs of the program."""

    def __init__(self, engine: EngineBinary, model: Path) -> None:
        self._settings = Settings(engine=str(engine.path), model=str(model), backend="llama-server", threads=1)

    def open(self, parallel: int = 1, **settings: object) -> LlamaServer:
        return LlamaServer(replace(self._settings, **settings), parallel=parallel)  # type: ignore[arg-type]


@pytest.fixture
def servers(classic: EngineBinary, model: Path) -> Servers:
    return Servers(classic, model)


async def ask(
    backend: RemoteBackend, conversation: Conversation, text: str = "", **options: object
) -> tuple[Conversation, Stats]:
    conversation = conversation.with_user(text) if text else conversation
    wanted = ReplyOptions(max_tokens=12, sampling=Sampling(temperature=0.0), **options)  # type: ignore[arg-type]
    reply, end = "", None
    async for event in backend.reply(conversation, wanted):
        if isinstance(event, TextDelta):
            reply += event.text
        end = event
    assert isinstance(end, Completed), end
    return conversation.with_assistant(reply), end.stats


def is_short(stats: Stats) -> bool:
    return stats.prompt_tokens is not None and stats.prompt_tokens < SHORT


def is_long(stats: Stats) -> bool:
    return stats.prompt_tokens is not None and stats.prompt_tokens > LONG


async def saved(backend: RemoteBackend) -> None:
    states = backend._states
    assert states is not None and states._saving is not None  # type: ignore[attr-defined]
    await asyncio.wait([states._saving])  # type: ignore[attr-defined]


def files(folder: Path, end: str) -> list[Path]:
    return list(folder.glob(f"*.{end}"))


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(body(), TIMEOUT)

    asyncio.run(main())


def test_a_resumed_conversation_is_not_read_again(servers: Servers, home: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"

    async def body() -> None:
        backend = servers.open().backend()
        place = {"place": lambda: JournalPlace(journal, 3)}
        first, stats = await ask(backend, Conversation().with_system("You are kind."), STORY, **place)
        assert is_long(stats)
        both, _ = await ask(backend, first, "And how do I save it?", **place)
        live, _ = await ask(backend, both, "What is a token?", **place)
        await backend.close()
        for conversation in (both, first):  # and after /undo
            backend = servers.open().backend()
            backend.prepare(conversation)
            again, stats = await ask(backend, conversation, "What is a token?", **place)
            await backend.close()
            assert is_short(stats)
            assert again == live or conversation is first
        store = StateStore(home)
        assert store.usage().count == 2
        assert store.remove_owner(journal, 3) == 2

    run(body)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_after_the_death_of_the_server_its_slots_are_restored(servers: Servers) -> None:
    async def body() -> None:
        server = servers.open(parallel=2)
        one, other = server.backend(), server.backend()
        first, _ = await ask(one, Conversation(), STORY)
        second, _ = await ask(other, Conversation(), f"Now {STORY}")
        await saved(one)
        await saved(other)
        assert one.service.pid is not None
        os.kill(one.service.pid, signal.SIGKILL)
        for backend, conversation in ((one, first), (other, second)):
            _, stats = await ask(backend, conversation, "Go on.")
            assert is_short(stats)
        await one.close()
        await other.close()

    run(body)


def test_a_conversation_that_is_prepared_again_is_saved(servers: Servers) -> None:
    """As a terminal does after each reply, before the state is begun."""

    async def body() -> None:
        backend = servers.open().backend()
        first, _ = await ask(backend, Conversation(), STORY)
        backend.prepare(first)
        assert backend._preparing is not None
        await backend._preparing
        await saved(backend)
        assert backend.status().state_saved
        await backend.close()

    run(body)


def test_an_interrupted_reply_is_saved(servers: Servers) -> None:
    """Another server continues it, and the next message after it, without reading the conversation."""

    async def body() -> None:
        backend = servers.open().backend()
        first, _ = await ask(backend, Conversation(), STORY)
        asked = first.with_user("What is a token?")
        text = ""
        async for event in backend.reply(asked, ReplyOptions(sampling=Sampling(temperature=0.0))):
            if isinstance(event, TextDelta):
                text += event.text
                backend.interrupt()
        assert isinstance(event, Completed) and event.text == text
        await saved(backend)
        assert backend.status().state_saved
        await backend.close()
        cut = asked.with_assistant(text, FinishReason.INTERRUPTED)
        for wanted in (cut, cut.with_user("Go on.")):
            backend = servers.open().backend()
            _, stats = await ask(backend, wanted)
            assert is_short(stats)
            await backend.close()

    run(body)


def test_tools_are_a_part_of_the_prompt(servers: Servers) -> None:
    async def body() -> None:
        backend = servers.open().backend()
        first, _ = await ask(backend, Conversation(), STORY)
        await backend.close()
        backend = servers.open().backend()
        with suppress(AssertionError):  # a model without a place for tools
            _, stats = await ask(backend, first, "Go on.", tools=(Tool("add", "Add two numbers", {}),))
            assert is_long(stats)
        await backend.close()

    run(body)


@pytest.mark.parametrize("fault", ["garbage", "refused"])
def test_a_damaged_state_costs_a_reading(servers: Servers, home: Path, fault: str) -> None:
    async def body() -> None:
        backend = servers.open().backend()
        first, _ = await ask(backend, Conversation(), STORY)
        await backend.close()
        (state,) = files(home, "state")
        state.write_bytes(b"x" * state.stat().st_size)
        backend = servers.open().backend()
        if fault == "refused":
            StateStore.verify = lambda self, state: True  # type: ignore[method-assign]
        _, stats = await ask(backend, first, "Go on.")
        assert is_long(stats) and not state.exists()
        await backend.close()

    verify = StateStore.verify
    try:
        run(body)
    finally:
        StateStore.verify = verify  # type: ignore[method-assign]


@pytest.mark.parametrize("settings", [{"journal": False}, {"state_limit": "0"}])
def test_nothing_is_kept_if_nothing_may_be(servers: Servers, settings: dict[str, object], home: Path) -> None:
    async def body() -> None:
        backend = servers.open(**settings).backend()
        await ask(backend, Conversation(), STORY)
        await backend.close()
        assert not files(home, "*")

    run(body)
