"""Several replies from one prefill of a native engine: each has its own end, and what may happen to them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_native_session import Harness, harness, run

from bitnet_chat.backend import ReplyOptions, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.variants import variants_of
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend, GuardLimits
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.errors import EmptyMessageError, EngineDiedError, FinishReason
from bitnet_chat.events import (
    Completed,
    Event,
    Failed,
    Notice,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    VariantEvent,
)

__all__ = ["harness"]


async def ask(
    backend: Any,
    asked: str | Conversation,
    options: ReplyOptions | None = None,
    count: int = 3,
    on_event: Callable[[VariantEvent], None] = lambda event: None,
) -> list[list[Event]]:
    """The events of each variant. Each has the form of a reply."""
    conversation = Conversation().with_user(asked) if isinstance(asked, str) else asked
    found: list[list[Event]] = [[] for _ in range(count)]
    async for each in variants_of(backend, conversation, options or ReplyOptions(), count):
        found[each.variant].append(each.event)
        on_event(each)
    for events in found:
        end = events[-1]
        assert [isinstance(event, Completed | Failed) for event in events].count(True) == 1
        assert isinstance(end, Completed | Failed)
        assert end.text == "".join(event.text for event in events if isinstance(event, TextDelta))
    return found


def ends(found: list[list[Event]]) -> list[tuple[FinishReason, str]]:
    last = [events[-1] for events in found]
    assert all(isinstance(end, Completed) for end in last), last
    return [(end.reason, end.text) for end in last if isinstance(end, Completed)]


def errors(found: list[list[Event]]) -> list[object]:
    return [type(end.error) if isinstance(end := events[-1], Failed) else end for events in found]


def test_one_request_has_several_replies(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        options = ReplyOptions(max_tokens=9, sampling=Sampling(seed=5))
        found = await ask(backend, "variant 1 say something else", options)
        others = (FinishReason.STOP, "the others")
        assert ends(found) == [others, (FinishReason.STOP, "something else"), others]
        assert all(isinstance(events[0], Started) for events in found)
        end = found[1][-1]
        assert isinstance(end, Completed) and (end.stats.tokens, end.stats.exact) == (2, True)
        followed = Conversation().with_user("variant 1 say something else").with_assistant("something else")
        assert ends(await ask(backend, followed.with_user("hi"), count=1)) == [(FinishReason.STOP, "you said: hi")]

    run(harness, body)
    several, single = [each for each in harness.requests if each["max_tokens"] != 0]
    assert (several["count"], several["sampling"]["seed"], single["count"]) == (3, 5, 1)
    assert len(harness.starts) == 1


def test_an_interrupt_ends_all_of_them_and_keeps_the_process(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        said: set[int] = set()

        def interrupt(each: VariantEvent) -> None:
            if isinstance(each.event, TextDelta):
                said.add(each.variant)
                if len(said) == 3:
                    backend.interrupt()

        found = ends(await ask(backend, "wait one", on_event=interrupt))
        assert found == [(FinishReason.INTERRUPTED, "one")] * 3
        assert ends(await ask(backend, "hi")) == [(FinishReason.STOP, "you said: hi")] * 3

    run(harness, body)
    assert len(harness.starts) == 1


def test_the_time_limit_is_that_of_all(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        found = ends(await ask(backend, "read 5", ReplyOptions(timeout=0.5)))
        assert [reason for reason, _ in found] == [FinishReason.TIMEOUT] * 3

    run(harness, body)


def test_variants_that_are_left_are_stopped(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        events = variants_of(backend, Conversation().with_user("wait one"), ReplyOptions(), 3)
        async for each in events:
            if isinstance(each.event, TextDelta):
                break
        await events.aclose()
        assert ends(await ask(backend, "hi", count=1)) == [(FinishReason.STOP, "you said: hi")]

    run(harness, body)
    assert len(harness.starts) == 1 and any(each["kind"] == "stop" for each in harness.requests)


def test_a_death_before_the_first_text_costs_only_time(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        found = await ask(backend, "once")
        assert [text.strip() for _, text in ends(found)] == ["survived"] * 3
        assert sum(isinstance(event, Notice) for event in found[0]) == 1
        assert not any(isinstance(event, Notice) for events in found[1:] for event in events)

    run(harness, body)
    assert len(harness.starts) == 2


def test_a_death_keeps_what_was_shown_and_repeats_the_rest(harness: Harness) -> None:
    """The variants 0 and 1 have ended when the child is killed, the last one has no text."""

    async def body(backend: LocalEngineBackend) -> None:
        over: set[int] = set()

        def kill(each: VariantEvent) -> None:
            if isinstance(each.event, Completed):
                over.add(each.variant)
            if over == {0, 1} and isinstance(each.event, Completed):
                os.kill(harness.starts[0]["pid"], signal.SIGKILL)

        found = await ask(backend, "variant 2 read 5", ReplyOptions(timeout=20), on_event=kill)
        assert ends(found[:2]) == [(FinishReason.STOP, "the others")] * 2
        # A request for this one alone; the scripted child then takes it for one of the others.
        assert ends(found[2:]) == [(FinishReason.STOP, "the others")]

    run(harness, body)
    assert [each["count"] for each in harness.requests if each["kind"] == "complete" and each["max_tokens"] != 0] == [
        3,
        1,
    ]


def test_a_death_in_mid_reply(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        said: set[int] = set()

        def kill(each: VariantEvent) -> None:
            if isinstance(each.event, TextDelta) and len(said) < 3:
                said.add(each.variant)
                if len(said) == 3:
                    os.kill(harness.starts[0]["pid"], signal.SIGKILL)

        found = ends(await ask(backend, "wait one", on_event=kill))
        assert found == [(FinishReason.ENGINE_DIED, "one")] * 3
        assert ends(await ask(backend, "hi", count=1)) == [(FinishReason.STOP, "you said: hi")]

    run(harness, body)


def test_a_failure_of_the_request_ends_all_of_them(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        assert errors(await ask(backend, "fail failed out of paper")) == [EngineDiedError] * 3
        found = await ask(backend, "variant 1 fail failed out of paper")
        assert errors(found)[1] is EngineDiedError and len(found) == 3
        assert ends([found[0], found[2]]) == [(FinishReason.STOP, "the others")] * 2

    run(harness, body)
    assert len(harness.starts) == 1


def test_a_library_without_variants_generates_one_after_another(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_CHILD_SINGLE", "1")

    async def body(backend: LocalEngineBackend) -> None:
        found = await ask(backend, "hi", ReplyOptions(sampling=Sampling(seed=7)))
        assert ends(found) == [(FinishReason.STOP, "you said: hi")] * 3

    run(harness, body)
    made = [each for each in harness.requests if each["kind"] == "complete" and each["max_tokens"] != 0]
    assert [(each["count"], each["sampling"]["seed"]) for each in made] == [(3, 7), (1, 7), (1, 8), (1, 9)]


def test_each_variant_has_its_own_guard(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        guarded = GuardedBackend(backend, GuardLimits(repeat_limit=5))
        again = "wait " + "and so on. " * 30  # which goes on until it is stopped
        found = ends(await ask(guarded, f"variant 2 {again}"))
        assert [reason for reason, _ in found] == [FinishReason.STOP, FinishReason.STOP, FinishReason.REPETITION]
        found = ends(await ask(guarded, "variant 0 say one two three", ReplyOptions(stop=("two",))))
        assert found[0] == (FinishReason.STOP, "one ")

    run(harness, body)
    assert len(harness.starts) == 1


def test_thoughts_of_variants(harness: Harness, tmp_path: Path) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# <think> </think> #}"
    )

    async def body(backend: LocalEngineBackend) -> None:
        found = await ask(backend, "variant 1 think hard")
        assert ends(found) == [(FinishReason.STOP, each) for each in ("the others", "thought", "the others")]
        thoughts = ["".join(each.text for each in events if isinstance(each, ThinkingDelta)) for events in found]
        assert [each.strip() for each in thoughts] == ["", "hard", ""]

    run(harness, body, chat_template=str(template))


def test_tool_calls_of_variants(harness: Harness, tmp_path: Path) -> None:
    template = tmp_path / "tools.jinja"
    template.write_text(
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}{% if m.role != 'system' or not tools %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tool = Tool("f", "does", {"type": "object", "properties": {}})
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'

    async def body(backend: LocalEngineBackend) -> None:
        found = await ask(backend, f"variant 1 say {call}", ReplyOptions(tools=(tool,)))
        assert [reason for reason, _ in ends(found)][1] is FinishReason.TOOL_CALLS
        assert [sum(isinstance(event, ToolCall) for event in events) for events in found] == [0, 1, 0]

    run(harness, body, chat_template=str(template))


def test_nothing_waits_for_a_variant_that_cannot_begin(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        found = await asyncio.wait_for(ask(backend, ""), 20)
        assert errors(found) == [EmptyMessageError] * 3
        assert ends(await ask(backend, "hi", count=1)) == [(FinishReason.STOP, "you said: hi")]

    run(harness, body)
