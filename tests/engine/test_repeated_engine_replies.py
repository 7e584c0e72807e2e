"""Cut replies that an engine generates again from their message on: nothing is lost, doubled or altered."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from backend_replies import end_of, events_of, with_backend
from test_native_session import Harness, plain

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.engine.log import LogStatsParser
from bitnet_chat.engine.reply import ReplyAccumulator
from bitnet_chat.engine.session import turn_events
from bitnet_chat.engine_output import ReplyText
from bitnet_chat.errors import EngineDiedError, FinishReason
from bitnet_chat.events import ContextSource, Event, Failed, Notice, PromptProgress, Started, TextDelta, ThinkingDelta
from bitnet_chat.filters.continuation import KnownReplyRemover
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.text.utf8 import rejoined

CUT = FinishReason.CUT_OFF
TOOL_MODEL = Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"


@pytest.fixture
def harness(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path, model, monkeypatch)


def run(harness: Harness, body: Callable[[LocalEngineBackend], Awaitable[None]], **settings: Any) -> None:
    with_backend(lambda: harness.backend(**({"temperature": 0.0} | settings)), body)


def replied(harness: Harness, message: str, known: str, thinking: str = "", **settings: Any) -> list[Event]:
    """The events of the rest of a reply to ``message`` of which ``known`` was shown."""
    found: list[Event] = []
    cut = Conversation().with_user(message).with_assistant(known, CUT, thinking)

    async def body(backend: LocalEngineBackend) -> None:
        found.extend(await events_of(backend, cut, ReplyOptions(max_tokens=50)))

    run(harness, body, **settings)
    return found


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def thoughts_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ThinkingDelta))


def prefixes(harness: Harness) -> list[str]:
    """The beginning of the reply in each prompt."""
    return [plain(each).rpartition("assistant\n")[2] for each in harness.requests if each["kind"] == "complete"]


@pytest.mark.parametrize("known", ["f", "four", "four fi", "four five six"])
def test_the_part_that_was_shown_is_not_shown_again(harness: Harness, known: str) -> None:
    events = replied(harness, "say four five six", known)
    assert known + text_of(events) == "four five six" and prefixes(harness) == [""]
    end = end_of(events)
    assert end.reason is FinishReason.STOP and end.origin is not None
    assert (end.origin.source, end.origin.begun) == (ContextSource.COLD, 0)
    assert harness.requests[0]["max_tokens"] > 50, "the limit counts what is new"


def test_how_much_was_generated_again_is_reported() -> None:
    turn = ReplyAccumulator(LogStatsParser(), 0.0, known=KnownReplyRemover("four five"), known_tokens=9)
    assert turn_events(turn, [ReplyText("four")]) == [PromptProgress(4, 9, repeats=True)]
    assert turn_events(turn, []) == []
    assert turn_events(turn, [ReplyText(" five six")]) == [TextDelta(" six")]


@pytest.mark.parametrize("message", ["say four FIVE six", "say four"])
def test_another_reply_is_continued_where_it_was_cut(harness: Harness, message: str) -> None:
    events = replied(harness, message, "four fi")
    assert prefixes(harness) == ["", "four fi"] and text_of(events) == message.partition(" ")[2]
    end = end_of(events)
    assert end.origin is not None and end.origin.begun == len("four fi")
    assert harness.requests[-1]["max_tokens"] == 50 and len(harness.starts) == 1


def test_a_death_within_the_part_that_was_shown(harness: Harness) -> None:
    events = replied(harness, "once four five", "four five sur")
    assert text_of(events) == "vived" and prefixes(harness) == ["", ""] and len(harness.starts) == 2


def test_deaths_where_the_reply_was_cut(harness: Harness) -> None:
    """Each before a new token: the engine is started as often as after other deaths, and nothing is shown twice."""

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_user("kill one two")
        end = end_of(await events_of(backend, conversation))
        assert (end.reason, end.text) == (FinishReason.ENGINE_DIED, "one two")
        events = await events_of(backend, conversation.with_assistant(end.text, end.reason))
        assert isinstance(events[-1], Failed) and isinstance(events[-1].error, EngineDiedError) and not text_of(events)

    run(harness, body)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_cut_within_a_character(harness: Harness, at: int) -> None:
    data = "👍".encode()
    known = data[:at].decode("utf-8", "surrogateescape")
    events = replied(harness, f"bytes {data.hex()}", known)
    assert rejoined(known + text_of(events)) == "👍" and prefixes(harness) == [""]


THINKING = TEMPLATES["chatml"] + "{# </think> #}"


def test_thoughts_are_not_shown_again(harness: Harness) -> None:
    events = replied(harness, "think hm so", "tho", "hm so", chat_template=THINKING)
    assert (text_of(events), thoughts_of(events), prefixes(harness)) == ("ught", "", [""])


def test_other_thoughts_are_another_reply(harness: Harness) -> None:
    events = replied(harness, "think hm so", "thought", "other", chat_template=THINKING)
    assert prefixes(harness)[0] == "" and prefixes(harness)[1].endswith("thought") and "hm" not in thoughts_of(events)


def test_a_reply_that_was_cut_within_its_thoughts(harness: Harness) -> None:
    events = replied(harness, "think hm so", "", "hm", chat_template=THINKING)
    assert (text_of(events), thoughts_of(events)) == ("thought", " so")


@pytest.mark.parametrize("known", ["", "Let", "Let me see."])
def test_a_kill_within_a_tool_call(harness: Harness, known: str) -> None:
    harness.model = TOOL_MODEL
    message = 'say Let me see. <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    found: list[Event] = []
    cut = Conversation().with_user(message).with_assistant(known, CUT)

    async def body(backend: LocalEngineBackend) -> None:
        found.extend(await events_of(backend, cut, ReplyOptions(tools=(Tool("add"),))))

    run(harness, body)
    calls = [event for event in found if isinstance(event, ToolCall)]
    assert [(each.name, each.arguments) for each in calls] == [("add", '{"a": 1}')]
    assert (known + text_of(found)).strip() == "Let me see." and prefixes(harness) == [""]
    assert end_of(found).reason is FinishReason.TOOL_CALLS


def test_an_interrupt_within_the_part_that_was_shown(harness: Harness) -> None:
    words = " ".join(f"word{number}" for number in range(50))
    cut = Conversation().with_user("story").with_assistant((words * 20)[:4000], CUT)

    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: Event) -> None:
            if isinstance(event, Started):
                backend.interrupt()

        end = end_of(await events_of(backend, cut, None, stop))
        assert (end.reason, end.text) == (FinishReason.INTERRUPTED, "")
        assert end_of(await events_of(backend, Conversation().with_user("say next"))).text == "next"

    run(harness, body)
    assert len(harness.starts) == 1


def test_a_kill_before_the_first_token(harness: Harness) -> None:
    """While the message is read: the reply is the same, and nothing of it was shown."""

    async def body(backend: LocalEngineBackend) -> None:
        killed = False

        def kill(event: Event) -> None:
            nonlocal killed
            process = backend._session.process
            if isinstance(event, Started) and not killed and process is not None:
                killed = True
                os.kill(process.pid, signal.SIGKILL)

        events = await events_of(backend, Conversation().with_user("say four"), None, kill)
        assert end_of(events).text == "four" and len([each for each in events if isinstance(each, Notice)]) <= 1

    run(harness, body)


def test_replies_of_random_sampling_are_continued(harness: Harness) -> None:
    events = replied(harness, "say four five", "four fi", temperature=0.7)
    assert prefixes(harness) == ["four fi"] and text_of(events) == "four five"
    events = replied(harness, "say four five", "four fi", temperature=0.7, seed=3)
    assert text_of(events) == "ve"
