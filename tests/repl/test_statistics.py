"""True figures of replies on each engine and in each front end, and limits that are kept to the token."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from backend_replies import end_of, events_of
from program import fake_engine
from scripted_backend import ScriptedBackend

from bitnet_chat.backend import Backend, BackendState, BackendStatus, ReplyOptions
from bitnet_chat.backends.http.ollama_format import OllamaFormat
from bitnet_chat.backends.http.openai_format import OpenAIFormat
from bitnet_chat.backends.llama_server import LlamaServer
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.backends.openai import openai_backend
from bitnet_chat.batch import Answer, failure
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.events import Completed, Stats, TextDelta
from bitnet_chat.repl.status_bar import WARNING, bar, context
from bitnet_chat.server.ollama.responses import OllamaChatEncoder
from bitnet_chat.server.responses import detailed_usage, usage_of

HELLO = Conversation().with_user("hello")
REPLY = "Hello! Ask me how to use bitnet-chat."
"""What the bundled model says to that: 11 tokens, and one that ends it."""


async def ask(backend: Backend, conversation: Conversation, limit: int | None = None) -> Completed:
    return end_of(await events_of(backend, conversation, ReplyOptions(max_tokens=limit)))


def resident(engine: EngineBinary | Path, model: Path, **more: object) -> LocalEngineBackend:
    path = engine if isinstance(engine, Path) else engine.path
    return LocalEngineBackend(Settings(engine=str(path), model=str(model), temperature=0.0, **more))  # type: ignore[arg-type]


@asynccontextmanager
async def answering(
    kind: str, classic: EngineBinary, modern: EngineBinary, model: Path, limit: int | None
) -> AsyncIterator[Backend]:
    """One of each kind of backend. A modern engine gets its limit on the command line."""
    if kind in ("classic", "modern"):
        backend: Backend = resident(classic if kind == "classic" else modern, model, max_tokens=limit or 0)
    else:
        server = LlamaServer(Settings(engine=str(classic.path), model=str(model), temperature=0.0))
        backend = server.backend()
    other: Backend | None = None
    if kind == "openai":
        await ask(backend, HELLO)
        process = server.server.process
        assert process is not None
        other = openai_backend(Settings(base_url=f"{process.url}/v1", backend_key=process.key, temperature=0.0))
    try:
        async with asyncio.timeout(60):
            yield other or backend
    finally:
        if other is not None:
            await other.close()
        await backend.close()


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["classic", "modern", "llama-server", "openai"])
def test_the_token_that_ends_a_reply_is_not_counted(
    kind: str, classic: EngineBinary, modern: EngineBinary, model: Path
) -> None:
    async def main() -> None:
        async with answering(kind, classic, modern, model, None) as backend:
            end = await ask(backend, HELLO)
            assert (end.text, end.reason, end.stats.tokens) == (REPLY, FinishReason.STOP, 11)
            size = end.stats.prompt_size
            assert size is not None and 14 <= size <= 15 and end.stats.exact
            assert end.stats.context_used == size + 12, "the window has it"
            more = await ask(backend, HELLO.with_assistant(end.text).with_user("hello"))
            assert more.stats.prompt_size is not None and more.stats.prompt_tokens is not None
            assert 0 < more.stats.prompt_tokens < more.stats.prompt_size, "what it knew already is not new"

    asyncio.run(main())


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["classic", "modern", "llama-server"])
def test_a_reply_that_is_whole_within_its_limit_is_whole(
    kind: str, classic: EngineBinary, modern: EngineBinary, model: Path
) -> None:
    """A limit is one of text: 12 has room for the token that ends the reply, 11 has none, and is not exceeded. A modern
    engine stops at 11 by itself, and does not try whether the reply would have gone on."""

    async def main() -> None:
        for limit in (10, 11, 12, 13):
            async with answering(kind, classic, modern, model, limit) as backend:
                end = await ask(backend, HELLO, limit)
                is_cut = limit < (12 if kind == "modern" else 11)
                assert end.reason is (FinishReason.LENGTH if is_cut else FinishReason.STOP), limit
                assert end.stats.tokens == min(limit, 11) and end.text == (REPLY[:-1] if limit == 10 else REPLY)

    asyncio.run(main())


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["classic", "llama-server"])
def test_a_limit_is_kept_by_an_engine_that_may_go_on(
    kind: str, classic: EngineBinary, modern: EngineBinary, model: Path
) -> None:
    story = Conversation().with_user("tell me a long story")

    async def main() -> None:
        async with answering(kind, classic, modern, model, None) as backend:
            whole = await ask(backend, story)
            for limit in (1, 2, 7, 30):
                end = await ask(backend, story, limit)
                counted = backend.count(end.text)
                assert (end.reason, end.stats.tokens) == (FinishReason.LENGTH, limit)
                assert counted is not None and counted.count == limit and whole.text.startswith(end.text)

    asyncio.run(main())


@pytest.mark.engine
def test_a_reply_that_is_stopped_has_figures(classic: EngineBinary, modern: EngineBinary, model: Path) -> None:
    """A llama-server counts with each token; what it would say at the end is never heard."""

    async def main() -> None:
        async with answering("llama-server", classic, modern, model, None) as backend:
            end: Completed | None = None
            async for event in backend.reply(Conversation().with_user("tell me a long story"), ReplyOptions()):
                if isinstance(event, TextDelta):
                    backend.interrupt()
                elif isinstance(event, Completed):
                    end = event
            assert end is not None and end.reason is FinishReason.INTERRUPTED
            stats = end.stats
            assert stats.exact and stats.tokens >= 1 and stats.prompt_size and stats.prompt_size > 10
            assert stats.context_used == stats.prompt_size + stats.tokens

    asyncio.run(main())


@pytest.mark.engine
def test_a_resumed_conversation_is_not_counted_as_new(classic: EngineBinary, model: Path) -> None:
    """Its last batch is evaluated with the message, and its log read behind it."""
    long = Conversation(
        tuple(
            message
            for number in range(20)
            for message in (
                Message("user", f"What is {number}? " * 10),
                Message("assistant", f"It is a number, {number}. " * 10),
            )
        )
    )

    async def main() -> None:
        backend = resident(classic, model, ctx=8192)
        try:
            async with asyncio.timeout(60):
                new = (await ask(backend, HELLO)).stats
                end = await ask(backend, long.with_user("hello"), 3)
        finally:
            await backend.close()
        assert new.prompt_tokens is not None and end.stats.prompt_size is not None and end.stats.exact
        assert end.stats.prompt_size > 2048, "more than one batch"
        assert end.stats.prompt_tokens is not None and abs(end.stats.prompt_tokens - new.prompt_tokens) <= 1

    asyncio.run(main())


# Engines that tell nothing


Body = Callable[[LocalEngineBackend], Awaitable[None]]


def on_fake(folder: Path, model: Path, body: Body, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
    if sys.platform == "win32":
        pytest.skip("the scripted engine is a POSIX script")
    monkeypatch.setenv("FAKE_ENGINE_RECORD", str(folder / "record"))

    async def main() -> None:
        backend = resident(fake_engine(folder), model, **more)
        try:
            async with asyncio.timeout(30):
                await body(backend)
        finally:
            await backend.close()

    asyncio.run(main())


def test_figures_are_estimated_by_the_vocabulary(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_user("say it is a long story, and nobody counts it")
        end = await ask(backend, conversation)
        counted, asked = backend.count(end.text), backend.count(conversation.messages[0].content)
        assert counted is not None and asked is not None
        stats = end.stats
        assert not stats.exact and stats.tokens == counted.count
        assert stats.prompt_tokens is not None and asked.count < stats.prompt_tokens < asked.count + 20
        assert stats.prompt_size is not None and stats.prompt_size >= stats.prompt_tokens
        assert stats.context_used == stats.prompt_size + stats.tokens + 1
        status = backend.status()
        assert status.context_used and abs(status.context_used - stats.context_used) <= 1 and not status.context_exact
        assert f"ctx ~{status.context_used}/" in "".join(text for _, text in bar(status, stats, 200))
        more = await ask(backend, conversation.with_assistant(end.text).with_user("say more"))
        assert more.stats.prompt_tokens is not None and more.stats.prompt_size is not None
        assert stats.context_used < more.stats.prompt_size
        assert more.stats.prompt_tokens < stats.prompt_tokens, "a shorter message"

    on_fake(tmp_path, model, body, monkeypatch)


def test_the_warning_comes_with_an_estimate(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        text = "say "
        while (count := backend.count(text)) is None or count.count < 410:
            text += "a word "
        await ask(backend, Conversation().with_user(text))
        looks = {look for look, text in bar(backend.status(), None, 200) if "ctx ~" in text}
        assert looks == {WARNING}

    on_fake(tmp_path, model, body, monkeypatch, ctx=1024)


def test_a_shift_that_the_log_tells_ends_the_reply(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows would be a reply to half of the conversation."""

    async def body(backend: LocalEngineBackend) -> None:
        end = await ask(backend, Conversation().with_user("swap some text "))
        assert end.reason is FinishReason.CONTEXT_OVERFLOW and end.text.startswith("some text")
        assert len(end.text) < 2000

    on_fake(tmp_path, model, body, monkeypatch)


# What is told of them

EXACT = Stats(prompt_tokens=14, tokens=11, seconds=1.5, context_used=84, exact=True, prompt_size=72)
GUESS = Stats(prompt_tokens=14, tokens=11, seconds=1.5, context_used=84, prompt_size=72)


def test_json_tells_new_and_whole_apart() -> None:
    for stats in (EXACT, GUESS):
        told = Answer(FinishReason.STOP, "Hi.", stats).as_json(ScriptedBackend(lambda _: []))
        timings = told["timings"]
        assert (told["tokens"], timings["prompt_tokens"], timings["prompt_size"]) == (11, 14, 72)
        assert timings["exact"] is stats.exact
    assert failure(UsageError("no"), "m")["timings"].keys() == timings.keys()


def test_the_apis_tell_new_and_whole_apart() -> None:
    assert usage_of(EXACT) == {"prompt_tokens": 72, "completion_tokens": 11, "total_tokens": 83}
    assert detailed_usage(EXACT)["prompt_tokens_details"] == {"cached_tokens": 58}
    last = OllamaChatEncoder("m").last(Completed(FinishReason.STOP, "Hi.", GUESS), 1.5, (), 0.0)
    assert (last["prompt_eval_count"], last["eval_count"]) == (72, 11)
    assert isinstance(own := last["bitnet_chat"], dict) and (own["exact"], own["prompt_tokens"]) == (False, 14)


def test_a_turn_of_several_replies_has_the_prompt_of_the_first() -> None:
    second = Stats(prompt_tokens=5, tokens=2, context_used=99, exact=True, prompt_size=96)
    both = EXACT + second
    assert (both.prompt_tokens, both.prompt_size, both.tokens, both.context_used) == (14, 72, 13, 99)
    one = Stats(5, 10, 1.0, 2.0, 20, 100, True, 9, 2)
    assert one + Stats(6, 3, 0.5, 1.0, 30, 200, False, 21, 1) == Stats(5, 13, 1.0, 3.0, 30, 200, False, 9, 2)


def test_the_bar_says_that_it_is_an_estimate() -> None:
    assert context(512, 2048) == "ctx 512/2048 (25 %)" and context(512, 2048, False) == "ctx ~512/2048 (25 %)"
    assert context(None, 2048, False) == "ctx ?/2048"
    status = BackendStatus("m", "e", BackendState.IDLE, 1700, 2048, context_exact=False)
    assert (WARNING, "! ctx ~1700/2048 (83 %)") in bar(status, None, 120)


# A llama-server's words


def chunk(text: str, made: int, finish: str | None = None) -> dict[str, object]:
    timings = {"cache_n": 3, "prompt_n": 6, "predicted_n": made}
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], "timings": timings}


@pytest.mark.parametrize(
    ("last", "text", "tokens", "finish"),
    [
        ([chunk("", 3, "stop")], "ab", 2, FinishReason.STOP),
        ([chunk("c", 3), chunk("", 3, "length")], "ab", 2, FinishReason.LENGTH),
        ([chunk("<", 3), chunk("", 3, "stop")], "ab<", 2, FinishReason.STOP),  # it had been held back
        ([chunk("", 2, "stop")], "ab", 2, FinishReason.STOP),  # by a stop text
    ],
)
def test_a_limit_of_two_tokens(last: list[dict[str, object]], text: str, tokens: int, finish: FinishReason) -> None:
    reader = OpenAIFormat(llama=True).reader(ReplyOptions(max_tokens=2, stop=("c",)))
    said = ""
    for each in [chunk("a", 1), chunk("b", 2), *last]:
        said += "".join(piece.text for piece in reader.feed(sse(each)))
    usage = reader.usage
    assert (said, reader.finish, usage.prompt, usage.cached) == (text, finish, 9, 3)
    assert usage.completion is not None and usage.completion - usage.beyond == tokens


def test_a_server_that_does_not_count_each_token_sends_a_piece_for_it() -> None:
    reader = OpenAIFormat(llama=True).reader(ReplyOptions(max_tokens=2, stop=("c",)))
    said = ""
    for text in ("a", "b", "c"):
        piece = {"choices": [{"index": 0, "delta": {"content": text}}]}
        said += "".join(each.text for each in reader.feed(sse(piece)))
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    reader.feed(sse(end | {"timings": {"prompt_n": 9, "predicted_n": 3}}))
    assert (said, reader.finish, reader.usage.completion) == ("ab", FinishReason.LENGTH, 2)


@pytest.mark.parametrize("exact", [True, False])
def test_what_another_server_of_this_program_estimates_is_an_estimate(exact: bool) -> None:
    told = {"bitnet_chat": {"exact": exact, "prompt_tokens": 4}}
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}}
    openai = OpenAIFormat().reader()
    openai.feed(sse({"choices": [{"index": 0, "delta": {"content": "ab"}, "finish_reason": "stop"}], **told}))
    openai.feed(sse({"choices": [], **usage}))
    ollama = OllamaFormat().reader()
    end = {"message": {"content": "ab"}, "done": True, "prompt_eval_count": 9, "eval_count": 2, **told}
    ollama.feed(json.dumps(end).encode() + b"\n")
    for reader in (openai, ollama):
        found = reader.usage
        assert (found.prompt, found.cached, found.completion, found.beyond) == (9, 5, 2, 0)
        assert found.is_estimate is not exact


def sse(event: object) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def test_one_token_more_is_asked_of_our_own_server_alone() -> None:
    options = ReplyOptions(max_tokens=7)
    ours = OpenAIFormat(llama=True).body("m", [Message("user", "a")], options, stream=True)
    other = OpenAIFormat().body("m", [Message("user", "a")], options, stream=True)
    assert (ours["max_tokens"], ours["n_predict"]) == (7, 8)
    assert other["max_tokens"] == 7 and "n_predict" not in other
