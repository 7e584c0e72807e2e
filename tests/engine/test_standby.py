"""Getting ready ahead of time: loads in the background, and loaded children beside the one that answers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from backend_replies import numbered_turns, with_backend
from scripted_engine import ScriptedEngine

from bitnet_chat.backend import BackendState
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import standby
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import ContextOverflowError, FinishReason, ModelError
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta

needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")
TIMEOUT = 60.0


class Harness(ScriptedEngine):
    """Settings for the scripted engine."""

    def __init__(self, folder: Path, model: Path, environment: pytest.MonkeyPatch) -> None:
        super().__init__(folder, environment)
        self.settings = {"engine": str(self.engine), "model": str(model), "journal": False}


@pytest.fixture
def harness(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path, model, monkeypatch)


def run(harness: Harness, body: Callable[[LocalEngineBackend], Awaitable[None]], **more: Any) -> None:
    with_backend(lambda: LocalEngineBackend(Settings(**harness.settings, **more)), body)  # type: ignore[arg-type]
    assert harness.none_is_left(), "an engine outlived its backend"


async def ask(backend: LocalEngineBackend, conversation: Conversation, text: str) -> Conversation:
    *_, last = [event async for event in backend.reply(conversation.with_user(text))]
    assert isinstance(last, Completed) and last.reason is FinishReason.STOP, last
    return conversation.with_user(text).with_assistant(last.text, last.reason)


async def prepared(backend: LocalEngineBackend) -> None:
    """Until nothing more is done in the background."""
    supervisor = backend._session.supervisor
    if supervisor._replacing is not None:
        await asyncio.wait([supervisor._replacing])
    if supervisor.starting is not None:
        await supervisor.starting
    if supervisor.process is not None:
        await supervisor.process.settled()
    if supervisor._standby is not None and supervisor._standby._filling is not None:
        await supervisor._standby._filling


def told(conversation: Conversation) -> Conversation:
    return conversation.with_user("say yes").with_assistant("yes")


# Getting ready


@needs_scripts
def test_the_last_wish_counts(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        for name in ("one", "two", "three"):
            backend.prepare(told(Conversation().with_system(name)))
        await prepared(backend)
        assert ["three" in launch["prompt"] for launch in harness.launches] == [True]

    run(harness, body)


@needs_scripts
def test_a_load_that_is_outdated_is_given_up(harness: Harness) -> None:
    harness.close_gate()

    async def body(backend: LocalEngineBackend) -> None:
        backend.start(told(Conversation().with_system("outdated")))
        gate = await harness.gate_reached()
        harness.remove_gate()
        backend.prepare(told(Conversation().with_system("wanted")))
        await prepared(backend)
        assert backend.status().state is BackendState.IDLE
        os.close(gate)
        await ask(backend, told(Conversation().with_system("wanted")), "say fine")
        assert ["wanted" in launch["prompt"] for launch in harness.launches] == [False, True]

    run(harness, body)


@needs_scripts
def test_a_reply_after_getting_ready_waits_for_no_load(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind")
        for number in range(3):
            conversation = await ask(backend, conversation, f"say {number}")
        undone = conversation.without_last_turn()
        backend.prepare(undone)
        await prepared(backend)
        harness.close_gate()  # a launch from now on would never end
        for _ in range(20):
            backend.prepare(undone)
        await ask(backend, undone, "say again")
        assert len(harness.launches) == 2

    run(harness, body)


@needs_scripts
def test_a_reply_under_way_is_not_disturbed(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        events: list[Event] = []
        async for event in backend.reply(Conversation().with_user("story")):
            events.append(event)
            if isinstance(event, TextDelta):
                backend.prepare(Conversation().with_system("something else"))
                await asyncio.sleep(0)
                if "word20" in event.text:
                    backend.interrupt()
        last = events[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.INTERRUPTED and "word20" in last.text
        assert not any("something else" in launch["prompt"] for launch in harness.launches)

    run(harness, body)


@needs_scripts
def test_room_is_made_while_nobody_waits(harness: Harness) -> None:
    conversation = Conversation().with_system("pinned")
    for number in range(60):
        conversation = conversation.with_user(f"say number {number}").with_assistant(f"number {number}")

    async def body(backend: LocalEngineBackend) -> None:
        backend.prepare(conversation)
        await prepared(backend)
        harness.close_gate()
        events = [event async for event in backend.reply(conversation.with_user("say fine"))]
        assert isinstance(events[-1], Completed) and events[-1].text == "fine"
        (line,) = [event.text for event in events if isinstance(event, Notice)]
        assert "of 120 messages left it" in line
        (launch,) = harness.launches
        assert "pinned" in launch["prompt"] and "number 59" in launch["prompt"] and "number 1<" not in launch["prompt"]

    run(harness, body, ctx=512)


@needs_scripts
def test_what_left_while_nobody_waited_is_told_even_if_the_message_is_refused(harness: Harness) -> None:
    conversation = numbered_turns(60)

    async def body(backend: LocalEngineBackend) -> None:
        backend.prepare(conversation)
        await prepared(backend)
        events = [event async for event in backend.reply(conversation.with_user("word " * 5000))]
        assert isinstance(events[-1], Failed) and isinstance(events[-1].error, ContextOverflowError)
        assert [event for event in events if isinstance(event, Notice) and "left it" in event.text]
        assert len(harness.launches) == 1

    run(harness, body, ctx=512)


@needs_scripts
def test_a_summary_waits_for_somebody_who_wants_it(harness: Harness) -> None:
    conversation = numbered_turns(60)

    async def body(backend: LocalEngineBackend) -> None:
        backend.prepare(conversation)
        await prepared(backend)
        assert harness.launches == []
        *_, last = [event async for event in backend.reply(conversation.with_user("say fine"))]
        assert isinstance(last, Completed) and last.text == "fine"
        assert len(harness.launches) == 2

    run(harness, body, ctx=512, overflow="summarize")


@needs_scripts
def test_what_goes_wrong_is_told_with_the_next_reply(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        backend.prepare(told(Conversation()))
        await prepared(backend)
        *_, last = [event async for event in backend.reply(Conversation().with_user("say no"))]
        assert isinstance(last, Failed) and isinstance(last.error, ModelError)

    run(harness, body, engine_args=("--refuse",))


# Spares


@needs_scripts
@pytest.mark.parametrize("command", ["clear", "regen", "undo", "clear twice"])
def test_a_spare_makes_a_command_wait_for_no_load(harness: Harness, command: str) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("pinned")
        for number in range(3):
            conversation = await ask(backend, conversation, f"say {number}")
        await prepared(backend)
        assert len(backend._session.supervisor.spare_pids) == standby.LIMIT
        harness.close_gate()
        before = {launch["pid"]: launch["prompt"] for launch in harness.launches}
        if command == "regen":
            history, text = conversation.without_last_turn(), "say 2"
        elif command == "undo":
            history, text = conversation.without_last_turn(), "say something else"
        else:
            history, text = conversation.cleared(), "say fresh"
        if command != "regen":
            backend.prepare(history)
        await ask(backend, history, text)
        process = backend._session.process
        assert process is not None and process.pid in before
        assert ("say 1" in before[process.pid]) == ("clear" not in command) and "say 2" not in before[process.pid]
        if command == "clear twice":
            harness.remove_gate()
            backend.prepare(history)
            await prepared(backend)
            await ask(backend, history, text)

    run(harness, body, spare=True)


@needs_scripts
def test_there_are_never_more_than_the_limit_and_none_of_them_is_wasted(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind")
        for number in range(6):
            conversation = await ask(backend, conversation, f"say {number}")
            await prepared(backend)
            pids = backend._session.supervisor.spare_pids
            # Before the second turn the conversation without its last one is the empty one.
            assert len(pids) == (1 if number == 0 else standby.LIMIT)
            status = backend.status()
            assert status.spare_memory is not None and status.spare_memory > len(pids) * 1_000_000
            alive = [launch["pid"] for launch in harness.launches if psutil.pid_exists(launch["pid"])]
            living = [pid for pid in alive if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
            assert len(living) <= 1 + standby.LIMIT
        assert len(harness.launches) == 1 + 1 + 5, "the empty one stays, the other one moves with the conversation"

    run(harness, body, spare=True)


@needs_scripts
def test_no_spare_is_loaded_while_somebody_waits(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = await ask(backend, Conversation().with_system("be kind"), "say one")
        await prepared(backend)
        harness.close_gate()
        conversation = await ask(backend, conversation, "say two")
        gate = await harness.gate_reached()  # the spare of this turn is loading
        loading = harness.launches[-1]["pid"] if len(harness.launches) > 2 else None
        events = backend.reply(conversation.with_user("story"))
        async for event in events:
            if isinstance(event, TextDelta):
                assert len(backend._session.supervisor.spare_pids) == 1, "the one that had loaded"
                backend.interrupt()
        os.close(gate)
        assert loading is None or loading not in backend._session.supervisor.spare_pids

    run(harness, body, spare=True)


@needs_scripts
def test_spares_that_die_are_no_trouble(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind")
        for number in range(2):
            conversation = await ask(backend, conversation, f"say {number}")
        await prepared(backend)
        standby = backend._session.supervisor._standby
        assert standby is not None
        for process in [each.process for each in standby._ready]:
            os.kill(process.pid, 9)
            await process.gone()
        events = [event async for event in backend.reply(conversation.cleared().with_user("say fine"))]
        assert isinstance(events[-1], Completed) and events[-1].text == "fine"
        assert not any(isinstance(event, Notice) for event in events)

    run(harness, body, spare=True)


@needs_scripts
def test_no_spare_without_memory_for_it(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.util.resources.available", lambda: 1000)

    async def body(backend: LocalEngineBackend) -> None:
        await ask(backend, Conversation().with_system("be kind"), "say one")
        await prepared(backend)
        assert backend._session.supervisor.spare_pids == [] and backend.status().spare_memory is None

    run(harness, body, spare=True)


@needs_scripts
@pytest.mark.parametrize(("has_standby", "size"), [(True, 256), (False, 2048)])
def test_whatever_is_done_the_engine_has_what_the_conversation_says(
    harness: Harness, has_standby: bool, size: int
) -> None:
    chance = random.Random(size)

    async def body(backend: LocalEngineBackend) -> None:
        protocol, window = backend.protocol(), backend._session.supervisor.window
        conversation = Conversation().with_system("pinned")
        for step in range(60):
            choice = chance.random()
            if choice < 0.1:
                conversation = conversation.cleared()
            elif choice < 0.25:
                conversation = conversation.without_last_turn()
            elif choice < 0.3:
                conversation = told(Conversation().with_system(f"another {step}"))
            elif choice < 0.4:
                async for event in backend.reply(conversation.with_user("story")):
                    if isinstance(event, TextDelta):
                        backend.interrupt()
                assert isinstance(event, Completed)
                if event.text:
                    conversation = conversation.with_user("story").with_assistant(event.text, event.reason)
            if chance.random() < 0.5:
                backend.prepare(conversation)
            if chance.random() < 0.5:
                await prepared(backend)
            after = await ask(backend, conversation, "recite")
            launch = protocol.launch(window.kept(conversation))
            flags = list(launch.argv)
            prefix, suffix = (flags[flags.index(flag) + 1] for flag in ("--in-prefix", "--in-suffix"))
            context = f"{launch.prompt}{prefix}user\nrecite{suffix}"
            assert after.turns[-1].content == hashlib.sha1(context.encode()).hexdigest(), f"step {step}"
            conversation = after
            assert len(backend._session.supervisor.spare_pids) <= standby.LIMIT

    run(harness, body, spare=has_standby, ctx=size)


@pytest.mark.engine
def test_real_engines_answer_from_a_spare_as_they_do_without(engine: EngineBinary, model: Path) -> None:
    settings = {"engine": str(engine.path), "model": str(model), "temperature": 0.0, "system": "Be brief."}

    async def replies(*, standby: bool) -> list[str]:
        backend = LocalEngineBackend(Settings(**settings, spare=standby, journal=False))  # type: ignore[arg-type]
        try:
            conversation = Conversation().with_system("Be brief.")
            for text in ("hello", "how do I leave?", "what is bitnet-chat?"):
                conversation = await ask(backend, conversation, text)
            await prepared(backend)
            ready = set(backend._session.supervisor.spare_pids)
            again = await ask(backend, conversation.without_last_turn(), "what is bitnet-chat?")
            assert backend._session.process is not None
            assert (backend._session.process.pid in ready) == standby
            await prepared(backend)
            cleared = await ask(backend, conversation.cleared(), "hello")
            return [each.content for each in (*conversation.turns, *again.turns, *cleared.turns)]
        finally:
            await backend.close()

    assert asyncio.run(replies(standby=True)) == asyncio.run(replies(standby=False))
