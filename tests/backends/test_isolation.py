"""Two clients of one server: what one said, offered or cost changes nothing in what the other gets, in any order."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from api_server import Answer, ApiServer, Request, lines, piece, sse, usage, whole
from program import TIMEOUT
from serving import Served, serving

from bitnet_chat.backends.factory import open_factory
from bitnet_chat.backends.ollama import ollama_backend
from bitnet_chat.backends.openai import openai_backend
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.cli import serve
from bitnet_chat.cli.parser import parse
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.server.settings import ServeSettings

CHAT = "/v1/chat/completions"
Body = dict[str, Any]
TOOL_DEMO = "tests/data/models/tool-demo.gguf"


def tools(number: int, words: int) -> list[Body]:
    described = {"description": "word " * words, "parameters": {"type": "object", "properties": {}}}
    return [{"type": "function", "function": {"name": f"tool_{each}", **described}} for each in range(number)]


def said(turns: int, text: str, last: str = "hello") -> list[Body]:
    messages: list[Body] = []
    for number in range(turns):
        messages += [{"role": "user", "content": f"{number} {text}"}, {"role": "assistant", "content": text}]
    return [*messages, {"role": "user", "content": last}]


def in_all_orders(kinds: list[str]) -> list[str]:
    """Each of them behind each of them, itself included."""
    order = kinds[:1]
    left = set(itertools.product(kinds, kinds))
    while left:
        follows = next((pair for pair in sorted(left) if pair[0] == order[-1]), None)
        follows = follows or (order[-1], min(left)[0])
        left.discard(follows)
        order.append(follows[1])
    return order


async def told(served: Served, path: str, body: Body, *, with_text: bool = False) -> tuple[Any, ...]:
    """What a client gets, as far as it does not depend on time and chance. ``with_text``: of one reply."""
    async with aiohttp.ClientSession() as session, session.post(served.url + path, json=body) as response:
        answer = await response.json(content_type=None)
        if response.status != 200:
            return response.status, answer["error"]
        details, dropped = answer["bitnet_chat"], response.headers.get("x-messages-dropped")
        asked = answer["usage"]["prompt_tokens"] if "usage" in answer else answer["prompt_eval_count"]
        text = (answer["choices"][0]["message"],) if with_text else ()
        return response.status, dropped, details["notices"], asked, *text


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), TIMEOUT))


def settings_of(backend: str, classic: EngineBinary, native: EngineBinary) -> Settings:
    """A small window. ``backend``: ``llama-server``, ``native`` or ``classic``."""
    engine = native if backend == "native" else classic
    named = {"backend": "llama-server"} if backend == "llama-server" else {}
    return Settings(engine=str(engine.path), temperature=0.0, ctx=512, **named)  # type: ignore[arg-type]


async def compared(
    served: Served, path: str, kinds: dict[str, Body], heard: Callable[[], object] = lambda: None
) -> dict[str, tuple[Any, ...]]:
    """Each client gets the same whatever came before. ``heard``: what else of its request has to be the same."""
    found: dict[str, tuple[Any, ...]] = {}
    for kind in in_all_orders(sorted(kinds)):
        answer = *(await told(served, path, kinds[kind])), heard()
        assert found.setdefault(kind, answer) == answer, kind
    return found


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["llama-server", "native"])
def test_what_a_request_costs_belongs_to_it(classic: EngineBinary, native: EngineBinary, backend: str) -> None:
    """A hundred tools of sixty words are refused; nobody else is."""
    settings = replace(settings_of(backend, classic, native), model=TOOL_DEMO, ctx=0)
    brief: Body = {"max_tokens": 2}
    kinds: dict[str, Body] = {
        "plain": {"messages": said(0, ""), **brief},
        "many tools": {"messages": said(0, ""), "tools": tools(100, 60), **brief},
        "some tools": {"messages": said(0, ""), "tools": tools(15, 2), **brief},
        "long": {"messages": said(20, "word " * 7), **brief},
        "too long": {"messages": said(300, "word " * 7), **brief},
    }

    async def scene() -> None:
        async with serving(open_factory(settings, "", parallel=1)) as served:
            found = await compared(served, CHAT, kinds)
            for kind in ("plain", "some tools", "long"):
                status, dropped, notices, *_ = found[kind]
                assert (status, dropped, notices) == (200, None, []), found[kind]
            window = 2048
            for kind, remedy in (("many tools", "send a shorter message or fewer tools;"), ("too long", "--overflow")):
                status, error, _ = found[kind]
                assert (status, error["code"], error["n_ctx"]) == (400, "context_length_exceeded", window)
                assert f"maximum context length is {window} tokens" in error["message"]
                assert str(error["n_prompt_tokens"]) in error["message"] and error["n_prompt_tokens"] > window
                assert remedy in error["message"]
            async with aiohttp.ClientSession() as session, session.get(served.url + "/health") as response:
                assert response.status == 200

    run(scene)


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["llama-server", "native"])
def test_two_clients_at_the_same_time(classic: EngineBinary, native: EngineBinary, backend: str) -> None:
    """Sampling, a format, tools and thoughts of one are not those of the other."""
    settings = replace(settings_of(backend, classic, native), model=TOOL_DEMO, ctx=0)
    brief: Body = {"messages": said(0, ""), "max_tokens": 6}
    kinds: dict[str, Body] = {
        "plain": brief,
        "sampled": brief | {"temperature": 1.5, "seed": 7, "top_k": 5},
        "as JSON": brief | {"response_format": {"type": "json_object"}},
        "tools": brief | {"tools": tools(3, 2)},
        "without thoughts": brief | {"think": False, "stop": ["e"]},
        "too long": brief | {"messages": said(300, "word " * 7)},
    }

    async def scene() -> None:
        async with serving(open_factory(settings, "", parallel=2)) as served:
            alone = {kind: await told(served, CHAT, body, with_text=True) for kind, body in kinds.items()}
            assert len(set(map(str, alone.values()))) >= 4
            for one, other in itertools.combinations(kinds, 2):
                both = await asyncio.gather(*(told(served, CHAT, kinds[kind], with_text=True) for kind in (one, other)))
                assert both == [alone[one], alone[other]], (one, other)

    run(scene)


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["llama-server", "native", "classic"])
def test_every_reply_without_a_part_of_its_history_says_so(
    classic: EngineBinary, native: EngineBinary, backend: str
) -> None:
    """Whole and streamed, to the second request and the second client too; asked not to cut, nothing is cut."""
    settings = settings_of(backend, classic, native)
    chat = {"model": "m", "messages": said(60, "one two three"), "options": {"num_predict": 2}}
    longer = {**chat, "messages": [*chat["messages"], {"role": "assistant", "content": "Hi."}, *said(0, "")]}  # type: ignore[misc]

    async def streamed(served: Served, path: str, body: Body) -> tuple[str | None, list[str]]:
        async with aiohttp.ClientSession() as session, session.post(served.url + path, json=body) as response:
            assert response.status == 200
            ends = [json.loads(line.removeprefix(b"data:")) for line in (await response.read()).split(b"\n")
                    if b'"notices"' in line]  # fmt: skip
            return response.headers.get("x-messages-dropped"), ends[-1]["bitnet_chat"]["notices"]

    async def scene() -> None:
        sources = {"m": open_factory(settings, "", parallel=1)}
        async with serving(sources) as served:
            status, dropped, notices, size = await told(served, "/api/chat", {**chat, "stream": False})
            assert status == 200 and int(dropped) % 2 == 0 and len(notices) == 1
            assert f"the oldest {dropped} of 120 messages left it" in notices[0]
            assert 256 <= size <= 512 - 2, "half of the window at least, and room for the reply"
            assert await streamed(served, "/api/chat", chat) == (dropped, notices)
            again = await told(served, "/api/chat", {**longer, "stream": False})
            assert again[0] == 200 and again[1] == dropped, "what has left stays out"
            assert await told(served, "/api/chat", {**chat, "stream": False}) == (200, dropped, notices, size)
            whole = {"messages": chat["messages"], "max_tokens": 2}
            for path, body in (
                ("/api/chat", {**chat, "truncate": False}),
                (CHAT, whole),
                (CHAT, {**whole, "stream": True}),
            ):
                status, error = await told(served, path, body)
                message = error if isinstance(error, str) else error["message"]
                assert status == 400 and "maximum context length is 512 tokens, and the request has " in message

    async def told_otherwise() -> None:
        """``--overflow`` decides for both."""
        for policy, statuses in (("stop", {400}), ("drop-oldest", {200})):
            given = ServeSettings(port=0, grace=0.0, overflow=policy)  # type: ignore[arg-type]
            async with serving({"m": open_factory(settings, "", parallel=1)}, settings=given) as served:
                whole = {"messages": chat["messages"], "max_tokens": 2}
                asked = ((CHAT, whole), ("/api/chat", {**chat, "stream": False}))
                assert {(await told(served, path, body))[0] for path, body in asked} == statuses

    run(scene)
    if backend == "native":
        run(told_otherwise)


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["llama-server", "native", "classic"])
def test_what_no_engine_need_refuse_is_refused_while_all_are_busy(
    classic: EngineBinary, native: EngineBinary, backend: str
) -> None:
    settings = settings_of(backend, classic, native)
    wrong: list[tuple[str, Body]] = [
        (CHAT, {"messages": said(60, "one two three")}),
        ("/api/chat", {"model": "m", "messages": said(60, "one two three"), "truncate": False, "stream": False}),
        ("/api/chat", {"model": "m", "messages": said(0, "", "word " * 900), "stream": False}),
        (CHAT, {"messages": said(0, ""), "tools": tools(1, 1), "tool_choice": "required"}),
    ]
    if backend == "classic":
        wrong.append((CHAT, {"messages": said(0, ""), "response_format": {"type": "json_object"}}))

    async def scene() -> None:
        async with serving({"m": open_factory(settings, "", parallel=1)}) as served:
            assert (await told(served, CHAT, {"messages": said(0, ""), "max_tokens": 1}))[0] == 200
            async with served.scheduler.model_manager.held("m") as pool, pool.lease(Conversation()):
                for path, body in wrong:
                    status, error = await told(served, path, body)
                    assert status == 400, error
                assert served.scheduler.running == 0
                waiting = asyncio.ensure_future(told(served, "/api/chat", {**wrong[1][1], "truncate": True}))
                while not pool.waiting:  # noqa: ASYNC110  # there is no event for it
                    await asyncio.sleep(0.01)
            assert (await waiting)[0] == 200

    run(scene)


def test_overflow_decides_for_both_apis_where_it_is_given() -> None:
    given: list[tuple[list[str], dict[str, str], str | None]] = [
        ([], {}, None),
        (["--overflow", "drop-oldest"], {}, "drop-oldest"),
        ([], {"BITNET_CHAT_OVERFLOW": "stop"}, "stop"),
    ]
    for arguments, environment, policy in given:
        served_with, settings, *_ = serve.read(*parse(arguments, serve.parser()), environment)
        assert (served_with.overflow, settings.overflow) == (policy, policy or "drop-oldest")


def test_orders() -> None:
    order = in_all_orders(["a", "b", "c"])
    assert set(itertools.pairwise(order)) == set(itertools.product("abc", "abc"))


# A server of others, which counts a character as a token


WINDOW = 2000


def size_of(asked: Any) -> int:
    return sum(len(each.get("content") or "") + 4 for each in asked["messages"]) + len(
        json.dumps(asked.get("tools", ""))
    )


def counting(request: Request) -> Answer:
    if request.method == "GET":
        return whole({"data": [{"id": "m", "max_model_len": WINDOW}], "models": [{"name": "m"}]})
    asked = request.json
    if (size := size_of(asked)) > WINDOW:
        words = f"This model's maximum context length is {WINDOW} tokens. However, your request has {size} tokens"
        return whole({"error": {"message": words, "code": "context_length_exceeded"}}, 400)
    if asked.get("max_tokens", 0) > WINDOW:
        return whole({"error": {"message": "max_tokens is too large"}}, 400)
    if "truncate" in asked:
        end = {"done": True, "done_reason": "stop", "prompt_eval_count": size, "eval_count": 1}
        return Answer(lines({"message": {"content": "Yes"}, "done": False}, end), type="application/x-ndjson")
    return Answer(sse(piece("Yes"), piece(finish="stop"), usage(size, 1)))


@pytest.mark.parametrize("backend", ["openai", "ollama"])
def test_a_server_of_others_hears_the_same_whatever_came_before(backend: str) -> None:
    kinds: dict[str, Body] = {
        "plain": {"model": "m", "messages": said(0, "")},
        "many tools": {"model": "m", "messages": said(0, ""), "tools": tools(60, 20)},
        "some tools": {"model": "m", "messages": said(0, ""), "tools": tools(2, 4)},
        "long": {"model": "m", "messages": said(12, "z" * 60)},
        "too long": {"model": "m", "messages": said(60, "z" * 60)},
        "earlier": {"model": "m", "messages": [*said(60, "z" * 60)[:12], *said(0, "")]},
        "wrong": {"model": "m", "messages": said(0, ""), "max_tokens": 9999},
        "limited": {"model": "m", "messages": said(0, ""), "max_tokens": 9},
    }
    if backend == "ollama":
        kinds = {name: {**body, "stream": False} for name, body in kinds.items() if "max_tokens" not in body}
    make = openai_backend if backend == "openai" else ollama_backend
    path = CHAT if backend == "openai" else "/api/chat"

    async def scene() -> None:
        async with ApiServer(counting) as upstream:
            settings = Settings(backend=backend, base_url=upstream.url, model="m", ctx=WINDOW)
            source = BackendFactory("m", 1, lambda: make(settings))
            served_with = ServeSettings(port=0, grace=0.0, overflow="drop-oldest")

            def heard() -> list[Any]:
                asked = [each.json for each in upstream.requests if each.method == "POST"]
                upstream.requests.clear()
                return asked

            async with serving(source, settings=served_with) as served:
                await told(served, path, kinds["plain"])
                heard()  # the first one may have the model loaded
                found = await compared(served, path, kinds, heard)
                assert found["plain"][:3] == found["some tools"][:3] == found["earlier"][:3] == (200, None, [])
                status, dropped, notices, *_ = found["too long"]
                assert status == 200 and len(notices) == 1 and int(dropped) > 60
                assert f"the oldest {dropped} of 120 messages left it" in notices[0]

    run(scene)
