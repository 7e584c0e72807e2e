"""The published clients of the OpenAI API, unmodified: Python, npm and llm."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import published
import pytest
from conftest import _engine
from program import TIMEOUT, environment
from scripted_backend import STATS, by_message, say
from serving import Served, ServedProcess, served_process, serving

from bitnet_chat.conversation import Conversation, ToolCall
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.errors import EngineDiedError, FinishReason, ModelError, UnsupportedError
from bitnet_chat.events import Completed, Event, Failed, Started, TextDelta, ThinkingDelta
from bitnet_chat.server.ollama.requests import chat_request as ollama_request
from bitnet_chat.server.openai.requests import chat_request, completion_request

if TYPE_CHECKING:
    import openai
    from openai.lib.streaming.chat import ContentDeltaEvent
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is bitnet-chat?"}]


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Imported late: it takes longer than most tests, in each process that lists them."""
    global openai, ContentDeltaEvent
    import openai
    from openai.lib.streaming.chat import ContentDeltaEvent


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """The program, with the bundled model and a real engine."""
    engine = _engine(Dialect.CLASSIC)
    with served_process("--temp", "0", "--engine", str(engine.path), home=tmp_path_factory.mktemp("served")) as process:
        yield process


@pytest.fixture(scope="module")
def client(served: ServedProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture(scope="module")
def reply(client: openai.OpenAI) -> str:
    """What the model says to the question, at temperature 0."""
    content = client.chat.completions.create(model="", messages=QUESTION).choices[0].message.content
    assert content and len(content) > 20
    return content


def test_whole_and_streamed(client: openai.OpenAI, reply: str) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id) == model
    raw = client.chat.completions.with_raw_response.create(model=model.id, messages=QUESTION, temperature=0)
    whole = raw.parse()
    assert raw.status_code == 200 and whole._request_id == raw.headers["x-request-id"]
    assert whole.choices[0].message.content == reply and whole.choices[0].finish_reason == "stop"
    assert whole.model == model.id
    stream = client.chat.completions.create(
        model=model.id, messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply
    assert {chunk.id for chunk in chunks} == {last.id}
    assert last.usage is not None and whole.usage is not None
    assert last.usage.total_tokens == whole.usage.total_tokens > whole.usage.completion_tokens > 5


def test_several_replies(client: openai.OpenAI, reply: str) -> None:
    """One after another."""
    have_several_replies(client, reply)


@pytest.mark.engine
def test_several_replies_at_once(native: EngineBinary, tmp_path: Path) -> None:
    with (
        served_process("--temp", "0", "--engine", str(native.path), home=tmp_path) as process,
        openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT) as client,
    ):
        reply = client.chat.completions.create(model="", messages=QUESTION).choices[0].message.content
        assert reply
        have_several_replies(client, reply)
        with_seeds = [
            client.chat.completions.create(model="", messages=QUESTION, temperature=1, seed=4 + number).choices[0]
            for number in range(2)
        ]
        both = client.chat.completions.create(model="", messages=QUESTION, temperature=1, seed=4, n=2).choices
        assert [each.message.content for each in both] == [each.message.content for each in with_seeds]


def have_several_replies(client: openai.OpenAI, reply: str) -> None:
    whole = client.chat.completions.create(model="", messages=QUESTION, temperature=0, n=3)
    assert [(each.index, each.message.content, each.finish_reason) for each in whole.choices] == [
        (index, reply, "stop") for index in range(3)
    ]
    one = client.chat.completions.create(model="", messages=QUESTION, temperature=0).usage
    assert whole.usage is not None and one is not None
    assert whole.usage.prompt_tokens == one.prompt_tokens and whole.usage.completion_tokens == 3 * one.completion_tokens
    stream = client.chat.completions.create(
        model="", messages=QUESTION, temperature=0, n=3, stream=True, stream_options={"include_usage": True}
    )
    texts, ends = ["", "", ""], dict[int, str | None]()
    *chunks, last = stream
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert texts == [reply] * 3 and ends == dict.fromkeys(range(3), "stop")
    assert last.usage is not None and last.usage == whole.usage and not last.choices
    plain = client.completions.create(model="", prompt="What is bitnet-chat?", temperature=0, n=2)
    assert [(each.index, each.text) for each in plain.choices] == [(0, reply), (1, reply)]


def test_limits(client: openai.OpenAI, reply: str) -> None:
    cut = client.chat.completions.create(model="", messages=QUESTION, temperature=0, max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length" and reply.startswith(cut.choices[0].message.content or "?")
    assert cut.usage is not None and cut.usage.completion_tokens == 3
    stop = reply[8:12]
    stopped = client.chat.completions.create(model="", messages=QUESTION, temperature=0, stop=[stop])
    assert stopped.choices[0].message.content == reply[: reply.index(stop)]
    plain = client.completions.create(model="", prompt="What is bitnet-chat?", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in plain) == reply


def test_messages_in_any_order_and_what_frameworks_send(client: openai.OpenAI, reply: str) -> None:
    def ask(*messages: object, **more: Any) -> Any:
        given: Any = list(messages)
        return client.chat.completions.create(model="", messages=given, temperature=0, max_tokens=40, **more)

    user, answer = dict(QUESTION[0]), {"role": "assistant", "content": "Hello."}
    cut = reply[: reply.index(" ", len(reply) // 3)]
    begun = cut + ask(user, {"role": "assistant", "content": cut}).choices[0].message.content
    assert len(begun) > len(cut) and reply.startswith(begun)
    for messages in (
        (answer, user),
        (user, {"role": "system", "content": "Be brief."}),
        ({"role": "system", "content": "Be brief."},),
        (
            user,
            answer,
            user,
            {"role": "user", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
        ),
        (user, answer, {"role": "user", "content": ""}),
    ):
        assert ask(*messages).choices[0].finish_reason in ("stop", "length")
    tools = [{"type": "function", "function": {"name": f"a.{number}", "strict": True}} for number in range(36)]
    many = ask(user, tools=tools, parallel_tool_calls=False, store=True, reasoning_effort="low", extra_body={"x": 1})
    assert many.choices[0].message.content == ask(user).choices[0].message.content
    told = " ".join(many.bitnet_chat["notices"])
    assert "store, x" in told and "not offered the tools" in told and "reasoning_effort" in told


def test_events_of_the_stream_reader(client: openai.OpenAI, reply: str) -> None:
    with client.chat.completions.stream(model="", messages=QUESTION, temperature=0) as stream:
        assert "".join(event.delta for event in stream if isinstance(event, ContentDeltaEvent)) == reply
        assert stream.get_final_completion().choices[0].message.content == reply


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="", messages=QUESTION, n=9)
    assert refused.value.param == "n" and "between 1 and 8" in refused.value.message
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="", messages=[{"role": "user", "content": "word " * 20_000}])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="", input="x")


def test_a_client_that_leaves_and_comes_back(client: openai.OpenAI, served: ServedProcess, reply: str) -> None:
    with client.chat.completions.create(model="", messages=QUESTION, stream=True) as stream:
        next(iter(stream))

    async def again() -> str | None:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=TIMEOUT) as other:
            whole = await other.chat.completions.create(model="", messages=QUESTION, temperature=0)
            return whole.choices[0].message.content

    assert asyncio.run(again()) == reply


# Over a scripted backend


def with_client(
    script: Callable[[Conversation], list[Event]],
    test: Callable[[openai.AsyncOpenAI, Served], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with (
            serving(script) as served,
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
        ):
            await asyncio.wait_for(test(client, served), TIMEOUT)

    asyncio.run(main())


WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def calls_weather(conversation: Conversation) -> list[Event]:
    assert conversation.last is not None
    if conversation.last.role == "tool":
        return [*say(f"It is {conversation.last.content} in Rome.")]  # type: ignore[list-item]
    call = ToolCall("call_1", "weather", '{"city": "Rome"}')
    end = Completed(FinishReason.TOOL_CALLS, "Let me look.", STATS)
    return [Started(), ThinkingDelta("Rome?"), TextDelta("Let me look."), call, end]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_round_trip_of_tools(streamed: bool) -> None:
    async def test(client: openai.AsyncOpenAI, served: Served) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Rome?"}]
        if streamed:
            async with client.chat.completions.stream(model="", messages=messages, tools=[WEATHER]) as stream:
                completion: Any = await stream.get_final_completion()
        else:
            completion = await client.chat.completions.create(model="", messages=messages, tools=[WEATHER])
        choice = completion.choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
        (call,) = choice.message.tool_calls
        assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Rome"}
        # As programs do: what came goes back as it is.
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        completion = await client.chat.completions.create(model="", messages=messages, tools=[WEATHER])
        assert completion.choices[0].message.content == "It is sunny in Rome."
        asked = served.backend.asked[-1].messages
        assert asked[1].tool_calls == (ToolCall("call_1", "weather", '{"city": "Rome"}'),)
        assert asked[2].tool_name == "weather"

    with_client(calls_weather, test)


def test_failures_have_their_classes() -> None:
    ends: list[tuple[Event, type[openai.APIStatusError]]] = [
        (Failed(UnsupportedError("tools", "no format")), openai.BadRequestError),
        (Failed(EngineDiedError("it died")), openai.InternalServerError),
        (Failed(ModelError("no model")), openai.InternalServerError),
    ]

    async def test(client: openai.AsyncOpenAI, served: Served) -> None:
        for end, kind in ends:
            served.backend.script = lambda _, end=end: [end]  # type: ignore[misc]
            for stream in (False, True):
                with pytest.raises(kind):
                    await client.chat.completions.create(model="", messages=QUESTION, stream=stream)
        served.backend.script = lambda _: [Started(), TextDelta("Half"), Failed(EngineDiedError("it died"), "Half")]
        chunks = await client.chat.completions.create(model="", messages=QUESTION, stream=True)
        heard = ""
        with pytest.raises(openai.APIError, match="it died"):
            async for chunk in chunks:
                heard += chunk.choices[0].delta.content or ""
        assert heard == "Half"

    with_client(by_message, test)  # type: ignore[arg-type]


def test_a_model_that_does_not_load_is_asked_once() -> None:
    """The client would try a 5xx twice more, were it not told that this is of no use."""

    async def test(client: openai.AsyncOpenAI, served: Served) -> None:
        for error, tries in ((ModelError("no model"), 1), (EngineDiedError("it died"), 2)):
            served.backend.asked.clear()
            served.backend.script = lambda _, error=error: [Failed(error)]  # type: ignore[misc]
            with pytest.raises(openai.InternalServerError):
                await client.with_options(max_retries=1).chat.completions.create(model="", messages=QUESTION)
            assert len(served.backend.asked) == tries

    with_client(by_message, test)  # type: ignore[arg-type]


# Other programs


def test_llm(served: ServedProcess, client: openai.OpenAI, reply: str, tmp_path: Path) -> None:
    """Its configuration for servers of this kind; JSON is YAML too."""
    name = client.models.list().data[0].id
    model = {"model_id": "bitnet", "model_name": name, "api_base": f"{served.url}/v1"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))
    # Both in one process: what it imports takes longer than what it asks.
    command = ["-m", "bitnet", "-o", "temperature", "0"]
    asked = [[*command, *more, "What is bitnet-chat?"] for more in ([], ["--no-stream"])]
    both = f"from llm.cli import cli\nfor each in {asked}: cli(each, standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", both],
        capture_output=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
        env=environment(LLM_USER_PATH=str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == (reply + "\n") * 2


def test_npm(served: ServedProcess, reply: str) -> None:
    script = published.node_modules() / "openai.mjs"
    done = subprocess.run(["node", str(script), served.url], capture_output=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr.decode()
    got = json.loads(done.stdout)
    assert got["whole"] == got["streamed"] == reply
    assert got["finish"] == "stop" and got["roles"] == 1
    assert got["usage"]["total_tokens"] == got["streamedUsage"]["total_tokens"]
    assert got["cut"]["finish_reason"] == "length" and reply.startswith(got["cut"]["message"]["content"])
    assert got["error"] == ["NotFoundError", 404, "model_not_found", "model"]


def test_all_fields_of_the_published_clients_are_known() -> None:
    """With what they send when nothing special is wanted: nothing is told, let alone refused."""
    from ollama._types import ChatRequest, Options
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase as Chat
    from openai.types.completion_create_params import CompletionCreateParamsBase as Plain

    neutral: dict[str, object] = {
        "messages": [{"role": "user", "content": "x"}],
        "prompt": "x",
        "model": "m",
        "n": 1,
        "stop": ["x"] * 5,
    }
    neutral |= {
        "stop": ["x"] * 5,
        "user": "u",
        "prompt_cache_key": "k",
        "prediction": {"type": "content", "content": "x"},
    }
    neutral |= {"reasoning_effort": "low", "max_tokens": -1, "parallel_tool_calls": False, "service_tier": "auto"}
    parsers: list[tuple[Callable[[Fields], object], Iterable[str]]] = [
        (chat_request, Chat.__annotations__),
        (completion_request, Plain.__annotations__),
        (ollama_request, ChatRequest.model_fields),
    ]
    for parse, names in parsers:
        notes = IgnoredFields()
        parse(Fields({name: neutral.get(name) for name in names}, notes=notes))
        assert not notes.lines
        needed = {name: neutral[name] for name in names if name in ("messages", "prompt", "model")}
        parse(Fields(dict.fromkeys(names) | needed))  # strictly: a name that is not known is refused
    ollama_request(Fields({"model": "m", "options": dict.fromkeys(Options.model_fields)}))
