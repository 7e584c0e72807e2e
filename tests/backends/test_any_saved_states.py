"""Saved states of each kind of engine: a process of its own, and the slots of a llama-server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kept_states import (
    STORY,
    Engines,
    Servers,
    ask,
    breaking,
    files,
    guided,
    has_read,
    home,
    is_long,
    is_short,
    prompts,
    run,
    saved,
)

from bitnet_chat.backend import JournalPlace
from bitnet_chat.conversation import Conversation
from bitnet_chat.prompt_cache.store import StateStore

__all__ = ["home"]
Runs = Engines | Servers


@pytest.fixture(params=["llama-server", "llama.cpp", "bitnet"])
def runs(request: pytest.FixtureRequest, dequantized: Callable[[], Path], model: Path) -> Runs:
    if request.param == "llama-server":
        return Servers(request.getfixturevalue("classic"), model)
    if request.param == "llama.cpp":
        return Engines(request.getfixturevalue("native"), model)
    return Engines(request.getfixturevalue("bitnet"), dequantized())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
@pytest.mark.parametrize("fault", ["full", "removed"])
def test_a_state_that_cannot_be_written_costs_a_line(
    runs: Runs, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """The conversation goes on, and the next state is kept."""
    caplog.set_level("INFO")

    async def body() -> None:
        backend = runs.open()
        with monkeypatch.context() as patch:
            breaking(patch, fault)
            first, _ = await ask(backend, Conversation(), STORY)
            await saved(backend)
            assert not backend.status().state_saved and not files(home, "*")
        assert caplog.text.count("an engine state is not kept: ") == 1
        _, stats = await ask(backend, first, "Go on.")
        assert is_short(stats)
        await backend.close()
        assert len(files(home, "state")) == 1

    run(body)


@pytest.mark.parametrize("settings", [{"journal": False}, {"state_limit": "0"}])
def test_nothing_is_kept_where_nothing_is_to_be(runs: Runs, settings: dict[str, object], home: Path) -> None:
    async def body() -> None:
        backend = runs.open(**settings)
        await ask(backend, Conversation(), STORY)
        for text in ("Hello.", "How are you?"):
            await ask(backend, guided(text))
        await backend.close()
        assert not files(home, "*")

    run(body)


def test_a_state_that_was_removed_or_is_too_large_is_not_said_to_be_saved(runs: Runs, home: Path) -> None:
    async def body() -> None:
        for limit in ("", "100K"):
            backend = runs.open(state_limit=limit)
            await ask(backend, Conversation(), STORY)
            await saved(backend)
            assert backend.status().state_saved is not bool(limit)
            for file in files(home, "state"):
                file.unlink()
            assert not backend.status().state_saved
            await backend.close()

    run(body)


def test_a_new_conversation_restores_a_system_prompt_that_another_one_has_read(
    runs: Runs, home: Path, tmp_path: Path
) -> None:
    """After the other one has been removed, too."""
    journal = tmp_path / "journal.db"

    async def body() -> None:
        backend = runs.open()
        first, stats = await ask(backend, guided(STORY), place=lambda: JournalPlace(journal, 1))
        assert is_long(stats)
        await saved(backend)
        assert backend.status().state_saved and prompts(home) == 1 and len(files(home, "state")) == 2
        sizes = sorted(file.stat().st_size for file in files(home, "state"))
        assert sizes[0] < 0.7 * sizes[1], "it is the system prompt alone"
        _, stats = await ask(backend, first, "Go on.", place=lambda: JournalPlace(journal, 1))
        assert is_short(stats), "the context was restored"
        await backend.close()
        store = StateStore(home)
        assert store.usage().count == 2
        assert store.remove_owner(journal, 1) == 1 and store.usage() == store.prompt_usage()
        for number in range(2):
            backend = runs.open()
            _, stats = await ask(backend, guided(f"How are you? {number}"))
            await backend.close()
            assert is_short(stats)
        assert prompts(home) == 1

    run(body)


def test_a_conversation_goes_on_as_before_after_its_system_prompt_was_saved(runs: Runs, home: Path) -> None:
    async def talk(**settings: object) -> Conversation:
        backend = runs.open(**settings)
        conversation, _ = await ask(backend, guided(STORY))
        if not settings:
            await saved(backend)
            assert prompts(home) == 1
        for text in ("And how do I save a conversation?", "Thank you."):
            conversation, stats = await ask(backend, conversation, text)
            assert is_short(stats)
        await backend.close()
        return conversation

    async def body() -> None:
        assert await talk() == await talk(journal=False)

    run(body)


def test_a_conversation_of_a_journal_is_expected_to_go_on(runs: Runs, home: Path, tmp_path: Path) -> None:
    """Unlike the requests of API clients. It makes way for one of them before it was saved."""
    place = JournalPlace(tmp_path / "journal.db", 1)

    async def body() -> None:
        backend = runs.open()
        first, _ = await ask(backend, Conversation(), STORY[:1000], alone=True, place=lambda: place)
        await ask(backend, Conversation(), f"Now {STORY[:1000]}", alone=True)
        await backend.close()
        assert len(files(home, "state")) == 1
        backend = runs.open()
        _, stats = await ask(backend, first, "Go on.", alone=True, place=lambda: place)
        assert is_short(stats)
        await backend.close()

    run(body)


def test_a_conversation_that_is_prepared_again_is_saved(runs: Runs) -> None:
    """As a terminal does after each reply, before the state is begun."""

    async def body() -> None:
        backend = runs.open()
        first, _ = await ask(backend, Conversation(), STORY)
        backend.prepare(first)
        await has_read(backend, first)
        await saved(backend)
        assert backend.status().state_saved
        await backend.close()

    run(body)
