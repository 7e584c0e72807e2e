"""The JSON of the OpenAI chat format: known answers, and messages that come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.conversation.api_messages import conversation_of
from bitnet_chat.conversation.json_fields import Fields
from bitnet_chat.conversation.openai_codec import (
    decode_arguments,
    decode_conversation,
    decode_tool_call,
    encode_message,
    encode_ollama_message,
    encode_response_format,
    encode_template_message,
    encode_tool,
    encode_tool_call,
    encode_tool_choice,
    well_formed_call,
)
from bitnet_chat.errors import FinishReason

CALL = ToolCall("c1", "add", '{"a": 1}')
CALLED = Message("assistant", "", FinishReason.TOOL_CALLS, "Hm.", (CALL,))
RESULT = Message("tool", "2", call_id="c1", tool_name="add")
FUNCTION = '{"name": "add", "arguments": "{\\"a\\": 1}"}'


@pytest.mark.parametrize(
    ("encode", "message", "text"),
    [
        (encode_message, Message("user", "é"), '{"role": "user", "content": "é"}'),
        (
            encode_message,
            CALLED,
            '{"role": "assistant", "content": null, "tool_calls":'
            f' [{{"id": "c1", "type": "function", "function": {FUNCTION}}}]}}',
        ),
        (encode_message, RESULT, '{"role": "tool", "content": "2", "tool_call_id": "c1"}'),
        (
            encode_template_message,
            CALLED,
            '{"role": "assistant", "content": "", "tool_calls":'
            ' [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}',
        ),
        (
            encode_template_message,
            RESULT,
            '{"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"}',
        ),
        (
            encode_ollama_message,
            CALLED,
            '{"role": "assistant", "content": "",'
            ' "tool_calls": [{"function": {"index": 0, "name": "add", "arguments": {"a": 1}}}]}',
        ),
        (encode_ollama_message, RESULT, '{"role": "tool", "tool_name": "add", "content": "2"}'),
    ],
)
def test_messages(encode: Callable[[Message], object], message: Message, text: str) -> None:
    assert json.dumps(encode(message), ensure_ascii=False) == text


@pytest.mark.parametrize("arguments", ["[1]", "{", "[" * 100_000])
def test_arguments_that_are_not_an_object(arguments: str) -> None:
    broken = Message("assistant", "", tool_calls=(ToolCall("c1", "add", arguments),))
    assert encode_ollama_message(broken)["tool_calls"] == [{"function": {"index": 0, "name": "add", "arguments": {}}}]
    if arguments != "[1]":
        with pytest.raises((ValueError, RecursionError)):
            encode_template_message(broken)


def test_tools_and_choices() -> None:
    empty = {"type": "object", "properties": {}}
    assert encode_tool(Tool("f")) == {
        "type": "function",
        "function": {"name": "f", "description": "", "parameters": empty},
    }
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert encode_tool(Tool("f", "Does.", schema))["function"] == {
        "name": "f",
        "description": "Does.",
        "parameters": schema,
    }
    for choice in ("auto", "none", "required"):
        assert encode_tool_choice(choice) == choice
    assert encode_tool_choice("f") == {"type": "function", "function": {"name": "f"}}


def test_formats() -> None:
    assert encode_response_format(None) == {"type": "json_object"}
    described = {"name": "reply", "strict": True, "schema": {"type": "object"}}
    assert encode_response_format({"type": "object"}) == {"type": "json_schema", "json_schema": described}
    assert encode_response_format({})["type"] == "json_schema"


def test_bytes_that_are_not_utf_8() -> None:
    assert well_formed_call(ToolCall("c\udc80", "f\udc80", '{"é": "\udc80"}')) == ToolCall(
        "c\udc80", "f\ufffd", '{"é": "\ufffd"}'
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is not an object with 'function'"),
        ({"function": "f"}, "is not an object with 'function'"),
        ({"function": {"name": "", "arguments": "{}"}}, "has no 'name'"),
        ({"function": {"arguments": "{}"}}, "has no 'name'"),
        ({"id": 1, "function": {"name": "f", "arguments": "{}"}}, "an 'id' that is not a string"),
        ({"function": {"name": "f"}}, "has 'arguments' that are not a JSON object"),
        ({"function": {"name": "f", "arguments": "{"}}, "has 'arguments' that are not a JSON object"),
        ({"function": {"name": "f", "arguments": "[" * 100_000}}, "has 'arguments' that are not a JSON object"),
    ],
)
def test_calls_that_cannot_be_used(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_tool_call(value, "c1")


def test_a_call_without_an_id_gets_one() -> None:
    assert decode_tool_call({"function": {"name": "f", "arguments": {"é": 1}}}, "c9") == ToolCall("c9", "f", '{"é": 1}')


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())))
def test_arguments_as_a_text_and_as_an_object(arguments: dict[str, object]) -> None:
    text = json.dumps(arguments, ensure_ascii=False)
    assert decode_arguments(arguments) == decode_arguments(text) == text


texts = st.text(min_size=1)
objects = st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())).map(json.dumps)


@st.composite
def turns(draw: st.DrawFn) -> tuple[Message, ...]:
    """A user message, a reply with calls, their results, and a reply to them."""
    made = [ToolCall(f"c{number}", draw(texts), draw(objects)) for number in range(draw(st.integers(0, 3)))]
    results = [Message("tool", draw(st.text()), call_id=each.id, tool_name=each.name) for each in made]
    asked = (Message("user", draw(texts)),)
    if not made:
        return (*asked, Message("assistant", draw(texts)))
    called = Message("assistant", draw(st.text()), FinishReason.TOOL_CALLS, tool_calls=tuple(made))
    return (*asked, called, *results, Message("assistant", draw(texts)))


@given(texts, st.lists(turns(), min_size=1, max_size=3))
def test_a_conversation_comes_back_as_it_was(system: str, parts: list[tuple[Message, ...]]) -> None:
    messages = (Message("system", system), *(message for part in parts for message in part))
    conversation = Conversation(messages)
    sent = json.loads(json.dumps([encode_message(each) for each in messages]))
    assert decode_conversation(sent) == conversation
    asked = Conversation((*messages, Message("user", "Go on.")))
    fields = [Fields(encode_message(each), f"messages[{at}]") for at, each in enumerate(asked.messages)]
    bare = [(each.role, each.content, each.tool_calls, each.call_id, each.tool_name) for each in asked.messages]
    read = conversation_of(fields).messages
    assert [(each.role, each.content, each.tool_calls, each.call_id, each.tool_name) for each in read] == bare


@given(texts, texts, objects)
def test_a_call_comes_back_as_it_was(id: str, name: str, arguments: str) -> None:
    call = ToolCall(id, name, arguments)
    assert decode_tool_call(json.loads(json.dumps(encode_tool_call(call))), "other") == call
