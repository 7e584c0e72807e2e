"""Saved states of a real llama-server: what its slots have read outlives the process."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kept_states import STORY, ask, files, home, is_long, is_short, run, saved

from bitnet_chat.backend import JournalPlace
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.prompt_cache.store import StateStore

__all__ = ["home"]


class Servers:
    """Servers that are started one after the other, as by several runs of the program."""

    def __init__(self, engine: EngineBinary, model: Path) -> None:
        self._settings = Settings(engine=str(engine.path), model=str(model), backend="llama-server", threads=1)

    def open(self, parallel: int = 1, **settings: object) -> LlamaServer:
        return LlamaServer(replace(self._settings, **settings), parallel=parallel)  # type: ignore[arg-type]


@pytest.fixture
def servers(classic: EngineBinary, model: Path) -> Servers:
    return Servers(classic, model)


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
