"""The backend ``llama-server``: a real server of our own, and everything that may happen to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from bitnet_chat.backend import BackendState, ReplyOptions, ResponseFormat
from bitnet_chat.backends import llama_server
from bitnet_chat.backends.factory import open_factory
from bitnet_chat.backends.http.backend import RemoteBackend
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool, ToolCall
from bitnet_chat.engine import processors
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.server_process import ServerProcess
from bitnet_chat.engine.transport.parent_death import ParentDeathWatchdog
from bitnet_chat.errors import (
    ContextOverflowError,
    EngineDiedError,
    EngineNotFoundError,
    FinishReason,
    ModelError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, TextDelta

pytestmark = pytest.mark.engine
TIMEOUT = 60
SAVE = Conversation().with_user("How do I save the conversation?")
ENDLESS = Conversation().with_user("数据" * 30)
"""The bundled model answers this with words without end."""


def settings(classic: EngineBinary, **more: Any) -> Settings:
    return Settings(engine=str(classic.path), backend="llama-server", temperature=0.0, **more)


def run(
    classic: EngineBinary, body: Callable[[RemoteBackend, LlamaServer], Awaitable[None]], parallel: int = 1, **more: Any
) -> None:
    async def main() -> None:
        server = LlamaServer(settings(classic, **more), parallel=parallel)
        backend = server.backend()
        pids: list[int] = []
        try:
            async with asyncio.timeout(TIMEOUT):
                await body(backend, server)
            if server.server.process is not None:
                pids.append(server.server.process.pid)
        finally:
            await backend.close()
        assert not any(map(psutil.pid_exists, pids))

    asyncio.run(main())


class Shared:
    """One server for the tests that leave it as it is, in a loop that goes on from test to test."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._made: tuple[RemoteBackend, LlamaServer] | None = None

    def run(self, classic: EngineBinary, body: Callable[[RemoteBackend, LlamaServer], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(TIMEOUT):
                if self._made is None:
                    server = LlamaServer(settings(classic))
                    self._made = server.backend(), server
                await body(*self._made)

        self._runner.run(main())

    def close(self) -> None:
        if self._made is not None:
            self._runner.run(self._made[0].close())
        self._runner.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.close()


async def ask(backend: RemoteBackend, conversation: Conversation = SAVE, **options: Any) -> list[Event]:
    return [event async for event in backend.reply(conversation, ReplyOptions(**options))]


def end_of(found: list[Event]) -> Completed:
    end = found[-1]
    assert isinstance(end, Completed), found
    assert end.text == "".join(event.text for event in found if isinstance(event, TextDelta))
    return end


def process_of(server: LlamaServer) -> ServerProcess:
    assert server.server.process is not None
    return server.server.process


def test_a_reply_and_what_is_known_of_it(classic: EngineBinary) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        assert backend.status().state is BackendState.DEAD
        end = end_of(await ask(backend))
        assert end.reason is FinishReason.STOP and end.text
        assert end.stats.exact and end.stats.tokens > 3 and end.stats.prompt_tokens
        assert end.stats.prompt_size == end.stats.prompt_tokens
        status = backend.status()
        assert (status.model, status.engine, status.state) == ("bitnet-demo", "llama-server", "idle")
        assert status.context_size == 2048 and status.context_used == end.stats.context_used
        assert status.memory and status.memory > 1_000_000
        # The next turn finds what it has in common with this one in the server's memory.
        more = end_of(await ask(backend, SAVE.with_assistant(end.text).with_user("And what is BitNet?")))
        assert more.stats.prompt_tokens and more.stats.prompt_size
        assert more.stats.prompt_tokens < more.stats.prompt_size

    run(classic, body)


def test_more_replies_than_a_connection_bears(classic: EngineBinary, shared: Shared) -> None:
    """It says that it keeps one for a hundred requests, and closes it behind each streamed reply without a word."""

    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        for _ in range(130):
            assert end_of(await ask(backend, max_tokens=1)).reason is FinishReason.LENGTH
        assert backend.status().restarts == 0

    shared.run(classic, body)


def test_nobody_else_can_ask_it(classic: EngineBinary, shared: Shared) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        await ask(backend, max_tokens=1)
        process = process_of(server)
        assert not any(process.key in word for word in psutil.Process(process.pid).cmdline())
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{process.url}/v1/chat/completions", json={"messages": []}) as response,
        ):
            assert response.status == 401
        connections = psutil.Process(process.pid).net_connections()
        assert {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}

    shared.run(classic, body)


def test_a_cut_reply_goes_on_where_it_stopped(classic: EngineBinary, shared: Shared) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        whole = end_of(await ask(backend)).text
        for cut in (1, len(whole) // 2, len(whole) - 1):
            part = whole[:cut]
            found = await ask(backend, SAVE.with_assistant(part, FinishReason.INTERRUPTED))
            assert not [each for each in found if isinstance(each, Notice)]
            assert not end_of(found).text.startswith(part) or cut == 1
        limited = end_of(await ask(backend, max_tokens=4))
        assert limited.reason is FinishReason.LENGTH
        rest = end_of(await ask(backend, SAVE.with_assistant(limited.text, FinishReason.LENGTH)))
        assert limited.text + rest.text == whole

    shared.run(classic, body)


def test_grammars(classic: EngineBinary, shared: Shared) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        schema = {"enum": ["yes", "no"]}
        end = end_of(await ask(backend, format=ResponseFormat(schema), max_tokens=50))
        assert json.loads(end.text) in ("yes", "no")
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        end = end_of(await ask(backend, format=ResponseFormat(schema), max_tokens=400))
        assert set(json.loads(end.text)) == {"a"}

    shared.run(classic, body)


def test_what_a_template_has_no_place_for_is_refused_by_name(classic: EngineBinary, shared: Shared) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        end = (await ask(backend, tools=(Tool("add"),)))[-1]
        assert isinstance(end, Failed) and isinstance(end.error, UnsupportedError) and end.error.option == "tools"
        assert end_of(await ask(backend, tools=(Tool("add"),), tool_choice="none")).text
        end = (await ask(backend, tool_choice="add"))[-1]
        assert isinstance(end, Failed) and isinstance(end.error, UnsupportedError) and end.error.option == "tool_choice"

    shared.run(classic, body)


def test_tools_by_the_server_itself(classic: EngineBinary) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = (Tool("get_weather", "Current weather in a city.", city), Tool("add", "Adds."))
    asked = Conversation().with_user("What is the weather in Paris?")

    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        found = await ask(backend, asked, tools=tools)
        calls = [each for each in found if isinstance(each, ToolCall)]
        assert [(each.name, json.loads(each.arguments)) for each in calls] == [("get_weather", {"city": "Paris"})]
        end = end_of(found)
        assert end.reason is FinishReason.TOOL_CALLS and "tool_call" not in end.text
        told = asked.with_assistant(end.text, end.reason, tool_calls=tuple(calls)).with_tool_result(
            calls[0], '{"sky": "sunny", "degrees": 12}'
        )
        assert "sunny" in end_of(await ask(backend, told, tools=tools)).text
        cut = await ask(backend, asked, tools=tools, max_tokens=end.stats.tokens - 4)
        assert not [each for each in cut if isinstance(each, ToolCall)] and "tool_call" not in end_of(cut).text

    run(classic, body, model=str(Path(__file__).parents[1] / "data" / "models" / "tool-demo.gguf"))


async def idle(server: LlamaServer) -> None:
    """Waits until the server generates nothing for anybody."""
    process = process_of(server)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {process.key}"}) as session:
        while True:
            async with session.get(f"{process.url}/slots") as response:
                if not any(slot["is_processing"] for slot in await response.json()):
                    return


@pytest.mark.parametrize("by", ["interrupt", "closing"])
def test_who_stops_listening_stops_the_server(classic: EngineBinary, shared: Shared, by: str) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        replies = backend.reply(ENDLESS, ReplyOptions(max_tokens=100_000))
        words = 0
        found = []
        async for event in replies:
            found.append(event)
            words += isinstance(event, TextDelta)
            if words == 3:
                if by == "closing":
                    break
                backend.interrupt()
        if by == "closing":
            await replies.aclose()
        else:
            assert end_of(found).reason is FinishReason.INTERRUPTED
        await idle(server)
        assert end_of(await ask(backend)).reason is FinishReason.STOP

    shared.run(classic, body)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_death_while_nobody_asks_costs_nothing(classic: EngineBinary) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        before = end_of(await ask(backend)).text
        first = process_of(server)
        os.kill(first.pid, signal.SIGKILL)
        found = await ask(backend)
        assert end_of(found).text == before
        assert process_of(server) is not first
        assert backend.status().restarts == 1

    run(classic, body)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_one_that_has_gone_deaf_is_replaced(classic: EngineBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "_DEAF", 0.5)

    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        before = end_of(await ask(backend)).text
        first = process_of(server)
        os.kill(first.pid, signal.SIGSTOP)
        found = await ask(backend, timeout=0.2)
        assert end_of(found).reason is FinishReason.TIMEOUT
        assert end_of(await ask(backend)).text == before
        assert process_of(server) is not first and not psutil.pid_exists(first.pid)

    run(classic, body)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_deaths_in_the_middle_of_replies(classic: EngineBinary) -> None:
    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        for number in range(4):
            found: list[Event] = []
            async for event in backend.reply(ENDLESS, ReplyOptions(max_tokens=100_000)):
                found.append(event)
                if isinstance(event, TextDelta) and process_of(server).is_alive:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process_of(server).pid, signal.SIGKILL)
            end = end_of(found)
            assert end.reason is FinishReason.ENGINE_DIED and end.text
            assert any(isinstance(each, Notice) and "SIGKILL" in each.text for each in found)
            assert backend.status().restarts == number
        # More often than three times a minute it is not started again by itself; who asks once more gets a new one.
        end_failed = (await ask(backend))[-1]
        assert isinstance(end_failed, Failed) and isinstance(end_failed.error, EngineDiedError)
        assert "4th time" in str(end_failed.error)
        assert end_of(await ask(backend)).text

    run(classic, body)


def test_a_model_that_cannot_be_loaded(classic: EngineBinary, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:200_000])

    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        backend.start()
        for _ in range(2):
            end = (await ask(backend))[-1]
            assert isinstance(end, Failed) and isinstance(end.error, ModelError), end
            assert end.error.detail

    run(classic, body, model=str(broken))


def test_slots_share_one_process(classic: EngineBinary) -> None:
    def servers() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if "llama-server" in each.name()]

    async def main() -> None:
        before = servers()
        source = open_factory(settings(classic), "", parallel=3)
        assert source.name == "bitnet-demo" and source.parallel == 3
        backends = [source.backend() for _ in range(3)]
        async with asyncio.timeout(TIMEOUT):
            replies = await asyncio.gather(*(ask(each) for each in backends))  # type: ignore[arg-type]
        assert len({end_of(found).text for found in replies}) == 1
        children = [each for each in servers() if each not in before]
        assert len(children) == 1
        assert backends[0].status().context_size == 2048
        for each in backends[:2]:
            await each.close()
        assert children[0].is_running()
        assert end_of(await ask(backends[2])).text  # type: ignore[arg-type]
        await backends[2].close()
        assert not children[0].is_running()
        # And again, from nothing.
        late = source.backend()
        assert end_of(await ask(late)).text  # type: ignore[arg-type]
        await late.close()

    asyncio.run(main())


def test_an_outgrown_window(classic: EngineBinary) -> None:
    conversation = Conversation().with_system("Be brief.")
    for number in range(12):
        conversation = conversation.with_user(f"What is {number}? " * 3).with_assistant("It is a number. " * 3)
    conversation = conversation.with_user("What is BitNet?")

    async def body(backend: RemoteBackend, server: LlamaServer) -> None:
        found = await ask(backend, conversation)
        assert any(isinstance(each, Notice) and "left it" in each.text for each in found)
        end = end_of(found)
        assert end.stats.context_size == 256 and end.text
        end_failed = (await ask(backend, Conversation().with_user("word " * 500)))[-1]
        assert isinstance(end_failed, Failed) and isinstance(end_failed.error, ContextOverflowError)
        full = end_of(await ask(backend, ENDLESS))
        assert full.reason in (FinishReason.CONTEXT_OVERFLOW, FinishReason.STOP)

    run(classic, body, ctx=256)


_PROGRAM = """
import asyncio, sys
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.config import Settings

async def main():
    server = LlamaServer(Settings(engine=sys.argv[1], backend="llama-server"))
    backend = server.backend()
    await backend.service.ready()
    print(server.server.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def _until_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(TIMEOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_it_is_gone_when_we_are_killed(classic: EngineBinary) -> None:
    child = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(classic.path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        pid = int(child.stdout.readline())
        assert psutil.pid_exists(pid)
        child.kill()
    _until_gone(pid)


_WATCHED = """
import subprocess, sys
from bitnet_chat.engine.transport.parent_death import ParentDeathWatchdog
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
man = ParentDeathWatchdog(child.pid)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_where_the_kernel_does_not_do_it_a_watchman_does() -> None:
    pipe = subprocess.PIPE
    program = subprocess.Popen([sys.executable, "-c", _WATCHED], stdin=pipe, stdout=pipe)
    assert program.stdout is not None
    with program:
        pid = int(program.stdout.readline())
        program.kill()
    _until_gone(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_watchman_who_was_dismissed_ends_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as child:
        ParentDeathWatchdog(child.pid).dismiss()
        assert child.poll() is None
        child.kill()


@pytest.mark.parametrize("flag", ["--port", "--host=0.0.0.0", "--api-key", "-lv"])
def test_flags_that_are_ours(classic: EngineBinary, flag: str) -> None:
    with pytest.raises(UsageError, match="sets it itself"):
        LlamaServer(settings(classic, engine_args=(flag, "1")))


def test_no_more_threads_than_processors(classic: EngineBinary) -> None:
    count = processors.usable()
    for asked, given, told in ((0, 1, 0), (count, count, 0), (count + 1, count, 1)):
        server = LlamaServer(settings(classic, threads=asked))
        argv = server.command()
        assert (argv[argv.index("--threads") + 1], len(server.notices)) == (str(given), told)


def test_no_server_beside_the_engine(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "llama-cli"):
        with pytest.raises(EngineNotFoundError, match="llama-server"):
            LlamaServer(Settings(engine=str(place), backend="llama-server"))


def test_without_aiohttp_it_says_what_to_install(classic: EngineBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UsageError, match="aiohttp") as caught:
        LlamaServer(settings(classic))
    assert 'pip install "bitnet-chat[remote]"' in caught.value.remedy
