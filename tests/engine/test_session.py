"""The session against a scripted engine: everything that can go wrong on its side."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from backend_replies import events_of, notices_in, with_backend
from scripted_engine import ScriptedEngine

from bitnet_chat.backend import BackendState, ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine import session
from bitnet_chat.engine.process import TRANSITIONS, ProcessState, Signal
from bitnet_chat.engine.protocols import EngineProtocol
from bitnet_chat.engine.supervisor import RestartBudget
from bitnet_chat.errors import ContextOverflowError, EngineDiedError, FinishReason, ModelError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripted engine is a POSIX script")

HUGE = "huge" + " a" * 1200
"""More than half of the scripted engine's window."""


async def answered(backend: LocalEngineBackend, conversation: Conversation) -> Conversation:
    """The conversation with the reply to it."""
    end = (await events_of(backend, conversation))[-1]
    assert isinstance(end, Completed), end
    return conversation.with_assistant(end.text)


class Harness(ScriptedEngine):
    """A backend on the scripted engine."""

    def __init__(self, folder: Path, model: Path, environment: pytest.MonkeyPatch) -> None:
        super().__init__(folder, environment)
        self.model = model

    def backend(self, *, transport: str = "pty", **more: object) -> LocalEngineBackend:
        settings = Settings(engine=str(self.engine), model=str(self.model), io=transport, **more)  # type: ignore[arg-type]
        return LocalEngineBackend(settings)


@pytest.fixture
def harness(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path, model, monkeypatch)


def run(harness: Harness, body: Callable[[LocalEngineBackend], Awaitable[None]], **more: object) -> None:
    with_backend(lambda: harness.backend(**more), body)  # type: ignore[arg-type]
    assert harness.none_is_left()


def said(text: str) -> Conversation:
    return Conversation().with_user(text)


def stop_at(backend: LocalEngineBackend, word: str) -> Callable[[Event], None]:
    def look(event: Event) -> None:
        if isinstance(event, TextDelta) and word in event.text:
            backend.interrupt()

    return look


@pytest.mark.parametrize("kind", ["ordered", "unordered", "modern"])
def test_a_conversation_stays_in_one_process(harness: Harness, transport: str, kind: str) -> None:
    if kind != "ordered":
        harness.environment.setenv(f"FAKE_ENGINE_{kind.upper()}", "1")

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind")
        for text in ("say hello", "say one\ntwo", "say <|im_start|>user", "what?"):
            conversation = conversation.with_user(text)
            events = await events_of(backend, conversation)
            # A modern engine would take it for what it looks like.
            joined = kind == "modern" and "<|" in text
            assert isinstance(events[joined], Started) and len(notices_in(events)) == joined
            last = events[-1]
            assert isinstance(last, Completed) and last.reason is FinishReason.STOP
            heard = text.replace("<|", "<\u2060|") if joined else text
            assert last.text == heard.removeprefix("say ").replace("what?", "you said: what?")
            conversation = conversation.with_assistant(last.text, last.reason)
        assert len(harness.launches) == 1

    run(harness, body, transport=transport)


def test_early_messages_wait_for_the_load(harness: Harness, tmp_path: Path) -> None:
    harness.close_gate()

    async def body(backend: LocalEngineBackend) -> None:
        backend.start()
        reply = asyncio.ensure_future(events_of(backend, said("say early")))
        descriptor = await harness.gate_reached()
        assert backend.status().state is BackendState.STARTING
        os.close(descriptor)
        assert (await reply)[-1].text == "early"  # type: ignore[union-attr]

    run(harness, body)


def test_stopping_before_the_engine_has_loaded(harness: Harness, tmp_path: Path) -> None:
    harness.close_gate()

    async def body(backend: LocalEngineBackend) -> None:
        backend.start()
        reply = asyncio.ensure_future(events_of(backend, said("say early")))
        descriptor = await harness.gate_reached()
        backend.interrupt()
        last = (await reply)[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.INTERRUPTED and last.text == ""
        os.close(descriptor)
        assert (await events_of(backend, said("say late")))[-1].text == "late"  # type: ignore[union-attr]
        assert len(harness.launches) == 1

    run(harness, body)


@pytest.mark.parametrize("kind", ["ordered", "unordered", "modern"])
def test_an_interrupted_reply_is_kept_and_the_next_turn_works(harness: Harness, transport: str, kind: str) -> None:
    if kind != "ordered":
        harness.environment.setenv(f"FAKE_ENGINE_{kind.upper()}", "1")

    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("story")
        last = (await events_of(backend, conversation, on_event=stop_at(backend, "word3")))[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.INTERRUPTED
        assert "word3" in last.text and last.text.startswith("word0 word1 ")
        conversation = conversation.with_assistant(last.text, last.reason).with_user("say next")
        assert (await events_of(backend, conversation))[-1].text == "next"  # type: ignore[union-attr]
        if kind == "modern":  # it closed its own history
            assert len(harness.launches) == 1
        else:  # a fresh start is cheap: the reply has an end of turn now
            assert len(harness.launches) == 2
            assert harness.launches[1]["prompt"].endswith(last.text + "<|im_end|>")

    run(harness, body, transport=transport)


@pytest.mark.parametrize("message", ["race", "early the end"])
def test_an_interrupt_that_meets_the_end_of_the_reply(harness: Harness, message: str) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = said(message)
        events = await events_of(backend, conversation, on_event=stop_at(backend, "the end"))
        last = events[-1]
        assert isinstance(last, Completed) and last.text.rstrip("\n") == "the end"
        conversation = conversation.with_assistant(last.text, last.reason).with_user("say next")
        events = await events_of(backend, conversation)
        assert events[-1].text == "next"  # type: ignore[union-attr]
        assert notices_in(events) == [], "a death that we caused is nothing to tell"

    run(harness, body)


def test_an_engine_that_ignores_the_interrupt_is_replaced(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.engine.process._STOP_WITHIN", 0.05)

    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("deaf")
        last = (await events_of(backend, conversation, on_event=stop_at(backend, "hear")))[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.INTERRUPTED
        assert last.text == "I cannot hear you"
        conversation = conversation.with_assistant(last.text, last.reason).with_user("say next")
        assert (await events_of(backend, conversation))[-1].text == "next"  # type: ignore[union-attr]
        assert len(harness.launches) == 2

    run(harness, body)


def test_an_engine_that_would_read_a_prompt_to_its_end_is_replaced_at_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classic engine looks at an interrupt only when all of a message is read."""
    monkeypatch.setattr("bitnet_chat.engine.process._STOP_WITHIN", 1000.0)

    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: object) -> None:
            if isinstance(event, Started):
                backend.interrupt()

        last = (await events_of(backend, said("reading"), on_event=stop))[-1]
        assert isinstance(last, Completed) and (last.reason, last.text) == (FinishReason.INTERRUPTED, "")
        assert (await events_of(backend, said("say next")))[-1].text == "next"  # type: ignore[union-attr]
        assert len(harness.launches) == 2

    run(harness, body)


def test_without_a_signal_the_child_is_replaced(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.engine.transport.pipe.PipeTransport.can_interrupt", False)

    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("story")
        last = (await events_of(backend, conversation, on_event=stop_at(backend, "word3")))[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.INTERRUPTED
        conversation = conversation.with_assistant(last.text, last.reason).with_user("say next")
        assert (await events_of(backend, conversation))[-1].text == "next"  # type: ignore[union-attr]
        assert [launch["prompt"] for launch in harness.launches][1].endswith(last.text + "<|im_end|>")

    run(harness, body, transport="pipe")


def test_a_death_before_the_first_word_costs_nothing_but_time(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        events = await events_of(backend, said("once"))
        assert events[-1].text == "survived"  # type: ignore[union-attr]
        (line,) = notices_in(events)
        assert "was killed (SIGKILL" in line and "restarted" in line and "\n" not in line

    run(harness, body)


def test_a_death_while_the_vocabulary_is_read(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("say one")
        await events_of(backend, conversation)
        loop = asyncio.get_running_loop()

        def read() -> None:
            process = backend._session.process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            asyncio.run_coroutine_threadsafe(process.gone(), loop).result(30)

        backend._session._tokenizer = read  # type: ignore[assignment]
        events = await events_of(
            backend, conversation.with_assistant("one").with_user("say two"), options=ReplyOptions(max_tokens=99)
        )
        assert isinstance(events[-1], Completed) and events[-1].text == "two" and len(harness.launches) == 2

    run(harness, body)


def test_who_asks_while_the_model_is_looked_at_does_not_have_it_done_again(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        looks = []
        supervisor = backend._session.supervisor
        make = supervisor.protocols._make

        def look() -> EngineProtocol:
            looks.append(1)
            return make()

        supervisor.protocols._make = look
        cut = said("one").with_assistant("two", FinishReason.INTERRUPTED)
        backend.prepare(cut)
        await asyncio.sleep(0)  # the background begins
        events = await events_of(backend, cut, options=ReplyOptions(max_tokens=99))
        assert isinstance(events[-1], Completed) and events[-1].text == " and more"
        assert len(looks) == 1

    run(harness, body)


def test_an_engine_that_aborts_has_no_debugger_write_into_its_reply(harness: Harness, transport: str) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        await events_of(backend, said("say hello"))
        assert backend._session.process is not None
        assert psutil.Process(backend._session.process.pid).environ()["GGML_NO_BACKTRACE"] == "1"

    run(harness, body, transport=transport)


def test_a_death_in_mid_reply_keeps_what_was_said(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("say first")
        conversation = await answered(backend, conversation)
        conversation = conversation.with_user("kill so far so good")
        events = await events_of(backend, conversation)
        last = events[-1]
        assert isinstance(last, Completed)
        assert last.reason is FinishReason.ENGINE_DIED and last.text == "so far so good"
        conversation = conversation.with_assistant(last.text, last.reason).with_user("say next")
        events += await events_of(backend, conversation)
        assert events[-1].text == "next"  # type: ignore[union-attr]
        assert any("SIGKILL" in line for line in notices_in(events))
        prompt = harness.launches[-1]["prompt"]
        assert "say first" in prompt and "first<|im_end|>" in prompt and "so far so good<|im_end|>" in prompt

    run(harness, body)


def test_three_restarts_a_minute_and_then_a_clear_error(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        events = await events_of(backend, said("kill"))
        last = events[-1]
        assert isinstance(last, Failed) and isinstance(last.error, EngineDiedError)
        assert len(harness.launches) == 4
        assert len(notices_in(events)) == 3
        assert "4th time in 60 seconds" in str(last.error)
        # And the budget comes back: nothing is broken for good.
        backend._session.supervisor.budget = RestartBudget()
        assert (await events_of(backend, said("say again")))[-1].text == "again"  # type: ignore[union-attr]

    run(harness, body)


def test_the_budget_comes_back_with_time() -> None:
    budget = RestartBudget(3, 60)
    assert [budget.spend(now) for now in (0, 1, 2, 3, 59.9)] == [True, True, True, False, False]
    assert [budget.spend(now) for now in (60, 60.5, 61, 62)] == [True, False, True, True]


def test_a_death_while_idle_is_noticed_and_mended_before_the_next_message(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind").with_user("say one")
        conversation = await answered(backend, conversation)
        first = backend._session.process
        assert first is not None
        os.kill(harness.launches[0]["pid"], 9)
        await first.gone()
        while backend._session.process in (first, None):  # noqa: ASYNC110
            await asyncio.sleep(0)  # its replacement is made by a task that nobody else waits for
        events = await events_of(backend, conversation.with_user("say two"))
        assert events[-1].text == "two"  # type: ignore[union-attr]
        assert len(notices_in(events)) == 1
        assert "say one" in harness.launches[1]["prompt"]

    run(harness, body)


def test_a_full_context_ends_the_reply_and_the_oldest_turns_make_room(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("pinned")
        for number in range(4):
            conversation = conversation.with_user(f"say number {number}")
            conversation = await answered(backend, conversation)
        conversation = conversation.with_user("full and then it was")
        events = await events_of(backend, conversation)
        last = events[-1]
        assert isinstance(last, Completed)
        assert last.reason is FinishReason.CONTEXT_OVERFLOW and last.text == "and then it was"
        conversation = conversation.with_assistant(last.text, last.reason).with_user("say next")
        events += await events_of(backend, conversation)
        assert events[-1].text == "next"  # type: ignore[union-attr]
        (line,) = [line for line in notices_in(events) if "context window is full" in line]
        assert "of 10 messages left it" in line
        prompt = harness.launches[-1]["prompt"]
        assert "pinned" in prompt and "number 0" not in prompt and "and then it was<|im_end|>" in prompt

    run(harness, body, system="pinned")


def test_a_history_that_is_too_long_to_load_loses_its_oldest_turns(harness: Harness) -> None:
    harness.environment.setenv("FAKE_ENGINE_PROMPT_LIMIT", "600")
    conversation = Conversation()
    for number in range(20):
        conversation = conversation.with_user(f"question {number} " + "x" * 30).with_assistant(f"answer {number}")

    async def body(backend: LocalEngineBackend) -> None:
        events = await events_of(backend, conversation.with_user("say fits"))
        assert events[-1].text == "fits"  # type: ignore[union-attr]
        assert notices_in(events) and "question 19" in harness.launches[-1]["prompt"]

    run(harness, body)


def test_a_message_larger_than_the_window(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said(HUGE)))[-1]
        assert isinstance(last, Failed) and isinstance(last.error, ContextOverflowError)
        assert "2048 tokens" in str(last.error)
        assert (await events_of(backend, said("say short")))[-1].text == "short"  # type: ignore[union-attr]

    run(harness, body)


def test_a_message_that_can_never_fit_drops_nothing(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation()
        for number in range(3):
            conversation = conversation.with_user(f"say number {number}")
            conversation = await answered(backend, conversation)
        events = await events_of(backend, conversation.with_user(HUGE))
        assert isinstance(events[-1], Failed) and isinstance(events[-1].error, ContextOverflowError)
        assert notices_in(events) == []
        assert (await events_of(backend, conversation.with_user("say short")))[-1].text == "short"  # type: ignore[union-attr]
        assert "number 0" in harness.launches[-1]["prompt"]

    run(harness, body)


def test_an_engine_that_dies_without_a_word_is_asked_again_why(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said("say hello")))[-1]
        assert isinstance(last, Failed) and isinstance(last.error, ModelError)
        assert "the reason comes late" in str(last.error)
        assert len(harness.launches) == 2

    run(harness, body, engine_args=("--refuse-late",))


@pytest.mark.parametrize(("patience", "tries"), [(60, 10), (0, 3)])
def test_an_engine_that_never_says_why(harness: Harness, patience: float, tries: int) -> None:
    harness.environment.setattr(session, "_PATIENCE", patience)
    harness.environment.setenv("FAKE_ENGINE_SILENT_DEATHS", "100")

    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said("say hello")))[-1]
        assert isinstance(last, Failed) and isinstance(last.error, ModelError)
        assert "it ended with exit code 1 and its log has no reason" in str(last.error)
        assert len(harness.launches) == tries

    run(harness, body, engine_args=("--refuse-late",))


def test_a_model_that_is_gone_when_the_engine_is_restarted(harness: Harness, tmp_path: Path) -> None:
    harness.model = Path(shutil.copy(harness.model, tmp_path / "passing.gguf"))

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be kind").with_user("say one")
        await events_of(backend, conversation)
        first = backend._session.process
        assert first is not None
        harness.model.unlink()
        harness.environment.setenv("FAKE_ENGINE_SILENT_DEATHS", "100")
        os.kill(first.pid, signal.SIGKILL)
        await first.gone()
        while (second := backend._session.process) in (first, None):  # noqa: ASYNC110
            await asyncio.sleep(0)  # made by a task that nobody else waits for
        await second.gone()
        conversation = conversation.with_assistant("one").with_user("say two")
        for told in (["the engine was killed (SIGKILL, possibly because memory ran out)"], []):
            events = await events_of(backend, conversation)
            assert notices_in(events) == told, "nothing was restarted"
            last = events[-1]
            assert isinstance(last, Failed) and isinstance(last.error, ModelError)
            assert f"the model {harness.model} was removed" in str(last.error)
            assert "log" not in str(last.error)
        assert len(harness.launches) == 4, "there is no use in another try"

    run(harness, body)


def test_a_restart_is_told_when_it_is_so(harness: Harness, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def body(backend: LocalEngineBackend) -> None:
        ready = Conversation().with_system("be kind").with_user("say ready")
        await events_of(backend, ready)
        conversation = ready.with_assistant("ready").with_user("kill half")
        harness.environment.setenv("FAKE_ENGINE_GATE", str(gate))
        events = await events_of(backend, conversation)
        (line,) = notices_in(events)
        assert line.endswith("; it is being restarted with the conversation")
        second = backend._session.process
        assert second is not None
        gate.write_bytes(b"")  # waits for the engine to open it, which is when it loads
        harness.environment.delenv("FAKE_ENGINE_GATE")
        await second.settled()
        os.kill(second.pid, signal.SIGKILL)
        while (third := backend._session.process) in (second, None):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await third.settled()
        (line,) = notices_in(await events_of(backend, conversation.with_assistant("half").with_user("say more")))
        assert line.endswith("; it was restarted with the conversation")

    run(harness, body)


def test_an_independent_request_does_not_hear_of_an_earlier_death(harness: Harness) -> None:
    """The engine died while it was idle, or when it was found for the request; not the fault of this client."""
    alone = ReplyOptions(alone=True)

    async def body(backend: LocalEngineBackend) -> None:
        await events_of(backend, Conversation().with_user("say one"), alone)
        first = backend._session.process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        while backend._session.process in (first, None):  # noqa: ASYNC110
            await asyncio.sleep(0)
        events = await events_of(backend, Conversation().with_user("say two"), alone)
        assert not notices_in(events) and isinstance(events[-1], Completed) and events[-1].text == "two"
        second = backend._session.process
        assert second is not None
        os.kill(second.pid, signal.SIGKILL)  # not noticed yet
        events = await events_of(backend, Conversation().with_user("say three"), alone)
        assert not notices_in(events) and isinstance(events[-1], Completed) and events[-1].text == "three"
        events = await events_of(backend, Conversation().with_user("kill half"), alone)
        assert any("restarted" in line for line in notices_in(events))  # its own

    run(harness, body)


def test_a_log_that_fills_its_pipe_does_not_stop_the_engine(harness: Harness, transport: str) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        assert (await events_of(backend, said("chatter 1000")))[-1].text == "done"  # type: ignore[union-attr]

    run(harness, body, transport=transport)


def test_who_heard_the_end_of_a_reply_may_ask_at_once(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        open_replies = []
        for text in ("say one", "say two", "say three"):
            reply = backend.reply(said(text))
            open_replies.append(reply)  # never closed, as by somebody who stopped listening
            async for event in reply:
                if isinstance(event, Completed):
                    assert event.text == text.removeprefix("say ")
                    break
        for reply in open_replies:
            await reply.aclose()
        assert (await events_of(backend, said("say four")))[-1].text == "four"  # type: ignore[union-attr]

    run(harness, body)


def test_what_left_the_window_of_one_conversation_stays_in_another(harness: Harness) -> None:
    harness.environment.setenv("FAKE_ENGINE_PROMPT_LIMIT", "900")

    def protocol(name: str, turns: int) -> Conversation:
        conversation = Conversation()
        for number in range(turns):
            conversation = conversation.with_user(f"{name} {number}").with_assistant("yes")
        return conversation.with_user("say fine")

    async def body(backend: LocalEngineBackend) -> None:
        long = await events_of(backend, protocol("a question that is long and goes on for a while", 12))
        assert long[-1].text == "fine" and notices_in(long)  # type: ignore[union-attr]
        short = await events_of(backend, protocol("b", 10))
        assert short[-1].text == "fine" and not notices_in(short)  # type: ignore[union-attr]
        assert all(f"b {number}<" in harness.launches[-1]["prompt"] for number in range(10))

    run(harness, body)


def test_closing_during_a_reply_ends_it_and_leaves_no_engine(harness: Harness) -> None:
    async def main() -> None:
        backend = harness.backend()
        started = asyncio.Event()
        reply = asyncio.ensure_future(events_of(backend, said("silence"), on_event=lambda event: started.set()))
        await asyncio.wait_for(started.wait(), 30)
        await asyncio.wait_for(backend.close(), 30)
        assert isinstance((await asyncio.wait_for(reply, 30))[-1], Completed | Failed)
        assert harness.none_is_left()
        last = (await events_of(backend, said("say no")))[-1]
        assert isinstance(last, Failed) and "closed" in str(last.error)

    asyncio.run(main())


def test_a_message_that_was_cleaned_is_remembered_as_it_was_sent(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("be\x02 brief").with_user("say a\x01b\r\nc")
        last = (await events_of(backend, conversation))[-1]
        assert isinstance(last, Completed) and last.text == "a␁b\nc"
        await events_of(backend, conversation.with_assistant(last.text).with_user("say next"))
        assert len(harness.launches) == 1
        assert "be␂ brief" in harness.launches[0]["prompt"]

    run(harness, body)


def test_surrogates_that_stand_for_no_byte_are_no_trouble(harness: Harness) -> None:
    conversation = Conversation().with_system("\ud800").with_user("\udfff").with_assistant("a\ud800\udc80")

    async def body(backend: LocalEngineBackend) -> None:
        assert (await events_of(backend, conversation.with_user("say fine")))[-1].text == "fine"  # type: ignore[union-attr]

    run(harness, body)


def test_a_template_with_a_nul_in_it(harness: Harness, transport: str) -> None:
    template = (
        "{% for m in messages %}U:{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}\x00A:{% endif %}"
    )

    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said("say hello")))[-1]
        assert isinstance(last, Failed) and "NUL" in str(last.error)
        assert harness.launches == []

    run(harness, body, transport=transport, chat_template=template)


def test_output_that_nobody_asked_for_replaces_the_engine(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("stray")
        last = (await events_of(backend, conversation))[-1]
        assert isinstance(last, Completed) and last.text == "fine"
        conversation = conversation.with_assistant(last.text).with_user("say next")
        assert (await events_of(backend, conversation))[-1].text == "next"  # type: ignore[union-attr]
        assert len(harness.launches) == 2

    run(harness, body)


def test_a_model_that_cannot_be_loaded(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said("say hello")))[-1]
        assert isinstance(last, Failed) and isinstance(last.error, ModelError)
        assert "unknown model architecture: 'strange'" in str(last.error)
        assert len(harness.launches) == 1, "what failed once to load will fail again"

    run(harness, body, engine_args=("--refuse",))


def test_an_error_of_a_modern_engine(harness: Harness) -> None:
    harness.environment.setenv("FAKE_ENGINE_MODERN", "1")

    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said("error something broke")))[-1]
        assert isinstance(last, Failed) and "something broke" in str(last.error)
        last = (await events_of(backend, said("error the request exceeds the available context size")))[-1]
        assert isinstance(last, Failed) and isinstance(last.error, ContextOverflowError)

    run(harness, body)


def test_a_modern_engine_forgets_without_loading_again(harness: Harness) -> None:
    harness.environment.setenv("FAKE_ENGINE_MODERN", "1")

    async def body(backend: LocalEngineBackend) -> None:
        for text in ("say one", "say two", "say three"):
            assert (await events_of(backend, said(text)))[-1].text == text.removeprefix("say ")  # type: ignore[union-attr]
        assert len(harness.launches) == 1

    run(harness, body)


def test_a_modern_engine_is_told_a_history_it_has_not_lived_through(harness: Harness) -> None:
    harness.environment.setenv("FAKE_ENGINE_MODERN", "1")
    history = Conversation().with_system("be brief").with_user("my name is Ada").with_assistant("hello Ada")

    async def body(backend: LocalEngineBackend) -> None:
        events = await events_of(backend, history.with_user("say fine"))
        assert events[-1].text == "fine"  # type: ignore[union-attr]
        assert len(notices_in(events)) == 1 and "system prompt" in notices_in(events)[0]
        prompt = harness.launches[0]["prompt"]
        assert prompt.startswith("be brief\n\n") and "User: my name is Ada\n\nAssistant: hello Ada" in prompt

    run(harness, body)


@pytest.mark.parametrize("message", ["story", "silence"])
def test_a_timeout_ends_a_reply(harness: Harness, message: str) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        await events_of(backend, said("say loaded"))
        last = (await events_of(backend, said(message), options=ReplyOptions(timeout=1)))[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.TIMEOUT
        assert bool(last.text) == (message == "story")

    run(harness, body)


def test_a_token_limit_ends_a_reply(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, said("story"), options=ReplyOptions(max_tokens=5)))[-1]
        assert isinstance(last, Completed) and last.reason is FinishReason.LENGTH
        count = backend.count(last.text)
        assert count is not None and count.count == last.stats.tokens == 5
        assert "word0 word1 word2 ".startswith(last.text)

    run(harness, body)


def test_walking_away_from_a_reply_leaves_the_session_usable(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        events = backend.reply(said("story"))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()
        assert (await events_of(backend, said("say back")))[-1].text == "back"  # type: ignore[union-attr]

    run(harness, body)


def test_a_reply_while_another_is_under_way_is_refused(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        started = asyncio.Event()
        first = asyncio.ensure_future(events_of(backend, said("story"), on_event=lambda event: started.set()))
        await started.wait()
        with pytest.raises(UsageError, match="under way"):
            await events_of(backend, said("say no"))
        backend.interrupt()
        assert isinstance((await first)[-1], Completed)

    run(harness, body)


def test_an_empty_message_fails_and_changes_nothing(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        (event,) = await events_of(backend, said(""))
        assert isinstance(event, Failed) and isinstance(event.error, UsageError)
        assert harness.launches == []

    run(harness, body)


def test_bytes_that_are_no_text_survive_the_replay(harness: Harness) -> None:
    raw = bytes(range(256)).replace(b"\n", b"")

    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("bytes " + raw.hex())
        last = (await events_of(backend, conversation))[-1]
        assert isinstance(last, Completed) and last.text.encode("utf-8", "surrogateescape") == raw
        # Another message before it makes the child remember something else: it has to be replayed.
        replayed = Conversation().with_user("first").with_assistant(last.text).with_user("say done")
        assert (await events_of(backend, replayed))[-1].text == "done"  # type: ignore[union-attr]
        # BitNet 2024 aborts at bytes that are no UTF-8.
        prompt = harness.launches[-1]["prompt"]
        assert prompt.count(raw.decode("utf-8", "replace")) == 1 and prompt.isprintable() is False
        prompt.encode("utf-8")

    run(harness, body)


def test_no_prompt_file_is_left_behind(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))

    async def body(backend: LocalEngineBackend) -> None:
        await events_of(backend, Conversation().with_system("secret").with_user("say done"))
        assert list(folder.iterdir()) == []

    run(harness, body)
    assert "secret" in harness.launches[0]["prompt"]


def test_a_full_disk_is_told(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    async def body(backend: LocalEngineBackend) -> None:
        last = (await events_of(backend, Conversation().with_system("some").with_user("say done")))[-1]
        assert isinstance(last, Failed) and "no temporary file can be written" in str(last.error)

    run(harness, body)


def test_every_state_can_end_and_no_transition_leads_nowhere() -> None:
    for state in ProcessState:
        assert (state, Signal.EXIT) in TRANSITIONS
    assert {state for state, _ in TRANSITIONS} == set(ProcessState)
    reachable = {ProcessState.STARTING}
    while more := {target for (source, _), target in TRANSITIONS.items() if source in reachable} - reachable:
        reachable |= more
    assert reachable == set(ProcessState)


def test_bytes_that_are_no_text_are_not_typed_either(harness: Harness, tmp_path: Path) -> None:
    """Without a special token in front of a message the history is typed with it."""
    heard = tmp_path / "heard"
    harness.environment.setenv("FAKE_ENGINE_HEARD", str(heard))

    async def body(backend: LocalEngineBackend) -> None:
        conversation = said("first").with_assistant("a \udcf0\udc9f b").with_user("say done")
        assert isinstance((await events_of(backend, conversation))[-1], Completed)
        assert "a \ufffd b" in json.loads(heard.read_text().splitlines()[-1])

    run(
        harness,
        body,
        chat_template="{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}assistant: ",
    )


def test_a_conversation_that_no_start_prepares_starts_one_process_a_message(harness: Harness, tmp_path: Path) -> None:
    """No special token in front of the message and no BOS token: only a start with the message itself is right."""
    from token_model import write

    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}assistant:"
    path = write(
        tmp_path / "m.gguf", template=template, bos="<s>", eos="</s>", adds_bos=False, special=["<s>", "</s>"],
        last=":", end="</s>",
    )  # fmt: skip
    harness.model = path

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation()
        for number in range(3):
            conversation = conversation.with_user(f"say {number}")
            last = (await events_of(backend, conversation))[-1]
            assert isinstance(last, Completed) and last.reason is FinishReason.STOP
            conversation = conversation.with_assistant(last.text, last.reason)
            backend.prepare(conversation)
            while backend._session.supervisor.starting is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert [launch["prompt"].count("user:") for launch in harness.launches] == [1, 2, 3]

    run(harness, body)
