"""The backend ``ollama`` against a server that behaves like one, and as it should not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_server import CUT, Answer, ApiServer, Request, Script, lines, ollama, whole
from backend_replies import with_server

from bitnet_chat.backend import BackendState, ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.ollama import ollama_backend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.errors import ContextOverflowError, EngineDiedError, FinishReason, ModelError, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta, ThinkingDelta

TIMEOUT = 60
HELLO = Conversation().with_user("Hello")
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})


def said(content: str = "", **more: object) -> dict[str, Any]:
    return {"model": "words", "message": {"role": "assistant", "content": content} | more, "done": False}


def done(reason: str = "stop", **more: object) -> dict[str, Any]:
    return {
        "model": "words",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
    } | more


def script(*parts: Any, then: Answer | None = None) -> Script:
    """A chat that answers with these bytes, and ``then`` with others."""
    answers = [Answer(parts, type="application/x-ndjson"), *([then] if then is not None else [])]

    def answer(request: Request) -> Answer:
        if request.path == "/api/chat" and request.json["messages"]:
            return answers.pop(0) if len(answers) > 1 else answers[0]
        return ollama(request)

    return answer


def run(script: Script, body: Callable[[RemoteBackend, ApiServer], Awaitable[None]], **more: Any) -> None:
    with_server(script, lambda url: ollama_backend(Settings(backend="ollama", base_url=url, **more)), body)


async def ask(backend: RemoteBackend, conversation: Conversation = HELLO, **options: Any) -> list[Event]:
    return [event async for event in backend.reply(conversation, ReplyOptions(**options))]


def events(*parts: Any, then: Answer | None = None) -> list[Event]:
    found: list[Event] = []

    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        found.extend(await ask(backend, tools=(ADD, Tool("now"))))

    run(script(*parts, then=then), body)
    return found


def end_of(found: list[Event]) -> Completed:
    end = found[-1]
    assert isinstance(end, Completed), found
    assert end.text == "".join(event.text for event in found if isinstance(event, TextDelta))
    return end


def error_of(found: list[Event]) -> Exception:
    end = found[-1]
    assert isinstance(end, Failed), found
    return end.error


def test_what_is_asked() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        call = ToolCall("c1", "add", '{"a": 1}')
        conversation = HELLO.with_assistant("", FinishReason.TOOL_CALLS, tool_calls=(call,)).with_tool_result(call, "2")
        await ask(
            backend,
            conversation,
            max_tokens=5,
            sampling=Sampling(temperature=0, top_k=3, min_p=0.1, seed=7),
            stop=("END",),
            tools=(ADD,),
            format=ResponseFormat({"type": "object"}),
            template={"enable_thinking": False, "thinking": False},
        )
        asked = server.asked("/api/chat")[-1].json
        assert asked["think"] is False
        assert asked["model"] == "words:latest" and asked["stream"] is True
        assert asked["truncate"] is False and asked["shift"] is False
        wanted = {
            "num_ctx": 512,
            "num_predict": 5,
            "temperature": 0,
            "top_k": 3,
            "min_p": 0.1,
            "seed": 7,
            "stop": ["END"],
        }
        assert asked["options"] == wanted
        assert asked["format"] == {"type": "object"} and asked["tools"][0]["function"]["name"] == "add"
        call = {"function": {"index": 0, "name": "add", "arguments": {"a": 1}}}
        assert asked["messages"][1:] == [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_name": "add", "content": "2"},
        ]
        await ask(
            backend, format=ResponseFormat(), tools=(ADD,), tool_choice="none", template={"reasoning_effort": "low"}
        )
        asked = server.asked("/api/chat")[-1].json
        assert asked["think"] == "low" and asked["format"] == "json" and "tools" not in asked

    run(ollama, body, ctx=512)


@pytest.mark.parametrize("choice", ["required", "add"])
def test_a_choice_that_it_does_not_know_is_refused_by_name(choice: str) -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        error = error_of(await ask(backend, tools=(ADD,), tool_choice=choice))
        assert isinstance(error, UnsupportedError) and error.option == "tool_choice"

    run(ollama, body)


def test_a_reply_with_figures() -> None:
    found = events(*lines(said("Hel"), said("lo."), done(prompt_eval_count=7, eval_count=3, eval_duration=10)))
    end = end_of(found)
    assert (end.text, end.reason) == ("Hello.", FinishReason.STOP)
    assert (end.stats.prompt_tokens, end.stats.tokens, end.stats.context_used) == (7, 3, 10) and end.stats.exact


def test_tool_calls() -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1}}}, {"function": {"name": "now", "arguments": {}}}]
    found = events(*lines(said("Let me see."), said(tool_calls=calls[:1]), said(tool_calls=calls[1:]), done()))
    made = [each for each in found if isinstance(each, ToolCall)]
    assert [(each.name, json.loads(each.arguments)) for each in made] == [("add", {"a": 1}), ("now", {})]
    assert len({each.id for each in made}) == 2
    assert (end_of(found).reason, end_of(found).text) == (FinishReason.TOOL_CALLS, "Let me see.")


@pytest.mark.parametrize("ending", [[CUT], [], lines({"error": "out of memory"}), lines(done("length"))])
def test_calls_of_a_reply_that_is_cut_are_not_made(ending: list[Any]) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    found = events(*lines(said("Let me see."), said(tool_calls=[call])), *ending)
    assert not [each for each in found if isinstance(each, ToolCall)]
    assert end_of(found).reason in (FinishReason.ENGINE_DIED, FinishReason.LENGTH)


def test_thoughts() -> None:
    found = events(*lines(said(thinking="Hm"), said(thinking="."), said("Yes"), done()))
    assert "".join(each.text for each in found if isinstance(each, ThinkingDelta)) == "Hm."
    assert end_of(found).text == "Yes"


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (lines(done("length")), FinishReason.LENGTH),
        ([json.dumps(done()).encode()], FinishReason.STOP),
        ([], FinishReason.ENGINE_DIED),
        ([CUT], FinishReason.ENGINE_DIED),
        (lines({"error": "llama runner process has terminated"}), FinishReason.ENGINE_DIED),
        ([b"<html>\n"], FinishReason.ENGINE_DIED),
    ],
)
def test_how_a_reply_may_end(ending: list[Any], reason: FinishReason) -> None:
    found = events(*lines(said("Hello")), *ending)
    assert (end_of(found).text, end_of(found).reason) == ("Hello", reason)
    if reason is FinishReason.ENGINE_DIED:
        assert any(isinstance(each, Notice) and "ended the reply early" in each.text for each in found)


def test_a_reply_cut_before_its_first_word_is_asked_again_once() -> None:
    good = Answer(lines(said("Hello"), done()), type="application/x-ndjson")
    assert end_of(events(CUT, then=good)).text == "Hello"
    assert isinstance(error_of(events(CUT)), EngineDiedError)
    assert isinstance(error_of(events(*lines({"error": "out of memory"}))), EngineDiedError)


def test_models() -> None:
    async def missing(backend: RemoteBackend, server: ApiServer) -> None:
        error = error_of(await ask(backend))
        assert isinstance(error, ModelError) and "'nothing' not found" in str(error)

    async def none(backend: RemoteBackend, server: ApiServer) -> None:
        error = error_of(await ask(backend))
        assert isinstance(error, ModelError) and "ollama pull" in str(error)

    run(ollama, missing, model="nothing")
    run(lambda request: whole({"models": []}), none)


def test_it_loads_while_the_user_types() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        backend.start()
        assert backend.status().state in (BackendState.STARTING, BackendState.IDLE)
        while not server.asked("/api/chat"):  # noqa: ASYNC110  # the server is in this loop
            await asyncio.sleep(0)
        assert server.asked("/api/chat")[0].json["messages"] == []
        assert len(end_of(await ask(backend, Conversation().with_user("say 4 words"))).text.split()) == 4
        await ask(backend)
        assert backend.status().context_size == 4096

    run(ollama, body)


def test_what_does_not_fit_is_not_dropped_in_silence() -> None:
    def small(request: Request) -> Answer:
        if request.path == "/api/chat" and sum(len(each["content"]) for each in request.json["messages"]) > 300:
            return whole({"error": "the input length exceeds the context length"}, 400)
        return ollama(request)

    conversation = Conversation()
    for _ in range(6):
        conversation = conversation.with_user("q" * 40).with_assistant("a" * 40)

    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        found = await ask(backend, conversation.with_user("say 3 words"))
        assert end_of(found).text == "one two three"
        assert any(isinstance(each, Notice) and "left it" in each.text for each in found)
        assert isinstance(error_of(await ask(backend, Conversation().with_user("q" * 400))), ContextOverflowError)

    run(small, body)
