"""Requests of the OpenAI API, taken apart: obeyed, ignored with a notice, or refused by name."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.backend import ReplyOptions, ResponseFormat, Sampling
from bitnet_chat.batch import read_jobs
from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.conversation.api_messages import MOST_MESSAGES, conversation_of
from bitnet_chat.conversation.json_fields import Fields, IgnoredFields
from bitnet_chat.errors import FinishReason, InvalidFieldError
from bitnet_chat.server.ollama.requests import chat_request as ollama_request
from bitnet_chat.server.openai.requests import OpenAIRequest, chat_request, completion_request

HELLO = [{"role": "user", "content": "hello"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
TEXT = [{"type": "text", "text": "x"}]


def read(*messages: Mapping[str, object]) -> tuple[Message, ...]:
    """As ``--strict`` does."""
    fields = Fields({"messages": list(messages)}).needed_objects("messages")
    return conversation_of(fields).messages


def noted(**body: object) -> tuple[OpenAIRequest, list[str]]:
    """The request, and what its reply will tell of it."""
    notes = IgnoredFields()
    return chat_request(Fields({"messages": HELLO, **body}, notes=notes)), notes.lines


def said(role: str, content: object = "x", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def test_messages_become_a_conversation() -> None:
    assert read(
        said("system", "s"),
        said("developer", "d"),
        said("user", "one"),
        said("user", [{"type": "text", "text": "two"}, {"type": "text", "text": "2"}]),
        said("assistant", "a", refusal=None, annotations=[], reasoning_content="hm", tool_calls=None, audio=None),
        said("user", "three"),
    ) == (
        Message("system", "s\n\nd"),
        Message("user", "one\n\ntwo\n2"),
        Message("assistant", "a"),
        Message("user", "three"),
    )


def test_calls_and_their_results() -> None:
    other = {**CALL, "id": "c2", "index": 1}
    assert read(
        said("user"),
        {"role": "assistant", "tool_calls": [CALL, other]},
        said("tool", "2", tool_call_id="c2", name="add"),
        said("tool", TEXT, tool_call_id="c1"),
    ) == (
        Message("user", "x"),
        Message("assistant", "", tool_calls=(ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "add", '{"a": 1}'))),
        Message("tool", "2", call_id="c2", tool_name="add"),
        Message("tool", "x", call_id="c1", tool_name="add"),
    )


@pytest.mark.parametrize(
    ("kind", "noun"),
    [("image_url", "image"), ("input_image", "image"), ("input_audio", "audio"), ("video", "video"), ("x", "other")],
)
def test_other_input_than_text_is_refused_in_words_for_the_user(kind: str, noun: str) -> None:
    with pytest.raises(InvalidFieldError, match=f"{noun} input is not supported, only text is; remove it"):
        read(said("user", [{"type": kind}]))


ASKED = [said("user"), said("assistant", None, tool_calls=[CALL])]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"content": "x"}], "messages[0].role"),
        ([said("robot")], "messages[0].role"),
        ([said("user", [1])], "messages[0].content[0]"),
        ([said("user", "")], "messages[0].content"),
        ([said("system")], "messages[0].role"),
        ([said("assistant")], "messages[0].role"),
        ([said("user", images=["x"])], "messages[0].images"),
        ([{"role": "user"}], "messages[0].content"),
        ([said("user", None)], "messages[0].content"),
        ([said("user", 5)], "messages[0].content"),
        ([said("user", [{"type": "image_url", "image_url": {"url": "x"}}])], "messages[0].content[0].type"),
        ([said("user", [{"type": "input_audio"}])], "messages[0].content[0].type"),
        ([said("user", [{"type": "text", "text": "x", "cache": 1}])], "messages[0].content[0].cache"),
        ([said("user", name="Bob")], "messages[0].name"),
        ([said("user", weight=1)], "messages[0].weight"),
        ([said("user"), said("system")], "messages[1].role"),
        ([said("user"), said("assistant", audio={"id": "a"}), said("user")], "messages[1].audio"),
        (ASKED, "messages"),
        ([*ASKED, said("user")], "messages[2].role"),
        ([*ASKED, said("tool", tool_call_id="c9")], "messages[2].tool_call_id"),
        ([*ASKED, said("tool", tool_call_id="c1"), said("tool", tool_call_id="c1")], "messages[3].tool_call_id"),
        ([said("user"), said("assistant", tool_calls=[{**CALL, "type": "custom"}])], "messages[1].tool_calls[0].type"),
        (
            [said("user"), said("assistant", tool_calls=[{"id": "x", "function": {"name": "f", "arguments": "{"}}])],
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_message_that_cannot_be_used_is_named(messages: list[dict[str, object]], param: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        read(*messages)
    assert refused.value.param == param, refused.value.what


def test_parameters_become_options() -> None:
    request = chat_request(
        Fields(
            {
                "model": "m",
                "messages": HELLO,
                "max_tokens": 50,
                "max_completion_tokens": 40,
                "temperature": 0,
                "top_p": 0.9,
                "top_k": 40,
                "min_p": 0.1,
                "repeat_penalty": 1.1,
                "seed": 7,
                "presence_penalty": -1,
                "frequency_penalty": 2,
                "stop": ["a", "b"],
                "tools": [ADD],
                "tool_choice": {"type": "function", "function": {"name": "add"}},
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}, "strict": True},
                },
                "stream": True,
                "stream_options": {"include_usage": True},
                # what changes nothing
                "user": "u",
                "metadata": {"a": "b"},
                "store": False,
                "n": 1,
                "logprobs": False,
                "logit_bias": {},
                "modalities": ["text"],
                "parallel_tool_calls": True,
                "service_tier": "auto",
                "functions": None,
                "safety_identifier": "x",
                "prompt_cache_key": "y",
            }
        )
    )
    assert request.conversation == Conversation().with_user("hello")
    assert (request.model, request.stream, request.usage) == ("m", True, True)
    assert request.options == ReplyOptions(
        max_tokens=40,
        sampling=Sampling(0.0, 0.9, 40, 0.1, 7, 1.1, -1.0, 2.0),
        stop=("a", "b"),
        tools=(Tool("add", "Adds.", {"type": "object"}),),
        tool_choice="add",
        format=ResponseFormat({"description": "d", "type": "object"}),
    )


def test_little_is_needed() -> None:
    request = chat_request(Fields({"messages": HELLO}))
    assert request.options == ReplyOptions() and not request.stream and not request.model
    assert chat_request(Fields({"messages": HELLO, "response_format": {"type": "json_object"}})).options.format == (
        ResponseFormat()
    )
    assert chat_request(Fields({"messages": HELLO, "stop": "x"})).options.stop == ("x",)


@pytest.mark.parametrize(
    ("seed", "used"), [(0, 0), (2**32 - 2, 2**32 - 2), (2**32 - 1, 0), (-1, 2**32 - 2), (-(2**63), 0)]
)
def test_every_seed_is_one_of_an_engine(seed: int, used: int) -> None:
    given = chat_request(Fields({"messages": HELLO, "seed": seed})).options.sampling.seed
    assert given is not None and 0 <= given < 2**32 - 1
    if seed != -(2**63):
        assert given == used


NAMED = {"type": "function", "function": {"name": "sub"}}


@pytest.mark.parametrize(
    ("parameter", "value", "param"),
    [
        ("n", 9, "n"),
        ("n", 0, "n"),
        ("n_cmpl", 1.5, "n_cmpl"),
        ("logprobs", True, "logprobs"),
        ("top_logprobs", 3, "top_logprobs"),
        ("logit_bias", {"50256": -100}, "logit_bias"),
        ("modalities", ["text", "audio"], "modalities"),
        ("audio", {"voice": "x"}, "audio"),
        ("web_search_options", {}, "web_search_options"),
        ("verbosity", "low", "verbosity"),
        ("service_tier", "flex", "service_tier"),
        ("store", True, "store"),
        ("temperature", 2.1, "temperature"),
        ("temperature", "0", "temperature"),
        ("top_p", -0.1, "top_p"),
        ("seed", 1.5, "seed"),
        ("max_tokens", 0, "max_tokens"),
        ("presence_penalty", 3, "presence_penalty"),
        ("stop", [""], "stop"),
        ("stop", [1], "stop[0]"),
        ("stop", 1, "stop"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("messages", "hello", "messages"),
        ("messages", None, "messages"),
        ("model", 5, "model"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a b"}},
            "response_format.json_schema.name",
        ),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format.json_schema.schema",
        ),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
        ("tools", [{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ("tools", [ADD, ADD], "tools"),
        ("tools", [{"type": "function", "function": {"name": "a", "parameters": []}}], "tools[0].function.parameters"),
        ("tool_choice", "required", "tool_choice"),
        ("tool_choice", "sometimes", "tool_choice"),
        ("tool_choice", {"type": "allowed_tools"}, "tool_choice.type"),
        ("tool_choice", NAMED, "tool_choice.function.name"),
        ("functions", [{"name": "f"}], "functions"),
        ("grammar", "root ::= x", "grammar"),
        ("guided_regex", "x", "guided_regex"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs.messages"),
        ("think", "yes", "think"),
        ("Temperature", 1, "Temperature"),
    ],
)
def test_strictly_what_is_not_supported_is_refused_by_name(parameter: str, value: object, param: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        chat_request(Fields({"messages": HELLO, parameter: value}))
    assert refused.value.param == param
    assert refused.value.what.startswith(param)


IGNORED: list[tuple[str, object, str]] = [
    ("verbosity", "low", "verbosity"),
    ("service_tier", "flex", "service_tier"),
    ("store", True, "store"),
    ("Temperature", 1, "Temperature"),
    ("mirostat", 2, "mirostat"),
    ("stream_options", {"include_usage": True}, "stream_options requires stream: true"),
    ("messages", [said("user", name="Bob", weight=1), said("user", name="Eve")], "messages[].name, messages[].weight"),
    ("messages", [said("user", [{"type": "text", "text": "x", "colour": 1}])], "messages[].content[].colour"),
    ("tools", [{**ADD, "defer": 1}], "tools[].defer"),
    ("tools", [{"type": "function", "function": {"name": "a", "x": 1}}], "tools[].function.x"),
    ("response_format", {"type": "json_object", "x": 1}, "response_format.x"),
]


@pytest.mark.parametrize(("parameter", "value", "told"), IGNORED, ids=lambda value: str(value)[:40])
def test_what_can_be_ignored_without_lying_is_ignored_and_told(parameter: str, value: object, told: str) -> None:
    _, lines = noted(**{parameter: value})
    assert len(lines) == 1 and lines[0].removeprefix("without effect here: ") == told
    with pytest.raises(InvalidFieldError):
        chat_request(Fields({"messages": HELLO, parameter: value}))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n", 9),
        ("logprobs", True),
        ("logit_bias", {"1": 1}),
        ("modalities", ["audio"]),
        ("grammar", "x"),
        ("functions", [{"name": "f"}]),
        ("web_search_options", {}),
        ("tool_choice", "required"),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("messages", [said("user", [{"type": "image_url", "image_url": {"url": "x"}}])]),
    ],
    ids=str,
)
def test_another_kind_of_answer_than_the_one_asked_for_is_never_given(parameter: str, value: object) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        noted(**{parameter: value})
    assert refused.value.param.startswith(parameter)


def test_what_frameworks_send_is_obeyed() -> None:
    call = {"type": "function", "function": {"name": "math.add:" + "x" * 119, "strict": True}, "cache_control": {}}
    many = [{"type": "function", "function": {"name": f"t{number}"}} for number in range(200)]
    asked, lines = noted(
        tools=[call, *many],
        parallel_tool_calls=False,
        max_tokens=-1,
        n_predict=7,
        stop=[str(number) for number in range(20)],
        repetition_penalty=1.2,
        response_format={"type": "json_object", "schema": {"type": "array"}},
        reasoning_effort="low",
        chat_template_kwargs={"enable_thinking": False, "x": [1]},
        think=True,
        cache_prompt=True,
    )
    assert not lines and asked.one_call and len(asked.options.tools) == 201 and len(asked.options.stop) == 20
    assert asked.options.tools[0].name.startswith("math.add:") and asked.options.max_tokens == 7
    assert asked.options.sampling.repeat_penalty == 1.2
    assert asked.options.format == ResponseFormat({"type": "array"})
    wanted = {"reasoning_effort": "low", "enable_thinking": False, "thinking": True, "x": [1]}
    assert asked.options.template == wanted
    assert noted(reasoning_effort="none")[0].options.template == {"enable_thinking": False, "thinking": False}
    assert noted(top_k=-1)[0].options.sampling.top_k == 0
    for stop, left in (("", ()), (["", "x"], ("x",))):
        asked, lines = noted(stop=stop)
        assert asked.options.stop == left and lines == ["stop has an empty text, which is left out"]
    for format in (
        {"type": "json_schema", "schema": {"type": "array"}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}},
    ):
        assert noted(response_format=format)[0].options.format == ResponseFormat({"type": "array"})
    for name in ("json_schema", "guided_json"):
        assert noted(**{name: {"type": "array"}})[0].options.format == ResponseFormat({"type": "array"})
    assert ollama_request(Fields({"model": "m", "messages": HELLO, "think": "high"})).options.template == {
        "enable_thinking": True,
        "thinking": True,
        "reasoning_effort": "high",
    }


OLD_CALL = {"name": "add", "arguments": '{"a": 1}'}
U, A = Message("user", "x"), Message("assistant", "x")


@pytest.mark.parametrize(
    ("messages", "read", "told"),
    [
        ([said("user"), said("system", "s"), said("system", "t")], (Message("system", "s\n\nt"), U), "moved before"),
        ([said("assistant"), said("user")], (A, U), ""),
        ([said("user"), said("assistant", "So")], (U, Message("assistant", "So", FinishReason.LENGTH)), ""),
        (
            [said("user"), said("assistant", ""), said("user", "y")],
            (U, Message("assistant", ""), Message("user", "y")),
            "",
        ),
        ([said("user"), said("assistant", "")], (U,), ""),
        ([said("user", ""), said("user"), said("user", "")], (U,), ""),
        ([said("system", ""), said("user", "")], (Message("user", " "),), "is empty"),
        ([said("system")], (U,), "the only message"),
        (
            [said("user"), said("assistant"), said("assistant", "y"), said("user")],
            (U, Message("assistant", "x\n\ny"), U),
            "",
        ),
        (
            [said("user"), said("assistant"), said("assistant", None, tool_calls=[CALL]), said("user")],
            (
                U,
                Message("assistant", "x", tool_calls=(ToolCall("c1", "add", '{"a": 1}'),)),
                Message("tool", "error: the tool was not called", call_id="c1", tool_name="add"),
                U,
            ),
            "without results",
        ),
        (
            [said("user"), said("assistant", None, function_call=OLD_CALL), said("function", "1", name="add")],
            (
                U,
                Message("assistant", "", tool_calls=(ToolCall("call_1", "add", '{"a": 1}'),)),
                Message("tool", "1", call_id="call_1", tool_name="add"),
            ),
            "",
        ),
        ([said("user", ["x", "y"])], (Message("user", "x\ny"),), ""),
        ([said("user", None), said("user")], (U,), "is missing: the message is empty"),
        ([{"role": "system"}, {"role": "user"}, said("user")], (U,), "is missing: the message is empty"),
        (  # of a client that keeps the text of a reply, and not its calls
            [said("user"), said("assistant"), said("tool", "1", tool_call_id="c9", name="add"), said("user")],
            (
                U,
                Message("assistant", "x", tool_calls=(ToolCall("c9", "add", "{}"),)),
                Message("tool", "1", call_id="c9", tool_name="add"),
                U,
            ),
            "a call without arguments is added",
        ),
        (  # of a client that has cut the beginning of its history
            [said("user"), said("tool", "1", tool_call_id="c9", name="add"), said("tool", "2"), said("user")],
            (
                U,
                Message("assistant", "", tool_calls=(ToolCall("c9", "add", "{}"),)),
                Message("tool", "1", call_id="c9", tool_name="add"),
                Message("assistant", "", tool_calls=(ToolCall("call_3", "tool", "{}"),)),
                Message("tool", "2", call_id="call_3", tool_name="tool"),
                U,
            ),
            "a call without arguments is added",
        ),
        (
            [said("user"), said("assistant", [{"type": "thinking", "thinking": "t"}, *TEXT]), said("user")],
            (U, A, U),
            "",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_messages_in_any_order_are_the_same_for_each_way_in(
    messages: list[dict[str, object]], read: tuple[Message, ...], told: str
) -> None:
    asked, lines = noted(messages=messages)
    assert asked.conversation.messages == read
    assert len(lines) == bool(told) and all(told in line for line in lines)
    given = Fields({"model": "m", "messages": messages}, notes=IgnoredFields())
    assert ollama_request(given).conversation == asked.conversation
    (job,) = read_jobs(iter([json.dumps({"messages": messages}).encode()]))
    assert job.conversation == asked.conversation and list(job.notes) == lines


def test_messages_are_read_in_time_that_grows_with_their_number() -> None:
    """Ten times as many take no more than thirty times as long, whatever their order; the worst was a hundred."""

    def seconds(number: int, *kinds: dict[str, object]) -> float:
        given = Fields({"messages": [*kinds] * (number // len(kinds))}, notes=IgnoredFields())
        gc.disable()  # what it takes depends on all that other tests have left
        try:
            began = time.process_time()
            conversation_of(given.needed_objects("messages"))
            return time.process_time() - began
        finally:
            gc.enable()

    kinds = [said("system"), said("user", "x" * 99), said("user"), said("assistant", None, tool_calls=[CALL])]
    kinds.append(said("tool", tool_call_id="c1"))
    few = min(seconds(MOST_MESSAGES // 10, *kinds) for _ in range(3))
    assert min(seconds(MOST_MESSAGES, *kinds) for _ in range(3)) < 30 * few
    with pytest.raises(InvalidFieldError, match="10,001 messages; the maximum is 10,000"):
        noted(messages=[said("user")] * (MOST_MESSAGES + 1))


def test_a_prompt_becomes_a_message_of_a_user() -> None:
    for prompt in ("once", ["once"]):
        request = completion_request(
            Fields({"model": "m", "prompt": prompt, "max_tokens": 5, "stop": "x", "best_of": 1})
        )
        assert request.conversation == Conversation().with_user("once")
        assert request.options == ReplyOptions(max_tokens=5, stop=("x",))


@pytest.mark.parametrize(
    ("parameter", "value", "param"),
    [
        ("prompt", None, "prompt"),
        ("prompt", "", "prompt"),
        ("prompt", ["a", "b"], "prompt"),
        ("prompt", [], "prompt"),
        ("prompt", [1, 2], "prompt[0]"),
        ("prompt", [[1, 2]], "prompt[0]"),
        ("suffix", "x", "suffix"),
        ("echo", True, "echo"),
        ("logprobs", 0, "logprobs"),
        ("best_of", 2, "best_of"),
        ("n", 9, "n"),
        ("messages", HELLO, "messages"),
        ("tools", [], "tools"),
    ],
)
def test_a_completion_refuses_by_name_too(parameter: str, value: object, param: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        completion_request(Fields({"prompt": "once", parameter: value}))
    assert refused.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "x"]), "content": st.just("x") | JSON},
    optional={"tool_calls": st.just([CALL]) | JSON, "tool_call_id": st.just("c1") | JSON},
)
NAMES = ["model", "stream", "stream_options", "stop", "tools", "tool_choice", "response_format", "seed", "logit_bias"]


@given(
    messages=st.lists(MESSAGE, max_size=5) | JSON,
    more=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3),
)
def test_anything_is_a_request_or_a_refusal(messages: Any, more: dict[str, Any]) -> None:
    try:
        conversation = chat_request(Fields({"messages": messages, **more}, notes=IgnoredFields())).conversation
    except InvalidFieldError:
        return
    roles = [message.role for message in conversation.messages]
    assert "user" in roles and "system" not in roles[1:]
    assert all(not (one == two == "user") for one, two in pairwise(roles))
