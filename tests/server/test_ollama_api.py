"""Ollama's API: its own Python client, unmodified, against scripted backends and against the real program."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from conftest import _engine as engine_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import TIMEOUT
from scripted_backend import STATS, Gate, ScriptedBackend, by_message, say
from serving import Served, ServedProcess, served_process, serving

from bitnet_chat.backend import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.backends.pool import BackendFactory
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.engine.binary import Dialect
from bitnet_chat.errors import ContextOverflowError, EngineDiedError, FinishReason, InvalidFieldError, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Notice, Started, Stats, TextDelta, ThinkingDelta
from bitnet_chat.server import model_manager as catalogue_module
from bitnet_chat.server.model_manager import ModelCard
from bitnet_chat.server.ollama.requests import chat_request, generate_request
from bitnet_chat.server.ollama.responses import _durations, done_reason, shown
from bitnet_chat.server.requests import object_of
from bitnet_chat.server.settings import ServeSettings

if TYPE_CHECKING:
    import ollama

HELLO = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Imported late: it takes longer than most tests, in each process that lists them."""
    global ollama
    import ollama


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, TIMEOUT))


# Requests


def chat(**body: Any) -> Any:
    return chat_request(Fields({"model": "m", "messages": [HELLO], **body}))


def test_a_chat_request_in_full() -> None:
    asked = chat(
        stream=False,
        format={"type": "object"},
        keep_alive="1h30m",
        think=False,
        options={
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "seed": 42,
            "num_predict": 100,
            "stop": ["\n", "user:"],
            "repeat_penalty": 1.1,
            "presence_penalty": 1.5,
            "frequency_penalty": 1,
            "num_ctx": 1024,
            "num_thread": 8,
            "num_gpu": 1,
            "num_keep": 5,
            "use_mmap": True,
            "mirostat": 0,
        },
        tools=[
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        ],
    )
    assert asked.conversation == Conversation().with_user("hello")
    assert (asked.model, asked.stream, asked.thinking, asked.window, asked.keep_alive) == (
        "m",
        False,
        False,
        1024,
        5400,
    )
    assert asked.options.sampling == Sampling(0.5, 0.9, 40, 0.05, 42, 1.1, 1.5, 1.0)
    assert asked.options.max_tokens == 100 and asked.options.stop == ("\n", "user:")
    assert asked.options.format == ResponseFormat({"type": "object"})
    assert [(tool.name, tool.description, tool.parameters) for tool in asked.options.tools] == [
        ("f", "d", {"type": "object"})
    ]


def test_what_is_not_said_is_what_the_server_does() -> None:
    asked = chat()
    assert asked.options == ReplyOptions() and asked.stream and asked.thinking
    assert chat(format="", think=None, keep_alive=None, options=None, tools=None, stream=None) == asked
    nothing = {"num_predict": -1, "seed": -1, "num_ctx": 0}
    assert chat(options=nothing) == chat(options={"num_predict": -2}) == asked
    assert chat(format="json").options.format == ResponseFormat()
    assert chat(options={"top_k": -1}).options.sampling.top_k == 0
    assert chat(options={"stop": "x"}).options.stop == ("x",)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": {}}, "messages"),
        ({"messages": ["hello"]}, r"messages\[0\]"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\].content"),
        ({"messages": [{"role": "user", "content": ""}]}, r"messages\[0\].content is empty"),
        ({"messages": [{**HELLO, "images": ["aGk="]}]}, r"messages\[0\].images is set: image input is not supported"),
        ({"messages": [HELLO, {"role": "system", "content": "x"}]}, r"messages\[1\].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, r"messages\[1\].role"),
        ({"messages": [{**HELLO, "colour": "red"}]}, r"messages\[0\].colour"),
        ({"model": ""}, "model is missing"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"think": "a bit"}, "think"),
        ({"think": 5}, "think"),
        ({"format": "yaml"}, "format"),
        ({"format": 5}, "format"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": "5m x"}, "keep_alive"),
        ({"keep_alive": []}, "keep_alive"),
        ({"logprobs": True}, "logprobs"),
        ({"truncate": "no"}, "truncate"),
        ({"colour": "red"}, "colour is unknown"),
        ({"tools": [{"type": "function", "function": {}}]}, r"tools\[0\].function.name"),
        ({"tools": [{"type": "oracle", "function": {"name": "f"}}]}, r"tools\[0\].type"),
        ({"tools": [{"function": {"name": "f\n"}}]}, r"tools\[0\].function.name"),
        ({"tools": [{"function": {"name": "f"}}] * 2}, "tools contains the name f twice"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"repeat_last_n": 5}}, "options.repeat_last_n"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"stop": [""]}}, "options.stop"),
        ({"options": {"stop": ["x"] * 257}}, "options.stop"),
        ({"options": {"colour": "red"}}, "options.colour is unknown"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_what_cannot_be_used_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFieldError, match=field):
        chat(**body)


@pytest.mark.parametrize("field", ["suffix", "template", "raw", "context", "images", "width"])
def test_what_generate_cannot_do_is_refused_by_name(field: str) -> None:
    value = {"raw": True, "context": [1, 2], "images": ["aGk="], "width": 512}.get(field, "x")
    with pytest.raises(InvalidFieldError, match=field):
        generate_request(Fields({"model": "m", "prompt": "x", field: value}))
    empty = {"raw": False, "context": [], "images": [], "width": 0}.get(field, "")
    generate_request(Fields({"model": "m", "prompt": "x", field: empty}))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((0, 0), ("0", 0), ("0s", 0), (-1, -1), ("-1", -1), ("-1m", -60), (300, 300), ("5m", 300), ("1.5h", 5400)),
        *(("1h30m", 5400), ("250ms", 0.25), ("10m0s", 600), ("", None)),
    ],
)
def test_keep_alive(value: Any, seconds: float | None) -> None:
    assert chat(keep_alive=value).keep_alive == seconds


def test_messages() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Łódź"}}}
    asked = chat(
        messages=[
            {"role": "system", "content": "One."},
            {"role": "system", "content": "Two."},
            {"role": "user", "content": "Hello."},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "thinking": "Hm.", "tool_calls": [call, call]},  # clients leave out what is empty
            {"role": "tool", "content": "rain", "tool_name": "weather"},
            {"role": "tool", "content": "sun"},
        ]
    ).conversation
    assert asked.system == "One.\n\nTwo."
    user, assistant, rain, sun = asked.turns
    assert user.content == "Hello.\n\nAnd?"
    assert [(each.name, each.arguments) for each in assistant.tool_calls] == [("weather", '{"city": "Łódź"}')] * 2
    assert assistant.thinking == "" and len({each.id for each in assistant.tool_calls}) == 2
    assert (rain.content, rain.tool_name, rain.call_id) == ("rain", "weather", assistant.tool_calls[0].id)
    assert (sun.content, sun.call_id) == ("sun", assistant.tool_calls[1].id)


def test_a_reply_at_the_end_is_gone_on_with() -> None:
    last = chat(messages=[HELLO, {"role": "assistant", "content": "You"}]).conversation.last
    assert last == Message("assistant", "You", FinishReason.LENGTH) and last.was_cut


def test_nothing_to_answer_means_loading() -> None:
    for asked in (
        chat(messages=[]),
        chat(messages=None),
        generate_request(Fields({"model": "m"})),
        generate_request(Fields({"model": "m", "prompt": "", "system": "x"})),
    ):
        assert asked.only_loads and not asked.unloads
    assert chat(messages=[], keep_alive=0).unloads
    assert generate_request(Fields({"model": "m", "prompt": "x", "system": "s"})).conversation.system == "s"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "tool"]) | _JSON,
        "content": st.text(max_size=8) | _JSON,
        "tool_calls": st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": _JSON})}) | _JSON)
        | _JSON,
        "tool_name": _JSON,
    },
)
_NAMES = ["temperature", "seed", "num_predict", "top_k", "stop", "num_ctx", "mirostat", "repeat_last_n"]


@settings(derandomize=True, max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {"model": st.just("m")},
        optional={
            "messages": st.lists(_MESSAGE, max_size=4),
            "options": st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=3) | _JSON,
            "format": _JSON,
            "keep_alive": _JSON | st.from_regex(r"-?[0-9.]{1,4}(ns|ms|s|m|h|x)?", fullmatch=True),
            "tools": st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": _JSON})}) | _JSON),
            "think": _JSON,
            "prompt": _JSON,
            "system": _JSON,
        },
    )
)
def test_whatever_is_asked_is_understood_or_refused(body: dict[str, Any]) -> None:
    for parse in (chat_request, generate_request):
        try:
            asked = parse(Fields(body))
        except InvalidFieldError as error:
            assert error.status == 400 and str(error)
        else:
            last = asked.conversation.last
            assert asked.only_loads or (last is not None and last.role in ("user", "tool", "assistant"))


def test_every_end_has_a_word() -> None:
    assert [str(reason) for reason in FinishReason if done_reason(reason) == "stop"] == [
        "stop",
        "role_marker",
        "tool_calls",
        "empty",
    ]


def test_what_a_model_can_do_is_told_by_its_template() -> None:
    template = "{% if tools %}{% endif %}<think>"
    card = ModelCard("m", template=template, architecture="qwen3", trained=4096, window=2048, parameters=7_600_000_000)
    told = shown(card, 0.0, here=True)
    assert told["capabilities"] == ["completion", "tools", "thinking"]
    assert told["model_info"] == {
        "general.architecture": "qwen3",
        "general.parameter_count": 7_600_000_000,
        "qwen3.context_length": 4096,
    }
    assert shown(ModelCard("m"), 0.0, here=True)["capabilities"] == ["completion"]
    assert shown(ModelCard("m"), 0.0, here=False)["capabilities"] == ["completion", "tools"]


# Scripted backends


@asynccontextmanager
async def talking(script: Any = by_message, **options: Any) -> AsyncIterator[tuple[ollama.AsyncClient, Served]]:
    async with serving(script, **options) as served, ollama.AsyncClient(served.url, trust_env=False) as client:
        yield client, served


@asynccontextmanager
async def asking(script: Any = by_message, **options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Served]]:
    async with (
        serving(script, **options) as served,
        httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=TIMEOUT) as client,
    ):
        yield client, served


def scripted(*events: Event | Gate) -> Callable[[Conversation], list[Event | Gate]]:
    return lambda conversation: list(events)


def test_each_piece_is_there_before_the_next_one_is_made() -> None:
    script = scripted(
        Started(), TextDelta("One"), Gate(), TextDelta(" two"), Gate(), Completed(FinishReason.STOP, "One two", STATS)
    )

    async def scene() -> None:
        async with talking(script) as (client, served):
            parts = await client.chat("scripted", [HELLO], stream=True)
            first = await anext(parts)
            assert (first.message.content, first.message.role, first.done) == ("One", "assistant", False)
            served.backend.open_gate()
            assert (await anext(parts)).message.content == " two"
            served.backend.open_gate()
            last = await anext(parts)
            assert (last.done, last.done_reason, last.message.content) == (True, "stop", "")
            assert (last.prompt_eval_count, last.eval_count) == (53, 11)
            assert (last.prompt_eval_duration, last.eval_duration) == (500_000_000, 1_000_000_000)
            assert last.total_duration and last.total_duration > 0 and last.load_duration == 0
            assert [part async for part in parts] == []

    play(scene())


def test_whole_and_streamed_are_the_same() -> None:
    pieces = ("Zażółć ", "👩‍💻", "\n", "\udcf0\udc9f", " end\r\n", '"\\u0000\x00')
    events = [Started(), ThinkingDelta("Hm "), ThinkingDelta("\udcff"), *say(*pieces)[1:]]

    async def scene() -> None:
        async with talking(scripted(*events)) as (client, _):
            whole = await client.chat("scripted", [HELLO])
            assert whole.message.content == "".join(pieces).replace("\udcf0\udc9f", "\ufffd\ufffd")
            assert whole.message.thinking == "Hm \ufffd"
            parts = [part async for part in await client.chat("scripted", [HELLO], stream=True)]
            assert "".join(part.message.content or "" for part in parts) == whole.message.content
            assert "".join(part.message.thinking or "" for part in parts) == whole.message.thinking
            made = await client.generate("scripted", "hello")
            assert (made.response, made.thinking) == (whole.message.content, whole.message.thinking)
            written = [part async for part in await client.generate("scripted", "hello", stream=True)]
            assert "".join(part.response or "" for part in written) == made.response
            quiet = await client.chat("scripted", [HELLO], think=False)
            assert quiet.message.thinking is None and quiet.message.content == whole.message.content

    play(scene())


def test_calls_of_tools_go_to_the_client_and_come_back() -> None:
    def script(conversation: Conversation) -> list[Event | Gate]:
        last = conversation.last
        assert last is not None
        if last.role == "tool":
            return say(f"{last.tool_name} says {last.content}, after {len(conversation.turns)} messages.")
        call = ToolCall("call_7", "weather", '{"city": "Łódź", "days": 2}')
        return [Started(), TextDelta("I look. "), call, Completed(FinishReason.TOOL_CALLS, "I look. ", STATS)]

    def weather(city: str, days: int = 1) -> str:
        """Tells the weather.

        Args:
          city: Where.
          days: How many.
        """
        return f"rain in {city}"

    async def scene() -> None:
        async with talking(script) as (client, served):
            said = await client.chat("scripted", [HELLO], tools=[weather])
            assert said.message.content == "I look. " and said.done_reason == "stop"
            (call,) = said.message.tool_calls or ()
            assert (call.function.name, call.function.arguments) == ("weather", {"city": "Łódź", "days": 2})
            (tool,) = served.backend.options[0].tools
            assert (tool.name, tool.description) == ("weather", "Tells the weather.")
            assert "city" in str(tool.parameters["required"])
            result = {"role": "tool", "tool_name": "weather", "content": weather("Łódź")}
            final = await client.chat("scripted", [HELLO, said.message, result], tools=[weather])
            assert final.message.content == "weather says rain in Łódź, after 3 messages."
            parts = [part async for part in await client.chat("scripted", [HELLO], tools=[weather], stream=True)]
            assert [len(part.message.tool_calls or ()) for part in parts] == [0, 1, 0]
            *steps, _ = script(Conversation().with_user("cut"))
            served.backend.script = lambda _: [*steps, Completed(FinishReason.LENGTH, "I look. ", STATS)]
            cut = await client.chat("scripted", [HELLO], tools=[weather])
            assert cut.done_reason == "length" and not cut.message.tool_calls

    play(scene())


@pytest.mark.parametrize("stream", [False, True])
def test_each_call_of_a_reply_has_an_index(stream: bool) -> None:
    """Open WebUI joins calls with the same index into one."""
    calls = ToolCall("call_7", "add", '{"a": 1}'), ToolCall("call_8", "sub", '{"a": 2}')
    events = [Started(), *calls, Completed(FinishReason.TOOL_CALLS, "", STATS)]

    async def scene() -> None:
        async with serving(scripted(*events)) as served, httpx.AsyncClient(base_url=served.url) as client:
            asked = {"model": "scripted", "messages": [HELLO], "stream": stream}
            asked["tools"] = [{"type": "function", "function": {"name": name}} for name in ("add", "sub")]
            for _ in range(2):  # each reply counts anew
                reply = await client.post("/api/chat", json=asked)
                parts = [json.loads(line)["message"] for line in reply.text.splitlines()]
                told = [each["function"] for part in parts for each in part.get("tool_calls", ())]
                assert [(each["index"], each["name"]) for each in told] == [(0, "add"), (1, "sub")]

    play(scene())


def test_errors_before_the_first_word_have_a_status() -> None:
    errors = {
        "unsupported": (UnsupportedError("top_p", "this engine cannot"), 400),
        "grammar": (UnsupportedError("response_format", "no grammar"), 400),
        "overflow": (ContextOverflowError("too long"), 400),
        "died": (EngineDiedError("it died", detail="secret log"), 503),
    }

    def script(conversation: Conversation) -> list[Event | Gate]:
        assert conversation.last is not None
        return [Notice("…"), Failed(errors[conversation.last.content][0])]

    async def scene() -> None:
        async with talking(script) as (client, _):
            for name, (error, status) in errors.items():
                for stream in (False, True):
                    with pytest.raises(ollama.ResponseError) as raised:
                        said = await client.chat("scripted", [{"role": "user", "content": name}], stream=stream)
                        async for _ in said:
                            pass
                    what = error.what.replace("response_format", "format")  # as this API calls it
                    assert raised.value.status_code == status and raised.value.error.startswith(what)
                    assert "secret" not in raised.value.error
            with pytest.raises(ollama.ResponseError, match="unknown model 'llama3'; available: scripted") as raised:
                await client.chat("llama3", [HELLO])
            assert raised.value.status_code == 404

    play(scene())


@pytest.mark.parametrize(
    "end",
    [Failed(EngineDiedError("it died"), "half"), Completed(FinishReason.ENGINE_DIED, "half"), None],
    ids=["failed", "died", "nothing"],
)
def test_errors_in_the_middle_are_a_line(end: Event | None) -> None:
    events = [Started(), TextDelta("half"), *([end] if end is not None else [])]

    async def scene() -> None:
        async with talking(scripted(*events)) as (client, _):
            heard: list[str | None] = []
            with pytest.raises(ollama.ResponseError, match=r"died|ended"):
                async for part in await client.chat("scripted", [HELLO], stream=True):
                    heard.append(part.message.content)
            assert heard == ["half"]
            with pytest.raises(ollama.ResponseError) as raised:
                await client.chat("scripted", [HELLO])
            assert raised.value.status_code == 503

    play(scene())


class Watched(ScriptedBackend):
    """Loads when it is asked, and tells when it is interrupted."""

    def __init__(self, name: str = "scripted") -> None:
        super().__init__(by_message, name=name)
        self.interrupted = asyncio.Event()
        self.start()

    def interrupt(self) -> None:
        super().interrupt()
        self.interrupted.set()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("word", ["hang", "wait"])
def test_a_client_that_goes_takes_its_reply_with_it(word: str, stream: bool) -> None:
    """Before the first word, and in the middle: nothing but its going happens."""

    async def scene() -> None:
        made: list[Watched] = []

        def make() -> Watched:
            made.append(Watched())
            return made[-1]

        async with asking({"scripted": BackendFactory("scripted", 1, make)}) as (client, _):
            body = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": word}]}

            async def ask() -> None:
                async with client.stream("POST", "/api/chat", json=body) as response:
                    async for line in response.aiter_lines():
                        assert "Before the gate" in line
                        said.set()

            said = asyncio.Event()
            asked = asyncio.ensure_future(ask())
            await made[0].generating.wait()
            if stream and word == "wait":
                await said.wait()
            asked.cancel()
            await made[0].interrupted.wait()

    play(scene())


def test_models_are_listed_and_shown(model: Path) -> None:
    backends: list[Watched] = []

    def source(name: str, path: Path | None) -> BackendFactory:
        def make() -> Watched:
            backends.append(Watched(name))
            return backends[-1]

        return BackendFactory(name, 1, make, path=path)

    size = model.stat().st_size

    async def scene() -> None:
        sources = {"demo": source("demo", model), "far/coder": source("far/coder", None)}
        async with talking(sources) as (client, _):
            listed = await client.list()
            assert [each.model for each in listed.models] == ["demo:latest", "far/coder:latest", "auto:latest"]
            demo = listed.models[0]
            assert demo.size == size and demo.modified_at is not None
            assert demo.details is not None and demo.details.format == "gguf" and demo.details.quantization_level
            assert len({each.digest for each in listed.models}) == 3
            for name in ("demo", "demo:latest", "far/coder", "auto"):
                details = await client.show(name)
                assert details.modelinfo is not None and "completion" in (details.capabilities or [])
            details = await client.show("demo")
            assert details.template and "im_start" in details.template
            assert details.modelinfo and details.modelinfo["general.parameter_count"] > 1000
            assert str(model) not in str(details), "where it lies is nobody's business"
            with pytest.raises(ollama.ResponseError) as raised:
                await client.show("demo:7b")
            assert raised.value.status_code == 404

            assert [each.model for each in (await client.ps()).models] == ["demo:latest"]
            loaded = await client.generate("far/coder:latest")
            assert (loaded.done_reason, loaded.response, loaded.done) == ("load", "", True)
            running = (await client.ps()).models
            assert [each.model for each in running] == ["demo:latest", "far/coder:latest"]
            assert running[0].size == 123_456_789 and running[0].context_length == 2048
            assert running[0].expires_at is not None and running[0].expires_at.year > 2300
            gone = await client.chat("far/coder", [], keep_alive=0)
            assert gone.done_reason == "unload"
            assert [each.model for each in (await client.ps()).models] == ["demo:latest"]
            chosen = await client.chat("auto", [{"role": "user", "content": "my python script"}])
            assert chosen.model == "far/coder"
            once = await client.chat("far/coder:latest", [HELLO], keep_alive="0s")
            assert once.message.content == "You said 'hello'."
            assert await client.generate("far/coder", keep_alive=0), "waits until it is gone"
            assert [each.model for each in (await client.ps()).models] == ["demo:latest"]
            assert backends[-1].calls[-1] == "close" and [each.name for each in backends].count("far/coder") == 2

    play(scene())


def test_a_window_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "read_card", lambda name, source: ModelCard(name, window=1024))
    backends: list[Watched] = []

    def make() -> Watched:
        backends.append(Watched())
        return backends[-1]

    async def scene() -> None:
        async with talking({"a": BackendFactory("a", 1, make), "b": BackendFactory("b", 1, make)}) as (client, _):
            await client.chat("a", [HELLO], options={"num_ctx": 2048})  # as the backend tells
        async with asking({"a": BackendFactory("a", 1, make), "b": BackendFactory("b", 1, make)}) as (asker, _):
            await asker.post("/api/chat", json={"model": "a", "messages": [HELLO]})
            for name, window in (("a", 2048), ("b", 1024)):  # as the backend tells, and the file of one not loaded
                body = {"model": name, "messages": [HELLO], "options": {"num_ctx": 4096}}
                told = f"options.num_ctx is 4096, and the window of {name} has {window} tokens"
                lines = (await asker.post("/api/chat", json=body)).text.splitlines()
                assert json.loads(lines[-1])["bitnet_chat"]["notices"] == [told]

    play(scene())


def test_what_is_not_served_is_refused_by_name() -> None:
    async def scene() -> None:
        async with asking() as (client, _):
            for path in ("embed", "embeddings", "pull", "push", "create", "copy", "blobs/sha256:00"):
                response = await client.post(f"/api/{path}", json={"model": "x"})
                assert response.status_code == 501 and path in response.json()["error"]
            assert (await client.request("DELETE", "/api/delete", json={"model": "x"})).status_code == 501
            assert (await client.get("/api/oracle")).json() == {"error": "/api/oracle is not served here"}
            wrong = await client.get("/api/chat")
            assert wrong.status_code == 405 and wrong.headers["allow"] == "POST" and "error" in wrong.json()
            assert (await client.head("/api/version")).status_code == 200
            assert "version" in (await client.get("/api/version")).json()
        async with talking() as (ollama_client, _):
            with pytest.raises(ollama.ResponseError, match="embeddings are not made here"):
                await ollama_client.embed("scripted", "hello")
            with pytest.raises(ollama.ResponseError, match="models pull"):
                await ollama_client.pull("llama3")

    play(scene())


def test_bodies_that_cannot_be_used() -> None:
    async def scene() -> None:
        async with asking(settings=replace(ServeSettings(port=0, grace=0.0), body_limit=50_000)) as (client, _):
            for data, status in (
                (b"", 400),
                (b"{", 400),
                (b"[]", 400),
                (b"\xff\xfe", 400),
                (b"[" * 20_000, 400),
                (b'{"model": "scripted", "messages": NaN}', 400),
                (json.dumps({"model": "scripted", "messages": [HELLO], "pad": "x" * 60_000}).encode(), 413),
            ):
                response = await client.post("/api/chat", content=data)
                assert response.status_code == status and response.json()["error"]
            # As curl sends it, and with a text that was cut between the halves of a character.
            raw = b'{"model": "scripted", "stream": false, "messages": [{"role": "user", "content": "a\\ud83d"}]}'
            response = await client.post(
                "/api/chat", content=raw, headers={"content-type": "application/x-www-form-urlencoded"}
            )
            assert response.json()["message"]["content"] == "You said 'a\ufffd'."
            long = "x" * 20_000
            response = await client.post(
                "/api/chat",
                json={"model": "scripted", "stream": False, "messages": [{"role": "user", "content": long}]},
            )
            assert response.json()["message"]["content"].startswith("20000 characters")

    play(scene())
    assert object_of(b'{"model": "m"}').values == {"model": "m"}


def test_a_full_line_says_when_to_come_back() -> None:
    async def scene() -> None:
        async with asking(settings=replace(ServeSettings(port=0, grace=0.0), queue=0)) as (client, served):
            body = {"model": "scripted", "messages": [{"role": "user", "content": "hang"}]}
            first = asyncio.ensure_future(client.post("/api/chat", json=body))
            await served.backend.generating.wait()
            second = await client.post("/api/chat", json=body)
            assert second.status_code == 429 and int(second.headers["retry-after"]) >= 1 and second.json()["error"]
            served.backend.open_gate()
            assert (await first).status_code == 200

    play(scene())


def test_what_is_given_again_says_so() -> None:
    async def scene() -> None:
        async with asking(settings=replace(ServeSettings(port=0, grace=0.0), cache=True)) as (client, served):
            body = {"model": "scripted", "messages": [HELLO], "options": {"temperature": 0}}
            first = await client.post("/api/chat", json=body)
            again = await client.post("/api/chat", json=body)
            whole = await client.post("/api/chat", json={**body, "stream": False})
            assert "x-cache" not in first.headers
            assert again.headers["x-cache"] == whole.headers["x-cache"] == "hit"
            assert len(served.backend.asked) == 1

            def said(response: httpx.Response) -> tuple[str, int]:
                lines = [json.loads(line) for line in response.text.splitlines()]
                return "".join(line["message"]["content"] for line in lines), lines[-1]["eval_count"]

            assert said(first) == said(again) == said(whole)

    play(scene())


# The program, with a real engine


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    engine = engine_of(Dialect.CLASSIC).path
    with served_process(
        "--engine", str(engine), "--temp", "0", "--no-journal", home=tmp_path_factory.mktemp("ollama")
    ) as process:
        yield process


@pytest.fixture
def client(program: ServedProcess) -> Iterator[ollama.Client]:
    with ollama.Client(program.url, trust_env=False, timeout=TIMEOUT) as client:
        yield client


@pytest.mark.engine
def test_the_published_client_talks_to_the_real_thing(client: ollama.Client) -> None:
    name = str(client.list().models[0].model)
    assert name == "bitnet-demo:latest"
    whole = client.chat(name, [{"role": "user", "content": "How do I stop a reply?"}])
    assert whole.message.content and whole.done_reason == "stop" and whole.eval_count
    parts = list(client.chat(name, [{"role": "user", "content": "How do I stop a reply?"}], stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    made = client.generate("bitnet-demo", "How do I stop a reply?")
    assert made.response == whole.message.content
    short = client.chat(name, [{"role": "user", "content": "How do I stop a reply?"}], options={"num_predict": 3})
    assert short.done_reason == "length" and short.message.content
    assert (whole.message.content or "").startswith(short.message.content)
    assert client.ps().models[0].context_length == 2048
    assert client.chat(name, [HELLO], options={"num_ctx": 65536}).done, "the window that there is, with a notice"
    assert client.generate(name, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert client.generate(name).done_reason == "load"
    assert client.chat(name, [{"role": "user", "content": "How do I stop a reply?"}]).message == whole.message


@pytest.mark.engine
def test_our_own_backend_for_ollama_talks_to_it_too(program: ServedProcess) -> None:
    from bitnet_chat.backends.ollama import ollama_backend

    async def scene() -> None:
        backend = ollama_backend(Settings(backend="ollama", base_url=program.url))
        conversation = Conversation().with_user("How do I stop a reply?")
        events = [event async for event in backend.reply(conversation, ReplyOptions())]
        end = events[-1]
        assert isinstance(end, Completed) and end.reason is FinishReason.STOP and end.text and end.stats.tokens
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == end.text
        await backend.close()

    play(scene())


@pytest.mark.parametrize(
    ("stats", "prompt", "reply"),
    [
        (Stats(prompt_tokens=7, tokens=11, time_to_first_token=0.5, seconds=1.5), 0.5, 1.0),
        (Stats(prompt_tokens=30, tokens=10, time_to_first_token=0.3999, seconds=0.4), 0.3, 0.1),  # in one burst
        (Stats(tokens=10, time_to_first_token=0.4, seconds=0.4), 0.0, 0.4),
        (Stats(prompt_tokens=30, seconds=0.4), 0.0, 0.4),
    ],
)
def test_a_reply_in_one_burst_has_a_plausible_speed(stats: Stats, prompt: float, reply: float) -> None:
    found = _durations(stats, 2.0)
    assert (found["prompt_eval_duration"], found["eval_duration"]) == (round(prompt * 1e9), round(reply * 1e9))
