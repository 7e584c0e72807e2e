"""A reply that the model ends before its first word: found, told and seen by scripts, on every backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp
import llama3_file
import pytest
from program import run
from scripted_backend import STATS, Gate, ScriptedBackend, say
from serving import serving
from test_repl_talk import ReplRun, with_repl

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.backends.wrappers.runaway_guard import Advice, GuardedBackend, GuardLimits
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Notice, Started, TextDelta, ThinkingDelta
from bitnet_chat.templates.builtin import TEMPLATES

ASKED = Conversation().with_user("tell me")
EMPTY = [Started(), Completed(FinishReason.STOP, "", STATS)]
CALL = ToolCall("1", "add", "{}")
AT_ONCE = "the model ended its reply at once, before the first word: its chat template may be wrong"


def guarded(steps: Iterable[Event | Gate], **more: object) -> GuardedBackend:
    backend = ScriptedBackend(lambda _: steps)
    backend.start()
    return GuardedBackend(backend, GuardLimits(), **more)  # type: ignore[arg-type]


def ending(steps: Iterable[Event | Gate], asked: Conversation = ASKED, **limits: object) -> tuple[FinishReason, str]:
    async def main() -> tuple[FinishReason, str]:
        options = ReplyOptions(**limits)  # type: ignore[arg-type]
        events = [event async for event in guarded(steps).reply(asked, options)]
        last = events[-1]
        assert isinstance(last, Completed)
        return last.reason, " ".join(event.text for event in events if isinstance(event, Notice))

    return asyncio.run(main())


def test_it_is_an_end_of_its_own() -> None:
    reason, line = ending(EMPTY)
    assert (reason, reason.value) == (FinishReason.EMPTY, "empty")
    assert line.startswith(AT_ONCE) and "/regen" in line and "--chat-template" in line and "doctor" in line
    codes = [each.exit_code for each in FinishReason]
    assert reason.exit_code == 8 and codes.count(8) == 1


def test_a_reply_to_results_of_tools_can_be_empty_too() -> None:
    results = Conversation((*ASKED.messages, Message("assistant", "", FinishReason.TOOL_CALLS, tool_calls=(CALL,))))
    results = Conversation((*results.messages, Message("tool", "3", call_id="1", tool_name="add")))
    assert ending(EMPTY, results)[0] is FinishReason.EMPTY


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (say("a word"), FinishReason.STOP),
        ([Started(), ThinkingDelta("hm"), Completed(FinishReason.STOP, "", STATS)], FinishReason.STOP),
        ([Started(), CALL, Completed(FinishReason.TOOL_CALLS, "", STATS)], FinishReason.TOOL_CALLS),
        (say("", reason=FinishReason.LENGTH), FinishReason.LENGTH),
        (say("", reason=FinishReason.INTERRUPTED), FinishReason.INTERRUPTED),
        (say("", reason=FinishReason.TIMEOUT), FinishReason.TIMEOUT),
    ],
)
def test_what_is_not_empty(steps: list[Event | Gate], reason: FinishReason) -> None:
    found, line = ending(steps)
    assert found is reason and AT_ONCE not in line


def test_a_stop_text_of_the_users_and_a_reply_that_has_no_more_to_say() -> None:
    assert ending([Started(), TextDelta("END"), Completed(FinishReason.STOP, "END", STATS)], stop=("END",)) == (
        FinishReason.STOP,
        "",
    )
    cut = Conversation((*ASKED.messages, Message("assistant", "so", FinishReason.LENGTH)))
    assert ending(EMPTY, cut) == (FinishReason.STOP, "")
    unsaid = Conversation((*ASKED.messages, Message("assistant", "", FinishReason.LENGTH)))
    assert ending(EMPTY, unsaid)[0] is FinishReason.EMPTY


@pytest.mark.parametrize(
    ("advice", "backend", "words", "others"),
    [
        ("commands", "engine", ("/regen", "--chat-template"), ()),
        ("flags", "llama-server", ("--chat-template",), ("/regen",)),
        ("flags", "openai", ("doctor",), ("--chat-template",)),
        ("nothing", "engine", (AT_ONCE,), ("--chat-template", "/regen")),
    ],
)
def test_what_is_advised(advice: Advice, backend: str, words: tuple[str, ...], others: tuple[str, ...]) -> None:
    async def main() -> list[Event]:
        inner = ScriptedBackend(lambda _: EMPTY)
        inner.start()
        limits = GuardLimits.of(Settings(backend=backend))  # type: ignore[arg-type]
        return [event async for event in GuardedBackend(inner, limits, advice=advice).reply(ASKED)]

    (line,) = [event.text for event in asyncio.run(main()) if isinstance(event, Notice)]
    assert all(word in line for word in words) and not any(word in line for word in others)


def test_the_message_stays_unanswered_in_the_repl() -> None:
    async def work(repl: ReplRun) -> None:
        repl.talk._backend = GuardedBackend(repl.backend, GuardLimits())
        await repl.talk.submit("hello")
        assert repl.talk.conversation.messages == ()
        assert AT_ONCE in repl.output.all and "[empty reply]" in repl.output.all
        assert "empty reply" in repl.output.all
        assert "the message is not part of the conversation" in repl.output.all
        await repl.talk.submit("again")
        assert repl.backend.asked == [Conversation().with_user("hello"), Conversation().with_user("again")]

    with_repl(work, EMPTY, journal=True)


# Servers


def with_server(test: Callable[[aiohttp.ClientSession, str], Awaitable[None]]) -> None:
    async def main() -> None:
        source = BackendFactory("scripted", 1, lambda: guarded(EMPTY, advice="nothing"))
        async with asyncio.timeout(60), serving(source) as served, aiohttp.ClientSession() as session:
            await test(session, served.url)

    asyncio.run(main())


def test_the_openai_api_says_stop_and_tells() -> None:
    async def test(session: aiohttp.ClientSession, url: str) -> None:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            told = await response.json()
        (choice,) = told["choices"]
        assert (response.status, choice["finish_reason"], choice["message"]["content"]) == (200, "stop", "")
        assert (told["bitnet_chat"]["finish_reason"], told["bitnet_chat"]["notices"]) == ("empty", [AT_ONCE])
        async with session.post(f"{url}/v1/chat/completions", json=body | {"stream": True}) as response:
            text = await response.text()
        assert '"finish_reason":"stop"' in text and '"finish_reason":"empty"' in text and AT_ONCE in text

    with_server(test)


def test_the_ollama_api_says_stop_and_tells() -> None:
    async def test(session: aiohttp.ClientSession, url: str) -> None:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": False}
        async with session.post(f"{url}/api/chat", json=body) as response:
            told = await response.json()
        assert (response.status, told["done_reason"], told["message"]["content"]) == (200, "stop", "")
        assert (told["bitnet_chat"]["finish_reason"], told["bitnet_chat"]["notices"]) == ("empty", [AT_ONCE])

    with_server(test)


# Real engines


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return llama3_file.write(folder / "silent.gguf", template=TEMPLATES["bitnet"], pre="llama-bpe", silent=True)


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["engine", "llama-server"])
def test_a_script_sees_it(built_engine: EngineBinary, backend: str, silent: Path) -> None:
    flags = ("-m", str(silent), "--engine", str(built_engine.path), "--backend", backend, "-t", "1", "-c", "512")
    one = run(*flags, "--no-journal", "--temp", "0", "--json", "hi")
    told = json.loads(one.stdout)
    assert (one.returncode, told["finish_reason"], told["reply"]) == (8, "empty", "")
    assert one.stderr.decode().count(AT_ONCE) == 1 and "incomplete" not in one.stderr.decode()
    many = run(*flags, "--no-journal", "--temp", "0", "--input", "-", stdin='{"prompt": "a"}\n{"prompt": "b"}\n')
    assert many.returncode == 8
    assert [json.loads(line)["finish_reason"] for line in many.stdout.splitlines()] == ["empty", "empty"]
