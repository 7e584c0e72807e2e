"""How long a turn, or the end of a program, waits for a state on a slow disk: a process without an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from state_rig import IDENTITY

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import context_saver as module
from bitnet_chat.engine.context_saver import ContextSaver
from bitnet_chat.engine.loaded_engine import EngineInstance
from bitnet_chat.engine.process import ProcessState
from bitnet_chat.engine.protocols import EncodedMessage
from bitnet_chat.engine.saved_states import SAVE_SHARE, EngineStates
from bitnet_chat.prompt_cache.store import StateStore

LONG = "A long text. " * 200
SYSTEM = "You are patient. " * 60


class Meter:
    context_used = None

    def forgot(self) -> None: ...


class SlowProcess:
    """A process that needs ``seconds`` to write a state, and notes when it has begun which command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.meter = folder, 0.0, Meter()
        self.state, self.ready_after = ProcessState.IDLE, 0.1
        self.command_error, self.command_tokens = "", 5
        self.commands: list[tuple[str, float]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.commands]

    def command(self, data: bytes, *, forgets: bool, stop: bytes = b"") -> None:
        assert self.state is ProcessState.IDLE
        kind, _, name = data.decode().partition(" ")
        self.commands.append((kind, time.monotonic()))
        self.state = ProcessState.STARTING
        self._idle.clear()
        asyncio.get_running_loop().call_later(self.seconds if kind == "save" else 0, self._end, kind, name)

    def _end(self, kind: str, name: str) -> None:
        if kind == "save":
            (self.folder / name).write_bytes(b"state")
        self.state = ProcessState.IDLE
        self._idle.set()

    async def settled(self) -> None:
        await self._idle.wait()


class Commands:
    """The protocol of such a process."""

    def save(self, name: str) -> bytes:
        return f"save {name}".encode()

    def restore(self, name: str) -> bytes:
        return f"restore {name}".encode()

    def preparation(self, conversation: Conversation) -> EncodedMessage:
        return EncodedMessage(b"read ")

    def cache_flags(self, name: str) -> list[str]:
        return []


class Rig:
    """A saver with one process that has just replied to a conversation."""

    def __init__(self, folder: Path) -> None:
        self.store = StateStore(folder, 10**6)
        self.saver = ContextSaver(EngineStates(self.store, lambda: IDENTITY))
        self.process, self.protocol = SlowProcess(folder), Commands()
        self.loaded = EngineInstance(self.process, Conversation())  # type: ignore[arg-type]
        self.is_busy = False

    def replied(self, text: str = LONG, system: str = "") -> Conversation:
        conversation = Conversation().with_system(system).with_user(text).with_assistant("Yes.")
        self.loaded.evaluated = conversation
        self.loaded.place = lambda: None
        self.is_busy = False
        self.saver.save_later(self.loaded, self.protocol, lambda: not self.is_busy)  # type: ignore[arg-type]
        return conversation

    async def ask(self, conversation: Conversation) -> float:
        """Seconds that a request waits before it is sent."""
        self.is_busy, began = True, time.monotonic()
        await self.saver.recall(self.loaded, self.protocol, conversation, self.loaded.evaluated)  # type: ignore[arg-type]
        assert self.process.state is ProcessState.IDLE
        return time.monotonic() - began

    async def begun(self, kind: str, times: int = 1) -> None:
        while self.process.kinds.count(kind) < times:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.005)

    async def at_rest(self) -> None:
        assert self.saver._task is not None
        await asyncio.wait([self.saver._task])


def run(folder: Path, body: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(body(Rig(folder)), 60)

    asyncio.run(main())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


def test_a_turn_within_the_pause_begins_no_state(folder: Path) -> None:
    async def body(rig: Rig) -> None:
        rig.process.seconds = 1000
        await rig.ask(rig.replied())
        assert rig.process.commands == []

    run(folder, body)


def test_a_turn_waits_for_the_rest_of_one_write_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the check of the file, nor for the system prompt."""
    monkeypatch.setattr(module, "SAVE_PAUSE", 0.0)

    async def body(rig: Rig) -> None:
        rig.process.seconds = 0.5
        conversation = rig.replied(system=SYSTEM)
        await rig.begun("save")
        await rig.ask(conversation)
        assert rig.process.kinds == ["save"]
        assert rig.store.usage().count == 1

    run(folder, body)


def test_the_next_state_is_begun_after_ten_times_the_time_of_the_last_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a turn that comes at any time waits for a tenth of the time at most, in the mean."""
    monkeypatch.setattr(module, "SAVE_PAUSE", 0.0)

    async def body(rig: Rig) -> None:
        rig.process.seconds = 0.1
        rig.replied("a" + LONG)
        await rig.at_rest()
        began = time.monotonic()
        rig.replied("b" + LONG)
        await rig.begun("save", 2)
        assert time.monotonic() - began >= SAVE_SHARE * 0.1
        await rig.at_rest()

    run(folder, body)


def test_a_turn_waits_for_no_lost_context_on_a_slow_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_PAUSE", 0.0)

    async def body(rig: Rig) -> None:
        rig.replied("a" + LONG, SYSTEM)
        await rig.ask(Conversation().with_user("Another one."))
        assert rig.process.kinds == ["save"], "on a fast one it does"
        rig.process.seconds = 0.6  # more than a turn waits for
        rig.replied("b" + LONG)
        await rig.at_rest()
        commands = rig.process.kinds
        for system in ("", SYSTEM):
            rig.replied("c" + LONG, system)
            await rig.ask(Conversation().with_system(system).with_user("Another one."))
        assert rig.process.kinds == commands

    run(folder, body)


def test_the_end_waits_for_a_state_no_longer_than_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_LIMIT", 0.2)

    async def body(rig: Rig) -> None:
        rig.process.seconds = 1000
        rig.replied()
        await rig.saver.close(rig.loaded, rig.protocol)  # type: ignore[arg-type]
        assert rig.process.kinds == ["save"]

    run(folder, body)
    assert list(folder.glob("*")) == [], "what was not written to its end is removed"


def test_a_request_that_comes_while_a_system_prompt_is_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is not restored for nothing: the request restores what it needs."""
    monkeypatch.setattr(module, "SAVE_PAUSE", 0.0)

    async def body(rig: Rig) -> None:
        rig.process.seconds = 0.1
        conversation = rig.replied(system=SYSTEM)
        await rig.begun("save", 2)
        assert rig.process.kinds == ["save", "read", "save"]
        await rig.ask(Conversation().with_system(SYSTEM).with_user("Another one."))
        assert rig.process.kinds == ["save", "read", "save"] and rig.store.prompt_usage().count == 1
        await rig.ask(conversation)
        assert rig.process.kinds[3:] == ["restore"] and rig.loaded.evaluated == conversation

    run(folder, body)


def test_a_system_prompt_that_is_read_before_the_hash_of_the_model_is_known(folder: Path) -> None:
    """It is saved at the end."""

    async def body(rig: Rig) -> None:
        known = rig.saver._states._identity
        rig.saver._states._identity = lambda: None
        rig.replied(system=SYSTEM)
        await rig.at_rest()
        assert rig.process.commands == []
        rig.saver._states._identity = known
        await rig.saver.close(rig.loaded, rig.protocol)  # type: ignore[arg-type]
        assert rig.process.kinds == ["save", "read", "save"] and rig.store.prompt_usage().count == 1

    run(folder, body)


def test_a_state_with_more_than_the_system_prompt_is_not_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one of an engine that has not dropped what follows."""
    monkeypatch.setattr(module, "SAVE_PAUSE", 0.0)

    async def body(rig: Rig) -> None:
        command = rig.process.command

        def counting(data: bytes, **named: Any) -> None:
            command(data, **named)
            rig.process.command_tokens = 5 if data.startswith(b"read") else 6

        monkeypatch.setattr(rig.process, "command", counting)
        conversation = rig.replied(system=SYSTEM)
        await rig.at_rest()
        assert rig.process.kinds == ["save", "read", "save", "restore"]
        assert rig.store.usage().count == 1 and not rig.store.prompt_usage().count
        assert rig.loaded.evaluated == rig.loaded.saved == conversation

    run(folder, body)
