"""Conversations with engines whose contexts are saved, for tests of several runs of the program."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitnet_chat import paths
from bitnet_chat.backend import Backend, ReplyOptions, Sampling
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.saved_states import EngineStates, StateJob
from bitnet_chat.events import Completed, Stats, TextDelta
from bitnet_chat.prompt_cache.store import StateStore

STORY = " ".join(f"I have {number} questions about the terminal, the model and the engine." for number in range(40))
PERSONA = " ".join(f"You are a guide of {number} years who explains terminals patiently." for number in range(40))
"""A system prompt that is worth a state."""
GREEDY = Sampling(temperature=0.0)
SHORT = 60
"""Tokens, at most, that are read again: the end of a reply, the message, and what the template adds."""
LONG = 400
"""Tokens, at least, of a text that is read."""
TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of states of its own; engines and models stay where they are."""
    folder = tmp_path / "states"
    monkeypatch.setattr(paths, "states_dir", lambda: folder)
    return folder


class Engines:
    """Engines that are started one after the other, as by several runs of the program."""

    def __init__(self, engine: EngineBinary, model: Path) -> None:
        self.engine, self.model = engine, model

    def open(self, **settings: object) -> LocalEngineBackend:
        model = os.environ.get("BITNET_CHAT_MODEL") or str(self.model)
        return LocalEngineBackend(replace(Settings(engine=str(self.engine.path), model=model, threads=1), **settings))  # type: ignore[arg-type]


class Servers:
    """A llama-server that is started again and again."""

    def __init__(self, engine: EngineBinary, model: Path) -> None:
        self._settings = Settings(engine=str(engine.path), model=str(model), backend="llama-server", threads=1)

    def start(self, parallel: int = 1, **settings: object) -> LlamaServer:
        return LlamaServer(replace(self._settings, **settings), parallel=parallel)  # type: ignore[arg-type]

    def open(self, **settings: object) -> RemoteBackend:
        return self.start(**settings).backend()  # type: ignore[arg-type]


def guided(text: str) -> Conversation:
    return Conversation().with_system(PERSONA).with_user(text)


async def ask(
    backend: Backend, conversation: Conversation, text: str = "", **options: object
) -> tuple[Conversation, Stats]:
    """The conversation with the reply, and its figures."""
    conversation = conversation.with_user(text) if text else conversation
    wanted = ReplyOptions(max_tokens=12, sampling=GREEDY, **options)  # type: ignore[arg-type]
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


async def saved(backend: LocalEngineBackend | RemoteBackend) -> None:
    """Wait until the context is saved, as it is between two messages."""
    states: Any = backend._states if isinstance(backend, RemoteBackend) else backend._session.supervisor._saver
    await asyncio.wait([states._task])


async def has_read(backend: LocalEngineBackend | RemoteBackend, conversation: Conversation) -> None:
    """Wait until the engine has read a history in the background."""
    if isinstance(backend, RemoteBackend):
        assert backend._preparing is not None
        await backend._preparing
        return
    supervisor = backend._session.supervisor
    assert supervisor.starting is not None
    await supervisor.starting
    await asyncio.wait(supervisor._watchers, return_when=asyncio.FIRST_COMPLETED)
    assert supervisor._loaded is not None and supervisor._loaded.evaluated == conversation


def files(folder: Path, end: str) -> list[Path]:
    return list(folder.glob(f"*.{end}"))


def prompts(folder: Path) -> int:
    """The number of states of system prompts."""
    return StateStore(folder).prompt_usage().count


def breaking(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Have each state break while it is written: ``full`` is the disk, or the folder is ``removed``."""

    def broken(states: EngineStates, *arguments: Any, **named: Any) -> StateJob | None:
        job = begin(states, *arguments, **named)
        if job is not None and fault == "removed":
            shutil.rmtree(job.pending.path.parent)
        elif job is not None:
            job.pending.path.unlink()
            job.pending.path.symlink_to("/dev/full")
        return job

    begin = EngineStates.begin
    monkeypatch.setattr(EngineStates, "begin", broken)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(body(), TIMEOUT)

    asyncio.run(main())
