"""What every backend keeps to, whoever answers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psutil
import pytest
from api_server import Threaded, ollama

from bitnet_chat.backend import BackendState, ReplyOptions, Sampling
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.backends.wrappers.runaway_guard import GuardedBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Tool
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason, UnsupportedError, UsageError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, TextDelta

pytestmark = pytest.mark.engine
TIMEOUT = 60
SHORT = Conversation().with_user("say 7")
ENDLESS = Conversation().with_user("数据" * 30)
"""The bundled model answers this with words without end."""
KINDS = ("engine", "llama-server", "openai", "ollama")


@pytest.fixture(scope="module")
def words() -> Iterator[str]:
    """Where an Ollama is."""
    with Threaded(ollama) as server:
        yield server.url


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[EngineBinary, object], str]]:
    """Where a llama-server is that somebody else has started."""
    with contextlib.ExitStack() as stack:
        started: list[str] = []

        def url(binary: EngineBinary, model: object) -> str:
            if not started:
                path = binary.path.with_name("llama-server" + binary.path.suffix)
                command = [path, "-m", model, "--port", "0", "-np", "1", "-c", "16384", "-t", "1", "--jinja"]
                pipe = subprocess.PIPE
                process = stack.enter_context(subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT))
                stack.callback(process.wait)
                assert process.stdout is not None
                for line in process.stdout:
                    if match := re.search(rb"listening on (http://\S+)", line):
                        started.append(match[1].decode())
                        break
                # Its log has to go somewhere, or it would wait for a reader.
                drain = subprocess.Popen([sys.executable, "-c", "import sys\nfor _ in sys.stdin.buffer: pass"],
                                         stdin=process.stdout)  # fmt: skip
                stack.callback(drain.wait)
                stack.callback(process.kill)
            return started[0]

        yield url


class Talkers:
    """One backend of each kind, in a loop that goes on from test to test: none of them leaves anything behind."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._backends: dict[str, GuardedBackend] = {}

    def run(self, settings: Settings, body: Callable[[GuardedBackend], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(TIMEOUT):
                if settings.backend not in self._backends:
                    self._backends[settings.backend] = open_backend(settings, "")
                await body(self._backends[settings.backend])

        self._runner.run(main())

    def close(self) -> None:
        async def main() -> None:
            for each in self._backends.values():
                await each.close()

        self._runner.run(main())
        self._runner.close()


@pytest.fixture(scope="module")
def talkers() -> Iterator[Talkers]:
    made = Talkers()
    yield made
    made.close()


@pytest.fixture(params=KINDS)
def settings(
    request: pytest.FixtureRequest,
    classic: EngineBinary,
    model: object,
    words: str,
    outside: Callable[[EngineBinary, object], str],
) -> Settings:
    kind = request.param
    urls = {"ollama": lambda: words, "openai": lambda: outside(classic, model) + "/v1"}
    return Settings(
        backend=kind,
        engine=str(classic.path),
        base_url=urls.get(kind, str)(),
        temperature=0.0,
        journal=False,
        ctx=16384 if kind != "ollama" else 0,
        guard=False,
    )


def alone(settings: Settings, body: Callable[[GuardedBackend], Awaitable[None]]) -> None:
    """With a backend of its own, which is to leave no process behind."""

    async def main() -> None:
        backend = open_backend(settings, "")
        try:
            async with asyncio.timeout(TIMEOUT):
                await body(backend)
        finally:
            await backend.close()
        assert not [each for each in psutil.Process().children() if _is_engine(each)]

    asyncio.run(main())


_BEFORE: set[int] = set()


def _is_engine(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.ppid() == os.getpid() and "llama" in process.name() and process.pid not in _BEFORE
    return False


@pytest.fixture(autouse=True)
def others(settings: Settings) -> None:
    """The server that is not ours may stay."""
    _BEFORE.clear()
    _BEFORE.update(each.pid for each in psutil.Process().children())


async def ask(backend: GuardedBackend, conversation: Conversation = SHORT, **options: Any) -> list[Event]:
    return [event async for event in backend.reply(conversation, ReplyOptions(**options))]


def end_of(found: list[Event]) -> Completed:
    """Checks the order on the way."""
    end = found[-1]
    assert isinstance(end, Completed), found
    told = [each for each in found if not isinstance(each, Notice)]
    assert isinstance(told[0], Started) or end.reason in (FinishReason.INTERRUPTED, FinishReason.TIMEOUT)
    assert sum(isinstance(each, Started) for each in told) <= 1
    assert sum(isinstance(each, Completed | Failed) for each in told) == 1
    assert all(each.text for each in told if isinstance(each, TextDelta))
    assert end.text == "".join(each.text for each in told if isinstance(each, TextDelta))
    return end


def test_replies_and_their_figures(settings: Settings) -> None:
    async def body(backend: GuardedBackend) -> None:
        backend.start()
        first = end_of(await ask(backend))
        assert first.reason is FinishReason.STOP and first.text
        stats = first.stats
        assert stats.tokens > 0 and stats.exact and stats.prompt_tokens
        assert stats.time_to_first_token is not None and 0 < stats.time_to_first_token <= stats.seconds
        assert stats.context_used and stats.context_used >= stats.tokens
        status = backend.status()
        assert status.model and status.engine and status.state is BackendState.IDLE
        again = end_of(await ask(backend))
        assert again.text == first.text, "temperature 0 says the same again"
        more = end_of(await ask(backend, SHORT.with_assistant(first.text, first.reason).with_user("say 3")))
        assert more.reason is FinishReason.STOP and more.text
        counted = backend.count("one two three")
        assert counted is not None and counted.at_least <= 8 and counted.at_most >= 3

    alone(settings, body)


def test_limits(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        end = end_of(await ask(backend, ENDLESS, max_tokens=5))
        assert end.reason is FinishReason.LENGTH and 1 <= end.stats.tokens <= 5 and end.text
        end = end_of(await ask(backend, ENDLESS, timeout=0.001))
        assert end.reason is FinishReason.TIMEOUT
        assert end_of(await ask(backend)).reason is FinishReason.STOP

    talkers.run(settings, body)


def test_stop_texts(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        whole = end_of(await ask(backend)).text
        stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
        end = end_of(await ask(backend, stop=(stop, "never said")))
        assert end.text == whole[: whole.index(stop)]
        assert end.reason is FinishReason.STOP

    talkers.run(settings, body)


def test_interrupts_at_any_moment(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        backend.interrupt()  # nothing is under way
        expected = end_of(await ask(backend)).text
        for moment in (0, 1, 9):
            found: list[Event] = []
            replies = backend.reply(ENDLESS, ReplyOptions(max_tokens=10_000))
            if moment == 0:
                asyncio.get_running_loop().call_soon(backend.interrupt)
            async for event in replies:
                found.append(event)
                if len(found) == moment:
                    backend.interrupt()
                    backend.interrupt()
            assert end_of(found).reason is FinishReason.INTERRUPTED
        assert end_of(await ask(backend)).text == expected

    talkers.run(settings, body)


def test_who_stops_listening_may_ask_again_at_once(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        expected = end_of(await ask(backend)).text
        for wanted in (Started, TextDelta):
            replies = backend.reply(ENDLESS, ReplyOptions(max_tokens=10_000))
            async for event in replies:
                if isinstance(event, wanted):
                    break
            await replies.aclose()
            assert end_of(await ask(backend)).text == expected

    talkers.run(settings, body)


def test_what_cannot_be_sent(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        for conversation in (Conversation().with_user(""), Conversation(), SHORT.with_assistant("Whole.")):
            with contextlib.suppress(UsageError):
                end = (await ask(backend, conversation))[-1]
                assert isinstance(end, Failed) and isinstance(end.error, UsageError)
        message = "say 3 words \x1b[2J\x00\ud800\udc80\r\n" + "x" * 500
        found = await ask(backend, Conversation().with_user(message), max_tokens=20)
        assert end_of(found).reason in (FinishReason.STOP, FinishReason.LENGTH)
        assert any(isinstance(each, Notice) and "made visible" in each.text for each in found)

    talkers.run(settings, body)


def test_what_it_cannot_do_it_says_by_name(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        end = (await ask(backend, tools=(Tool("add"),), tool_choice="subtract"))[-1]
        assert isinstance(end, Failed) and isinstance(end.error, UnsupportedError), end
        assert end.error.option in ("tools", "tool_choice")
        assert end_of(await ask(backend)).text

    talkers.run(settings, body)


def test_sampling_of_one_reply(settings: Settings, talkers: Talkers) -> None:
    async def body(backend: GuardedBackend) -> None:
        sampling = Sampling(temperature=1.5, seed=4, top_p=0.9)
        texts = {end_of(await ask(backend, sampling=sampling, max_tokens=15)).text for _ in range(2)}
        assert len(texts) == 1, "the same seed says the same"

    talkers.run(settings, body)


def test_a_close_in_the_middle_of_a_reply(settings: Settings) -> None:
    async def body(backend: GuardedBackend) -> None:
        closing = None
        async for event in backend.reply(ENDLESS, ReplyOptions(max_tokens=10_000)):
            if isinstance(event, TextDelta) and closing is None:
                closing = asyncio.ensure_future(backend.close())
        assert isinstance(event, Completed | Failed)
        assert closing is not None
        await closing

    alone(settings, body)
