"""The backend ``openai`` against a server that behaves as real ones do, and as they should not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_server import CUT, Answer, ApiServer, Request, Script, piece, sse, usage, whole
from backend_replies import with_server

from bitnet_chat.backend import BackendState, ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.openai import openai_backend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.errors import (
    BusyError,
    ContextOverflowError,
    EngineDiedError,
    EngineNotFoundError,
    FinishReason,
    ModelError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta

TIMEOUT = 60
HELLO = Conversation().with_user("Hello")
MODELS = {"object": "list", "data": [{"id": "small", "max_model_len": 1000}, {"id": "large"}]}
CHAT = "/v1/chat/completions"


def script(*answers: Answer | Callable[[Request], Answer], models: object = MODELS) -> Script:
    """The answers to chat requests, one after the other, the last of them for all that follow."""
    left = list(answers)

    def answer(request: Request) -> Answer:
        if request.path.endswith("/models"):
            return models if isinstance(models, Answer) else whole(models)
        each = left.pop(0) if len(left) > 1 else left[0]
        return each(request) if callable(each) else each

    return answer


def run(script: Script, body: Callable[[RemoteBackend, ApiServer], Awaitable[None]], **settings: Any) -> None:
    with_server(script, lambda url: openai_backend(Settings(backend="openai", base_url=f"{url}/v1", **settings)), body)


async def ask(backend: RemoteBackend, conversation: Conversation = HELLO, **options: Any) -> list[Event]:
    return [event async for event in backend.reply(conversation, ReplyOptions(**options))]


def events(answer: Answer | Callable[[Request], Answer], *more: Answer, **settings: Any) -> list[Event]:
    found: list[Event] = []

    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        found.extend(await ask(backend, tools=(Tool("add"), Tool("now"))))

    run(script(answer, *more), body, **settings)
    return found


def text_of(found: list[Event]) -> str:
    return "".join(event.text for event in found if isinstance(event, TextDelta))


def end_of(found: list[Event]) -> Completed:
    end = found[-1]
    assert isinstance(end, Completed), found
    assert end.text == text_of(found)
    return end


def failure(found: list[Event]) -> Failed:
    end = found[-1]
    assert isinstance(end, Failed), found
    return end


GOOD = Answer(sse(piece(role="assistant"), piece("Hel"), piece("lo."), piece(finish="stop"), usage(9, 3, 4)))


def test_a_reply() -> None:
    found = events(GOOD)
    assert [type(each) for each in found][:1] == [Started]
    end = end_of(found)
    assert (end.text, end.reason) == ("Hello.", FinishReason.STOP)
    stats = end.stats
    assert (stats.prompt_tokens, stats.tokens, stats.context_used, stats.prompt_size) == (5, 3, 12, 9)
    assert stats.exact and stats.context_size == 1000


def test_what_is_asked() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        tool = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
        sampling = Sampling(temperature=0, top_p=0.5, seed=7, repeat_penalty=1.1)
        await ask(
            backend,
            Conversation().with_system("Be brief.").with_user("A\r\nB\x1b \udc80 \ud800"),
            max_tokens=5,
            sampling=sampling,
            stop=("END",),
            tools=(tool,),
            tool_choice="add",
            format=ResponseFormat({"type": "object"}),
            template={"reasoning_effort": "low", "enable_thinking": False},
        )
        asked = server.asked(CHAT)[0]
        assert asked.headers["authorization"] == "Bearer geheim"
        body = asked.json
        assert body["model"] == "small" and body["max_tokens"] == 5 and body["stop"] == ["END"]
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "A\nB\u241b \ufffd \ufffd"},
        ]
        assert (body["temperature"], body["top_p"], body["seed"]) == (0, 0.5, 7)
        assert body["repeat_penalty"] == body["repetition_penalty"] == 1.1
        assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
        assert body["tools"][0]["function"]["name"] == "add"
        assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
        assert body["reasoning_effort"] == "low" and body["chat_template_kwargs"] == {"enable_thinking": False}

    run(script(GOOD), body, backend_key="geheim")


def test_nothing_is_sent_that_nobody_asked_for() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        await ask(backend)
        assert set(server.asked(CHAT)[0].json) == {"model", "messages", "stream", "stream_options"}
        assert "authorization" not in server.asked(CHAT)[0].headers

    run(script(GOOD), body)


def test_a_conversation_with_tools_goes_there_and_back() -> None:
    call = ToolCall("c1", "add", '{"a": 1}')
    conversation = HELLO.with_assistant("", FinishReason.TOOL_CALLS, tool_calls=(call,)).with_tool_result(call, "2")

    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        assert end_of(await ask(backend, conversation)).text == "Hello."
        assert server.asked(CHAT)[0].json["messages"][1:] == [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ]

    run(script(GOOD), body)


def call(index: int | None, id: str | None = None, name: str | None = None, arguments: str | None = None) -> Any:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    part: dict[str, Any] = {"function": function}
    if index is not None:
        part["index"] = index
    if id is not None:
        part |= {"id": id, "type": "function"}
    return piece(tool_calls=[part])


TWO_CALLS = [
    piece("Let me see."),
    call(0, "c1", "add", ""),
    call(0, None, None, '{"a": '),
    call(0, None, None, '"}"}'),
    call(1, "c2", "now", None),
]


def test_tool_calls_in_pieces() -> None:
    found = events(Answer(sse(*TWO_CALLS, piece(finish="tool_calls"))))
    calls = [each for each in found if isinstance(each, ToolCall)]
    assert calls == [ToolCall("c1", "add", '{"a": "}"}'), ToolCall("c2", "now", "{}")]
    end = end_of(found)
    assert (end.reason, end.text) == (FinishReason.TOOL_CALLS, "Let me see.")
    assert isinstance(found[-2], ToolCall) and isinstance(found[1], TextDelta)


def test_tool_calls_as_less_careful_servers_send_them() -> None:
    both = [
        {"function": {"name": "add", "arguments": {"a": 1}}},
        {"id": 7, "function": {"name": "now", "arguments": ""}},
    ]
    found = events(Answer(sse(piece(tool_calls=both), piece(finish="stop"))))
    calls = [each for each in found if isinstance(each, ToolCall)]
    assert [(each.name, json.loads(each.arguments)) for each in calls] == [("add", {"a": 1}), ("now", {})]
    assert len({each.id for each in calls}) == 2
    assert end_of(found).reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    "ending",
    [
        [CUT],
        sse(piece(finish="length")),
        sse({"error": {"message": "out of memory"}}, done=False),
        [],
    ],
    ids=["cut", "length", "error", "silence"],
)
def test_a_call_that_is_cut_is_not_made(ending: list[Any]) -> None:
    found = events(Answer([*sse(*TWO_CALLS, done=False), *ending]))
    assert not [each for each in found if isinstance(each, ToolCall)]
    assert end_of(found).reason in (FinishReason.ENGINE_DIED, FinishReason.LENGTH)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_in_a_field_of_their_own(field: str) -> None:
    found = events(Answer(sse(piece(**{field: "Hm"}), piece(**{field: "."}), piece("Yes"), piece(finish="stop"))))
    assert "".join(each.text for each in found if isinstance(each, ThinkingDelta)) == "Hm."
    assert end_of(found).text == "Yes"


def test_thoughts_between_tags() -> None:
    found = events(Answer(sse(*map(piece, ["<th", "ink>Hm", ".</thi", "nk>\n\nYes"]), piece(finish="stop"))))
    assert "".join(each.text for each in found if isinstance(each, ThinkingDelta)) == "Hm."
    assert end_of(found).text == "Yes"


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_bytes_may_come_as_they_like(cut: int) -> None:
    data = b"".join(
        [
            b": keep-alive\r\n\r\n",
            *sse(piece("数据 "), piece("👩\u200d💻"), piece(finish="stop"), usage(3, 2), end="\r\n"),
        ]
    )
    data = data.replace(b"\\ud83d\\udc69", "👩".encode())
    found = events(Answer([data[at : at + cut] for at in range(0, len(data), cut)]))
    assert end_of(found).text == "数据 👩\u200d💻"


def test_a_character_in_two_events() -> None:
    found = events(Answer(sse(piece("\ud83d"), piece("\ude00!"), piece(finish="stop"))))
    assert end_of(found).text == "😀!"


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (sse(), FinishReason.STOP),
        (sse(piece(finish="stop"), done=False), FinishReason.STOP),
        ([*sse(piece(finish="length"), done=False), CUT], FinishReason.LENGTH),
        (sse(piece(finish="length")), FinishReason.LENGTH),
        (sse(piece(finish="content_filter")), FinishReason.STOP),
        ([], FinishReason.ENGINE_DIED),
        ([CUT], FinishReason.ENGINE_DIED),
        (sse({"error": {"message": "CUDA is out of memory"}}, done=False), FinishReason.ENGINE_DIED),
        ([b"data: {not json\n\n"], FinishReason.ENGINE_DIED),
        ([b"data: [1]\n\n"], FinishReason.ENGINE_DIED),
    ],
)
def test_how_a_reply_may_end(ending: list[Any], reason: FinishReason) -> None:
    found = events(Answer([*sse(piece("Hello"), done=False), *ending]))
    end = end_of(found)
    assert (end.text, end.reason) == ("Hello", reason)
    assert end.stats.tokens == 1 and not end.stats.exact
    assert end.stats.prompt_size and end.stats.context_used == end.stats.prompt_size + 1, "estimated, and not unknown"
    if reason is FinishReason.ENGINE_DIED:
        assert any(isinstance(each, Notice) and "ended the reply early" in each.text for each in found)


def test_a_reply_cut_before_its_first_word_is_asked_again_once() -> None:
    assert end_of(events(Answer([CUT]), GOOD)).text == "Hello."
    assert end_of(events(Answer(sse(piece(role="assistant"), done=False)), GOOD)).text == "Hello."
    end = failure(events(Answer([CUT])))
    assert isinstance(end.error, EngineDiedError) and "before its first token" in str(end.error)


def test_thoughts_are_told_once() -> None:
    first = Answer([*sse(piece(reasoning="Let me "), piece(reasoning="see"), done=False), CUT])
    second = Answer(sse(piece(reasoning="Let me see."), piece("Yes"), piece(finish="stop")))
    found = events(first, second)
    assert "".join(each.text for each in found if isinstance(each, ThinkingDelta)) == "Let me see."
    assert end_of(found).text == "Yes"


REFUSALS: list[tuple[Answer, type[Exception], str]] = [
    (whole({"error": {"message": "bad key"}}, 401), UsageError, "does not accept the key: bad key"),
    (whole({"error": {"message": "The model `x` does not exist"}}, 404), ModelError, "has no model"),
    (whole({"detail": "Not Found"}, 404), UsageError, "does not have this API"),
    (whole({"error": {"message": "slow down"}}, 429, **{"Retry-After": "7"}), BusyError, "slow down"),
    (whole({"object": "error", "message": "wrong temperature"}, 400), UsageError, "wrong temperature"),
    (whole({"error": "plain words"}, 422), UsageError, "plain words"),
    (
        Answer([b"<html><head><title>x</title></head><h1>502 Bad\nGateway</h1>"], 502, "text/html"),
        EngineDiedError,
        "502: 502 Bad Gateway",
    ),
    (whole({"error": "registry/small does not support tools"}, 400), UnsupportedError, "tools is not supported here"),
    (
        whole({"message": '"auto" tool choice requires --enable-auto-tool-choice'}, 400),
        UnsupportedError,
        "requires --ena",
    ),
    (Answer([b""], 500), EngineDiedError, "failed (500)"),
    (Answer([b""], 307, headers={"Location": "http://elsewhere/v1"}), UsageError, "redirects to another address"),
    (Answer([b"<h1>Log in</h1>"], type="text/html"), UsageError, "does not have this API"),
    (whole({"error": {"message": "no"}}), EngineDiedError, "no"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), REFUSALS)
def test_a_server_that_says_no(answer: Answer, kind: type[Exception], words: str) -> None:
    end = failure(events(answer))
    assert isinstance(end.error, kind), repr(end.error)
    assert words in str(end.error)
    if isinstance(end.error, BusyError):
        assert end.error.retry_after == 7


def test_a_refusal_of_any_size() -> None:
    end = failure(events(Answer([b"x" * 10_000] * 50, 400, "text/plain")))
    assert len(str(end.error)) < 1000


def test_a_server_that_does_not_stream() -> None:
    message = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    found = events(whole(reply | {"usage": {"prompt_tokens": 9, "completion_tokens": 3}}))
    assert end_of(found).text == "Hello." and end_of(found).stats.tokens == 3
    assert [each.text for each in found if isinstance(each, ThinkingDelta)] == ["Hm."]
    assert isinstance(failure(events(whole({"what": 1}))).error, EngineDiedError)


def test_a_strict_server_gets_less() -> None:
    def strict(request: Request) -> Answer:
        for name, words in {"stream_options": "unknown field", "max_tokens": "use max_completion_tokens, not"}.items():
            if name in request.json:
                return whole({"error": {"message": f"{words} {name}"}}, 400)
        return GOOD

    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        assert end_of(await ask(backend, max_tokens=5)).text == "Hello."
        assert end_of(await ask(backend, max_tokens=6)).text == "Hello."
        assert len(server.asked(CHAT)) == 4
        assert server.asked(CHAT)[-1].json["max_completion_tokens"] == 6

    run(script(strict), body)


def test_the_model() -> None:
    async def named(backend: RemoteBackend, server: ApiServer) -> None:
        assert backend.status().model == "large"
        await ask(backend)
        assert server.asked(CHAT)[0].json["model"] == "large"

    run(script(GOOD), named, model="large")
    run(script(GOOD, models=whole({}, 404)), named, model="large")
    run(script(GOOD, models=Answer([b"<html>"], type="text/html")), named, model="large")

    async def nameless(backend: RemoteBackend, server: ApiServer) -> None:
        assert isinstance(failure(await ask(backend)).error, ModelError)

    run(script(GOOD, models={"data": []}), nameless)


def test_no_server() -> None:
    async def body() -> None:
        async with ApiServer(script(GOOD)) as server:
            url = server.url
        backend = openai_backend(Settings(backend="openai", base_url=url))
        backend.start()
        try:
            end = failure(await ask(backend))
            assert isinstance(end.error, EngineNotFoundError) and url in str(end.error)
            if sys.platform != "win32":
                assert "Connection refused" in end.error.what and "call failed" not in str(end.error)
        finally:
            await backend.close()

    asyncio.run(body())


@pytest.mark.parametrize("url", ["", "ftp://x/v1", "http://", "http://a b/", "http://u:p@host/v1", "http://h:99999/"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        openai_backend(Settings(backend="openai", base_url=url))


@pytest.mark.parametrize("by", ["interrupt", "timeout", "close the iterator", "close the backend"])
def test_whoever_stops_it_the_server_hears_of_it(by: str) -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        replies = backend.reply(HELLO, ReplyOptions(timeout=0.3 if by == "timeout" else None))
        found = []
        async for event in replies:
            found.append(event)
            if isinstance(event, TextDelta):
                if by == "interrupt":
                    asyncio.get_running_loop().call_soon(backend.interrupt)
                elif by == "close the backend":
                    closing = asyncio.ensure_future(backend.close())
                elif by == "close the iterator":
                    break
        if by == "close the iterator":
            await replies.aclose()
        else:
            reason = FinishReason.TIMEOUT if by == "timeout" else FinishReason.INTERRUPTED
            assert (end_of(found).reason, end_of(found).text) == (reason, "Hello")
        if by == "close the backend":
            await closing
            return
        await server.hung_up.wait()
        assert backend.status().state is BackendState.IDLE
        assert end_of(await ask(backend)).text == "Hello."

    for gate_before in (False, True):
        if gate_before and by in ("interrupt", "close the backend"):
            continue
        waiting = Answer([*sse(piece("Hello"), done=False), asyncio.Event()])
        run(script(waiting, GOOD), body)


def test_an_interrupt_while_nothing_has_come() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        found = []
        async for event in backend.reply(HELLO):
            found.append(event)
            if isinstance(event, Started):
                asyncio.get_running_loop().call_later(0.05, backend.interrupt)
        assert (end_of(found).reason, end_of(found).text) == (FinishReason.INTERRUPTED, "")
        assert end_of(await ask(backend)).text == "Hello."

    run(script(Answer([asyncio.Event()]), GOOD), body)


def test_a_cut_reply_is_asked_to_go_on() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        found = await ask(backend, HELLO.with_assistant("Hel", FinishReason.INTERRUPTED))
        assert any(isinstance(each, Notice) and "asked to continue" in each.text for each in found)
        roles = [each["role"] for each in server.asked(CHAT)[0].json["messages"]]
        assert roles == ["user", "assistant", "user"]

    run(script(GOOD), body)


# The window


def overflowing(limit: int) -> Callable[[Request], Answer]:
    """A server with a window of so many characters of messages, each of which is a token to it."""

    def answer(request: Request) -> Answer:
        size = sum(len(each["content"]) for each in request.json["messages"])
        if size > limit:
            words = f"This model's maximum context length is {limit} tokens. However, your request has {size} tokens"
            return whole({"error": {"message": words, "code": "context_length_exceeded"}}, 400)
        return Answer(sse(piece("Yes"), piece(finish="stop"), usage(size, 1)))

    return answer


@pytest.mark.parametrize(
    ("words", "window"),
    [("does not fit into the context window of 2,048 tokens", " of 2,048 tokens;"), ("the prompt is too long", ";")],
)
def test_a_message_that_is_too_long_for_a_window_of_unknown_size(words: str, window: str) -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        failed = (await ask(backend, Conversation().with_user("x " * 20_000)))[-1]
        assert isinstance(failed, Failed) and isinstance(failed.error, ContextOverflowError)
        assert f"does not fit into the context window{window} it was not sent" in str(failed.error)

    refusal = {"error": {"message": words, "code": "context_length_exceeded"}}
    run(script(lambda request: whole(refusal, 400), models={"data": [{"id": "m"}]}), body)


def long_conversation() -> Conversation:
    conversation = Conversation().with_system("s" * 20)
    for number in range(8):
        conversation = conversation.with_user(f"{number}" * 50).with_assistant("a" * 50)
    return conversation.with_user("q" * 30)


def test_the_oldest_turns_leave_where_it_is_too_much() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        conversation = long_conversation()
        found = await ask(backend, conversation)
        assert end_of(found).text == "Yes"
        notices = [each.text for each in found if isinstance(each, Notice)]
        assert len(notices) == 1 and "left it" in notices[0]
        sent = server.asked(CHAT)[-1].json["messages"]
        assert sent[0]["role"] == "system" and sent[1]["role"] == "user" and sent[-1]["content"] == "q" * 30
        asked = len(server.asked(CHAT))
        # What has left stays out, and is not told again.
        more = await ask(backend, conversation.with_assistant("Yes").with_user("r"))
        assert end_of(more).text == "Yes" and not [each for each in more if isinstance(each, Notice)]
        assert len(server.asked(CHAT)) == asked + 1
        assert backend.status().context_size == 400

    run(script(overflowing(400), models={"data": [{"id": "m"}]}), body)


def test_the_policy_may_be_to_stop() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        end = failure(await ask(backend, long_conversation()))
        assert isinstance(end.error, ContextOverflowError) and "outgrown" in str(end.error)

    run(script(overflowing(400), models={"data": [{"id": "m"}]}), body, overflow="stop")


def test_what_leaves_may_be_summarised() -> None:
    window = overflowing(400)

    def summarising(request: Request) -> Answer:
        if not request.json["stream"]:
            return whole({"choices": [{"message": {"role": "assistant", "content": "They counted."}}]})
        return window(request)

    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        found = await ask(backend, long_conversation())
        assert end_of(found).text == "Yes"
        assert any(isinstance(each, Notice) and "summary replaces them" in each.text for each in found)
        assert "They counted." in server.asked(CHAT)[-1].json["messages"][0]["content"]

    run(script(summarising, models={"data": [{"id": "m"}]}), body, overflow="summarize")


def test_a_message_that_never_fits() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        conversation = long_conversation()
        end = failure(await ask(backend, Conversation((*conversation.messages[:-1],)).with_user("q" * 500)))
        assert isinstance(end.error, ContextOverflowError) and "does not fit" in str(end.error)
        # The conversation is whole again for the next one.
        assert end_of(await ask(backend, HELLO)).text == "Yes"

    run(script(overflowing(400), models={"data": [{"id": "m"}]}), body)


def test_a_known_window_is_respected_before_anything_is_sent() -> None:
    async def body(backend: RemoteBackend, server: ApiServer) -> None:
        conversation = HELLO
        for _ in range(30):
            found = await ask(backend, conversation, max_tokens=20)
            conversation = conversation.with_assistant(end_of(found).text + "a" * 40).with_user("b" * 40)
        assert max(sum(len(m["content"]) for m in each.json["messages"]) for each in server.asked(CHAT)) < 1000
        assert len(server.asked(CHAT)) <= 32  # a refusal or two until its way of counting is known

    run(script(overflowing(1000)), body)
