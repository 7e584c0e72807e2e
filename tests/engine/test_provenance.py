"""What the journal keeps of the making of a reply, with real engines."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bitnet_chat import paths
from bitnet_chat.backend import Backend, BackendStatus, EngineFacts, ReplyOptions, Sampling
from bitnet_chat.backends.factory import open_backend as open_guarded
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.wrappers.recording import made_with, record_reply
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, ContextOrigin, ContextSource, Stats
from bitnet_chat.journal import Journal, JournalRecorder

STORY = " ".join(f"I have {number} questions about the terminal, the model and the engine." for number in range(30))
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "states"
    monkeypatch.setattr(paths, "states_dir", lambda: folder)
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


async def ask(
    backend: Backend, recorder: JournalRecorder, conversation: Conversation, text: str, sampling: Sampling = GREEDY
) -> Conversation:
    conversation, end = conversation.with_user(text), None
    async for event in record_reply(backend, recorder, conversation, ReplyOptions(max_tokens=8, sampling=sampling)):
        end = event
    assert isinstance(end, Completed), end
    return conversation.with_assistant(end.text, end.reason)


def kept(open_backend: Callable[[], Backend], journal: Journal, home: Path) -> list[Mapping[str, object]]:
    """The options of five replies: the first, a follow-up, a resumed one, a cold one, and a sampled one."""

    async def main() -> None:
        recorder = JournalRecorder(journal, pytest.fail)
        conversation = await ask(backend := open_backend(), recorder, Conversation(), STORY)
        conversation = await ask(backend, recorder, conversation, "And then?")
        await backend.close()
        conversation = await ask(backend := open_backend(), recorder, conversation, "Why?")
        await backend.close()
        shutil.rmtree(home)
        conversation = await ask(backend := open_backend(), recorder, conversation, "What is a token?")
        await ask(backend, recorder, conversation, "Go on.", Sampling(temperature=0.7))
        await backend.close()
        await recorder.close()

    asyncio.run(asyncio.wait_for(main(), 120))
    stored = journal.load(1)
    return [record.options for record in stored.records if record.message.role == "assistant"]


def check(found: list[Mapping[str, object]], model: Path, version: str) -> None:
    hash = hashlib.sha256(model.read_bytes()).hexdigest()
    assert len(found) == 5
    for options in found:
        # The hash is computed in the background; a first reply may be faster.
        assert options.get("model_hash", hash) == hash
        assert options["engine_version"] == version and options["threads"] == 1
        assert isinstance(options["template"], str) and len(options["template"]) == 16
    assert found[-1]["model_hash"] == hash
    reads = [options["read"] for options in found]
    assert all(isinstance(read, dict) for read in reads)
    assert [read["from"] for read in reads] == ["cold", "live", "state", "cold", "live"]  # type: ignore[index]
    first, live, state, cold, _ = reads
    assert first["evaluated"] > 300 and cold["evaluated"] > 300  # type: ignore[index]
    assert live["evaluated"] < 60 and state["evaluated"] < 60  # type: ignore[index]
    assert state["restored"] > 300 and "restored" not in live  # type: ignore[index, operator]
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", state["state"]) and "state" not in cold  # type: ignore[index, operator]
    assert all("seed" not in options for options in found[:-1])
    assert isinstance(found[-1]["seed"], int), "drawn, so that the reply can be made again"


def test_of_a_native_engine(any_native: EngineBinary, model: Path, journal: Journal, home: Path) -> None:
    settings = Settings(engine=str(any_native.path), model=str(model), threads=1)
    check(kept(lambda: open_guarded(settings, ""), journal, home), model, any_native.version)


def test_of_a_server(classic: EngineBinary, model: Path, journal: Journal, home: Path) -> None:
    settings = Settings(engine=str(classic.path), model=str(model), backend="llama-server", threads=1)
    servers: list[LlamaServer] = []

    def opened() -> Backend:
        servers.append(LlamaServer(settings))
        return servers[-1].backend()

    found = kept(opened, journal, home)
    check(found, model, servers[0].binary.version)


def test_a_classic_engine_has_one_seed(classic: EngineBinary, model: Path, journal: Journal) -> None:
    """It is restarted for another one, so that none is drawn."""
    settings = Settings(engine=str(classic.path), model=str(model), threads=1)

    async def main() -> None:
        recorder, backend = JournalRecorder(journal, pytest.fail), LocalEngineBackend(settings)
        conversation = await ask(backend, recorder, Conversation(), "Hello", Sampling(temperature=0.7))
        await ask(backend, recorder, conversation, "And you?", Sampling(temperature=0.7))
        await backend.close()
        await recorder.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    _, first, _, second = journal.load(1).records
    assert "seed" not in first.options and "seed" not in second.options
    assert first.options["read"]["from"] == "cold"  # type: ignore[index]


def test_the_rest_of_a_reply_has_its_seed(native: EngineBinary, model: Path, journal: Journal) -> None:
    settings = Settings(engine=str(native.path), model=str(model), threads=1)
    sampled = ReplyOptions(max_tokens=4, sampling=Sampling(temperature=0.7))
    seen: list[Mapping[str, object]] = []

    async def main() -> None:
        recorder, backend = JournalRecorder(journal, pytest.fail), LocalEngineBackend(settings)
        conversation = await ask(backend, recorder, Conversation(), "Hello", sampled.sampling)
        await recorder.settled()
        seen.append(journal.load(1).records[-1].options)
        async for _ in record_reply(backend, recorder, conversation, sampled):
            pass
        await backend.close()
        await recorder.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    beginning, whole = seen[0], journal.load(1).records[-1].options
    assert whole["seed"] == beginning["seed"]
    read = whole["read"]
    assert isinstance(read, dict) and read["begun"], "the context had the beginning: its random numbers did not go on"


def test_what_is_not_known_is_left_out() -> None:
    status = BackendStatus(model="m", engine="e", state="idle", facts=EngineFacts(threads=2))  # type: ignore[arg-type]
    end = Completed(FinishReason.STOP, "x", Stats(prompt_tokens=7), ContextOrigin(ContextSource.COLD))
    assert made_with(ReplyOptions(), status, end) == {"threads": 2, "read": {"from": "cold", "evaluated": 7}}
    assert made_with(ReplyOptions(), status) == {"threads": 2}
