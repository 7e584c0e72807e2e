"""Saved states of a real llama-server: what its slots have read outlives the process."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from kept_states import STORY, Servers, ask, files, guided, home, is_long, is_short, prompts, run, saved

from bitnet_chat.backend import JournalPlace, ReplyOptions, Sampling
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, TextDelta
from bitnet_chat.prompt_cache.store import StateStore

__all__ = ["home"]


@pytest.fixture
def servers(classic: EngineBinary, model: Path) -> Servers:
    return Servers(classic, model)


def test_a_resumed_conversation_is_not_read_again(servers: Servers, home: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"

    async def body() -> None:
        backend = servers.open()
        place = {"place": lambda: JournalPlace(journal, 3)}
        first, stats = await ask(backend, Conversation().with_system("You are kind."), STORY, **place)
        assert is_long(stats)
        both, _ = await ask(backend, first, "And how do I save it?", **place)
        live, _ = await ask(backend, both, "What is a token?", **place)
        await backend.close()
        for conversation in (both, first):  # and after /undo
            backend = servers.open()
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
        server = servers.start(parallel=2)
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


def test_an_interrupted_reply_is_saved(servers: Servers) -> None:
    """Another server continues it, and the next message after it, without reading the conversation."""

    async def body() -> None:
        backend = servers.open()
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
            backend = servers.open()
            _, stats = await ask(backend, wanted)
            assert is_short(stats)
            await backend.close()

    run(body)


def test_tools_are_a_part_of_the_prompt(servers: Servers) -> None:
    async def body() -> None:
        backend = servers.open()
        first, _ = await ask(backend, Conversation(), STORY)
        await backend.close()
        backend = servers.open()
        with suppress(AssertionError):  # a model without a place for tools
            _, stats = await ask(backend, first, "Go on.", tools=(Tool("add", "Add two numbers", {}),))
            assert is_long(stats)
        await backend.close()

    run(body)


@pytest.mark.parametrize("fault", ["garbage", "refused"])
def test_a_damaged_state_costs_a_reading(servers: Servers, home: Path, fault: str) -> None:
    async def body() -> None:
        backend = servers.open()
        first, _ = await ask(backend, Conversation(), STORY)
        await backend.close()
        (state,) = files(home, "state")
        state.write_bytes(b"x" * state.stat().st_size)
        backend = servers.open()
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


# System prompts that conversations share


def test_independent_requests_share_one_state_of_their_system_prompt(servers: Servers, home: Path) -> None:
    """In two slots, without a pause. Once it has a state, no short request is kept whole."""

    async def body() -> None:
        server = servers.start(parallel=2)
        slots = server.backend(), server.backend()
        for number in range(3):
            for backend in slots:
                _, stats = await ask(backend, guided(f"What is {number}?"), alone=True)
                assert is_short(stats) or not number
        assert prompts(home) == 1, "before the server is closed"
        for backend in slots:
            await backend.close()
        assert len(files(home, "state")) <= 2, "the first slot is at rest while the second one reads"
        backend = servers.start(parallel=2).backend()
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
            backend = servers.open(chat_template=TOOLS)
            _, stats = await ask(backend, Conversation(), f"What is 2 + {number}?", tools=offered, alone=True)
            await backend.close()
            assert is_short(stats) == (number == 1) and prompts(home) == 1 + (number == 2)

    run(body)
