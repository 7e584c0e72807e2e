"""Calls of tools in a stream of text, and conversations with tools in the words of a template."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import check_immutable

from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.conversation.openai_codec import encode_tool
from bitnet_chat.errors import UnsupportedError
from bitnet_chat.filters.tool_calls import (
    MalformedCall,
    ParsedCall,
    Piece,
    PlainText,
    ToolCallSplitter,
    parse,
)
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.templates.tool_format import RawToolTurn, ToolFormat, inline_tools

TEMPLATE = (Path(__file__).parents[1] / "data" / "models" / "tool-demo.jinja").read_text("utf-8")
ADD = Tool("add", "The sum.", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})


def split(text: str, cuts: list[int] | None = None, *, whole: bool = True) -> list[Piece]:
    """All pieces, texts in a row joined; the reply comes in parts that end at ``cuts``."""
    splitter = ToolCallSplitter()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts or ()), len(text)]
    pieces = [piece for start, end in pairwise(places) for piece in splitter.feed(text[start:end])]
    joined: list[Piece] = []
    for piece in [*pieces, *splitter.flush(whole=whole)]:
        if isinstance(piece, PlainText) and joined and isinstance(joined[-1], PlainText):
            joined[-1] = PlainText(joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined


def call(name: str = "f", **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_text_call_text() -> None:
    assert split(f"Let me look.\n{call(city='Oslo')}\nThen:\n{call('g')}\n") == [
        PlainText("Let me look."),
        ParsedCall("f", '{"city": "Oslo"}'),
        PlainText("\n\nThen:"),
        ParsedCall("g", "{}"),
    ]


def test_text_streams_until_it_may_be_a_tag() -> None:
    splitter = ToolCallSplitter()
    assert splitter.feed("Is 1 <") == [PlainText("Is 1")]
    assert splitter.feed(" 2? <tool") == [PlainText(" < 2?")]
    assert splitter.feed("box> ") == [PlainText(" <toolbox>")]
    assert splitter.feed("yes") == [PlainText(" yes")]
    assert splitter.flush(whole=True) == []


def test_no_call_no_change() -> None:
    for text in ("", " \n", "a\n\n", "a <tool_cal", "\n a <b> \t"):
        assert "".join(each.text for each in split(text) if isinstance(each, PlainText)) == text


def test_a_closing_tag_in_a_string_is_text() -> None:
    inner = 'a "quoted" </tool_call> \\ {"b": [1]} <tool_call>'
    for cuts in ([], list(range(200))):
        assert split(call(text=inner), cuts) == [ParsedCall("f", json.dumps({"text": inner}))]


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f, "arguments": {"a": 1}}',  # a string that does not end
        '{"name": "f", "arguments": {"a": 1}',
        '{"name": "f", "arguments": {"a": 1}}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": "no"}',
        '{"name": 1}',
        '{"arguments": {}}',
        '["f"]',
        "f(1)",
        "",
        "[" * 100_000,
    ],
)
def test_a_malformed_call_harms_nothing_else(body: str) -> None:
    for form in (f"<tool_call>\n{body}\n</tool_call>", f"<tool_call>{body}</tool_call>"):
        first, *rest = split(f"{form} and then {call('g')} the end")
        assert isinstance(first, MalformedCall) and first.why
        assert rest == [PlainText("and then"), ParsedCall("g", "{}"), PlainText("  the end")]


def test_what_is_meant_is_understood() -> None:
    assert parse('{"name": " f ", "arguments": "{\\"a\\": 1}"}') == ParsedCall("f", '{"a": 1}')
    assert parse('{"name": "f", "parameters": {"a": 1}}') == ParsedCall("f", '{"a": 1}')
    assert parse('{"name": "f"}') == ParsedCall("f", "{}")
    assert parse('{"name": "f", "arguments": {"a": "one\ntwo"}}') == ParsedCall("f", '{"a": "one\\ntwo"}')
    assert parse('{"name": "f", "arguments": "{\\"a\\": \\"one\ntwo\\"}"}') == ParsedCall("f", '{"a": "one\\ntwo"}')
    assert parse('{"name": "f", "arguments": " "}') == ParsedCall("f", "{}")


def test_arguments_hold_nothing_that_a_terminal_obeys() -> None:
    made = parse('{"name": "f", "arguments": {"a": "\\u001b[31m\\u202e\\ud800\\u009b"}}')
    assert isinstance(made, ParsedCall) and made.arguments.isascii() and "\x1b" not in made.arguments
    assert json.loads(made.arguments) == {"a": "\x1b[31m\u202e\ud800\x9b"}


@pytest.mark.parametrize("at", range(1, len(call(a=1)) - 1))
def test_a_stream_that_is_cut_calls_nothing(at: int) -> None:
    text = f"Look. {call(a=1)}"[: len("Look. ") + at]
    assert split(text, whole=False) == [PlainText("Look.")]
    # One that only lacks the rest of its closing tag is whole where the model has ended.
    ended = [each for each in split(text) if isinstance(each, ParsedCall)]
    assert ended == ([ParsedCall("f", '{"a": 1}')] if "}}" in text else [])


def test_a_stray_closing_tag_is_not_shown() -> None:
    assert split("one </tool_call> two") == [PlainText("one  two")]
    assert split("<tool</tool_call>_call>") == [PlainText("<tool _call>")]  # nor does it make one of what is around it


def test_a_call_without_end_is_noticed() -> None:
    splitter = ToolCallSplitter()
    assert splitter.feed("So: <tool_call>") == [PlainText("So:")] and splitter.call_size == 0
    for size in (1000, 2000):
        assert splitter.feed("x" * 1000) == [] and splitter.call_size == size
    splitter.feed("</tool_call>")
    assert splitter.call_size == 0


@pytest.mark.timeout(20)
def test_long_white_space_costs_no_time_and_is_no_long_call() -> None:
    splitter = ToolCallSplitter()
    assert splitter.feed(" " * 500_000) == [] and splitter.call_size == 0
    assert splitter.feed(call()) == [ParsedCall("f", "{}")]


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("<tool_call></tool_call> y", ""),
        ('<tool_call>"</tool_call> y', '"'),
        ('<tool_call>"x</tool_call> y', '"x'),
        ('<tool_call>{"a": "x"</tool_call> y', '{"a": "x"'),
        ('<tool_call>{"a": "x</tool_call> y', '{"a": "x'),
        ('<tool_call>{"a": "</tool_call> y', '{"a": "'),
        ('<tool_call>{"a": "x\\</tool_call> y', '{"a": "x\\'),
    ],
)
def test_a_slip_ends_with_the_closing_tag(text: str, body: str) -> None:
    for more in ("", "\nz"):
        malformed, rest = split(text + more)
        assert isinstance(malformed, MalformedCall) and malformed.text == body and rest == PlainText("y" + more)
        assert split(text + more, list(range(len(text)))) == [malformed, rest]


def test_a_call_is_there_with_its_closing_tag() -> None:
    assert ToolCallSplitter().feed('<tool_call>{"name": "f"}</tool_call>') == [ParsedCall("f", "{}")]
    assert ToolCallSplitter().feed('<tool_call>{"name": "f\\""}</tool_call>') == [ParsedCall('f"', "{}")]
    malformed, rest = ToolCallSplitter().feed('<tool_call>{"a": "x\\\n</tool_call> y')
    assert isinstance(malformed, MalformedCall) and rest == PlainText("y"), "no string goes beyond its line"


def test_pieces_are_immutable() -> None:
    for piece in (PlainText("a"), ParsedCall("f", "{}"), MalformedCall("x", "y")):
        check_immutable(piece)


_PARTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "_call>",
        '"',
        "\\",
        "\n",
        " ",
        "{",
        "}",
        "a",
        '{"name": "f"}',
        call(a=1),
        "<",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_PARTS, max_size=14).map("".join), st.lists(st.integers(0, 120), max_size=6), st.booleans())
def test_pieces_make_no_difference(text: str, cuts: list[int], whole: bool) -> None:
    expected = split(text, whole=whole)
    assert split(text, cuts, whole=whole) == expected
    assert split(text, list(range(len(text))), whole=whole) == expected
    shown = "".join(each.text for each in expected if isinstance(each, PlainText))
    assert "<tool_call>" not in shown and "</tool_call>" not in shown


# Templates

SYSTEM_OF_ITS_OWN = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>tool\n{{ m.content }}<|im_end|>\n"
    "{% elif m.tool_calls %}<|im_start|>assistant\n{% for c in m.tool_calls %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(source: str = TEMPLATE) -> ChatTemplate:
    return ChatTemplate(source, name="of the test")


def asked(system: str = "Be kind.") -> Conversation:
    calls = (ToolCall("1", "add", '{"a": 1}'), ToolCall("2", "add", '{"a": 2}'))
    conversation = Conversation().with_system(system).with_user("Add.").with_assistant("So:", None, "", calls)
    return conversation.with_tool_result(calls[0], "one").with_tool_result(calls[1], "two")


@pytest.mark.parametrize("system", ["Be kind.", ""])
def test_the_plain_conversation_renders_as_the_template_itself_would(system: str) -> None:
    ours = inline_tools(asked(system), [ADD], ToolFormat(template()))
    assert [each.role for each in ours.turns] == ["user", "assistant", "user"]
    assert not any(each.tool_calls for each in ours.messages)
    assert template().render(ours, reply_follows=True) == template().render(
        asked(system), reply_follows=True, tools=[encode_tool(ADD)]
    )


def test_a_template_with_tools_in_a_message_of_their_own() -> None:
    format = ToolFormat(template(SYSTEM_OF_ITS_OWN))
    ours = inline_tools(asked(), [ADD], format)
    assert ours.system.startswith("Tools: [") and ours.system.endswith("\n\nBe kind.") and "<|im_" not in ours.system
    assert ours.turns[1].content.startswith("So:\n<tool_call>")
    assert ours.turns[2].content == "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
    assert "Be kind" not in inline_tools(asked(""), [ADD], format).system


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_without_a_form_for_tools_says_so(name: str) -> None:
    with pytest.raises(UnsupportedError, match="tools is not supported here: the chat template"):
        ToolFormat(template(TEMPLATES[name]))


def test_calls_in_a_form_that_is_not_read_here() -> None:
    with pytest.raises(UnsupportedError, match="in an unsupported form"):
        ToolFormat(template(TEMPLATE.replace("<tool_call>", "<function_call>")))


def test_what_was_really_said_is_kept() -> None:
    conversation = asked()
    said = RawToolTurn((Message("assistant", "So: <tool_call>{}</tool_call>"),), ("error: three",))
    ours = inline_tools(conversation, [ADD], None, lambda message: said if message.tool_calls else None)
    assert ours.turns[1].content == "So: <tool_call>{}</tool_call>"
    assert ours.turns[2].content.endswith("<tool_response>\nerror: three\n</tool_response>")


def test_messages_in_a_row_become_one() -> None:
    ours = inline_tools(asked().with_user("Never mind."), [], None)
    assert [each.role for each in ours.turns] == ["user", "assistant", "user"]
    assert ours.turns[2].content.endswith("</tool_response>\n\nNever mind.")
