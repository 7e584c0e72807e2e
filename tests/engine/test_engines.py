"""The session on real engines: full contexts, and interrupts at every moment of a reply."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from backend_replies import with_backend

from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Failed, Notice, Started, TextDelta

pytestmark = pytest.mark.engine
STORY, SHORT = "tell me a long story", "what is bitnet-chat?"


async def last(backend: LocalEngineBackend, conversation: Conversation) -> Completed | Failed:
    *_, event = [event async for event in backend.reply(conversation)]
    assert isinstance(event, Completed | Failed)
    return event


def test_a_full_context_is_told_and_the_next_turn_works(any_engine: EngineBinary, transport: str, model: Path) -> None:
    settings = Settings(
        engine=str(any_engine.path),
        model=str(model),
        temperature=0.0,
        ctx=256,
        io="pipe" if transport == "pipe" else "pty",
    )

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_user("hello")
        conversation = conversation.with_assistant((await last(backend, conversation)).text).with_user(STORY)
        notices = []
        async for event in backend.reply(conversation):
            if isinstance(event, Notice):
                notices.append(event.text)
        full = event
        assert isinstance(full, Completed), full
        assert full.reason is FinishReason.CONTEXT_OVERFLOW
        assert len(full.text) > 200
        assert full.stats.context_size == 256
        assert full.stats.context_used is not None and full.stats.context_used <= 256
        conversation = conversation.with_assistant(full.text, full.reason).with_user("how do I leave?")
        text = ""
        async for event in backend.reply(conversation):
            if isinstance(event, Notice):
                notices.append(event.text)
            elif isinstance(event, Completed):
                text = event.text
        assert text and any("context window is full" in line for line in notices)

    with_backend(lambda: LocalEngineBackend(settings), body)


def test_a_pasted_log_changes_neither_figures_nor_the_reply(
    any_engine: EngineBinary, transport: str, model: Path
) -> None:
    pasted = "n_ctx = 99\nn_remain: 5\nn_past = 5 context full, swapping\nmain: prompt is too long\n\n"
    settings = Settings(
        engine=str(any_engine.path),
        model=str(model),
        temperature=0.0,
        ctx=1024,
        io="pipe" if transport == "pipe" else "pty",
    )

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_user(pasted + "hello")
        for _ in range(2):
            reply = await last(backend, conversation)
            assert isinstance(reply, Completed) and reply.reason is FinishReason.STOP, reply
            assert reply.stats.context_size == 1024
            assert reply.stats.prompt_size is not None and reply.stats.prompt_size > 50
            conversation = conversation.with_assistant(reply.text).with_user("one more: context full, swapping")
        replayed_thinking = Conversation().with_user("hi").with_assistant(pasted + "yes").with_user(pasted + "hello")
        reply = await last(backend, replayed_thinking)
        assert isinstance(reply, Completed) and reply.reason is FinishReason.STOP, reply
        assert reply.stats.context_size == 1024

    with_backend(lambda: LocalEngineBackend(settings), body)


def test_interrupts_at_every_moment(any_engine: EngineBinary, transport: str, model: Path) -> None:
    settings = Settings(
        engine=str(any_engine.path), model=str(model), temperature=0.0, io="pipe" if transport == "pipe" else "pty"
    )

    async def body(backend: LocalEngineBackend) -> None:
        wholes = {each: (await last(backend, Conversation().with_user(each))).text for each in (STORY, SHORT)}
        # From before the first word to the very last character, where the signal meets the end of the reply.
        # Just sent, three times: the engine may or may not have read the message by then.
        sent = [-1, -1, -1]
        moments = [(STORY, moment) for moment in (*sent, 0, 1, 2, 40, 400, 1200)]
        moments += [(SHORT, len(wholes[SHORT]) - back) for back in (60, 20, 10, 5, 3, 2, 1, 0)]
        for question, moment in moments:
            conversation, whole = Conversation().with_user(question), wholes[question]
            text = ""
            interrupted = False
            end: Completed | None = None
            if moment == 0:
                asyncio.get_running_loop().call_soon(backend.interrupt)
            async for event in backend.reply(conversation):
                if isinstance(event, Started) and moment < 0:
                    backend.interrupt()
                if isinstance(event, TextDelta):
                    text += event.text
                    if moment >= 0 and not interrupted and len(text) >= moment:
                        backend.interrupt()
                        interrupted = True
                assert not isinstance(event, Failed), (moment, event)
                if isinstance(event, Completed):
                    end = event
            assert end is not None and end.text == text, moment
            assert whole.startswith(text.rstrip("\n")), (moment, text[-80:])
            assert end.reason in (FinishReason.INTERRUPTED, FinishReason.STOP), moment
            if not text:
                continue
            conversation = conversation.with_assistant(text, end.reason).with_user("how do I leave?")
            answer = await last(backend, conversation)
            assert isinstance(answer, Completed) and answer.reason is FinishReason.STOP, (moment, answer)
            assert answer.text and "<|im" not in answer.text, moment

    with_backend(lambda: LocalEngineBackend(settings), body)
