"""A session with the native engine: one process for whatever is asked, and all that can go wrong with it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from backend_replies import end_of, events_of, with_backend

from bitnet_chat.backend import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.native import client
from bitnet_chat.engine.process import EngineProcess, ProcessState
from bitnet_chat.errors import (
    ContextOverflowError,
    EngineDiedError,
    FinishReason,
    ModelError,
    UnsupportedError,
    UsageError,
)
from bitnet_chat.events import Completed, Event, Failed, Notice, PromptProgress, Started, TextDelta, ThinkingDelta

SCRIPT = Path(__file__).parents[1] / "support" / "scripted_child.py"


class Harness:
    """A backend on the scripted child, and what that child was told."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record, self.model, self.environment = folder / "record.jsonl", model, monkeypatch
        self.engine = folder / "llama.cpp"
        (self.engine / packages.SITE).mkdir(parents=True)
        packages.PackageRecord("llama.cpp", "1", "", "", "", {"library": 0}).write(self.engine)
        (self.engine / "library").touch()
        monkeypatch.setenv("SCRIPTED_CHILD_RECORD", str(self.record))
        ours = client.command

        def scripted(*arguments: Any, **named: Any) -> list[str]:
            return [sys.executable, "-S", "-E", str(SCRIPT), *ours(*arguments, **named)[8:]]

        monkeypatch.setattr(client, "command", scripted)

    def backend(self, **more: Any) -> LocalEngineBackend:
        on_spawn = more.pop("on_spawn", None)
        return LocalEngineBackend(Settings(engine=str(self.engine), model=str(self.model), **more), on_spawn=on_spawn)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    @property
    def starts(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "argv" in line]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line["request"] for line in self.lines if "request" in line]


@pytest.fixture
def harness(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path, model, monkeypatch)


def run(harness: Harness, body: Callable[[LocalEngineBackend], Awaitable[None]], **more: Any) -> None:
    with_backend(lambda: harness.backend(**more), body)
    assert not any(psutil.pid_exists(each["pid"]) for each in harness.starts)


async def ask(
    backend: LocalEngineBackend,
    conversation: Conversation | str,
    options: ReplyOptions | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Event]:
    asked = Conversation().with_user(conversation) if isinstance(conversation, str) else conversation
    return await events_of(backend, asked, options, on_event)


async def whole(backend: LocalEngineBackend, conversation: Conversation | str, **options: Any) -> Completed:
    return end_of(await ask(backend, conversation, ReplyOptions(**options)))


def plain(request: dict[str, Any]) -> str:
    return "".join(text for text, _ in request["prompt"])


@pytest.mark.parametrize("io", ["pty", "pipe"])
def test_one_process_fits_any_conversation(harness: Harness, io: str) -> None:
    """Another history, another system prompt, /undo, /regen, other sampling, replies that were cut."""

    async def body(backend: LocalEngineBackend) -> None:
        first = Conversation().with_user("say one")
        assert (await whole(backend, first)).text == "one"
        second = first.with_assistant("one").with_user("say two")
        assert (await whole(backend, second)).stats.prompt_size == len(plain(harness.requests[-1]))
        assert (await whole(backend, second, sampling=Sampling(seed=3, temperature=0.5))).text == "two"
        backend.prepare(first.with_system("Be brief."))
        assert (await whole(backend, first.with_system("Be brief."))).text == "one"
        changed = Conversation().with_user("other").with_assistant("words").with_user("say three")
        assert (await whole(backend, changed)).text == "three"
        cut = await whole(backend, "say a b c d", max_tokens=2)
        assert (cut.text, cut.reason, cut.stats.tokens) == ("a b", FinishReason.LENGTH, 2)
        go_on = Conversation().with_user("say a b c d").with_assistant("a b", FinishReason.LENGTH)
        await whole(backend, go_on)
        assert plain(harness.requests[-1]).endswith("assistant\na b")
        assert (await whole(backend, first)).text == "one"

    run(harness, body, io=io)
    assert len(harness.starts) == 1


def test_a_prompt_goes_out_in_pieces(harness: Harness) -> None:
    """The special tokens of the template as such, and those of a user as the text that was typed."""

    async def body(backend: LocalEngineBackend) -> None:
        await whole(backend, Conversation().with_system("<|im_end|>").with_user("say <|im_start|>system\n<|im_end|>"))

    run(harness, body)
    prompt = harness.requests[-1]["prompt"]
    assert [text for text, special in prompt if special].count("<|im_end|>") == 2
    assert ["user\nsay <|im_start|>system\n<|im_end|>", False] in prompt
    assert all(special is False or text.startswith("<|") for text, special in prompt)


def test_a_history_is_read_before_there_is_a_message(harness: Harness) -> None:
    """As far as it gets: a message does not wait for it."""
    harness.environment.setenv("SCRIPTED_CHILD_READS", "1")
    history = Conversation().with_system("Be brief.").with_user("say one").with_assistant("one")

    written = asyncio.Event()

    class Tape:
        def wrote(self, data: bytes, *, command: bool) -> None:
            written.set()

        def output(self, data: bytes) -> None: ...
        def logged(self, data: bytes) -> None: ...
        def signalled(self, name: str) -> None: ...
        def exited(self, code: int) -> None: ...

    def spawned(process: EngineProcess) -> None:
        process.trace_listener = Tape()

    async def body(backend: LocalEngineBackend) -> None:
        backend.prepare(history)
        await written.wait()
        assert (await whole(backend, history.with_user("say two"))).text == "two"
        ahead, stop, asked = harness.requests
        assert (ahead["max_tokens"], stop["kind"], stop["id"]) == (0, "stop", ahead["id"])
        assert plain(asked).startswith(plain(ahead)) and plain(ahead).endswith("<|im_start|>user\n")
        backend.prepare(history.with_user("say two").with_assistant("two"))
        assert (await whole(backend, "say three")).text == "three"
        assert len(harness.requests) == 4, "what the process has just said it need not read"

    run(harness, body, on_spawn=spawned)
    assert len(harness.starts) == 1


def test_a_reply_carries_its_options(harness: Harness) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    async def body(backend: LocalEngineBackend) -> None:
        sampling = Sampling(top_k=5, min_p=0.1, seed=7)
        await whole(backend, "say it", max_tokens=9, sampling=sampling, stop=("END",), format=ResponseFormat(schema))
        await whole(backend, "say it", format=ResponseFormat())
        await whole(backend, "say it")

    run(harness, body, temperature=0.25, seed=3, ctx=512, threads=1)
    first, any_json, last = harness.requests
    assert (first["max_tokens"], first["stop"], first["schema"]) == (9, ["END"], schema)
    assert first["sampling"] == {"temperature": 0.25, "top_k": 5, "min_p": 0.1, "seed": 7}
    assert any_json["schema"] == {}
    assert (last["schema"], last["max_tokens"], last["sampling"]) == (None, None, {"temperature": 0.25, "seed": 3})
    argv = harness.starts[0]["argv"]
    assert argv[argv.index("--ctx-size") + 1] == "512" and argv[argv.index("--threads") + 1] == "1"


def test_a_stop_is_a_line_and_keeps_the_process(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: Event) -> None:
            if isinstance(event, TextDelta) and "word7" in event.text:
                backend.interrupt()

        *_, end = await ask(backend, "story", on_event=stop)
        assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
        assert end.stats.exact and end.stats.tokens == end.text.count("word")
        # A message right behind a stop, again and again.
        for number in range(5):
            *_, end = await ask(backend, "story", on_event=lambda event: backend.interrupt())
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
            assert (await whole(backend, f"say {number}")).text == str(number)
        *_, end = await ask(backend, "read 9", ReplyOptions(timeout=0.2))
        assert isinstance(end, Completed) and end.reason is FinishReason.TIMEOUT

    run(harness, body, io="pipe")
    assert len(harness.starts) == 1
    assert {"stop"} < {each["kind"] for each in harness.requests}


def test_a_stop_while_the_prompt_is_read(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: Event) -> None:
            if isinstance(event, PromptProgress) and event.done:
                backend.interrupt()

        events = await ask(backend, "read 600", on_event=stop)
        told = [event for event in events if isinstance(event, PromptProgress)]
        assert told == [PromptProgress(0, 1200), PromptProgress(600, 1200)]
        assert isinstance(events[-1], Completed) and events[-1].reason is FinishReason.INTERRUPTED
        assert (await whole(backend, "say on")).text == "on"

    run(harness, body)
    assert len(harness.starts) == 1


def test_a_reply_that_is_left_is_stopped(harness: Harness) -> None:
    """The caller walks away; the next message waits for the end of that reply."""

    async def body(backend: LocalEngineBackend) -> None:
        events = backend.reply(Conversation().with_user("story"))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()
        assert (await whole(backend, "say on")).text == "on"

    run(harness, body)
    assert len(harness.starts) == 1


def test_a_process_that_hears_no_stop_is_replaced(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_chat.engine.process._STOP_WITHIN", 0.1)

    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: Event) -> None:
            if isinstance(event, TextDelta):
                os.kill(harness.starts[-1]["pid"], 19)  # SIGSTOP
                backend.interrupt()

        *_, end = await ask(backend, "hang on", on_event=stop)
        assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED
        assert (await whole(backend, "say again")).text == "again"

    run(harness, body)
    assert len(harness.starts) == 2


def test_a_death_in_mid_reply(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        # Before the first word: tried again.
        events = await ask(backend, "once ")
        assert isinstance(events[-1], Completed) and events[-1].text.strip() == "survived"
        notices = [event.text for event in events if isinstance(event, Notice)]
        assert any("SIGKILL" in line and "restarted" in line for line in notices), notices
        *_, end = await ask(backend, "kill some words")
        assert isinstance(end, Completed) and (end.text, end.reason) == ("some words", FinishReason.ENGINE_DIED)
        assert (await whole(backend, "say on")).text == "on"

    run(harness, body)


@pytest.mark.parametrize("line", ["no JSON", '{"kind":"token","id":999,"text":"x"}', '{"kind":"else","id":1}', "[1]"])
def test_a_line_that_makes_no_sense(harness: Harness, line: str) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        *_, end = await ask(backend, f"line {line}")
        assert isinstance(end, Failed) and isinstance(end.error, EngineDiedError), end
        assert "did not behave as expected" in end.error.what
        assert (await whole(backend, "say on")).text == "on"

    run(harness, body)


def test_a_line_that_makes_no_sense_while_it_loads(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        *_, end = await ask(backend, "say it")
        assert isinstance(end, Failed) and isinstance(end.error, EngineDiedError | ModelError), end

    harness.environment.setattr(
        client, "command", lambda *_, **__: [sys.executable, "-S", "-E", "-c", "print('hello')"]
    )
    harness.record.touch()
    run(harness, body)


def test_failures_of_a_request(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        *_, end = await ask(backend, "fail unsupported no grammar here", ReplyOptions(format=ResponseFormat({"a": 1})))
        assert isinstance(end, Failed) and isinstance(end.error, UnsupportedError)
        assert (end.error.option, "no grammar here" in end.error.what) == ("response_format", True)
        *_, end = await ask(backend, "fail failed it broke")
        assert isinstance(end, Failed) and isinstance(end.error, EngineDiedError) and "it broke" in end.error.what
        assert (await whole(backend, "say on")).text == "on"

    run(harness, body)
    assert len(harness.starts) == 1


@pytest.mark.parametrize(("why", "error"), [("model tensor lost", ModelError), ("failed no library", EngineDiedError)])
def test_a_start_that_fails_tells_why(harness: Harness, why: str, error: type[Exception]) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        *_, end = await ask(backend, "say it")
        assert isinstance(end, Failed) and type(end.error) is error, end
        assert why.partition(" ")[2] in end.error.what and end.error.remedy

    harness.environment.setenv("SCRIPTED_CHILD_REFUSES", why)
    run(harness, body)
    assert len(harness.starts) == 1


def test_a_full_window(harness: Harness) -> None:
    harness.environment.setenv("SCRIPTED_CHILD_SIZE", "600")

    async def body(backend: LocalEngineBackend) -> None:
        end = await whole(backend, "story")
        assert end.reason is FinishReason.CONTEXT_OVERFLOW and end.stats.context_used == 600
        *_, end = await ask(backend, "say " + "x" * 700)
        assert isinstance(end, Failed) and isinstance(end.error, ContextOverflowError), end
        assert (await whole(backend, "say on")).text == "on"

    run(harness, body)
    assert len(harness.starts) == 1


def test_a_long_message_that_was_stopped_leaves_the_window_as_it_was(harness: Harness) -> None:
    """What left made room for a message that is no part of the conversation."""
    harness.environment.setenv("SCRIPTED_CHILD_SIZE", "600")
    told = Conversation().with_user("say early").with_assistant("early")

    async def body(backend: LocalEngineBackend) -> None:
        def stop(event: Event) -> None:
            if isinstance(event, PromptProgress) and event.done:
                backend.interrupt()

        assert (await whole(backend, Conversation().with_user("say early"))).text == "early"
        events = await ask(backend, told.with_user("read 600 " + "word " * 95), on_event=stop)
        assert any(isinstance(event, Notice) and "left it" in event.text for event in events)
        assert isinstance(events[-1], Completed) and (events[-1].reason, events[-1].text) == ("interrupted", "")
        assert "early" not in plain(harness.requests[-2])
        used = backend.status().context_used
        assert used is not None and used < 100, "what is not told again is not counted"
        assert (await whole(backend, told.with_user("say on"))).text == "on"
        assert "early" in plain(harness.requests[-1])

    run(harness, body)


@pytest.mark.parametrize("overflow", ["drop-oldest", "summarize"])
def test_many_turns_in_a_small_window(harness: Harness, overflow: str) -> None:
    """The oldest turns leave, some by the count made here, some since the child says that it is too much."""
    harness.environment.setenv("SCRIPTED_CHILD_SIZE", "700")
    notices: list[str] = []

    async def body(backend: LocalEngineBackend) -> None:
        conversation = Conversation().with_system("Be brief.")
        for number in range(60):
            asked = conversation.with_user(f"say turn {number} " + "y" * (number * 7 % 40))
            events = await ask(backend, asked)
            notices.extend(event.text for event in events if isinstance(event, Notice))
            end = events[-1]
            # The child counts otherwise than the vocabulary of the model, so that a reply may find the window full.
            assert isinstance(end, Completed) and f"turn {number}".startswith(end.text[:7].strip()), end
            conversation = asked.with_assistant(end.text, end.reason)

    run(harness, body, overflow=overflow)
    assert len(harness.starts) == 1
    assert any("context window is full" in line for line in notices)
    if overflow == "summarize":
        assert any("they talked" in plain(each) for each in harness.requests)


def test_thoughts(harness: Harness, tmp_path: Path) -> None:
    template = tmp_path / "thinking.jinja"
    body_of = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    template.write_text(body_of + "<|im_start|>assistant\n{% if false %}</think>{% endif %}")

    async def body(backend: LocalEngineBackend) -> None:
        events = await ask(backend, "think it over")
        assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == "it over"
        assert isinstance(events[-1], Completed) and events[-1].text == "thought"
        await ask(backend, "say it", ReplyOptions(stop=("END",)))
        assert harness.requests[-1]["stop"] == [], "in thoughts a stop text ends nothing"

    run(harness, body, chat_template=str(template))


def test_bytes_that_are_no_text(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        end = await whole(backend, "bytes ff41")
        assert end.text == "\udcffA"
        await whole(backend, Conversation().with_user("bytes ff41").with_assistant(end.text).with_user("say it"))
        assert "\udcffA" in plain(harness.requests[-1])

    run(harness, body)


def test_what_a_native_engine_does_not_take(harness: Harness) -> None:
    with pytest.raises(UsageError, match=r"takes no flags of llama\.cpp: --mlock"):
        harness.backend(engine_args=("--mlock",))
    with pytest.raises(UnsupportedError, match="--rpc is not supported here: a native engine has no RPC"):
        harness.backend(rpc="127.0.0.1:50052")

    async def body(backend: LocalEngineBackend) -> None:
        assert backend.status().engine == "llama.cpp (native)" and not backend.status().in_bursts
        notices = [event.text for event in await ask(backend, "say it") if isinstance(event, Notice)]
        assert notices == ["--spare has no effect with a native engine: it goes back to any turn by itself"]
        assert not [event for event in await ask(backend, "say it") if isinstance(event, Notice)]

    run(harness, body, spare=True, io="pipe")


def test_the_state_of_a_process(harness: Harness) -> None:
    async def body(backend: LocalEngineBackend) -> None:
        backend.start()
        states = []
        await ask(backend, "say it", on_event=lambda event: states.append(backend.status().state))
        assert states[-1] == ProcessState.IDLE and backend.status().context_used == len(plain(harness.requests[-1])) + 2
        assert backend.status().context_size == 2000 and backend.status().context_exact
        events = [event async for event in backend.reply(Conversation().with_user("say it"))]
        assert isinstance(events[0], Started)

    run(harness, body)
