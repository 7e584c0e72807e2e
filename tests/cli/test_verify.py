"""``bitnet-chat verify``: replies that are made again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bitnet_chat import verification
from bitnet_chat.backend import Backend, ReplyOptions, Sampling
from bitnet_chat.backends.factory import made_with, open_backend
from bitnet_chat.backends.wrappers.recording import record_reply
from bitnet_chat.cli import main
from bitnet_chat.cli.verify import DIFFERENT
from bitnet_chat.config import Settings
from bitnet_chat.context.token_count import TokenCount
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.events import Completed, ContextSource
from bitnet_chat.journal import Journal, JournalRecorder, MessageRecord, ReplyState, StoredConversation
from bitnet_chat.prompt_cache.model_hash import compute_hash

STORY = " ".join(f"I have {number} questions about the terminal, the model and the engine." for number in range(30))
SAMPLED = Sampling(temperature=0.9)


async def ask(
    backend: Backend, recorder: JournalRecorder, conversation: Conversation, text: str, sampling: Sampling
) -> Conversation:
    conversation, end = conversation.with_user(text), None
    async for event in record_reply(backend, recorder, conversation, ReplyOptions(max_tokens=12, sampling=sampling)):
        end = event
    assert isinstance(end, Completed), end
    return conversation.with_assistant(end.text, end.reason)


def talk(settings: Settings, texts: list[list[str]], sampling: Sampling) -> None:
    """A conversation in the journal. Each list of messages is of one run of the program."""
    compute_hash(Path(settings.model))

    async def main() -> None:
        journal = Journal()
        journal.made_with = made_with(settings)
        recorder, conversation = JournalRecorder(journal, pytest.fail), Conversation()
        for run in texts:
            backend = open_backend(settings, "")
            for text in run:
                conversation = await ask(backend, recorder, conversation, text, sampling)
            await backend.close()
        await recorder.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["verify", "--json", *arguments])
    output, errors = capsys.readouterr()
    assert not errors
    return code, json.loads(output)


def flags(settings: Settings) -> list[str]:
    return ["--engine", settings.engine, "-m", settings.model]


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), SAMPLED], ids=["greedy", "sampled"])
def test_of_a_native_engine(
    any_native: EngineBinary, model: Path, capsys: pytest.CaptureFixture[str], sampling: Sampling
) -> None:
    """Lived through, resumed from a state, and sampled with seeds that were drawn."""
    settings = Settings(engine=str(any_native.path), model=str(model), threads=1)
    talk(settings, [[STORY, "And then?"], ["Why?"]], sampling)
    code, found = verified(capsys, *flags(settings))
    assert code == 0 and [each["verdict"] for each in found["replies"]] == ["identical"] * 3
    assert (found["id"], found["identical"], found["different"], found["not_repeatable"]) == (1, 3, 0, 0)
    assert main(["verify", "1", *flags(settings)]) == 0
    assert capsys.readouterr().out == (
        "reply 1: identical\nreply 2: identical\nreply 3: identical\n"
        "conversation 1: 3 identical, 0 different, 0 not repeatable\n"
    )


def test_of_a_cold_reading(any_native: EngineBinary, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(engine=str(any_native.path), model=str(model), threads=1, state_limit="0")
    talk(settings, [[STORY], ["Why?"]], Sampling(temperature=0.0))
    assert verified(capsys, *flags(settings))[0] == 0


def test_of_a_continued_reply(native: EngineBinary, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its limit of tokens counted anew."""
    settings = Settings(engine=str(native.path), model=str(model), threads=1)
    greedy = Sampling(temperature=0.0)
    compute_hash(model)

    async def talk_on() -> None:
        recorder, backend = JournalRecorder(Journal(), pytest.fail), open_backend(settings, "")
        conversation = await ask(backend, recorder, Conversation(), "Tell me a long story", greedy)
        async for _ in record_reply(backend, recorder, conversation, ReplyOptions(max_tokens=12, sampling=greedy)):
            pass
        await backend.close()
        await recorder.close()

    asyncio.run(asyncio.wait_for(talk_on(), 60))
    assert len(Journal().load(1).records) == 2
    assert verified(capsys, *flags(settings))[1]["identical"] == 1


@pytest.mark.parametrize("kind", ["native", "llama-server"])
def test_of_a_sampled_reply_that_a_kill_has_cut(
    native: EngineBinary, classic: EngineBinary, model: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is generated with the seed of the beginning, so that the whole reply is one of that seed."""
    binary, backend_name = (native, "engine") if kind == "native" else (classic, "llama-server")
    settings = Settings(engine=str(binary.path), model=str(model), threads=1, backend=backend_name)
    compute_hash(model)

    async def talk_on() -> None:
        journal = Journal()
        journal.made_with = made_with(settings)
        recorder, backend = JournalRecorder(journal, pytest.fail), open_backend(settings, "")
        before = await ask(backend, recorder, Conversation(), STORY, SAMPLED)
        conversation = await ask(backend, recorder, before, "Tell me a long story", SAMPLED)
        whole = conversation.messages[-1].content
        await backend.close()
        await recorder.close()
        # As if it had been killed after half of the reply.
        edit_last_reply(lambda old: old[: len(old) // 2], FinishReason.CUT_OFF)
        recorder, backend = JournalRecorder(journal, pytest.fail), open_backend(settings, "")
        stored = journal.load(1)
        recorder.resume(stored)
        cut = stored.conversation
        async for event in record_reply(backend, recorder, cut, ReplyOptions(max_tokens=12, sampling=SAMPLED)):
            end = event
        assert isinstance(end, Completed), end
        assert (cut.messages[-1].content + end.text).startswith(whole)
        await backend.close()
        await recorder.close()

    asyncio.run(asyncio.wait_for(talk_on(), 60))
    assert verified(capsys, *flags(settings))[1]["identical"] == 2


def test_of_a_server(classic: EngineBinary, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(engine=str(classic.path), model=str(model), threads=1, backend="llama-server")
    talk(settings, [[STORY, "And then?"]], Sampling(temperature=0.0))
    code, found = verified(capsys, *flags(settings))
    assert code == 0 and found["identical"] == 2


def test_a_difference(native: EngineBinary, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reply that is not what the model has said, and another number of threads."""
    settings = Settings(engine=str(native.path), model=str(model), threads=1)
    talk(settings, [["Hello"]], Sampling(temperature=0.0))
    stored = Journal().load(1)
    text = stored.records[-1].message.content
    edit_last_reply(lambda old: old[:5] + "#" + old[6:])
    code, found = verified(capsys, *flags(settings), "-t", "2")
    [reply] = found["replies"]
    assert code == DIFFERENT and (reply["verdict"], reply["at"]) == ("different", 5)
    assert reply["kept"].startswith("#") and reply["made"].startswith(text[5])
    assert main(["verify", *flags(settings)]) == DIFFERENT
    assert reply["token"] == 2
    assert "reply 1: differs at token 2 (character 5): " in capsys.readouterr().out


def edit_last_reply(change: Callable[[str], str], finish: FinishReason = FinishReason.STOP) -> None:
    import sqlite3

    with sqlite3.connect(Journal().path) as connection:
        row, old = connection.execute("SELECT id, content FROM messages ORDER BY id DESC LIMIT 1").fetchone()
        connection.execute("UPDATE messages SET content = ?, finish = ? WHERE id = ?", (change(old), finish, row))
    connection.close()


def test_another_model(native: EngineBinary, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(engine=str(native.path), model=str(model), threads=1)
    talk(settings, [["Hello"]], Sampling(temperature=0.0))
    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes() + b"\0" * 32)
    code, found = verified(capsys, "--engine", settings.engine, "-m", str(other))
    [reply] = found["replies"]
    assert (code, reply["verdict"], reply["reason"]) == (0, "not_repeatable", "made with another model than other.gguf")


def test_an_empty_journal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 2
    assert "the journal is empty" in capsys.readouterr().err


def record(options: Mapping[str, object], finish: FinishReason = FinishReason.STOP) -> MessageRecord:
    return MessageRecord(2, Message("assistant", "text", finish), 0.0, "m", "llama.cpp (native)", options)


REPEATABLE = {"model_hash": "1" * 64, "temperature": 0.0, "threads": 1, "template": "t", "read": {"from": "live"}}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"temperature": 0.7}, "sampled without a seed"),
        ({"temperature": 0.7, "seed": 5}, ""),
        ({"temperature": 0.7, "seed": -1}, "sampled without a seed"),
        (
            {"temperature": 0.7, "seed": 5, "read": {"from": "state", "begun": 9}},
            "sampled anew after its first 9 characters, where it was cut",
        ),
        ({"read": {"from": "state", "begun": 9}}, ""),
        ({"model_hash": None}, "the journal has no hash of the model"),
        ({"backend": "ollama"}, "made by llama.cpp (native)"),
        ({"tools": ["look"]}, "made with tools"),
    ],
)
def test_what_cannot_be_made_again(changed: dict[str, object], why: str) -> None:
    assert verification.unrepeatable(record(REPEATABLE | changed)) == why


@pytest.mark.parametrize(
    ("engine", "version", "threads", "template", "source", "why"),
    [
        ("llama.cpp (classic)", "v", 1, "t", "live", "another engine or version: llama.cpp (classic) v instead of "),
        ("llama.cpp (native)", "w", 1, "t", "live", "another engine or version: llama.cpp (native) w instead of "),
        ("llama.cpp (native)", "v", 2, "t", "live", "other threads: 2 instead of 1"),
        ("llama.cpp (native)", "v", 1, "u", "live", "another chat template"),
        ("llama.cpp (native)", "v", 1, "t", "cold", "the context was read anew instead of evaluated turn by turn"),
        ("llama.cpp (native)", "v", 1, "t", "live", "not known"),
    ],
)
def test_the_probable_reason(engine: str, version: str, threads: int, template: str, source: str, why: str) -> None:
    kept = record(REPEATABLE | {"engine_version": "v"})
    found = verification.probable_reason(kept, engine, version, threads, template, ContextSource(source))
    assert found.startswith(why)


def test_the_probable_reason_for_a_reply_that_was_continued() -> None:
    kept = record(REPEATABLE | {"engine_version": "v", "read": {"from": "state", "begun": 9}})
    found = verification.probable_reason(kept, "llama.cpp (native)", "v", 1, "t", ContextSource.STATE)
    assert found == "its first 9 characters, after which it was cut, were read as text when it was continued"


@pytest.mark.parametrize(
    ("kept", "made", "whole", "at"),
    [
        ("same", "same", True, None),
        ("same", "samE", True, 3),
        ("same", "same and more", True, 4),
        ("same", "same and more", False, None),
        ("same", "sam", False, 3),
        ("", "", True, None),
    ],
)
def test_the_first_difference(kept: str, made: str, whole: bool, at: int | None) -> None:
    assert verification.first_difference(kept, made, is_whole=whole) == at


@pytest.mark.parametrize(
    ("kept", "at", "equal"),
    [("one two three", None, 3), ("one two three", 13, 3), ("one two three", 4, 1), ("one two three", 6, 1)],
)
def test_the_tokens_before_a_difference(kept: str, at: int | None, equal: int) -> None:
    class Words:
        """A backend whose tokens are words with the space before them."""

        def count(self, text: str) -> TokenCount:
            return TokenCount(len(text.split()))

    assert verification._equal_tokens(Words(), kept, at) == equal  # type: ignore[arg-type]


def test_a_setting_that_does_not_exist_is_an_error() -> None:
    async def main() -> None:
        stored = StoredConversation(1, "", 0, 0, "", "", {}, None, ReplyState.WHOLE, ())
        async for _ in verification.verify(stored, modle="x"):
            raise AssertionError

    with pytest.raises(UsageError, match="modle"):
        asyncio.run(main())
