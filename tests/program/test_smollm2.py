"""A real model, SmolLM2-135M: at temperature 0 every engine and every front end say the same as a bare llama-server of
the same build, and count the same tokens.

What a model says at a near tie of two tokens depends on the size of the batches: the prompts here have none within
:data:`LIMIT` tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_server import BareServer, compiled, prebuilt
from program import Start, run, start
from serving import served_process

from bitnet_chat.backend import Backend, ReplyOptions
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Failed, Notice, Started, TextDelta
from bitnet_chat.journal import Journal

__all__ = ["start"]
pytestmark = pytest.mark.engine
LIMIT = 12
PROMPTS = (
    *("What is the capital of France?", "Write a haiku about rivers.", "你好", "C:\\new\\table/"),
    "Explain gravity\nin one sentence.",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the template of this model puts in front where no system message is given."""


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    prompt_tokens: int


@pytest.fixture(params=["classic", "native"])
def real_engine(request: pytest.FixtureRequest) -> EngineBinary:
    engine: EngineBinary = request.getfixturevalue(request.param)
    return engine


@pytest.fixture
def bare(real_engine: EngineBinary, smollm2: Path) -> Iterator[BareServer]:
    """A server of the same build, without any of our code in between."""
    make = prebuilt if real_engine.dialect is Dialect.NATIVE else compiled
    with make(real_engine.path, smollm2) as server:
        yield server


def flags(engine: EngineBinary, model: Path) -> list[str]:
    return ["--engine", str(engine.path), "-m", str(model), "-t", "1", "--temp", "0"]


def settings(engine: EngineBinary, model: Path, **more: Any) -> Settings:
    return Settings(engine=str(engine.path), model=str(model), temperature=0.0, threads=1, journal=False, **more)


async def reply(
    backend: LocalEngineBackend, conversation: Conversation, limit: int = LIMIT
) -> tuple[Completed, list[str]]:
    pieces, notices, end = [], [], None
    async for event in backend.reply(conversation, ReplyOptions(max_tokens=limit)):
        if isinstance(event, TextDelta):
            pieces.append(event.text)
        elif isinstance(event, Notice):
            notices.append(event.text)
        elif isinstance(event, Completed | Failed):
            end = event
    assert isinstance(end, Completed), end
    assert "".join(pieces) == end.text
    return end, notices


@pytest.mark.long
def test_golden_transcripts(
    real_engine: EngineBinary, smollm2: Path, bare: BareServer, start: Start, tmp_path: Path
) -> None:
    golden = {prompt: bare.said(Conversation().with_user(prompt), LIMIT) for prompt in PROMPTS}
    assert all(golden.values()) and len(set(golden.values())) == len(PROMPTS)

    async def streamed() -> None:
        backend = LocalEngineBackend(settings(real_engine, smollm2))
        for prompt, (text, size) in golden.items():
            end, _ = await reply(backend, Conversation().with_user(prompt))
            assert (end.text, end.stats.prompt_size) == (text, size), prompt
        await backend.close()

    asyncio.run(asyncio.wait_for(streamed(), 120))
    ours = flags(real_engine, smollm2)
    limit = ["--max-tokens", str(LIMIT)]
    prompt, (text, size) = next(iter(golden.items()))
    assert run(*ours, *limit, "--no-stream", stdin=prompt).stdout.decode() == text + "\n"
    assert run(*ours, *limit, prompt).stdout.decode() == text + "\n"
    as_json = json.loads(run(*ours, *limit, "--json", prompt).stdout)
    assert (as_json["reply"], as_json["timings"]["prompt_size"], as_json["timings"]["exact"]) == (text, size, True)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in PROMPTS[:2]))
    run(*ours, *limit, "--input", str(prompts), "--output", str(tmp_path / "replies.jsonl"))
    replies = [json.loads(line)["reply"] for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert replies == [golden[each][0] for each in PROMPTS[:2]]
    terminal = start(*ours, *limit)
    terminal.until(lambda: terminal.prompt == "")
    terminal.send(prompt, "\r")
    terminal.until("first token after")
    terminal.leave()
    kept = Journal().latest()
    assert kept is not None and kept.conversation.messages[-1].content == text


def test_golden_transcripts_through_a_server(real_engine: EngineBinary, smollm2: Path, bare: BareServer) -> None:
    golden = {prompt: bare.said(Conversation().with_user(prompt), LIMIT) for prompt in PROMPTS[:2]}
    limit = ("--temp", "0", "--max-tokens", str(LIMIT))
    with served_process("--engine", str(real_engine.path), "-m", str(smollm2), "-t", "1", *limit) as served:
        for prompt, (text, size) in golden.items():
            body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "temperature": 0}
            body |= {"max_tokens": LIMIT, "model": smollm2.stem}
            whole = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).json()
            assert whole["choices"][0]["message"]["content"] == text
            assert whole["usage"]["prompt_tokens"] == size
            asked = {"model": smollm2.stem, "messages": body["messages"], "options": {"temperature": 0}}
            asked["options"]["num_predict"] = LIMIT
            with httpx.stream("POST", f"{served.url}/api/chat", json=asked, timeout=60) as response:
                pieces = [json.loads(line)["message"]["content"] for line in response.iter_lines()]
            assert "".join(pieces) == text
        prompt, (text, _) = next(iter(golden.items()))
        assert run("--attach", served.url, prompt).stdout.decode() == text + "\n"
        assert reply_of_page(served.url, prompt) == text


def reply_of_page(url: str, prompt: str) -> str:
    """Ask as the page does: a new chat, its events, a message."""
    chat = httpx.post(f"{url}/chats", json={}).json()["id"]
    pieces = []
    with httpx.stream("GET", f"{url}/chats/{chat}/events?follow=1", timeout=60) as events:
        lines = events.iter_lines()
        httpx.post(f"{url}/chats/{chat}/messages", json={"content": prompt, "stream": False})
        kind = ""
        for line in lines:
            name, _, value = line.partition(": ")
            kind = value if name == "event" else kind
            if name == "data" and kind == "chunk":
                pieces.append(json.loads(value)["text"])
            elif name == "data" and kind == "complete":
                break
    return "".join(pieces)


@pytest.mark.parametrize("kind", ["native", "llama-server"])
def test_a_client_that_leaves_while_a_long_prompt_is_read(
    kind: str, smollm2: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stops reading between two slices, and lives on."""
    engine: EngineBinary = request.getfixturevalue("native" if kind == "native" else "classic")
    monkeypatch.setattr("bitnet_chat.engine.process._STOP_WITHIN", 120.0)
    long = " ".join(f"Sentence {number} speaks of {number * 7919 % 1000} rivers." for number in range(600))
    spawned: list[int] = []

    async def main() -> None:
        made = settings(engine, smollm2, ctx=8192, backend="llama-server" if kind == "llama-server" else "engine")
        server = LlamaServer(made) if kind == "llama-server" else None
        backend: Backend = (
            server.backend()
            if server is not None
            else LocalEngineBackend(made, on_spawn=lambda process: spawned.append(process.pid))
        )
        hello = Conversation().with_user("hello")
        *_, first = [event async for event in backend.reply(hello, ReplyOptions(max_tokens=2))]
        assert isinstance(first, Completed)
        asked = hello.with_assistant(first.text, first.reason).with_user(long)
        end: Completed | Failed | None = None
        async for event in backend.reply(asked, ReplyOptions(max_tokens=2)):
            if isinstance(event, Started):
                asyncio.get_running_loop().call_later(0.2, backend.interrupt)
            elif isinstance(event, Completed | Failed):
                end = event
        assert isinstance(end, Completed) and (end.reason, end.text) == (FinishReason.INTERRUPTED, "")
        *_, end = [event async for event in backend.reply(hello, ReplyOptions(max_tokens=2))]
        assert isinstance(end, Completed) and end.text == first.text
        assert len(spawned) <= 1
        assert server is None or server.server.restarts == 0
        await backend.close()

    asyncio.run(asyncio.wait_for(main(), 100))


def test_a_modern_engine_says_the_same(modern: EngineBinary, smollm2: Path) -> None:
    prompts = PROMPTS[:2]
    with compiled(modern.path, smollm2) as server:
        golden = {prompt: server.said(Conversation().with_user(prompt), LIMIT)[0] for prompt in prompts}

    async def main() -> None:
        backend = LocalEngineBackend(settings(modern, smollm2))
        for prompt, text in golden.items():
            end, _ = await reply(backend, Conversation().with_user(prompt))
            assert end.text == text
        await backend.close()

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("real_engine", ["native"], indirect=True)
def test_many_turns_in_a_small_window(real_engine: EngineBinary, smollm2: Path, bare: BareServer) -> None:
    """A prompt has the tokens that the server counts for what is left of the conversation, as the notices tell it."""

    async def main() -> None:
        backend = LocalEngineBackend(settings(real_engine, smollm2, ctx=256))
        conversation, left = Conversation().with_system(SYSTEM), 0
        for number in range(30):
            asked = conversation.with_user(f"{PROMPTS[number % len(PROMPTS)]} ({number})")
            end, notices = await reply(backend, asked, 4)
            for notice in notices:
                if "left it" in notice:
                    left = int(notice.split("the oldest ")[1].split()[0])
            kept = Conversation((*asked.messages[:1], *asked.turns[left:]))
            assert end.stats.exact and end.stats.prompt_size == bare.count(kept), number
            assert (end.stats.context_used or 0) <= 256 == end.stats.context_size
            conversation = asked.with_assistant(end.text, end.reason)
        assert left > 10
        await backend.close()

    asyncio.run(asyncio.wait_for(main(), 240))
