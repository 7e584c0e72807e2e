"""Saved states with real engines: a conversation goes on without being read again, after whatever happened to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from kept_states import (
    GREEDY,
    LONG,
    PERSONA,
    STORY,
    Engines,
    ask,
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

from bitnet_chat import paths
from bitnet_chat.backend import JournalPlace, ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.context.summary import with_summary
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.saved_states import EngineStates, StateJob, shared_messages
from bitnet_chat.events import Completed, ContextSource, TextDelta
from bitnet_chat.prompt_cache.store import StateStore

__all__ = ["home"]


@pytest.fixture
def engines(any_native: EngineBinary, model: Path) -> Engines:
    return Engines(any_native, model)


async def talk(backend: LocalEngineBackend) -> tuple[Conversation, Conversation]:
    """A conversation of two turns, and its first turn."""
    first, _ = await ask(backend, Conversation().with_system("You are kind."), STORY)
    both, _ = await ask(backend, first, "And how do I save a conversation?")
    return both, first


def test_a_resumed_conversation_is_not_read_again(engines: Engines) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        live, _ = await ask(backend, both, "What is a token?")
        await backend.close()  # which saves what was not saved yet
        backend = engines.open()
        again, stats = await ask(backend, both, "What is a token?")
        await backend.close()
        assert again == live, "the very words of the engine that has lived through it"
        assert is_short(stats)
        assert (stats.context_used or 0) > 600

    run(body)


def test_a_history_is_restored_before_a_message_is_typed(engines: Engines) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        await backend.close()
        backend = engines.open()
        backend.prepare(both)
        await has_read(backend, both)
        _, stats = await ask(backend, both, "What is a token?")
        await backend.close()
        assert is_short(stats)

    run(body)


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_after_the_death_of_an_engine_its_context_is_restored(engines: Engines, signal_name: str) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        assert not backend.status().state_saved
        await saved(backend)
        assert backend.status().state_saved
        process = backend._session.process
        assert process is not None
        os.kill(process.pid, getattr(signal, signal_name))
        await process.gone()
        _, stats = await ask(backend, both, "What is a token?")
        await backend.close()
        assert is_short(stats)

    run(body)


def test_one_state_serves_every_branch(engines: Engines) -> None:
    """/undo, /regen, /edit and /fork after a restart; another conversation with the same beginning."""

    async def body() -> None:
        backend = engines.open()
        both, first = await talk(backend)
        await backend.close()
        assert len(files(paths.states_dir(), "json")) == 1
        backend = engines.open()
        other, stats = await ask(backend, first, "What is a token?")  # /undo, then another message
        assert is_short(stats)
        await backend.close()
        assert len(files(paths.states_dir(), "json")) == 2, "of each branch"
        backend = engines.open()
        for branch in (both, other):
            _, stats = await ask(backend, branch, "Thank you.")
            assert is_short(stats)
        await backend.close()

    run(body)


def test_a_conversation_that_makes_way_for_another_is_kept(engines: Engines) -> None:
    """As /resume does, or a server for its clients, without a pause."""

    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        other, _ = await ask(backend, Conversation().with_user(f"Now {STORY}"), alone=True)
        for conversation in (both, other):
            _, stats = await ask(backend, conversation, "Go on.", alone=True)
            assert is_short(stats)
        await backend.close()

    run(body)


@pytest.mark.parametrize("fault", ["cut", "garbage", "missing", "record", "bit"])
def test_a_damaged_state_costs_a_reading(engines: Engines, fault: str, home: Path) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        live, _ = await ask(backend, both, "What is a token?")
        await backend.close()
        (state,), (record,) = files(home, "state"), files(home, "json")
        content = state.read_bytes()
        match fault:
            case "cut":
                state.write_bytes(content[:-1000])
            case "garbage":
                state.write_bytes(b"x" * len(content))
            case "missing":
                state.unlink()
            case "record":
                record.write_bytes(b"{")
            case _:
                state.write_bytes(content[:-500] + bytes([content[-500] ^ 1]) + content[-499:])
        backend = engines.open()
        again, stats = await ask(backend, both, "What is a token?")
        assert is_long(stats)
        assert again.messages[:-1] == live.messages[:-1]
        await backend.close()
        assert not record.exists()

    run(body)


def test_a_state_that_the_engine_refuses_is_removed(engines: Engines, home: Path) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        await backend.close()
        (state,) = files(home, "state")
        store = StateStore(home, 1 << 30)
        record = state.with_suffix(".json")
        text = record.read_text()
        state.write_bytes(b"not a state" * 1000)
        size, crc = store_figures(state)
        values = json.loads(text) | {"bytes": size, "crc32": crc}
        record.write_text(json.dumps(values))
        backend = engines.open()
        _, stats = await ask(backend, both, "What is a token?")
        assert is_long(stats)
        await backend.close()
        assert not state.exists()
        assert store.usage().count == 1, "that of the conversation as it is now"

    run(body)


def store_figures(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    return len(content), zlib.crc32(content)


@pytest.mark.parametrize("settings", [{"ctx": 1024}, {"chat_template": "chatml"}])
def test_a_state_made_with_other_settings_is_not_used(engines: Engines, settings: dict[str, object]) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        await backend.close()
        backend = engines.open(**settings)
        _, stats = await ask(backend, both, "What is a token?")
        await backend.close()
        if "chat_template" in settings and backend.model.name.startswith("bitnet-demo"):
            return  # its own template
        assert is_long(stats)

    run(body)


def test_a_short_conversation_is_not_worth_a_file(engines: Engines, home: Path) -> None:
    async def body() -> None:
        backend = engines.open()
        await ask(backend, Conversation(), "hello")
        await ask(backend, Conversation(), "Tell me more. " * 100, alone=True)
        await backend.close()
        assert not files(home, "state")

    run(body)


def test_a_state_belongs_to_its_conversation(engines: Engines, home: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"

    async def body() -> None:
        backend = engines.open()
        await ask(backend, Conversation(), STORY, place=lambda: JournalPlace(journal, 7))
        await backend.close()
        store = StateStore(home)
        assert store.usage().count == 1
        assert store.remove_owner(journal, 8) == 0
        assert store.remove_owner(journal, 7) == 1
        assert store.usage().count == 0

    run(body)


def test_shared_messages() -> None:
    first = Conversation().with_system("S").with_user("a").with_assistant("b")
    assert shared_messages(first, first) == 2
    assert shared_messages(first, first.with_user("c")) == 2
    assert shared_messages(first, first.without_last_turn()) == 0
    assert shared_messages(first, Conversation().with_user("a")) == -1


def test_a_classic_engine_starts_with_the_prompt_that_it_read_before(
    classic: EngineBinary, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saves what it has read at its first reply, and at no other time."""
    engines = Engines(classic, model)

    async def resumed(conversation: Conversation, **settings: object) -> tuple[Conversation, str]:
        backend = engines.open(**settings)
        backend.prepare(conversation)
        after, _ = await ask(backend, conversation, "What is a token?")
        assert backend._session.process is not None
        log = "\n".join(backend._session.process.log.lines())
        await backend.close()
        return after, log

    async def body() -> None:
        history = Conversation().with_user(STORY).with_assistant("Ask me.")
        first, log = await resumed(history)
        assert "session file does not exist" in log or "session file is empty" in log
        again, log = await resumed(history)
        assert "loaded a session with prompt size" in log and again == first
        _, log = await resumed(first.with_user("More.").with_assistant("More."))
        assert "loaded a session with prompt size" in log
        assert len(files(paths.states_dir(), "json")) == 1, "the longer one holds the shorter"
        _, log = await resumed(history, engine_args=("--rope-freq-scale", "0.5"))
        assert "loaded a session" not in log, "of an engine with other flags"
        monkeypatch.setenv("LLAMA_ARG_ROPE_SCALE", "2")
        _, log = await resumed(history)
        assert "loaded a session" not in log, "and with other variables"

    run(body)


# System prompts that conversations share


def test_a_system_prompt_that_is_read_before_a_message_is_saved(engines: Engines, home: Path) -> None:
    """As a persona at the start of a chat."""

    async def body() -> None:
        for number in range(2):
            backend = engines.open(system=PERSONA)
            backend.start()
            await has_read(backend, Conversation().with_system(PERSONA))
            if not number:
                await saved(backend)
            assert prompts(home) == 1
            events = [event async for event in backend.reply(guided("Hello."), ReplyOptions(max_tokens=4))]
            end = events[-1]
            assert isinstance(end, Completed) and end.origin is not None and is_short(end.stats)
            assert end.origin.source is (ContextSource.STATE if number else ContextSource.COLD)
            assert (end.origin.restored > LONG) is bool(number)
            await backend.close()

    run(body)


def test_independent_requests_share_one_state_of_their_system_prompt(engines: Engines, home: Path) -> None:
    """Without a pause, as in a batch or from a busy client; none of them is kept whole."""

    async def body() -> None:
        backend = engines.open()
        for number in range(3):
            _, stats = await ask(backend, guided(f"What is {number}?"), alone=True)
            assert is_short(stats) or not number
        assert prompts(home) == 1, "before the engine is closed"
        await saved(backend)
        await backend.close()
        assert len(files(home, "state")) == 1
        backend = engines.open()
        _, stats = await ask(backend, guided("What is 3?"), alone=True)
        assert is_short(stats)
        _, stats = await ask(backend, guided(f"What is 4? {STORY}"), alone=True)
        await backend.close()
        assert len(files(home, "state")) == 2, "what is long without the system prompt is kept"

    run(body)


def test_a_batch_leaves_the_state_of_its_system_prompt(engines: Engines, home: Path) -> None:
    async def body() -> None:
        for number in range(2):
            backend = engines.open()
            _, stats = await ask(backend, guided(f"What is {number}?"), alone=True)
            await backend.close()
            assert is_short(stats) == bool(number) and prompts(home) == 1

    run(body)


def test_a_summary_is_no_part_of_a_shared_state(engines: Engines, home: Path) -> None:
    async def body() -> None:
        backend = engines.open()
        await ask(backend, with_summary(guided(STORY), "They spoke of terminals."))
        await backend.close()
        assert len(files(home, "state")) == 1 and not prompts(home)

    run(body)


def test_a_system_prompt_whose_state_cannot_be_written(engines: Engines, home: Path, caplog: Any) -> None:
    """The context is restored, or read again."""
    caplog.set_level("INFO")

    def broken(*arguments: Any, **named: Any) -> StateJob | None:
        job = begin(*arguments, **named)
        assert job is not None
        job.pending.path.unlink()
        job.pending.path.mkdir()
        return job

    begin = EngineStates.begin_prompt

    async def body() -> None:
        backend = engines.open()
        first, _ = await ask(backend, guided(STORY))
        await saved(backend)
        _, stats = await ask(backend, first, "Go on.")
        assert is_short(stats) and not prompts(home)
        await backend.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineStates, "begin_prompt", broken)
        run(body)
    assert "an engine state is not kept" in caplog.text


# What happens at the same time


def test_a_state_belongs_to_the_conversation_that_it_was_saved_for(
    engines: Engines, home: Path, tmp_path: Path
) -> None:
    """The next request comes before the context is saved."""
    journal = tmp_path / "journal.db"

    async def body() -> None:
        backend = engines.open()
        long = Conversation().with_user(f"First {STORY}")
        await ask(backend, long, place=lambda: JournalPlace(journal, 1))
        await ask(backend, Conversation().with_user(STORY), place=lambda: JournalPlace(journal, 2))
        await backend.close()
        store = StateStore(home)
        assert store.usage().count == 2
        assert store.remove_owner(journal, 1) == 1 and store.remove_owner(journal, 2) == 1

    run(body)


def test_a_request_that_comes_while_a_state_is_prepared(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = EngineStates.begin

    def slow(*arguments: Any, **named: Any) -> StateJob | None:
        time.sleep(0.3)
        return begin(*arguments, **named)

    monkeypatch.setattr(EngineStates, "begin", slow)

    async def body() -> None:
        backend = engines.open()
        conversation, _ = await ask(backend, Conversation(), STORY)
        for pause in (0.32, 0.45, 0.55, 0.62):
            await asyncio.sleep(pause)
            conversation, stats = await ask(backend, conversation, "Go on.")
            assert is_short(stats)
        await backend.close()
        assert not any(file.stat().st_size == 0 for file in files(paths.states_dir(), "state"))

    run(body)


def test_a_prompt_that_was_not_read_to_its_end_replaces_no_state(engines: Engines) -> None:
    async def body() -> None:
        backend = engines.open()
        both, first = await talk(backend)
        await saved(backend)
        longer = first.with_user("More: " + STORY)

        async def stop() -> None:
            while backend.status().state.value != "generating":  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0)
            backend.interrupt()

        stopping = asyncio.create_task(stop())
        async for event in backend.reply(longer, ReplyOptions(max_tokens=1, sampling=GREEDY)):
            assert not isinstance(event, TextDelta)
        await stopping
        await backend.close()
        backend = engines.open()
        _, stats = await ask(backend, both, "Go on.")
        assert is_short(stats), "its state was not replaced"
        await backend.close()

    run(body)


def test_a_refused_state_is_removed_before_a_message_too(engines: Engines, home: Path) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        await backend.close()
        (state,), (record,) = files(home, "state"), files(home, "json")
        state.write_bytes(b"not a state" * 1000)
        size, crc = store_figures(state)
        record.write_text(json.dumps(json.loads(record.read_text()) | {"bytes": size, "crc32": crc}))
        backend = engines.open()
        backend.prepare(both)
        await has_read(backend, both)
        await backend.close()
        assert not files(home, "state"), "nor is one made before it is known which conversation it belongs to"

    run(body)


def test_a_conversation_that_is_only_looked_at_is_not_written_again(engines: Engines, home: Path) -> None:
    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        await backend.close()
        before = files(home, "state")
        for _ in range(2):
            backend = engines.open()
            backend.prepare(both)
            await has_read(backend, both)
            await backend.close()
        assert files(home, "state") == before

    run(body)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_engine_that_dies_while_a_state_is_looked_for(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    better = EngineStates.better

    async def body() -> None:
        backend = engines.open()
        both, _ = await talk(backend)
        await saved(backend)

        def deadly(*arguments: Any, **named: Any) -> Any:
            monkeypatch.setattr(EngineStates, "better", better)
            process = backend._session.process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.2)
            return better(*arguments, **named)

        monkeypatch.setattr(EngineStates, "better", deadly)
        _, stats = await ask(backend, both, "Go on.")
        await backend.close()
        assert is_short(stats)

    run(body)
