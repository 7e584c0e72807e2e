"""Saved states of a real llama-server: what its slots have read outlives the process."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kept_states import PERSONA, STORY, ask, breaking, files, home, is_long, is_short, prompts, run, saved

from bitnet_chat.backend import JournalPlace, ReplyOptions, Sampling
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, TextDelta
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
@pytest.mark.parametrize("fault", ["full", "removed"])
def test_a_state_that_cannot_be_written_costs_a_line(
    servers: Servers, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """The conversation goes on, and the next state is kept."""
    caplog.set_level("INFO")

    async def body() -> None:
        backend = servers.open().backend()
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
def test_nothing_is_kept_if_nothing_may_be(servers: Servers, settings: dict[str, object], home: Path) -> None:
    async def body() -> None:
        backend = servers.open(**settings).backend()
        await ask(backend, Conversation(), STORY)
        for text in ("Hello.", "How are you?"):
            await ask(backend, guided(text))
        await backend.close()
        assert not files(home, "*")

    run(body)


# System prompts that conversations share


def guided(text: str) -> Conversation:
    return Conversation().with_system(PERSONA).with_user(text)


def test_a_new_conversation_restores_a_system_prompt_that_another_one_has_read(
    servers: Servers, home: Path, tmp_path: Path
) -> None:
    """After the other one has been removed, too."""
    journal = tmp_path / "journal.db"
    place = {"place": lambda: JournalPlace(journal, 1)}

    async def body() -> None:
        backend = servers.open().backend()
        first, stats = await ask(backend, guided(STORY), **place)
        assert is_long(stats)
        await saved(backend)
        assert backend.status().state_saved and prompts(home) == 1 and len(files(home, "state")) == 2
        sizes = sorted(file.stat().st_size for file in files(home, "state"))
        assert sizes[0] < 0.7 * sizes[1], "it is the system prompt alone"
        _, stats = await ask(backend, first, "Go on.", **place)
        assert is_short(stats), "the context was restored"
        await backend.close()
        store = StateStore(home)
        assert store.remove_owner(journal, 1) == 1 and store.usage() == store.prompt_usage()
        for number in range(2):
            backend = servers.open().backend()
            _, stats = await ask(backend, guided(f"How are you? {number}"), **place)
            await backend.close()
            assert is_short(stats)
        assert prompts(home) == 1

    run(body)


def test_a_conversation_goes_on_as_before_after_its_system_prompt_was_saved(servers: Servers, home: Path) -> None:
    async def talk(**settings: object) -> Conversation:
        backend = servers.open(**settings).backend()
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


def test_independent_requests_share_one_state_of_their_system_prompt(servers: Servers, home: Path) -> None:
    """In two slots, without a pause. Once it has a state, no short request is kept whole."""

    async def body() -> None:
        server = servers.open(parallel=2)
        slots = server.backend(), server.backend()
        for number in range(3):
            for backend in slots:
                _, stats = await ask(backend, guided(f"What is {number}?"), alone=True)
                assert is_short(stats) or not number
        assert prompts(home) == 1, "before the server is closed"
        for backend in slots:
            await backend.close()
        assert len(files(home, "state")) <= 2, "the first slot is at rest while the second one reads"
        backend = servers.open(parallel=2).backend()
        _, stats = await ask(backend, guided("What is 3?"), alone=True)
        assert is_short(stats)
        await backend.close()

    run(body)


TOOLS = """{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}\
{{ '<|im_end|>\\n' }}{% endif %}{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}\
{{ message.content or '' }}{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}\
{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_the_descriptions_of_tools_are_a_part_of_what_is_shared(servers: Servers, home: Path) -> None:
    tools = tuple(Tool(f"tool_{number}", "Add two numbers and return their sum.", {}) for number in range(12))

    async def body() -> None:
        for number, offered in enumerate((tools, tools, tools[1:])):
            backend = servers.open(chat_template=TOOLS).backend()
            _, stats = await ask(backend, Conversation(), f"What is 2 + {number}?", tools=offered, alone=True)
            await backend.close()
            assert is_short(stats) == (number == 1) and prompts(home) == 1 + (number == 2)

    run(body)
