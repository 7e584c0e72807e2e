"""``bitnet-chat serve`` as a process with a real engine: its start, its end, and what goes wrong in between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from program import TIMEOUT, assert_gone, engines_of, fake_engine, run
from scripted_backend import Gate, say
from serving import ENGINE, ServedProcess, served_process, serving
from test_scheduler import gated

from bitnet_chat.cli import main
from bitnet_chat.cli.parser import parse
from bitnet_chat.cli.serve import parser, read
from bitnet_chat.conversation import Conversation
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Event
from bitnet_chat.journal import Journal
from bitnet_chat.server.settings import ServeSettings

pytestmark = pytest.mark.engine
LONG = {"messages": [{"role": "user", "content": "Count to 5000"}], "stream": True, "max_tokens": 4000}
ENGINE_FLAGS = ("--engine", str(ENGINE.path)) if ENGINE else ()
ENDLESS = ("--temp", "0", "--no-guard", "--", "--ignore-eos")
"""Flags with which a reply goes on until the window is full."""


def until_ready(client: httpx.Client) -> httpx.Response:
    while (health := client.get("/health")).status_code != 200:
        assert health.status_code == 503 and health.json()["state"] in ("starting", "unloaded"), health.text
    return health


@contextlib.contextmanager
def client_of(process: ServedProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        yield client


def ask(client: httpx.Client, text: str = "hi") -> str:
    answer = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": 30}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_health_turns_ready_and_the_address_is_told_first() -> None:
    with served_process() as process, client_of(process) as client:
        assert process.lines[0] == f"bitnet-chat: listening on {process.url}\n"
        health = until_ready(client).json()
        assert health["model"].startswith("bitnet-demo") and health["state"] == "idle"
        assert ask(client)
        metrics = client.get("/metrics").text
        assert 'bitnet_chat_http_requests_total{api="openai",status="200"} 1.0' in metrics
        engines = engines_of(process.pid)
        assert process.end(signal.SIGINT) == 130
        assert_gone(engines)
        assert not [line for line in process.lines if "hi" in line.split() or "Traceback" in line]
        assert any("POST /v1/chat/completions 200" in line for line in process.lines)


def test_a_killed_engine_costs_the_reply_that_it_made_and_no_other() -> None:
    """The real one may be faster than its murderer: then there is another try."""
    with served_process(*ENDLESS) as process, client_of(process) as client:
        rest = ""
        while "died" not in rest:
            with client.stream("POST", "/v1/chat/completions", json=LONG) as stream:
                assert stream.status_code == 200
                lines = stream.iter_lines()
                while '"content":"' not in next(lines):
                    pass
                for engine in engines_of(process.pid):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        engine.send_signal(signal.SIGKILL)
                rest = "\n".join(lines)
        assert '"error"' in rest and "[DONE]" not in rest
        assert ask(client)
        restarts = [line for line in client.get("/metrics").text.splitlines() if "engine_restarts_total{" in line]
        assert float(restarts[0].rpartition(" ")[2]) >= 1


def story(client: httpx.Client) -> tuple[int, contextlib.AbstractContextManager[httpx.Response]]:
    """A chat, and the stream of its reply, which has no end."""
    chat = client.post("/chats", json={}).json()["id"]
    return int(chat), client.stream("POST", f"/chats/{chat}/messages", json={"content": "story"})


def test_ending_in_mid_reply_gives_it_its_time_and_a_second_signal_none(tmp_path: Path) -> None:
    flags = ("--engine", str(fake_engine(tmp_path)), "--no-guard")
    with served_process(*flags, home=tmp_path) as process, client_of(process) as client:
        chat, opening = story(client)
        with opening as stream:
            lines = stream.iter_lines()
            while not next(lines).startswith("event: chunk"):
                pass
            engines = engines_of(process.pid)
            process.send_signal(signal.SIGTERM)
            while "shutting down: 1 running" not in process.line():
                pass
            refused = client.post("/v1/chat/completions", json=LONG)
            assert refused.status_code == 503 and "retry-after" in refused.headers
            assert client.get("/health").status_code == 503
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.HTTPError):  # it is cut, or told that it was interrupted
                for _ in lines:
                    pass
        assert process.wait() == 143
        assert_gone(engines)
        last = Journal(tmp_path / "data" / "journal.db").load(chat).conversation.last
        assert last is not None and last.content.startswith("word0 word1")
        assert last.finish is FinishReason.INTERRUPTED


def test_who_follows_a_chat_is_told_of_the_end(tmp_path: Path) -> None:
    """And holds nothing up: there is no time to wait for."""
    with served_process(home=tmp_path) as process, client_of(process) as client:
        chat = client.post("/chats", json={}).json()["id"]
        with client.stream("GET", f"/chats/{chat}/events", params={"follow": 1}) as stream:
            assert stream.status_code == 200
            process.send_signal(signal.SIGTERM)
            for _ in stream.iter_lines():
                pass
        assert process.wait() == 143


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_hang_up_ends_it_too() -> None:
    with served_process() as process:
        assert process.end(signal.SIGHUP) == 129


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nobody tells a child of its parent's end")
def test_no_engine_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    with served_process() as process, client_of(process) as client:
        until_ready(client)
        killed(process)
    flags = ("--engine", str(fake_engine(tmp_path)), "--no-guard")
    with served_process(*flags) as process, client_of(process) as client:
        _, opening = story(client)
        with opening as stream:
            lines = stream.iter_lines()
            while not next(lines).startswith("event: chunk"):
                pass
            killed(process)


def killed(process: ServedProcess) -> None:
    engines = engines_of(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert_gone(engines)


async def gone(url: str, body: object, pieces: int) -> None:
    """A client that leaves after so many pieces of the response; 0: as soon as it has asked."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    writer.write(f"{head}{len(data)}\r\n\r\n".encode() + data)
    for _ in range(pieces):
        await reader.read(100)
    writer.close()
    await writer.wait_closed()


def test_twenty_clients_at_once_on_one_engine_some_of_whom_leave() -> None:
    """Some while they wait, some in mid-reply, streamed and not: the others get theirs, and nothing stays busy."""

    async def crowd(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:

            async def stay(number: int) -> str:
                body = {"messages": [{"role": "user", "content": f"hi {number}"}], "max_tokens": 8}
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                return str(answer.json()["choices"][0]["message"]["content"])

            async def leave(number: int) -> str:
                await gone(url, LONG | {"stream": number % 4 == 0}, 3 if number % 4 == 0 else 0)
                return ""

            return await asyncio.gather(*(leave(number) if number % 2 == 0 else stay(number) for number in range(20)))

    with served_process("--temp", "0") as process, client_of(process) as client:
        replies = asyncio.run(crowd(process.url))
        assert all(replies[1::2])
        while client.get("/health").json()["busy"]:
            pass
        health = client.get("/health").json()
        assert (health["busy"], health["waiting"]) == (0, 0)
        assert "bitnet_chat_replies_running 0.0" in client.get("/metrics").text


def test_two_conversations_side_by_side_keep_their_engines() -> None:
    """The second turn of each is answered by the child that knows the first one: none is started anew."""
    with served_process("--temp", "0", "--parallel", "2") as process, client_of(process) as client:
        brief = {"role": "system", "content": "Be brief."}
        talks = [[brief, {"role": "user", "content": text}] for text in ("hi", "how do I quit?")]
        pids: list[set[int]] = []
        for _ in range(2):
            for talk in talks:
                answer = client.post("/v1/chat/completions", json={"messages": talk})
                reply = answer.json()["choices"][0]["message"]["content"]
                talk += [{"role": "assistant", "content": reply}, {"role": "user", "content": "and then?"}]
            while client.get("/health").json()["busy"]:
                pass
            pids.append({engine.pid for engine in engines_of(process.pid)})
        assert len(pids[0]) == 2 and pids[0] == pids[1]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_reply_in_the_loop_turn_that_hears_of_it(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def clients() -> None:
        async with serving(gated) as served:
            body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
            await gone(served.url, body, 1 if stream else 0)
            while not served.backends or "interrupt" not in served.backend.calls[-2:]:  # noqa: ASYNC110
                await asyncio.sleep(0)  # nothing else opens the gate, and no time is waited for
            while served.scheduler.running:  # noqa: ASYNC110
                await asyncio.sleep(0)

    within_patience(clients)
    gc.collect()
    assert not [record.message for record in caplog.records if record.name == "asyncio"]


def test_a_client_that_leaves_while_it_waits_or_loads_is_forgotten() -> None:
    async def clients() -> None:
        async with serving(gated, gated=True) as served:
            body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
            await gone(served.url, body, 0)  # while it loads
            await gone(served.url, body, 0)  # while it waits behind the first one
            labels = {"model": "scripted", "reason": "interrupted"}
            sample = served.scheduler.metrics.registry.get_sample_value
            while sample("bitnet_chat_replies_total", labels) != 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert served.scheduler.running == 0
            assert served.scheduler.model_manager.pools["scripted"].waiting == 0

    within_patience(clients)


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    """Neither its own reply, which the engine could not go on with, nor that of the next."""
    block = "plain text, nothing but plain text. " * 2000

    def flood(conversation: Conversation) -> list[Event | Gate]:
        assert conversation.last is not None
        return say(*[block] * 200) if conversation.last.content == "flood" else say("Hello")

    async def clients() -> None:
        async with serving(flood) as served:
            host, _, port = served.url.removeprefix("http://").rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
            data = json.dumps({"messages": [{"role": "user", "content": "flood"}], "stream": True}).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            await reader.readexactly(100)
            async with httpx.AsyncClient(base_url=served.url, timeout=TIMEOUT) as client:
                answer = await client.post(
                    "/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]}
                )
                assert answer.json()["choices"][0]["message"]["content"] == "Hello"
                received = 100
                while not (piece := await reader.read(1 << 16)).endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
                    received += len(piece)
                assert received > len(block) * 200, "and it gets all of it when it reads"
            writer.close()
            await writer.wait_closed()

    within_patience(clients)


def test_localhost_is_all_addresses_of_that_name() -> None:
    async def clients() -> None:
        settings = ServeSettings(host="localhost", port=0, grace=0.0)
        async with serving(lambda _: say("hi"), settings=settings) as served, httpx.AsyncClient() as client:
            port = served.url.rpartition(":")[2]
            for place in {place[4][0] for place in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}:
                name = f"[{place}]" if ":" in str(place) else place
                with contextlib.suppress(httpx.ConnectError) if name != place else contextlib.nullcontext():
                    assert (await client.get(f"http://{name}:{port}/health")).status_code in (200, 503)

    within_patience(clients)


def within_patience(clients: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(TIMEOUT):
            await clients()

    asyncio.run(whole())


# What it is started with


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, *ENGINE_FLAGS)
        assert done.returncode == 2 and b"is already in use" in done.stderr and b"--port" in done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--host", "0.0.0.0"), "an API key is required"),
        (("--port", "99999"), "--port 99999 is out of range"),
        (("--cors", "*"), "every page"),
        (("--memory-limit", "much"), "not a size"),
        (("-m", "a=x.gguf", "-m", "a=y.gguf"), "already"),
        (("hello",), "hello"),
        (("--parallel", "0"), "--parallel cannot be 0"),
        (("--attach=http://127.0.0.1:1",), "always uses an engine"),
        (("--tools", "tools.py"), "bring their own tools"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_served_is_said(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--host", "no.such.host.invalid", "--api-key", "k"), 2, b"not an address of this computer"),
        (("-m", "missing.gguf"), 4, b"missing.gguf"),
    ],
    ids=["host", "model"],
)
def test_what_cannot_be_served_is_said_before_it_listens(arguments: tuple[str, ...], code: int, told: bytes) -> None:
    done = run("serve", "--port", "0", *ENGINE_FLAGS, *arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr and b"Traceback" not in done.stderr and b"listening" not in done.stderr


def test_flags_of_a_server_and_what_they_become() -> None:
    arguments = [
        "--memory-limit",
        "1.5G",
        "--cors",
        "HTTP://LocalHost:3000/",
        "-m",
        "file.gguf",
        "--temp",
        "0",
        "--",
        "-x",
    ]
    flags, given = parse(arguments, parser())
    serving, settings, _, models = read(flags, given, {"BITNET_CHAT_API_KEY": "from the environment".replace(" ", "-")})
    assert (serving.memory_limit, serving.cors) == (1536 << 20, ("http://localhost:3000",))
    assert serving.api_key == "from-the-environment"
    assert (settings.model, settings.temperature, settings.engine_args, models) == ("file.gguf", 0.0, ("-x",), {})
    flags, given = parse(["-m", "small=a.gguf", "-m", "dir/b=c/large.gguf", "--api-key", "flag"], parser())
    serving, settings, _, models = read(flags, given, {"BITNET_CHAT_API_KEY": "environment"})
    assert (serving.api_key, settings.model) == ("flag", "")
    assert models == {"small": "a.gguf", "large": "dir/b=c/large.gguf"}


def test_a_key_from_the_environment_and_ipv6() -> None:
    with served_process("--host", "::1", BITNET_CHAT_API_KEY="key") as process, client_of(process) as client:
        assert process.url.startswith("http://[::1]:")
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer key"}).status_code == 200
        assert client.get("/health").status_code in (200, 503)
        assert process.end() == 143
        assert "key" not in "".join(process.lines).replace("API key", "")


def test_several_models_under_names_of_their_own(model: Path) -> None:
    with served_process("-m", f"one={model}", "-m", f"two={model}") as process, client_of(process) as client:
        names = [each["id"] for each in client.get("/v1/models").json()["data"]]
        assert names[:2] == ["one", "two"]
        body = {"model": "two", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        assert client.post("/v1/chat/completions", json=body).json()["model"] == "two"
        process.send_signal(signal.SIGTERM)
        engines = [each for each in engines_of(process.pid) if each.status() != psutil.STATUS_ZOMBIE]
        assert process.wait() == 143
        assert not [each for each in engines if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
