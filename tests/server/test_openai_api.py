"""The OpenAI API over HTTP: what is streamed and when, what is whole, and how each failure reads."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from program import TIMEOUT
from scripted_backend import STATS, Gate, ScriptedBackend, by_message, say
from serving import Served, serving

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import (
    ContextOverflowError,
    EmptyMessageError,
    EngineDiedError,
    FinishReason,
    ModelError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.server import requests as bodies
from bitnet_chat.server.settings import ServeSettings
from bitnet_chat.text.sanitize import visible

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
Body = dict[str, Any]


def asking(text: str = "hello", **more: object) -> Body:
    return {"messages": [{"role": "user", "content": text}], **more}


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        await asyncio.wait_for(test(), TIMEOUT)

    asyncio.run(in_time())


class Client:
    """Speaks HTTP, and nothing of the API."""

    def __init__(self, session: aiohttp.ClientSession, served: Served) -> None:
        self._session, self.served = session, served

    async def whole(
        self, path: str, body: object = None, method: str = "", **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON, headers."""
        written = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        data = None if written is None else io.BytesIO(written)
        method = method or ("GET" if data is None else "POST")
        headers = {"Content-Type": "application/json", **headers}
        async with self._session.request(method, self.served.url + path, data=data, headers=headers) as response:
            return response.status, json.loads(await response.read() or b"null"), response.headers

    @asynccontextmanager
    async def stream(self, path: str, body: Body) -> AsyncIterator[AsyncIterator[str]]:
        """The data of each event, as soon as it is here."""
        async with self._session.post(self.served.url + path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"

            async def events() -> AsyncIterator[str]:
                async for line in response.content:
                    if line.startswith(b"data: "):
                        yield line[6:].decode().rstrip("\n")
                    else:
                        assert line in (b"\n", b": \n"), line

            yield events()

    async def streamed(self, path: str, body: Body) -> list[Any]:
        """All events; ``[DONE]`` as it is."""
        async with self.stream(path, body) as events:
            return [data if data == "[DONE]" else json.loads(data) async for data in events]


@asynccontextmanager
async def client(what: Any = by_message, **options: Any) -> AsyncIterator[Client]:
    async with serving(what, **options) as served, aiohttp.ClientSession() as session:
        yield Client(session, served)


def deltas(chunks: list[Any], field: str = "content") -> list[str]:
    return [chunk["choices"][0]["delta"][field] for chunk in chunks if field in chunk["choices"][0]["delta"]]


def test_a_stream_has_the_form_that_clients_read() -> None:
    async def test() -> None:
        async with client(lambda _: say("Hel", "lo, ", "you.")) as http:
            *chunks, done = await http.streamed(CHAT, asking())
            assert done == "[DONE]"
            assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
            assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
            assert chunks[0]["id"].startswith("chatcmpl-") and chunks[0]["model"] == "scripted"
            assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
            assert "".join(deltas(chunks)) == "Hello, you."
            assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
            assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
            assert all("usage" not in chunk for chunk in chunks)

            *chunks, last, done = await http.streamed(CHAT, asking(stream_options={"include_usage": True}))
            assert done == "[DONE]"
            assert all(chunk["usage"] is None for chunk in chunks)
            assert last["choices"] == []
            assert last["usage"] == {
                "prompt_tokens": 53,
                "completion_tokens": 11,
                "total_tokens": 64,
                "prompt_tokens_details": {"cached_tokens": 46},
            }

    run(test)


def test_a_whole_reply_says_the_same() -> None:
    async def test() -> None:
        async with client(lambda _: [Notice("odd"), *say("Hel", "lo.")]) as http:
            status, reply, headers = await http.whole(CHAT, asking())
            assert status == 200 and headers["content-type"] == "application/json"
            assert reply["id"] == "chatcmpl-" + headers["x-request-id"]
            assert reply["object"] == "chat.completion"
            assert reply["choices"] == [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello.", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ]
            assert reply["usage"]["total_tokens"] == 64
            assert reply["bitnet_chat"]["finish_reason"] == "stop" and reply["bitnet_chat"]["notices"] == ["odd"]

            status, reply, _ = await http.whole(PLAIN, {"prompt": "hello"})
            assert reply["object"] == "text_completion" and reply["id"].startswith("cmpl-")
            assert reply["choices"] == [{"text": "Hello.", "index": 0, "logprobs": None, "finish_reason": "stop"}]
            *chunks, last, usage, done = await http.streamed(
                PLAIN, {"prompt": "hello", "stream_options": {"include_usage": True}}
            )
            assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello."
            assert last["choices"][0]["finish_reason"] == "stop" and last["bitnet_chat"]["notices"] == ["odd"]
            assert usage["usage"]["completion_tokens"] == 11 and done == "[DONE]"

    run(test)


def test_every_piece_is_at_the_client_before_the_next_one_is_made() -> None:
    pieces = ["One", " two", " thr", "ee\n\n", "数", "👩‍💻", " end"]

    def script(_: Conversation) -> list[Event | Gate]:
        gated: list[Event | Gate] = [step for piece in pieces for step in (Gate(), TextDelta(piece))]
        return [Started(), *gated, Gate(), Completed(FinishReason.STOP, "".join(pieces), STATS)]

    async def test() -> None:
        for path, body in ((CHAT, asking()), (PLAIN, {"prompt": "x"})):
            async with client(script) as http, http.stream(path, body) as events:
                if path == CHAT:
                    assert json.loads(await anext(events))["choices"][0]["delta"]["role"] == "assistant"
                for piece in pieces:
                    http.served.backend.open_gate()  # the next one waits for this one to be here
                    choice = json.loads(await anext(events))["choices"][0]
                    assert (choice["delta"]["content"] if path == CHAT else choice["text"]) == piece
                http.served.backend.open_gate()
                assert json.loads(await anext(events))["choices"][0]["finish_reason"] == "stop"
                assert await anext(events) == "[DONE]"

    run(test)


def test_bytes_that_are_no_text_and_line_ends_of_all_kinds() -> None:
    text = "a\udcf0\udc9f b\r\nc\rd\u2028e\x0b\x85f\x00 data: [DONE]\n\ndata: x"

    async def test() -> None:
        async with client(lambda _: say(*text)) as http:
            *chunks, _ = await http.streamed(CHAT, asking())
            _, reply, _ = await http.whole(CHAT, asking())
            expected = text.replace("\udcf0", "\ufffd").replace("\udc9f", "\ufffd")
            assert "".join(deltas(chunks)) == reply["choices"][0]["message"]["content"] == expected

    run(test)


def test_thoughts_and_calls() -> None:
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "sub", "{}"))

    def script(_: Conversation) -> list[Event]:
        end = Completed(FinishReason.TOOL_CALLS, "Wait.", STATS)
        return [Started(), ThinkingDelta("Hm"), ThinkingDelta("m."), TextDelta("Wait."), *calls, end]

    async def test() -> None:
        tools = [{"type": "function", "function": {"name": name}} for name in ("add", "sub")]
        async with client(script) as http:
            *chunks, _ = await http.streamed(CHAT, asking(tools=tools, tool_choice="required"))
            assert "".join(deltas(chunks, "reasoning_content")) == "Hmm."
            assert "".join(deltas(chunks)) == "Wait."
            told = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
            assert [call.pop("index") for call in told] == [0, 1]
            assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
            options = http.served.backend.options[0]
            assert [tool.name for tool in options.tools] == ["add", "sub"] and options.tool_choice == "required"

            _, reply, _ = await http.whole(CHAT, asking(tools=tools))
            message = reply["choices"][0]["message"]
            assert message["reasoning_content"] == "Hmm." and message["content"] == "Wait."
            assert message["tool_calls"] == told
            assert told[0] == {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

            results = [{"role": "tool", "tool_call_id": id, "content": "3"} for id in ("c1", "c2")]
            status, *_ = await http.whole(CHAT, {"messages": [*asking()["messages"], message, *results]})
            assert status == 200
            asked = http.served.backend.asked[-1].messages
            assert asked[1].tool_calls == calls
            assert [(each.role, each.content, each.tool_name) for each in asked[2:]] == [
                ("tool", "3", "add"),
                ("tool", "3", "sub"),
            ]

            no_text = [Started(), calls[0], Completed(FinishReason.TOOL_CALLS, "", STATS)]
            http.served.backend.script = lambda _: no_text
            _, reply, _ = await http.whole(CHAT, asking(tools=tools))
            assert reply["choices"][0]["message"]["content"] is None

            cut = [Started(), TextDelta("Wait."), calls[0], Completed(FinishReason.LENGTH, "Wait.", STATS)]
            http.served.backend.script = lambda _: cut
            _, reply, _ = await http.whole(CHAT, asking(tools=tools))
            (choice,) = reply["choices"]
            assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]

    run(test)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FinishReason.ROLE_MARKER, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.CONTEXT_OVERFLOW, "length"),
        (FinishReason.REPETITION, "length"),
        (FinishReason.TIMEOUT, "length"),
        (FinishReason.INTERRUPTED, "length"),
    ],
)
def test_why_a_reply_ended(reason: FinishReason, told: str) -> None:
    async def test() -> None:
        async with client(lambda _: say("So far", reason=reason)) as http:
            *chunks, _ = await http.streamed(CHAT, asking())
            _, reply, _ = await http.whole(CHAT, asking())
            assert chunks[-1]["choices"][0]["finish_reason"] == reply["choices"][0]["finish_reason"] == told
            assert chunks[-1]["bitnet_chat"]["finish_reason"] == reply["bitnet_chat"]["finish_reason"] == reason

    run(test)


FAILURES: list[tuple[Event, int, str, str | None]] = [
    (Failed(EmptyMessageError()), 400, "invalid_value", None),
    (Failed(UnsupportedError("top_p", "a pty engine cannot")), 400, "unsupported_parameter", "top_p"),
    (Failed(UnsupportedError("format", "there is no grammar")), 400, "unsupported_parameter", "response_format"),
    (Failed(ContextOverflowError("too long")), 400, "context_length_exceeded", "messages"),
    (Failed(ModelError("no such file", detail="log")), 503, "bad_model", None),
    (Failed(EngineDiedError("it died", detail="log")), 503, "engine_died", None),
    (Completed(FinishReason.STALLED, ""), 503, "engine_died", None),
    (Completed(FinishReason.TIMEOUT, ""), 504, "timeout", None),
    (Completed(FinishReason.INTERRUPTED, ""), 503, "interrupted", None),
]


def test_what_fails_before_the_first_word_has_a_status_of_its_own() -> None:
    async def test() -> None:
        async with client() as http:
            for end, status, code, param in FAILURES:
                http.served.backend.script = lambda _, end=end: [Notice("odd"), end]
                for stream in (False, True):
                    got, reply, _ = await http.whole(CHAT, asking(stream=stream))
                    assert (got, reply["error"]["code"], reply["error"]["param"]) == (status, code, param)
                    assert set(reply) == {"error"} and "log" not in reply["error"]["message"]
            assert "response_format is not supported here: there is no grammar" in json.dumps(
                (await fail_with(http, Failed(UnsupportedError("format", "there is no grammar"))))[1]
            )

    async def fail_with(http: Client, end: Event) -> tuple[int, Any, Mapping[str, str]]:
        http.served.backend.script = lambda _: [end]
        return await http.whole(CHAT, asking())

    run(test)


def test_what_fails_in_mid_stream_ends_it_with_an_error() -> None:
    async def test() -> None:
        async with client() as http:
            for end in (Failed(EngineDiedError("it died"), "Half"), Completed(FinishReason.ENGINE_DIED, "Half", STATS)):
                http.served.backend.script = lambda _, end=end: [Started(), TextDelta("Half"), end]
                *chunks, last = await http.streamed(CHAT, asking())
                assert "".join(deltas(chunks)) == "Half"
                assert last["error"]["code"] == "engine_died"
                status, reply, _ = await http.whole(CHAT, asking())
                assert status == 503 and reply == last, "half a reply that a fault has cut is none"

    run(test)


def test_what_is_no_request() -> None:
    async def test() -> None:
        async with client(settings=ServeSettings(port=0, body_limit=1000)) as http:
            for body, status, code in (
                (b"{", 400, "invalid_json"),
                (b"\xff", 400, "invalid_json"),
                (b"", 400, "invalid_json"),
                (b"x" * 1001, 413, "request_too_large"),
                (json.dumps(asking(model="gpt-4o")).encode(), 404, "model_not_found"),
                (json.dumps(asking(logprobs=True)).encode(), 400, "unsupported_parameter"),
                (json.dumps({}).encode(), 400, "missing_required_parameter"),
            ):
                got, reply, _ = await http.whole(CHAT, body, method="POST")
                assert (got, reply["error"]["code"]) == (status, code)
            for path in ("/v1/embeddings", "/v1/responses", "/v1/", "/v1/chat/completions/more"):
                status, reply, _ = await http.whole(path, asking())
                assert status == 404 and reply["error"]["code"] == "not_found"
            for method, path, allowed in (
                ("GET", CHAT, "POST"),
                ("DELETE", "/v1/models", "GET, HEAD"),
                ("PATCH", PLAIN, "POST"),
            ):
                status, reply, headers = await http.whole(path, method=method)
                assert (status, reply["error"]["code"], headers["allow"]) == (405, "method_not_allowed", allowed)
            assert http.served.backends[0].asked == []

    run(test)


def test_a_large_body_is_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []
    here, real = threading.get_ident(), bodies.object_of

    def object_of(data: bytes, notes: IgnoredFields | None) -> Fields:
        threads.append(threading.get_ident() == here)
        return real(data, notes)

    monkeypatch.setattr(bodies, "object_of", object_of)

    def many(number: int, text: str = "x") -> bytes:
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "y"}] * (number // 2)
        return json.dumps({"messages": [*messages, messages[0]]}).encode()

    async def test() -> None:
        async with client() as http:
            _, small, _ = await http.whole(CHAT, many(10))
            status, reply, _ = await http.whole(CHAT, many(34_000))
            assert status == 413 and "more than 100,000 values" in json.dumps(reply), small
            status, reply, _ = await http.whole(CHAT, many(10_000))
            assert status == 400 and "10,001 messages" in json.dumps(reply)
            assert threads == [True, False, False]
            status, reply, _ = await http.whole(CHAT, many(8, 'é\n"x\\ud800' * 1_000))
            assert status == 200 and http.served.backend.asked[-1].last.content == 'é\n"x\\ud800' * 1_000
            for broken in (b"[" * 40_000, b'{"a": ' + b"[" * 40_000, b'{"a": NaN}' + b" " * 40_000, b"x" * 40_000):
                status, reply, _ = await http.whole(CHAT, broken)
                assert (status, reply["error"]["code"]) == (400, "invalid_json")

    run(test)


def test_what_was_not_done_as_asked_is_told() -> None:
    request = asking(verbosity="low", foo=1, messages=[{"role": "user", "name": "Bob", "content": "hello"}])
    told = "without effect here: verbosity, foo, messages[].name"

    async def test() -> None:
        async with client(lambda _: [Notice("odd"), *say("Hello.")]) as http:
            _, reply, _ = await http.whole(CHAT, request)
            *_, last, _ = await http.streamed(CHAT, request)
            assert sorted(reply["bitnet_chat"]["notices"]) == sorted(last["bitnet_chat"]["notices"])
            assert set(reply["bitnet_chat"]["notices"]) == {told, "odd"}
            _, reply, _ = await http.whole(CHAT, asking())
            assert reply["bitnet_chat"]["notices"] == ["odd"], "nothing of one request is told with another"
        async with client(settings=ServeSettings(port=0, strict=True)) as http:
            for path in (CHAT, "/api/chat"):
                status, reply, _ = await http.whole(path, {**request, "model": "scripted"})
                assert status == 400 and any(why in json.dumps(reply) for why in ("is not ", "is unknown"))

    run(test)


def test_tools_that_a_model_has_no_place_for() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    refusal = Failed(UnsupportedError("tools", "the chat template x does not support tools"))

    async def test() -> None:
        async with client() as http:
            backend = http.served.backend
            backend.script = lambda _: [refusal] if backend.options[-1].tools else say("Without.")
            for choice in ({}, {"tool_choice": "auto"}):
                status, reply, _ = await http.whole(CHAT, asking(tools=tools, **choice))
                assert status == 200, reply
                assert reply["choices"][0]["message"]["content"] == "Without."
                (notice,) = reply["bitnet_chat"]["notices"]
                assert "the model is not offered the tools" in notice
            _, reply, _ = await http.whole("/api/chat", asking(model="scripted", stream=False, tools=tools))
            assert reply["message"]["content"] == "Without." and reply["bitnet_chat"]["notices"] == [notice]
            for choice in ("required", {"type": "function", "function": {"name": "add"}}):
                status, reply, _ = await http.whole(CHAT, asking(tools=tools, tool_choice=choice))
                assert status == 400 and "does not support tools" in reply["error"]["message"]
        async with client(lambda _: [refusal], settings=ServeSettings(port=0, strict=True)) as http:
            for path in (CHAT, "/api/chat"):
                status, reply, _ = await http.whole(path, asking(model="scripted", tools=tools))
                assert status == 400 and "does not support tools" in json.dumps(reply)

    run(test)


def test_one_call_at_a_time() -> None:
    calls = (ToolCall("c1", "add", "{}"), ToolCall("c2", "add", "{}"))
    tools = [{"type": "function", "function": {"name": "add"}}]

    async def test() -> None:
        async with client(lambda _: [Started(), *calls, Completed(FinishReason.TOOL_CALLS, "", STATS)]) as http:
            for parallel, number in ((True, 2), (False, 1)):
                request = asking(tools=tools, parallel_tool_calls=parallel)
                _, reply, _ = await http.whole(CHAT, request)
                assert len(reply["choices"][0]["message"]["tool_calls"]) == number
                *chunks, _ = await http.streamed(CHAT, request)
                assert len(deltas(chunks, "tool_calls")) == number

    run(test)


def test_a_reply_that_was_begun_goes_on() -> None:
    async def test() -> None:
        async with client(lambda _: say(" it is.")) as http:
            messages = [*asking()["messages"], {"role": "assistant", "content": "So"}]
            _, reply, _ = await http.whole(CHAT, asking(messages=messages))
            assert reply["choices"][0]["message"]["content"] == " it is."
            last = http.served.backend.asked[-1].last
            assert last is not None and (last.content, last.was_cut) == ("So", True)

    run(test)


def test_encodings() -> None:
    data = json.dumps(asking()).encode()

    async def test() -> None:
        async with client() as http:
            for path in (CHAT, "/api/chat"):
                for headers, name in (
                    ({"Content-Encoding": "gzip"}, "gzip"),
                    ({"Content-Type": "application/json; charset=utf-16"}, "utf-16"),
                ):
                    status, reply, _ = await http.whole(path, data, **headers)
                    assert status == 415 and repr(name) in json.dumps(reply)
            for kind in ("application/json; charset=utf-8", "application/x-www-form-urlencoded", ""):
                status, *_ = await http.whole(CHAT, data, **{"Content-Type": kind, "Content-Encoding": "identity"})
                assert status == 200

    run(test)


def test_errors_are_safe_to_read_as_they_are() -> None:
    bad = "\x9b\u202e\x7f\U000e0041 é"

    async def test() -> None:
        async with client() as http, aiohttp.ClientSession() as session:
            for path, request in (
                (CHAT, asking(model=bad)),
                ("/api/chat", asking(model=bad)),
                ("/replies", asking(model=bad)),
                ("/v1/" + quote(bad), {}),
                ("/" + quote(bad), {}),
            ):
                async with session.post(http.served.url + path, json=request) as response:
                    text = (await response.read()).decode()
                    assert response.status >= 400 and visible(text) == text

    run(test)


def test_a_body_of_unknown_length_is_limited_too() -> None:
    async def test() -> None:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b" " * 100

        async with (
            client(settings=ServeSettings(port=0, body_limit=1000)) as http,
            aiohttp.ClientSession() as session,
            session.post(
                http.served.url + CHAT, data=parts(), headers={"Content-Type": "application/json"}
            ) as response,
        ):
            assert response.status == 413

    run(test)


def test_models() -> None:
    def loaded() -> ScriptedBackend:
        backend = ScriptedBackend(by_message)
        backend.start()
        return backend

    async def test() -> None:
        sources = {name: BackendFactory(name, 1, loaded) for name in ("small", "org/large:Q4")}
        async with client(sources) as http:
            _, listed, _ = await http.whole("/v1/models")
            assert listed["object"] == "list"
            assert [model["id"] for model in listed["data"]] == ["small", "org/large:Q4", "auto"]
            for model in listed["data"]:
                assert model["object"] == "model" and isinstance(model["created"], int) and model["owned_by"]
                status, one, _ = await http.whole(f"/v1/models/{model['id']}")
                assert status == 200 and one == model
            status, reply, _ = await http.whole("/v1/models/gpt-4o")
            assert (status, reply["error"]["code"]) == (404, "model_not_found")
            _, reply, _ = await http.whole(CHAT, asking(model="org/large:Q4"))
            assert reply["model"] == "org/large:Q4"

    run(test)


def test_a_full_queue_and_batch_work() -> None:
    async def test() -> None:
        async with client(settings=ServeSettings(port=0, queue=2)) as http:
            async with http.stream(CHAT, asking("hang first")) as first:
                await anext(first)
                backend = http.served.backend
                batch = asyncio.ensure_future(http.whole(CHAT, asking("batch"), Priority="u=7"))
                await until(lambda: http.served.scheduler.running == 2)
                person = asyncio.ensure_future(http.whole(CHAT, asking("person")))
                await until(lambda: http.served.scheduler.running == 3)
                for stream in (False, True):
                    status, reply, headers = await http.whole(CHAT, asking("too many", stream=stream), Priority="u=7")
                    assert (status, reply["error"]["code"]) == (429, "rate_limit_exceeded")
                    assert int(headers["retry-after"]) >= 1
                backend.open_gate()
                assert [data async for data in first][-1] == "[DONE]"
            await asyncio.gather(batch, person)
            said = [asked.messages[-1].content for asked in backend.asked]
            assert said == ["hang first", "person", "batch"], "batch work yields to people"

    run(test)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what a server knows of its clients sets no event
        await asyncio.sleep(0.001)


def test_a_client_that_goes_away_stops_its_reply() -> None:
    async def test() -> None:
        async with client() as http:

            async def stopped() -> None:
                await until(lambda: http.served.scheduler.running == 0)
                assert http.served.backend.calls[-2:] == ["interrupt", "end of reply"]
                http.served.backend.calls.clear()

            async with http.stream(CHAT, asking("wait")) as events:  # in mid-stream
                await anext(events)
            await stopped()
            for message in ("wait", "hang"):  # of a whole reply
                http.served.backend.generating.clear()
                request = asyncio.ensure_future(http.whole(CHAT, asking(message)))
                await http.served.backend.generating.wait()
                request.cancel()
                await stopped()
            status, *_ = await http.whole(CHAT, asking("still there?"))
            assert status == 200

    run(test)


def test_a_client_that_goes_away_leaves_the_queue() -> None:
    async def test() -> None:
        async with client() as http, http.stream(CHAT, asking("hang")) as first:
            await anext(first)
            for stream in (False, True):
                waiting = asyncio.ensure_future(http.whole(CHAT, asking("late", stream=stream)))
                await until(lambda: http.served.scheduler.running == 2)
                waiting.cancel()
                await until(lambda: http.served.scheduler.running == 1)
            http.served.backend.open_gate()
            assert [data async for data in first][-1] == "[DONE]"
            assert len(http.served.backend.asked) == 1, "nobody was asked for a client that had gone"

    run(test)


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    """What it has not read waits as text in one place, and the reply ends without it."""
    line = "x" * 1000
    many = 20_000

    async def test() -> None:
        async with client(
            lambda conversation: say(*[line] * many) if "much" in str(conversation) else say("ok")
        ) as http:
            body = json.dumps(asking("much", stream=True)).encode()
            port = int(http.served.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await reader.readuntil(b"\r\n")
            await until(lambda: http.served.scheduler.running == 0)  # to its end, with hardly a byte read
            _, reply, _ = await http.whole(CHAT, asking())
            assert reply["choices"][0]["message"]["content"] == "ok"
            writer.close()

    run(test)


def test_a_server_that_ends_marks_what_it_cuts() -> None:
    async def test() -> None:
        async with client() as http, http.stream(CHAT, asking("wait")) as events:
            await anext(events)
            ending = asyncio.ensure_future(http.served.scheduler.close(0.0))
            chunks = [data async for data in events]
            assert chunks[-1] == "[DONE]"
            last = json.loads(chunks[-2])
            assert last["choices"][0]["finish_reason"] == "length"
            assert last["bitnet_chat"]["finish_reason"] == "interrupted"
            await ending
            status, reply, headers = await http.whole(CHAT, asking())
            assert (status, reply["error"]["code"], headers["retry-after"]) == (503, "ending", "10")

    run(test)


def test_real_engines_say_the_same_streamed_and_whole(built_engine: EngineBinary) -> None:
    """Character by character at temperature 0, with the same exact figures."""
    settings = replace(Settings(), temperature=0.0, engine=str(built_engine.path))
    source = BackendFactory("demo", 1, lambda: open_backend(settings, "", advice="nothing"))

    async def test() -> None:
        async with client(source) as http:
            question = asking("What is bitnet-chat?")
            _, reply, _ = await http.whole(CHAT, question)
            choice = reply["choices"][0]
            assert choice["finish_reason"] == "stop" and len(choice["message"]["content"]) > 20
            for _ in range(2):
                *chunks, usage, _ = await http.streamed(CHAT, {**question, "stream_options": {"include_usage": True}})
                assert "".join(deltas(chunks)) == choice["message"]["content"]
                assert usage["usage"]["prompt_tokens"] == reply["usage"]["prompt_tokens"]
                assert usage["usage"]["completion_tokens"] == reply["usage"]["completion_tokens"]
            _, cut, _ = await http.whole(CHAT, {**question, "max_tokens": 3})
            assert cut["choices"][0]["finish_reason"] == "length"
            assert cut["usage"]["completion_tokens"] == 3
            assert cut["usage"]["prompt_tokens"] == reply["usage"]["prompt_tokens"]
            assert choice["message"]["content"].startswith(cut["choices"][0]["message"]["content"])

            words = choice["message"]["content"]
            stop = words[len(words) // 2 :][:5]
            _, stopped, _ = await http.whole(CHAT, {**question, "stop": [stop, "never said"]})
            *chunks, _ = await http.streamed(CHAT, {**question, "stop": stop})
            told = stopped["choices"][0]["message"]["content"]
            assert told == "".join(deltas(chunks)) == words[: words.index(stop)]
            assert stopped["choices"][0]["finish_reason"] == "stop"

            _, plain, _ = await http.whole(PLAIN, {"prompt": question["messages"][0]["content"]})
            assert plain["choices"][0]["text"] == words

    run(test)


def test_options_reach_the_backend() -> None:
    async def test() -> None:
        async with client() as http:
            await http.whole(CHAT, asking(temperature=0, max_tokens=9, seed=4, stop="x"))
            options = http.served.backend.options[0]
            assert isinstance(options, ReplyOptions)
            assert (options.max_tokens, options.sampling.temperature, options.sampling.seed) == (9, 0, 4)

    run(test)


def test_several_replies_of_one_backend() -> None:
    """The scripted backend generates one at a time; the request leases one of the two backends."""

    async def test() -> None:
        async with client(by_message, parallel=2) as http:
            status, whole, _ = await http.whole(CHAT, asking("hello", n=3, seed=4))
            assert status == 200 and [each["index"] for each in whole["choices"]] == [0, 1, 2]
            _, one, _ = await http.whole(CHAT, asking("hello"))
            assert {each["message"]["content"] for each in whole["choices"]} == {
                one["choices"][0]["message"]["content"]
            }
            usage = one["usage"]["completion_tokens"]
            assert whole["usage"]["completion_tokens"] == 3 * usage
            assert whole["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
            *chunks, counted, done = await http.streamed(CHAT, asking(n=2, stream_options={"include_usage": True}))
            assert done == "[DONE]" and counted["choices"] == [] and counted["usage"]["completion_tokens"] == 2 * usage
            ends = [each["choices"][0] for each in chunks if each["choices"][0]["finish_reason"]]
            assert sorted(each["index"] for each in ends) == [0, 1] and all(each["usage"] is None for each in chunks)
            assert len({each["id"] for each in chunks}) == 1
            status, plain, _ = await http.whole(PLAIN, {"prompt": "hello", "n": 2})
            assert status == 200 and [each["index"] for each in plain["choices"]] == [0, 1]
            status, refused, _ = await http.whole(CHAT, asking(n=9))
            assert status == 400 and refused["error"]["param"] == "n"

    run(test)


def test_a_failure_of_several_replies() -> None:
    async def test() -> None:
        async with client(lambda _: [Failed(UsageError("no"))]) as http:
            status, whole, _ = await http.whole(CHAT, asking(n=3))
            assert status == 400 and "no" in whole["error"]["message"]
        died = [Started(), TextDelta("Hel"), Failed(EngineDiedError("gone"), "Hel")]
        async with client(lambda _: died) as http:
            *_, last = await http.streamed(CHAT, asking(n=2))
            assert "gone" in last["error"]["message"]

    run(test)


def test_several_replies_stop_with_their_client() -> None:
    async def test() -> None:
        async with client(lambda _: [Started(), TextDelta("a"), Gate()]) as http:
            async with http.stream(CHAT, asking(n=3)) as events:
                async for data in events:
                    if '"a"' in data:
                        break
            backend = http.served.backends[0]
            for _ in range(1000):
                if "end of reply" in backend.calls:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert len(backend.asked) == 1

    run(test)


def test_several_replies_come_from_the_cache() -> None:
    async def test() -> None:
        async with client(lambda _: say("Hello."), settings=ServeSettings(port=0, grace=0.0, cache=True)) as http:
            for expected in (None, "hit"):
                status, whole, headers = await http.whole(CHAT, asking(n=2, seed=5))
                assert status == 200 and len(whole["choices"]) == 2 and headers.get("x-cache") == expected
            _, _, headers = await http.whole(CHAT, asking(seed=6))
            assert headers.get("x-cache") == "hit", "the second of two with the seed 5"

    run(test)
