"""The seed of a recorded reply is that of its rest, in the same process and after a restart of the program."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_backend import ScriptedBackend, say

from bitnet_chat.backend import BackendStatus, EngineFacts, ReplyOptions, Sampling
from bitnet_chat.backends.wrappers.recording import record_reply, seed_of
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, TextDelta
from bitnet_chat.journal import Journal, JournalRecorder

HOT = Sampling(temperature=0.8)


class SeededBackend(ScriptedBackend):
    def status(self) -> BackendStatus:
        return replace(super().status(), facts=EngineFacts(takes_seeds=True), sampling=HOT)

    @property
    def seeds(self) -> list[int | None]:
        return [options.sampling.seed for options in self.options]


def cut_backend(*parts: str) -> SeededBackend:
    return SeededBackend(lambda conversation: say(*parts, reason=FinishReason.INTERRUPTED))


async def reply(
    backend: SeededBackend, recorder: JournalRecorder, conversation: Conversation, options: ReplyOptions | None = None
) -> Conversation:
    """The conversation with the reply, or with its rest."""
    end = None
    async for event in record_reply(backend, recorder, conversation, options or ReplyOptions()):
        end = event
    assert isinstance(end, Completed)
    last = conversation.messages[-1]
    before = last.content if last.role == "assistant" else ""
    return (conversation.without_last_reply() if before else conversation).with_assistant(before + end.text, end.reason)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def test_the_rest_of_a_reply_has_its_seed(journal: Journal) -> None:
    async def main() -> None:
        backend, recorder = cut_backend("so"), JournalRecorder(journal, pytest.fail)
        backend.start()
        asked = Conversation().with_user("one")
        first = await reply(backend, recorder, asked)
        second = await reply(backend, recorder, first)
        await reply(backend, recorder, second)
        one, two, three = backend.seeds
        assert one is not None and one == two == three
        await reply(backend, recorder, asked)  # another reply to the message
        assert backend.seeds[-1] not in (one, None)
        await reply(backend, recorder, first, ReplyOptions(sampling=Sampling(temperature=0.5)))
        assert backend.seeds[-1] is None, "which is sampled in another way"
        await reply(backend, recorder, first, ReplyOptions(sampling=Sampling(seed=7)))
        assert backend.seeds[-1] == 7
        await recorder.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_left", [False, True])
def test_after_a_restart_of_the_program(journal: Journal, is_left: bool) -> None:
    async def main() -> None:
        backend, recorder = cut_backend("so", " it"), JournalRecorder(journal, pytest.fail)
        backend.start()
        events = record_reply(backend, recorder, Conversation().with_user("one"), ReplyOptions())
        async for event in events:
            if is_left and isinstance(event, TextDelta):
                break
        await events.aclose()
        await recorder.close()
        stored = Journal(journal.path).load(1)
        assert stored.conversation.messages[-1].was_cut
        later, recorder = cut_backend(" be"), JournalRecorder(Journal(journal.path), pytest.fail)
        later.start()
        recorder.resume(stored)
        await reply(later, recorder, stored.conversation)
        assert later.seeds == backend.seeds and later.seeds[0] is not None
        recorder.start_new()
        await reply(later, recorder, stored.conversation)
        assert later.seeds[-1] is None, "another conversation"
        await recorder.close()
        assert Journal(journal.path).load(1).records[-1].options["seed"] == backend.seeds[0]

    asyncio.run(main())


def test_the_rest_of_an_unknown_reply_has_none(journal: Journal) -> None:
    async def main() -> None:
        backend, recorder = cut_backend("so"), JournalRecorder(journal, pytest.fail)
        backend.start()
        await reply(backend, recorder, Conversation().with_user("one").with_assistant("two", FinishReason.CUT_OFF))
        assert backend.seeds == [None]
        await recorder.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("made_with", "sampling", "seed"),
    [
        ({"seed": 5, "temperature": 0.8}, HOT, 5),
        ({"seed": 5}, HOT, 5),  # not known when the reply began
        ({"seed": 5, "temperature": 0.8, "top_k": 4}, HOT, 5),
        ({"seed": 5, "temperature": 0.7}, HOT, None),
        ({"temperature": 0.8}, HOT, None),
        ({"seed": -1}, HOT, None),
        ({"seed": "5"}, HOT, None),
        ({"seed": 1 << 40}, HOT, None),
        ({}, HOT, None),
    ],
)
def test_the_seed_of_a_reply(made_with: dict[str, object], sampling: Sampling, seed: int | None) -> None:
    assert seed_of(made_with, sampling) == seed
