"""Conversations: each change makes a new one, and what comes from outside is checked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import check_immutable

from bitnet_chat.conversation import Conversation, Message, Tool, ToolCall
from bitnet_chat.conversation.message import NOT_CALLED
from bitnet_chat.errors import FinishReason, UsageError

WEATHER = ToolCall("1", "get_weather", '{"city": "Oslo"}')
ADD = ToolCall("2", "add", "{}")
SYSTEM, HELLO, HI, BYE = (
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hi", FinishReason.STOP),
    Message("user", "Bye"),
)
ASKED = Conversation().with_user("Weather?").with_assistant("", FinishReason.TOOL_CALLS, "", (WEATHER, ADD))


def test_records_are_immutable() -> None:
    for record in (Tool("f"), WEATHER, HELLO, ASKED):
        check_immutable(record)
    tools = {Tool("f", "", {"type": "object"}), Tool("f", "", {"type": "object"})}
    assert len(tools) == 1, "the parameters of a tool are not hashed"


@pytest.mark.parametrize("finish", [None, *FinishReason])
def test_replies_that_were_cut(finish: FinishReason | None) -> None:
    whole = {None, FinishReason.STOP, FinishReason.ROLE_MARKER, FinishReason.EMPTY, FinishReason.TOOL_CALLS}
    assert Message("assistant", "x", finish).was_cut == (finish not in whole)


def test_parts_of_a_conversation() -> None:
    talk = Conversation((SYSTEM, HELLO, HI))
    assert (talk.system, talk.turns, talk.last) == ("Be kind.", (HELLO, HI), HI)
    assert (Conversation((HELLO, HI)).system, Conversation((HELLO,)).turns) == ("", (HELLO,))
    assert (Conversation().system, Conversation().turns, Conversation().last) == ("", (), None)
    assert Conversation((SYSTEM,)).turns == () and Conversation((SYSTEM,)).last == SYSTEM


def test_the_system_prompt_is_replaced() -> None:
    talk = Conversation((HELLO, HI))
    assert talk.with_system("Be kind.").messages == (SYSTEM, HELLO, HI)
    assert talk.with_system("x").with_system("Be kind.").messages == (SYSTEM, HELLO, HI)
    assert talk.with_system("Be kind.").with_system("") == talk
    assert talk.with_system("Be kind.").cleared() == Conversation((SYSTEM,)) and talk.cleared() == Conversation()


def test_the_end_of_a_conversation_is_dropped() -> None:
    talk = Conversation((SYSTEM, HELLO, HI, BYE))
    assert talk.without_last_reply() == talk
    assert Conversation((SYSTEM, HELLO, HI)).without_last_reply() == Conversation((SYSTEM, HELLO))
    assert Conversation().without_last_reply() == Conversation()
    assert talk.without_last_turn() == Conversation((SYSTEM, HELLO, HI))
    assert talk.without_last_turn().without_last_turn() == Conversation((SYSTEM,))
    assert Conversation((HELLO, HI)).without_last_turn() == Conversation()
    assert Conversation((SYSTEM, HI)).without_last_turn() == Conversation((SYSTEM, HI))


def test_open_calls() -> None:
    assert ASKED.open_calls == (WEATHER, ADD)
    assert ASKED.with_tool_result(ADD, "3").open_calls == (WEATHER,)
    answered = ASKED.with_tool_result(WEATHER, "fine").with_tool_result(ADD, "3")
    assert answered.open_calls == () == Conversation((HELLO,)).open_calls == Conversation().open_calls
    assert answered.messages[2] == Message("tool", "fine", call_id="1", tool_name="get_weather")
    assert answered.with_assistant("Fine.").open_calls == ()


def test_calls_with_one_id_need_a_result_each() -> None:
    twice = Conversation((HELLO,)).with_assistant("", FinishReason.TOOL_CALLS, "", (ADD, ADD))
    once = twice.with_tool_result(ADD, "3")
    assert twice.open_calls == (ADD, ADD) and once.open_calls == (ADD,)
    assert once.with_tool_result(ADD, "4").open_calls == ()


def test_open_calls_are_answered_before_a_user_message() -> None:
    talk = ASKED.with_tool_result(WEATHER, "fine").with_user("And?")
    not_called = Message("tool", NOT_CALLED, call_id="2", tool_name="add")
    assert talk.messages[3:] == (not_called, Message("user", "And?"))
    assert ASKED.with_all_answered("no").messages[2:] == (
        Message("tool", "no", call_id="1", tool_name="get_weather"),
        Message("tool", "no", call_id="2", tool_name="add"),
    )
    assert Conversation((HELLO, HI)).with_all_answered() == Conversation((HELLO, HI))


def test_messages_of_the_openai_api() -> None:
    call = {"id": "1", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    dicts = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "fine", "tool_call_id": "1"},
        {"role": "assistant", "content": "Fine."},
        {"role": "user", "content": "Bye"},
    ]
    assert Conversation.from_dicts(dicts).messages == (
        SYSTEM,
        Message("user", "a\nb"),
        Message("assistant", "", FinishReason.TOOL_CALLS, tool_calls=(WEATHER,)),
        Message("tool", "fine", call_id="1", tool_name="get_weather"),
        Message("assistant", "Fine."),
        BYE,
    )
    assert Conversation.from_dicts([]) == Conversation()
    ignored = {"role": "user", "content": "Hello", "tool_calls": "x"}
    assert Conversation.from_dicts([ignored]) == Conversation((HELLO,)), "only an assistant calls"


def test_calls_of_the_openai_api() -> None:
    functions = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": "{}"}}]
    dicts = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "", "tool_calls": functions}]
    first, second = Conversation.from_dicts(dicts).messages[-1].tool_calls
    assert (first.name, first.arguments, second.name, second.arguments) == ("f", '{"a": 1}', "g", "{}")
    assert first.id and second.id and first.id != second.id
    for none in (None, []):
        dicts[1] = {"role": "assistant", "content": "r", "tool_calls": none}
        assert Conversation.from_dicts(dicts).messages[-1].tool_calls == ()


def test_a_result_belongs_to_the_call_with_its_id() -> None:
    asked = [
        {"role": "user", "content": "u"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": id, "function": {"name": id * 2, "arguments": "{}"}} for id in "ab"],
        },
    ]

    def results(*ids: str | None) -> list[tuple[str, str]]:
        dicts = [{"role": "tool", "content": "r"} | ({} if id is None else {"tool_call_id": id}) for id in ids]
        return [(each.call_id, each.tool_name) for each in Conversation.from_dicts([*asked, *dicts]).messages[2:]]

    assert results("b", "a") == [("b", "bb"), ("a", "aa")]
    assert results(None, None) == [("a", "aa"), ("b", "bb")], "without an id: the first open call"
    with pytest.raises(UsageError, match="message 3 is a result: no tool call with id 'c'"):
        results("c")
    with pytest.raises(UsageError, match="message 5 is the result of a tool without a call"):
        results("a", "b", "a")


USER = {"role": "user", "content": "u"}
REPLY = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (["text"], "message 1 is not an object with 'role' and 'content'"),
        ([{"role": "robot", "content": "x"}], "message 1 has the role 'robot'"),
        ([{"content": "x"}], "message 1 has the role None"),
        ([USER, {"role": "system", "content": "x"}], "message 2 is a system message; it can only be the first"),
        ([USER, USER], "message 2 is a second user message in a row"),
        ([USER, REPLY, REPLY], "message 3 is a second assistant message in a row"),
        ([REPLY], "message 1 is an assistant message before any user message"),
        ([{"role": "system", "content": "x"}, REPLY], "message 2 is an assistant message before any user message"),
        ([{"role": "tool", "content": "x"}], "message 1 is the result of a tool without a call"),
        ([{"role": "user", "content": None}], "message 1 has no text"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "message 2 has no text"),
        ([{"role": "user", "content": ["x"]}], "message 1 has a part of the type None; only 'text' can be used"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1 has a part of the type 'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1 has a part without a text"),
    ],
)
def test_messages_that_cannot_be_used(messages: list[dict[str, object]], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Conversation.from_dicts(messages)


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ("calls", "message 2 has 'tool_calls' that are not a list"),
        ([{}], "message 2, call 1, is not an object with 'function'"),
        (["f"], "message 2, call 1, is not an object with 'function'"),
        ([{"function": "f"}], "message 2, call 1, is not an object with 'function'"),
        ([{"function": {"name": "", "arguments": "{}"}}], "message 2, call 1, has no 'name'"),
        ([{"function": {"name": 5, "arguments": "{}"}}], "message 2, call 1, has no 'name'"),
        ([{"id": 5, "function": {"name": "f", "arguments": "{}"}}], "or an 'id' that is not a string"),
        ([{"function": {"name": "f", "arguments": "[]"}}], "call 1, has 'arguments' that are not a JSON object"),
        ([{"function": {"name": "f", "arguments": "{"}}], "call 1, has 'arguments' that are not a JSON object"),
        ([{"function": {"name": "f"}}], "call 1, has 'arguments' that are not a JSON object"),
        ([{"function": {"name": "f", "arguments": "[" * 100_000}}], "'arguments' that are not a JSON object"),
    ],
)
def test_calls_that_cannot_be_used(calls: object, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Conversation.from_dicts([USER, {"role": "assistant", "content": None, "tool_calls": calls}])


@given(st.lists(st.sampled_from("us"), max_size=6), st.text("ab", min_size=1))
def test_a_conversation_comes_back_from_its_dicts(kinds: list[str], text: str) -> None:
    talk = Conversation().with_system(text) if "s" in kinds else Conversation()
    for number, _ in enumerate(kinds):
        talk = talk.with_user(f"{text}{number}") if number % 2 == 0 else talk.with_assistant(text)
    dicts = [{"role": each.role, "content": each.content} for each in talk.messages]
    assert Conversation.from_dicts(json.loads(json.dumps(dicts))) == talk


CALLED = Message("assistant", "", FinishReason.TOOL_CALLS, "Hm.", (ToolCall("c1", "add", "{}"),))
RESULT = Message("tool", "2", call_id="c1", tool_name="add")
QUESTION, WHOLE, CUT = (
    Message("user", "Hello"),
    Message("assistant", "Hi.", FinishReason.STOP),
    Message("assistant", "H", FinishReason.LENGTH),
)


@pytest.mark.parametrize("messages", [(QUESTION,), (Message("system", "s"), QUESTION), (QUESTION, CALLED, RESULT)])
def test_a_new_reply_follows(messages: tuple[Message, ...]) -> None:
    assert Conversation(messages).cut_reply is None


@pytest.mark.parametrize("messages", [(QUESTION, CUT), (QUESTION, CALLED, RESULT, CUT)])
def test_a_cut_reply_is_continued(messages: tuple[Message, ...]) -> None:
    assert Conversation(messages).cut_reply is CUT


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ((), "the conversation has no user message to reply to"),
        ((Message("system", "s"),), "the conversation has no user message to reply to"),
        ((QUESTION, Message("system", "s")), "the conversation has no user message to reply to"),
        ((CUT,), "the conversation has no user message to reply to"),
        ((QUESTION, WHOLE, CUT), "the conversation has no user message to reply to"),
        ((CALLED, RESULT), "the conversation has no user message to reply to"),
        ((QUESTION, WHOLE), "the last reply is complete and cannot be continued"),
    ],
)
def test_conversations_without_a_next_reply(messages: tuple[Message, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _ = Conversation(messages).cut_reply
