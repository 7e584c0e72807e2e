"""Kills at random moments of a reply: the conversation goes on. ``bench/kills.py`` makes a hundred of them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kills import QUESTION, STORY, VICTIMS, Kills, Spec

from bitnet_chat import paths
from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, ContextSource

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and processes are those of POSIX")


def check(spec: Spec, count: int = len(VICTIMS)) -> None:
    """The conversation goes on with the words of an undisturbed one. The first kill comes twice."""
    kills = Kills(spec, seed=3)
    for number in range(3, 3 + count):
        kill = kills.kill(number)
        assert kills.is_exact(kill), f"{kill.victim} after {kill.at} characters: {kills.difference(kill)}"
        assert all(kill.origins), "each reply knows the origin of its context"


def test_of_a_native_engine(any_native: EngineBinary, model: Path, tmp_path: Path) -> None:
    model = Path(os.environ.get("BITNET_CHAT_MODEL") or model)
    check(Spec(str(any_native.path), str(model), "engine", str(tmp_path), tokens=40))


def test_of_sampled_replies(native: EngineBinary, model: Path, tmp_path: Path) -> None:
    """They go on with the seeds of the journal."""
    check(Spec(str(native.path), str(model), "engine", str(tmp_path), tokens=40, seed=5), 2)


async def ask(backend: LocalEngineBackend, conversation: Conversation) -> Completed:
    end = None
    async for event in backend.reply(conversation, ReplyOptions(max_tokens=24, sampling=Sampling(temperature=0.0))):
        end = event
    assert isinstance(end, Completed), end
    return end


def continued(settings: Settings, change: Callable[[str], str]) -> tuple[str, str, Completed]:
    """The reply to a question, the part of it that was kept, and the end of its continuation by a new engine."""

    async def main() -> tuple[str, str, Completed]:
        backend = LocalEngineBackend(settings)
        first = Conversation().with_user(STORY)
        asked = first.with_assistant((await ask(backend, first)).text).with_user(QUESTION)
        await backend.close()
        backend = LocalEngineBackend(replace(settings, journal=False))
        whole = (await ask(backend, asked)).text  # read anew, and in no state
        await backend.close()
        backend = LocalEngineBackend(settings)
        kept = change(whole)
        cut = asked.with_assistant(kept, FinishReason.INTERRUPTED)
        backend.prepare(cut)
        end = await ask(backend, cut)
        await backend.close()
        return whole, kept, end

    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "states_dir", lambda: tmp_path / "states")


@pytest.mark.usefixtures("states")
def test_a_cut_reply_is_generated_again(any_native: EngineBinary, model: Path) -> None:
    """From the message on, so that the reply is in no batch; what was shown is neither shown nor counted again."""
    whole, kept, end = continued(
        Settings(engine=str(any_native.path), model=str(model), threads=1), lambda all: all[:40]
    )
    assert (kept + end.text).startswith(whole) and len(kept) == 40
    assert end.origin is not None and end.origin.source is ContextSource.STATE
    assert end.stats.tokens == 24 or end.reason is FinishReason.STOP
    # The prompt ends before the reply.
    size = (end.stats.context_used or 0) - (end.stats.prompt_size or 0)
    assert size > end.stats.tokens + 4


@pytest.mark.usefixtures("states")
def test_a_reply_that_another_model_has_begun_is_read(any_native: EngineBinary, model: Path) -> None:
    settings = Settings(engine=str(any_native.path), model=str(model), threads=1)
    _, kept, end = continued(settings, lambda all: "Something else, which")
    assert end.text and not end.text.startswith(kept)
    size = (end.stats.context_used or 0) - (end.stats.prompt_size or 0)
    assert size <= end.stats.tokens + 1, "the prompt ends with what was kept"


def test_of_a_server(classic: EngineBinary, model: Path, tmp_path: Path) -> None:
    check(Spec(str(classic.path), str(model), "llama-server", str(tmp_path), tokens=40))


def test_of_a_classic_engine(classic: EngineBinary, model: Path, tmp_path: Path) -> None:
    """In the first reply of a process, of which the prompt cache tells."""
    check(Spec(str(classic.path), str(model), "engine", str(tmp_path), tokens=40), 2)


def test_of_a_modern_engine(modern: EngineBinary, model: Path, tmp_path: Path) -> None:
    """In the reply to the first message."""
    check(Spec(str(modern.path), str(model), "engine", str(tmp_path), tokens=40, history="none"), 2)
