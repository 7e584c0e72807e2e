"""Thoughts of a model, in replies of an engine: they are no part of the answer and never come back to the model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from backend_replies import end_of, events_of, with_backend
from scripted_engine import ScriptedEngine

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Notice, ThinkingDelta
from bitnet_chat.templates.builtin import TEMPLATES


class Harness(ScriptedEngine):
    def __init__(self, folder: Path, model: Path, environment: pytest.MonkeyPatch) -> None:
        super().__init__(folder, environment)
        self._model = model

    def settings(self, *, opened: bool = False) -> Settings:
        template = TEMPLATES["chatml"] + "{# </think> #}"
        if opened:
            template = template.replace("assistant\\n", "assistant\\n<think>\\n")
        return Settings(engine=str(self.engine), model=str(self._model), chat_template=template)


@pytest.fixture
def harness(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path, model, monkeypatch)


async def ask(
    backend: LocalEngineBackend,
    conversation: Conversation,
    on_event: Callable[[Event], None] = lambda event: None,
    options: ReplyOptions | None = None,
) -> tuple[str, Completed]:
    events = await events_of(backend, conversation, options, on_event)
    return "".join(event.text for event in events if isinstance(event, ThinkingDelta)), end_of(events)


posix = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")


@posix
@pytest.mark.parametrize("opened", [False, True])
def test_thoughts_are_no_part_of_the_reply_and_of_what_follows(harness: Harness, opened: bool) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user("say " + "<think>\n" * (not opened) + "hm\n</think>\n\n42")
        thoughts, reply = await ask(backend, asked)
        assert (thoughts, reply.text, reply.reason) == ("hm", "42", FinishReason.STOP)
        conversation = asked.with_assistant(reply.text, thinking=thoughts)
        answers = "next" if not opened else ""
        assert (await ask(backend, conversation.with_user("say next")))[1].text == answers
        assert len(harness.prompts) == 2 and harness.prompts[1].endswith("assistant\n42<|im_end|>"), harness.prompts

    with_backend(lambda: LocalEngineBackend(harness.settings(opened=opened)), body)


def switched(harness: Harness) -> Settings:
    """A template that begins thoughts, unless it is told not to."""
    off = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
    settings = harness.settings(opened=True)
    return replace(settings, chat_template=settings.chat_template.replace("<think>\\n' }}", "' }}" + off))


OFF = ReplyOptions(template={"enable_thinking": False, "thinking": False})


@posix
def test_thoughts_are_switched_off_for_one_reply(harness: Harness) -> None:
    """By the template, so that they are not even made, and for nobody else."""

    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user("say hm\n</think>\n\n42")
        assert [(await ask(backend, asked))[0], (await ask(backend, asked))[1].text] == ["hm", "42"]
        without = Conversation().with_user("say 42")
        thoughts, reply = await ask(backend, without, options=OFF)
        assert (thoughts, reply.text) == ("", " and more"), "the message is in the prompt: it is asked to continue"
        assert harness.prompts[-1].rstrip().endswith("say 42<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>")
        cut = without.with_assistant("4", FinishReason.LENGTH)
        assert not (await ask(backend, cut, options=OFF))[0] and harness.prompts[-1].endswith("</think>\n\n4")
        assert (await ask(backend, asked))[0] == "hm"
        assert "</think>" not in harness.prompts[-1]

    with_backend(lambda: LocalEngineBackend(switched(harness)), body)


@posix
@pytest.mark.parametrize("on", [True, False])
def test_a_template_that_has_no_switch_is_told_of(harness: Harness, on: bool) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        told: list[str] = []
        options = ReplyOptions(template={"enable_thinking": on, "thinking": on})
        for _ in range(2):  # each request stands for itself
            await ask(
                backend,
                Conversation().with_user("say 42"),
                lambda event: told.append(event.text) if isinstance(event, Notice) else None,
                options,
            )
        assert len(told) == 2 and all("does not use enable_thinking or thinking" in line for line in told)

    with_backend(lambda: LocalEngineBackend(harness.settings()), body)


@pytest.mark.engine
def test_a_real_engine_reads_the_other_prompt(harness: Harness, native: EngineBinary) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        asked = Conversation().with_user("What is bitnet-chat?")
        sizes = []
        for options in (ReplyOptions(max_tokens=3), replace(OFF, max_tokens=3), ReplyOptions(max_tokens=3)):
            sizes.append((await ask(backend, asked, options=options))[1].stats.prompt_size)
        assert sizes[0] == sizes[2] < sizes[1], sizes  # type: ignore[operator]  # a native engine tells them

    with_backend(lambda: LocalEngineBackend(replace(switched(harness), engine=str(native.path))), body)


@posix
def test_thoughts_are_stopped(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: Event) -> None:
            if isinstance(event, ThinkingDelta):
                backend.interrupt()

        asked = Conversation().with_user("story")
        thoughts, reply = await ask(backend, asked, stop)
        assert thoughts.startswith("word0") and reply.text == "" and reply.reason is FinishReason.INTERRUPTED
        thoughts, reply = await ask(backend, asked.with_assistant("", reply.reason, thoughts), stop)
        assert thoughts and not thoughts.startswith("word0"), "the message is asked again, its thoughts are shown once"

    with_backend(lambda: LocalEngineBackend(harness.settings(opened=True)), body)


@posix
def test_thoughts_are_told_once_when_the_engine_dies_of_them(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        thoughts, reply = await ask(backend, Conversation().with_user("once <think>let me see"))
        assert thoughts == "let me seesurvived" and reply.text == ""
        assert len(harness.prompts) >= 2

    with_backend(lambda: LocalEngineBackend(harness.settings()), body)


@posix
def test_an_answer_goes_on_behind_its_thoughts(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE_MORE", "say  and <think>more")

    async def body(backend: LocalEngineBackend) -> None:
        cut = Conversation().with_user("one").with_assistant("so", FinishReason.INTERRUPTED, "hm")
        thoughts, reply = await ask(backend, cut)
        assert (thoughts, reply.text) == ("", " and <think>more")
        assert harness.prompts[-1].endswith("assistant\n<think>\n\n</think>\n\nso")

    with_backend(lambda: LocalEngineBackend(harness.settings(opened=True)), body)


@pytest.mark.engine
def test_a_model_that_does_not_think_is_left_alone(classic: EngineBinary, model: Path) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        hello = Conversation().with_system("be brief").with_user("hello")
        thoughts, reply = await ask(backend, hello)
        assert not thoughts and reply.text
        process = backend._session.process
        await ask(backend, hello.with_assistant(reply.text).with_user("how do I leave?"))
        assert backend._session.process is process

    with_backend(
        lambda: LocalEngineBackend(Settings(engine=str(classic.path), model=str(model), temperature=0.0)), body
    )
